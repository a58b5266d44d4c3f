package bot

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/slack-go/slack/socketmode"

	practice "openinspect/internal/practice/slack"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestAMentionIsTakenWithACardThatSaysWhoWhereAndWhy(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	ts := tw.say(tw.alice, "", tw.mention("fix the failing test in acme/greeter &amp; tell <@"+tw.bob+">"))
	card := tw.see(ts, "Queued")
	for _, want := range []string{
		"fix the failing test in acme/greeter &amp; tell @Bob Brandt", "<@" + tw.alice + ">",
		"*acme/greeter* (named in the message)", "https://inspect.test/sessions/" + tw.session(ts).ID,
	} {
		if !strings.Contains(shows(card), want) {
			t.Errorf("the card does not show %q:\n%s", want, shows(card))
		}
	}
	p := tw.prompts(ts)
	if len(p) != 1 || p[0].Text != "fix the failing test in acme/greeter & tell @Bob Brandt" || p[0].AuthorName != "Alice Ahmed" || p[0].MessageTS != ts {
		t.Errorf("the prompt is %+v", p)
	}
}

func TestOneMessageDeliveredFourTimesOnBothSocketsIsOneRequest(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	tw.slack.RepeatEvents(2, 4) // the message and the mention of it
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	tw.heard()
	if p, ours := tw.prompts(ts), tw.ours(ts); len(p) != 1 || len(ours) != 1 {
		t.Errorf("%d prompts and %d messages", len(p), len(ours))
	}
}

func TestRepliesInASessionsThreadAreThePromptsOfTheirAuthors(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	tw.say(tw.bob, ts, "and add a test")
	tw.see(ts, "Queued, 1 ahead")
	tw.say(tw.carol, ts, "<@"+tw.bob+"> are you sure?")
	tw.say(tw.bob, ts, tw.mention("yes, and document it"))
	tw.see(ts, "Queued, 2 ahead")
	p := tw.prompts(ts)
	var got []string
	for _, one := range p {
		got = append(got, one.AuthorName+": "+one.Text)
	}
	want := "Alice Ahmed: look at acme/greeter; Bob Brandt: and add a test; Bob Brandt: yes, and document it"
	if strings.Join(got, "; ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), want)
	}
}

func TestTalkThatIsNotForTheBotIsLeftAlone(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	top := tw.say(tw.alice, "", "acme/greeter is broken again")
	tw.say(tw.bob, top, "indeed, somebody should fix acme/greeter")
	tw.heard()
	_, err := tw.engine.SessionOfThread(context.Background(), sessions.Thread{Team: tw.seed.TeamID, Channel: tw.channel, TS: top})
	if !errors.Is(err, sessions.ErrNotFound) || len(tw.ours(top)) != 0 {
		t.Errorf("the bot took part: %v, %v", err, tw.ours(top))
	}
}

func TestAMentionInAnOldThreadTakesWhatWasSaidBefore(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	root := tw.say(tw.alice, "", "acme/greeter shouts at people")
	tw.say(tw.bob, root, "it should say “hello &amp; welcome”")
	tw.say(tw.carol, root, tw.mention("please do that"))
	tw.see(root, "Queued")
	want := "please do that\n\nEarlier in the Slack thread:\n> Alice Ahmed: acme/greeter shouts at people\n>\n> Bob Brandt: it should say “hello & welcome”"
	if p := tw.prompts(root); len(p) != 1 || p[0].Text != want {
		t.Errorf("got %q\nwant %q", p[0].Text, want)
	}
}

func TestADirectMessageNeedsNoMention(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	tw.channel = tw.seed.Users[0].DM
	ts := tw.say(tw.alice, "", "look at acme/greeter")
	tw.see(ts, "Queued")
	tw.say(tw.alice, ts, "and at its tests")
	tw.see(ts, "Queued, 1 ahead")
}

func TestRefusalsAreSentencesInTheThread(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes, option{engine: func(c *sessions.Config) { c.MaxPrompt = 1000; c.MaxQueue = 2 }})
	for text, want := range map[string]string{
		tw.mention("fix acme/nothing"): "There is no repository acme/nothing",
		tw.mention(""):                 "What shall I do?",
		tw.mention("acme/greeter " + strings.Repeat("long ", 300)): "Shorten it",
		tw.mention("stop"):                "There is nothing to stop",
		"<@" + tw.seed.BotUserID + ">   ": "What shall I do?",
		tw.mention("in https://github.com/acme/absent make everything <!channel> new"): "no repository",
	} {
		ts := tw.say(tw.alice, "", text)
		m := tw.see(ts, want)
		if strings.Contains(shows(m), "<!channel>") {
			t.Errorf("a refusal notifies: %s", shows(m))
		}
	}
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	tw.say(tw.bob, ts, "and again")
	tw.see(ts, "1 ahead")
	tw.say(tw.bob, ts, "and once more")
	tw.see(ts, "waiting in this session already")
}

