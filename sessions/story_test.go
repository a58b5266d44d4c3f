package sessions_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// running makes a world with one hastened replica that runs.
func running(t testing.TB, changes ...func(*sessions.Config)) (*sessionstest.World, *sessions.Engine, func()) {
	t.Helper()
	w := sessionstest.New(t)
	e := w.Engine(changes...)
	sessions.Hasten(e)
	return w, e, w.Run(e)
}

// ended waits until a prompt has ended.
func ended(t testing.TB, e *sessions.Engine, prompt string) sessions.Prompt {
	t.Helper()
	var p sessions.Prompt
	sessionstest.Eventually(t, "prompt "+prompt+" ends", func() bool {
		var err error
		if p, err = e.Prompt(bg, prompt); err != nil {
			t.Fatal(err)
		}
		return p.State.Settled()
	})
	return p
}

// log reads a session's whole log and checks what holds for every log: it is
// dense (I4), and each prompt ends once (I3).
func log(t testing.TB, e *sessions.Engine, session string) []sessions.Event {
	t.Helper()
	events, err := e.Events(bg, session, 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	ends := map[string]int{}
	for i, ev := range events {
		if ev.Seq != int64(i+1) {
			t.Fatalf("event %d of the log has number %d", i+1, ev.Seq)
		}
		if ev.Kind == sessions.KindEnded {
			ends[ev.Prompt]++
		}
	}
	for prompt, n := range ends {
		if n != 1 {
			t.Errorf("prompt %s ended %d times", prompt, n)
		}
	}
	return events
}

func texts(events []sessions.Event) []string {
	var all []string
	for _, ev := range events {
		var body sandbox.BodyText
		if ev.Kind == sandbox.KindText && json.Unmarshal(ev.Body, &body) == nil {
			all = append(all, body.Text)
		}
	}
	return all
}

func TestPromptsRunInOrderOneAtATimeAndAreAnswered(t *testing.T) { // I2, I3, I4
	t.Parallel()
	w, e, _ := running(t)
	alice, bob := w.Linked(e, "Alice"), w.Person(e, "Bob")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	second := w.Ask(e, bob.ID, "1.0", "two")
	third := w.Ask(e, alice.ID, "1.0", "three")
	for _, acc := range []sessions.Accepted{first, second, third} {
		if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed || p.Answer != "done: "+p.Text {
			t.Errorf("%q ended as %s with %q (%s)", p.Text, p.State, p.Answer, p.Reason)
		}
	}
	events := log(t, e, first.Session.ID)
	if got := strings.Join(texts(events), "; "); got != "done: acme/greeter: one; done: two; done: three" {
		t.Errorf("the log tells %q", got)
	}
	got := w.Provider.Boxes()[0].Prompts()
	if got[0].AuthorEmail == "" || !strings.HasSuffix(got[0].AuthorEmail, "+alice@users.noreply.github.com") {
		t.Errorf("a linked author has the address %q", got[0].AuthorEmail)
	}
	if got[1].AuthorName != "Bob" || got[1].AuthorEmail != "inspect@bot.test" { // I11
		t.Errorf("an author who is not linked is %s <%s>", got[1].AuthorName, got[1].AuthorEmail)
	}
	want := map[string]int{"answer": 3, "card": 3}
	if got := kinds(t, e, "slack"); got["answer"] != want["answer"] || got["card"] != want["card"] {
		t.Errorf("due on Slack are %v, want %v", got, want)
	}
}

func TestStopSettlesAtOnceAndTheNextPromptWaitsForTheBox(t *testing.T) { // I12
	t.Parallel()
	w := sessionstest.New(t)
	began, cleaned := make(chan struct{}, 1), make(chan struct{})
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		if p.Text != "two" {
			began <- struct{}{}
			<-ctx.Done()
			<-cleaned // it takes the box a while to end what runs
			return
		}
		sessionstest.Answer(ctx, b, p)
	}
	e := w.Engine()
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	second := w.Ask(e, alice.ID, "1.0", "two")
	<-began
	stopped, err := e.Stop(bg, "click:1", first.Session.ID, "", alice.ID)
	if err != nil || stopped != first.Prompt.ID {
		t.Fatalf("Stop = %q, %v", stopped, err)
	}
	p, err := e.Prompt(bg, first.Prompt.ID)
	if err != nil || p.State != sessions.Stopped || p.Reason != "Stopped by Alice." {
		t.Errorf("right after the stop the prompt is %s, %q (%v)", p.State, p.Reason, err)
	}
	if again, err := e.Stop(bg, "click:1", first.Session.ID, "", alice.ID); err != nil || again != stopped {
		t.Errorf("the same click again stopped %q (%v)", again, err)
	}
	if q, err := e.Prompt(bg, second.Prompt.ID); err != nil || q.State != sessions.Queued {
		t.Errorf("the next prompt is %s while the box still cleans up (%v)", q.State, err)
	}
	close(cleaned)
	if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the next prompt ended as %s: %s", p.State, p.Reason)
	}
	log(t, e, first.Session.ID)
}
