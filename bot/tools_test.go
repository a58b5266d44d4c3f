package bot

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions/sessionstest"
)

// tools is an agent that calls tools one after the other, each given as its name
// and its arguments, and answers with the last one's result. What it is asked
// beginning with "then" it only repeats.
func tools(t testing.TB, calls ...[2]string) option {
	return agent(func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		answer := "You said: " + p.Text
		for i, c := range calls {
			if strings.HasPrefix(p.Text, "then ") {
				break
			}
			r, err := b.Bridge().Call(ctx, sandbox.Call{ID: p.ID + string(rune('a'+i)), Prompt: p.ID, Tool: c[0], Args: json.RawMessage(c[1])})
			if err != nil {
				return // stopped
			}
			if r.Error {
				t.Errorf("%s says %s", c[0], r.Text)
			}
			answer = ""
		}
		b.Settle(p, sandbox.OutcomeCompleted, "", answer)
	})
}

func TestAnUpdateIsPostedAsTheAgentWroteItAndNotifiesNobody(t *testing.T) { // I10
	t.Parallel()
	tw := newTown(t, tools(t, [2]string{"post_update", `{"text":"It is **the zone**, <!channel> <@U1> see <https://evil.test|docs>."}`}))
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	m := tw.see(ts, "the zone")
	if text := shows(m); strings.Contains(text, "<!channel>") && !strings.Contains(text, `"rich_text"`) || strings.Contains(m.Text, "<!channel>") || strings.Contains(m.Text, "<@U1>") {
		t.Errorf("the update can notify people: %s", text)
	}
	if m.ThreadTS != ts {
		t.Errorf("it is in the thread %q", m.ThreadTS)
	}
}

func TestAQuestionIsAnsweredByAButtonWhichThenShowsWhoChoseWhat(t *testing.T) {
	t.Parallel()
	tw := newTown(t, tools(t, [2]string{"ask", `{"question":"Which **zone**?","options":["then UTC","then <!here>"]}`}))
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	q := tw.see(ts, "Which ")
	for _, want := range []string{"then UTC", "reply in your own words", `"user_id": "` + tw.alice + `"`} {
		if !strings.Contains(shows(q), want) {
			t.Errorf("the question does not show %q:\n%s", want, shows(q))
		}
	}
	tw.see(ts, "Asked you something")
	if strings.Contains(shows(tw.see(ts, "Which ")), "Done, without a word") {
		t.Error("an empty answer is posted beside the question")
	}
	if err := tw.slack.ClickAs(tw.bob, tw.channel, q.TS, actionAnswer+"1", ""); err != nil {
		t.Fatal(err)
	}
	shown := tw.see(ts, "*Bob Brandt* answered: then &lt;!here&gt;")
	if shown.TS != q.TS || strings.Contains(shows(shown), actionAnswer) {
		t.Errorf("the buttons are still there: %s", shows(shown))
	}
	tw.see(ts, "You said: then <!here>")
	// Somebody whose Slack still shows the buttons is told.
	late := &press{Type: "block_actions", Actions: []action{{ID: actionAnswer + "0", Value: tw.prompts(ts)[0].ID + ":0", TS: "1.1"}}}
	late.User.ID, late.Channel.ID, late.Message.TS, late.Message.ThreadTS = tw.carol, tw.channel, q.TS, ts
	if _, err := (ear{town: tw}).newBot().dispatch(soon(t), inbound{press: late}); err != nil {
		t.Fatal(err)
	}
	tw.whispered(tw.carol, "Bob Brandt has answered that already")
	if p := tw.prompts(ts); len(p) != 2 || p[1].AuthorName != "Bob Brandt" {
		t.Errorf("prompts: %+v", p)
	}
}

func TestAReplyToAQuestionAnswersIt(t *testing.T) {
	t.Parallel()
	tw := newTown(t, tools(t, [2]string{"ask", `{"question":"Which zone?","options":["UTC","Berlin"]}`}))
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	q := tw.see(ts, "Which zone")
	tw.say(tw.carol, ts, "then Rome's")
	if shown := tw.see(ts, "answered: then Rome's"); shown.TS != q.TS {
		t.Errorf("another message says so: %s", shows(shown))
	}
}

func TestTheParentsCardListsTheSessionsThatItBegan(t *testing.T) {
	t.Parallel()
	finish := make(chan struct{})
	tw := newTown(t, agent(func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		answer := "Heard."
		switch {
		case strings.HasPrefix(p.Text, "bill"):
			select {
			case <-finish:
			case <-ctx.Done():
				return
			}
			answer = "Billed."
		case !strings.HasPrefix(p.Text, "Session "):
			r, err := b.Bridge().Call(ctx, sandbox.Call{ID: "call-" + p.ID, Prompt: p.ID, Tool: "start_session",
				Args: json.RawMessage(`{"repository":"acme/billing","task":"bill","title":"Bill <politely>"}`)})
			if err != nil || r.Error {
				t.Errorf("beginning a session: %+v (%v)", r, err)
			}
			answer = "Begun."
		}
		b.Settle(p, sandbox.OutcomeCompleted, "", answer)
	}))
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	card := tw.see(ts, "⚙️ begun")
	if text := shows(card); !strings.Contains(text, "Bill &lt;politely&gt;") || !strings.Contains(text, "https://inspect.test/sessions/") || !strings.Contains(text, "*acme/billing*") {
		t.Errorf("the card shows %s", text)
	}
	tw.see(ts, "Begun.")
	close(finish)
	tw.see(ts, "Heard.")
	sessionstest.Eventually(t, "the first card lists the session as done", func() bool {
		for _, m := range tw.ours(ts) {
			if m.TS == card.TS {
				return strings.Contains(shows(m), "✅ done")
			}
		}
		return false
	})
	tw.see(ts, "by a session that works for this one")
}