func TestAnotherAppIsRefusedOnceAndNeverAgainInThatThread(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	ts, err := tw.slack.PostAsOtherBot("echo", tw.channel, "", tw.mention("fix acme/greeter"))
	if err != nil {
		t.Fatal(err)
	}
	tw.see(ts, "only take requests from people")
	for range 3 {
		if _, err := tw.slack.PostAsOtherBot("echo", tw.channel, ts, tw.mention("really, fix acme/greeter")); err != nil {
			t.Fatal(err)
		}
	}
	tw.heard()
	if ours := tw.ours(ts); len(ours) != 1 {
		t.Errorf("%d answers to an app", len(ours))
	}
}

func TestEditingAQueuedMessageChangesItsPromptAndDeletingItCancels(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	reply := tw.say(tw.bob, ts, "and add a test")
	tw.see(ts, "and add a test")
	if err := tw.slack.EditAs(tw.bob, tw.channel, reply, "and add two tests"); err != nil {
		t.Fatal(err)
	}
	tw.see(ts, "and add two tests")
	if p := tw.prompts(ts); p[1].Text != "and add two tests" {
		t.Errorf("the prompt says %q", p[1].Text)
	}
	if err := tw.slack.DeleteAs(tw.bob, tw.channel, reply); err != nil {
		t.Fatal(err)
	}
	tw.see(ts, "Cancelled")
	if p := tw.prompts(ts); p[1].State != sessions.Cancelled {
		t.Errorf("the prompt is %s", p[1].State)
	}
}

func TestAQueuedPromptIsCancelledByItsButton(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	card := tw.see(ts, "Queued")
	if err := tw.slack.ClickAs(tw.bob, tw.channel, card.TS, actionCancel, ""); err != nil {
		t.Fatal(err)
	}
	tw.see(ts, "Withdrawn by Bob Brandt")
}

func TestARequestWithoutARepositoryAsksWithAMenu(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	ts := tw.say(tw.alice, "", tw.mention("fix the failing test"))
	menu := tw.see(ts, "Which repository")
	tw.see(ts, "Waiting for a repository")
	if err := tw.slack.ClickAs(tw.bob, tw.channel, menu.TS, actionChoose, "acme/billing"); err != nil {
		t.Fatal(err)
	}
	tw.see(ts, "Bob Brandt chose acme/billing")
	tw.see(ts, "*acme/billing* (chosen by Bob Brandt)")
	if got := tw.session(ts).Repository; got != "acme/billing" {
		t.Errorf("the session works on %q", got)
	}
}

func TestManyRepositoriesAreFoundByTyping(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, noSandboxes)
	var names []string
	for i := range 130 {
		names = append(names, "acme/service-"+string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	tw.Forge.SetRepositories(names...)
	if err := tw.engine.RefreshRepositories(context.Background()); err != nil {
		t.Fatal(err)
	}
	tw.Run(tw.engine)
	tw.startBot()
	ts := tw.say(tw.alice, "", tw.mention("fix the failing test"))
	menu := tw.see(ts, "external_select")
	if err := tw.slack.ClickAs(tw.alice, tw.channel, menu.TS, actionChoose, "acme/service-eb"); err != nil {
		t.Fatal(err)
	}
	tw.see(ts, "*acme/service-eb*")
}

func TestTheBotGreetsAChannelOnceAndShowsItsHome(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	created, err := tw.slack.CreateChannelAs(tw.alice, "new-team")
	if err != nil {
		t.Fatal(err)
	}
	if err := tw.slack.InviteAs(tw.alice, created, tw.seed.BotUserID); err != nil {
		t.Fatal(err)
	}
	tw.channel = created
	tw.see("", "Hello!")
	if err := tw.slack.OpenHomeAs(tw.alice, "home"); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "App Home lists the session", func() bool {
		home, ok := tw.slack.Home(tw.alice)
		return ok && strings.Contains(string(home.JSON), "look at acme/greeter") && strings.Contains(string(home.JSON), "Connect GitHub")
	})
}

