package bot

import (
	"context"
	"slices"
	"testing"
	"time"

	practice "openinspect/internal/practice/slack"
)

// ear is a bot that hears what the test hands it, in the order that the test
// chooses.
type ear struct {
	*town
	bot *Bot
}

func newEar(t *testing.T) ear {
	t.Helper()
	e := ear{town: quietTown(t, noSandboxes)}
	e.bot = e.newBot()
	return e
}

// newBot makes a bot that does not listen by itself.
func (e ear) newBot() *Bot {
	e.T.Helper()
	b, err := New(e.Log, e.engine, e.cfg)
	if err != nil {
		e.T.Fatal(err)
	}
	if b.self, err = b.introduce(context.Background()); err != nil {
		e.T.Fatal(err)
	}
	e.T.Cleanup(b.http.CloseIdleConnections)
	return b
}

// hear hands the bot a message of a thread; again as one that Slack sends
// another time.
func (e ear) hear(thread, ts string, again bool) {
	e.T.Helper()
	all := e.slack.Messages(e.channel, thread)
	i := slices.IndexFunc(all, func(m practice.Message) bool { return m.TS == ts })
	if i < 0 {
		e.T.Fatalf("there is no message %s", ts)
	}
	m := all[i]
	in := inbound{event: &event{Type: "message", User: userField{m.User}, Text: m.Text, TS: m.TS, ThreadTS: m.ThreadTS,
		Channel: e.channel, again: again}}
	if _, err := e.bot.dispatch(context.Background(), in); err != nil {
		e.T.Fatal(err)
	}
}

// texts are what the thread's session was asked, in order.
func (e ear) texts(thread string) (texts []string) {
	for _, p := range e.prompts(thread) {
		texts = append(texts, p.AuthorName+": "+p.Text)
	}
	return texts
}

func TestAReplyThatOvertookItsRequestIsTakenWhenTheRequestComes(t *testing.T) {
	t.Parallel()
	e := newEar(t)
	request := e.say(e.alice, "", e.mention("look at acme/greeter"))
	reply := e.say(e.bob, request, "and add a test")
	aside := e.say(e.carol, request, "<@"+e.bob+"> good idea")
	e.hear(request, reply, false)
	e.hear(request, aside, false)
	e.hear(request, request, true)
	want := []string{"Alice Ahmed: look at acme/greeter", "Bob Brandt: and add a test"}
	if got := e.texts(request); !slices.Equal(got, want) {
		t.Errorf("the session was asked %q, want %q", got, want)
	}
	e.hear(request, request, true)
	e.hear(request, reply, true)
	if got := e.texts(request); !slices.Equal(got, want) {
		t.Errorf("after everything was sent again the session was asked %q, want %q", got, want)
	}
}

func TestARemarkFromBeforeARequestThatArrivesAfterItIsNoRequest(t *testing.T) {
	t.Parallel()
	e := newEar(t)
	root := e.say(e.alice, "", "acme/greeter shouts at people")
	remark := e.say(e.bob, root, "it should say hello")
	request := e.say(e.carol, root, e.mention("please do that"))
	reply := e.say(e.bob, root, "and say goodbye")
	e.hear(root, request, false)
	e.hear(root, remark, false)
	e.hear(root, reply, false)
	want := []string{"Carol Castro: please do that\n\nEarlier in the Slack thread:\n> Alice Ahmed: acme/greeter shouts at people\n>\n> Bob Brandt: it should say hello",
		"Bob Brandt: and say goodbye"}
	if got := e.texts(root); !slices.Equal(got, want) {
		t.Errorf("the session was asked %q, want %q", got, want)
	}
}

func TestAMentionThatCouldNotBeHandledIsTakenWhenSlackSendsItAgain(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, noSandboxes, option{workspace: func(o *practice.Options) {
		o.AckTimeout, o.Retries = 300*time.Millisecond, []time.Duration{0, 300 * time.Millisecond, 300 * time.Millisecond}
	}})
	// Nobody is known in advance, and Slack does not say at once who Alice is.
	tw.slack.FailNext("users.list", 1, practice.Fault{Error: "fatal_error"})
	tw.slack.FailNext("users.info", 1, practice.Fault{Error: "fatal_error"})
	tw.Run(tw.engine)
	tw.startBot()
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	if p := tw.prompts(ts); len(p) != 1 {
		t.Errorf("there are %d requests", len(p))
	}
}