func TestAppHomeTellsAdministratorsWhichImagesCannotBeBuilt(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	if _, err := tw.DB.Exec(`insert into images (id, repository, why, state, reason, queued_at, ended_at)
		values ('b', 'acme/greeter', 'testing', 'failed', '.openinspect/setup.sh failed.', now(), now())`); err != nil {
		t.Fatal(err)
	}
	home := func(user string) string {
		t.Helper()
		if err := tw.slack.OpenHomeAs(user, "home"); err != nil {
			t.Fatal(err)
		}
		var text string
		sessionstest.Eventually(t, "App Home is shown", func() bool {
			shown, ok := tw.slack.Home(user)
			text = string(shown.JSON)
			return ok && strings.Contains(text, "Your sessions")
		})
		return text
	}
	if text := home(tw.bob); strings.Contains(text, "cannot be built") {
		t.Errorf("Bob, who is no administrator, is shown %s", text)
	}
	home(tw.alice)
	if _, err := tw.DB.Exec(`update people set admin = true where slack_user = $1`, tw.alice); err != nil {
		t.Fatal(err)
	}
	if err := tw.slack.OpenHomeAs(tw.alice, "home"); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "App Home names the image and where to look", func() bool {
		shown, ok := tw.slack.Home(tw.alice)
		return ok && strings.Contains(string(shown.JSON), "acme/greeter") && strings.Contains(string(shown.JSON), "setup.sh failed") &&
			strings.Contains(string(shown.JSON), "https://inspect.test/repositories/acme/greeter/image")
	})
}

func TestAnOutageOfSocketModeIsNotNoticed(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes, option{workspace: func(o *practice.Options) {
		o.AckTimeout, o.Retries = 500*time.Millisecond, []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, time.Second}
	}})
	for i, disturb := range []func(){
		tw.slack.DropSockets,
		func() {
			if err := tw.slack.Disconnect("refresh_requested"); err != nil {
				t.Error(err)
			}
		},
	} {
		disturb()
		ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
		tw.see(ts, "Queued")
		if n := len(tw.prompts(ts)); n != 1 {
			t.Errorf("disturbance %d: %d prompts", i, n)
		}
	}
}

func TestAnEventThatSlackGoCannotReadIsAcknowledged(t *testing.T) {
	t.Parallel()
	raw := `{"type":"events_api","envelope_id":"e7","payload":{"event":{"type":"code_channel_action"}}}`
	bad := socketmode.Event{Type: socketmode.EventTypeErrorBadMessage, Data: &socketmode.ErrorBadMessage{Message: []byte(raw)}}
	if req := requestOf(bad); req == nil || req.EnvelopeID != "e7" {
		t.Errorf("the envelope is %+v", req)
	}
	in := decode(requestWith(`{"event":{"type":"message","channel":"C1","ts":"1.1","user":"U1","text":"hi","blocks":"not a list"}}`))
	if in.event == nil || in.event.Text != "hi" {
		t.Errorf("a message with strange blocks was not read: %+v", in.event)
	}
	in = decode(requestWith(`{"event":{"type":"channel_created","channel":{"id":"C1"}}}`))
	if payload, err := (&Bot{}).dispatch(context.Background(), in); payload != nil || err != nil {
		t.Errorf("an event of no interest is not acknowledged: %v, %v", payload, err)
	}
}

func requestWith(payload string) socketmode.Request {
	return socketmode.Request{Type: "events_api", EnvelopeID: "e1", Payload: []byte(payload)}
}

func TestTheQuestionForARepositoryGivesWayToTheAnswerWhereverItIsGiven(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	for i, c := range []struct {
		where  string
		answer func(ts string)
		shows  string
	}{
		{"on the page", func(ts string) {
			s := tw.session(ts)
			if err := tw.engine.ChooseRepository(context.Background(), "web:1", s.ID, "acme/billing", s.CreatedBy); err != nil {
				t.Error(err)
			}
		}, "Alice Ahmed chose acme/billing"},
		{"by its name in a reply", func(ts string) { tw.say(tw.bob, ts, "acme/billing") }, "Bob Brandt chose acme/billing"},
	} {
		tw.channel = tw.seed.Channels[i].ID // a channel remembers the choice
		ts := tw.say(tw.alice, "", tw.mention("make it faster"))
		menu := tw.see(ts, "Which repository")
		c.answer(ts)
		if answered := tw.see(ts, c.shows); answered.TS != menu.TS {
			t.Errorf("%s: the question stays, and the answer stands below it", c.where)
		}
		if p := tw.prompts(ts); len(p) != 1 || tw.session(ts).Repository != "acme/billing" {
			t.Errorf("%s: there are %d requests on %q", c.where, len(p), tw.session(ts).Repository)
		}
	}
}

func TestAFileWithoutWordsIsARequestThatCanBeSeen(t *testing.T) {
	t.Parallel()
	v := cardView{Session: sessions.Session{ID: "s1", Repository: "acme/greeter"}, Progress: &progress{},
		Prompt: sessions.Prompt{State: sessions.Running, Attachments: json.RawMessage(`[{"name": "screenshot.png"}]`)}}
	if m := renderCard(v); !strings.Contains(m.text, "screenshot.png") {
		t.Errorf("the card says %q", m.text)
	}
}
