package sessions_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// watcher follows a session as a page does: the tables first, then updates; at a
// jump or a lag the tables again.
type watcher struct {
	e       *sessions.Engine
	session string
	sub     *sessions.Subscription
	seq     int64
	events  []sessions.Event
	parts   map[string]string
}

func watch(t testing.TB, e *sessions.Engine, session string) *watcher {
	t.Helper()
	w := &watcher{e: e, session: session, sub: e.Subscribe(session), parts: map[string]string{}}
	t.Cleanup(w.sub.Close)
	w.read(t)
	parts, err := e.RunningParts(bg, session)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		w.parts[p.Part] = p.Text
	}
	return w
}

func (w *watcher) read(t testing.TB) {
	t.Helper()
	events, err := w.e.Events(bg, w.session, w.seq, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	w.take(t, events)
}

func (w *watcher) take(t testing.TB, events []sessions.Event) {
	t.Helper()
	for _, ev := range events {
		switch {
		case ev.Seq <= w.seq:
		case ev.Seq > w.seq+1:
			w.read(t)
			return
		default:
			w.seq = ev.Seq
			w.events = append(w.events, ev)
		}
	}
}

// until follows until ok.
func (w *watcher) until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case u := <-w.sub.Updates():
			w.take(t, u.Events)
			if d := u.Delta; d != nil {
				if d.Offset > len(w.parts[d.Part]) {
					t.Fatalf("a delta of %s at %d leaves a gap: there are %d bytes", d.Part, d.Offset, len(w.parts[d.Part]))
				}
				w.parts[d.Part] = w.parts[d.Part][:d.Offset] + d.Text
			}
		case <-w.sub.Lagged():
			w.read(t)
		case <-deadline:
			t.Fatalf("%s: not within 20 seconds", what)
		}
	}
}

func TestAPageSeesDeltasAndThenTheFinishedPart(t *testing.T) { // I4
	t.Parallel()
	for name, sameReplica := range map[string]bool{"at the replica of the bridge": true, "at another replica": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := sessionstest.New(t)
			typed, finish := make(chan struct{}), make(chan struct{})
			w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
				text := strings.Repeat("grüße ", 40)
				for i := 0; i < len(text); i += 6 {
					end := min(i+6, len(text))
					b.Bridge().Delta(sandbox.Delta{Prompt: p.ID, Part: "a", Kind: sandbox.KindText, Offset: i, Text: text[i:end]})
				}
				close(typed)
				<-finish
				b.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: "a", Text: text})
				b.Settle(p, sandbox.OutcomeCompleted, "", text)
			}
			reader := w.Engine()
			sessions.Hasten(reader)
			w.Run(reader)
			actor := reader
			if !sameReplica {
				actor = w.Engine()
				sessions.Hasten(actor)
				w.Run(actor) // the bridge goes to the one that ran last
			}
			acc := w.Ask(actor, w.Person(actor, "Alice").ID, "", "acme/greeter: type")
			page := watch(t, reader, acc.Session.ID)
			page.until(t, "the text appears", func() bool { return strings.Count(page.parts["a"], "e") >= 40 })
			<-typed
			late := watch(t, reader, acc.Session.ID)
			late.until(t, "a late joiner sees the part so far", func() bool { return strings.Count(late.parts["a"], "e") >= 40 })
			close(finish)
			for _, p := range []*watcher{page, late} {
				p.until(t, "the end", func() bool {
					return len(p.events) > 0 && p.events[len(p.events)-1].Kind == sessions.KindEnded
				})
				for i, ev := range p.events {
					if ev.Seq != int64(i+1) {
						t.Fatalf("event %d of the page has number %d", i+1, ev.Seq)
					}
				}
			}
			if parts, err := reader.RunningParts(bg, acc.Session.ID); err != nil || len(parts) != 0 {
				t.Errorf("after the end these parts run: %v (%v)", parts, err)
			}
		})
	}
}

// Two transactions commit one after the other and reach the feed the other way round.
func TestEntriesThatArriveInTheWrongOrderAreHandedOnInTheRightOne(t *testing.T) { // I4
	t.Parallel()
	w := sessionstest.New(t)
	here, elsewhere := w.Engine(), w.Engine() // neither hears of the other
	alice := w.Person(here, "Alice")
	sub := here.Subscribe(w.Ask(here, alice.ID, "1.0", "acme/greeter: one").Session.ID)
	defer sub.Close()
	acc := w.Ask(here, alice.ID, "1.0", "two")
	last := (<-sub.Updates()).Events
	seq := last[len(last)-1].Seq
	for _, text := range []string{"three", "four"} {
		w.Ask(elsewhere, alice.ID, "1.0", text)
	}
	events, err := here.Events(bg, acc.Session.ID, seq, 10)
	if err != nil || len(events) != 2 {
		t.Fatalf("the table has %d further events (%v)", len(events), err)
	}
	sessions.Publish(here, events[1])
	sessions.Publish(here, events[0])
	w.Run(here)
	for seq < events[1].Seq {
		select {
		case u := <-sub.Updates():
			for _, ev := range u.Events {
				if ev.Seq != seq+1 {
					t.Fatalf("event %d came after %d", ev.Seq, seq)
				}
				seq = ev.Seq
			}
		case <-time.After(time.Minute):
			t.Fatalf("nothing came after event %d", seq)
		}
	}
}

func TestASlowPageIsToldThatItLagsAndCatchesUp(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	const n = 300 // more than a subscription holds
	e := w.Engine(func(c *sessions.Config) { c.MaxQueue = n + 1 })
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "", "acme/greeter: one")
	page := watch(t, e, acc.Session.ID)
	for i := range n {
		r := sessions.Request{Key: fmt.Sprint("k", i), Source: sessions.FromWeb, Author: alice.ID, Session: acc.Session.ID, Text: "more"}
		if _, err := e.Accept(bg, r); err != nil {
			t.Fatal(err)
		}
	}
	s, err := e.Session(bg, acc.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-page.sub.Lagged():
		page.read(t)
	case <-time.After(time.Minute):
		t.Fatal("the page was never told that it lags")
	}
	if page.seq != s.LastSeq {
		t.Errorf("after catching up the page is at %d of %d", page.seq, s.LastSeq)
	}
	page.sub.Close()
	page.sub.Close()               // twice is allowed
	for range page.sub.Updates() { // what was there already, and then the end
	}
}

func TestNoSecretReachesTheLogOrAPage(t *testing.T) { // I10
	t.Parallel()
	const secret = "sk-very-secret-model-key-0123456789"
	w := sessionstest.New(t)
	var token string
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		token = b.Spec().Env[sandbox.EnvToken]
		text := "key " + secret + " token " + token + " app ghs_" + strings.Repeat("a1B2", 9) + " end"
		for i := 0; i < len(text); i += 3 {
			end := min(i+3, len(text))
			b.Bridge().Delta(sandbox.Delta{Prompt: p.ID, Part: "a", Kind: sandbox.KindText, Offset: i, Text: text[i:end]})
			_ = b.Bridge().Flush(ctx) // makes each delta a frame of its own
			b.Bridge().Event(sandbox.KindNote, p.ID, sandbox.BodyNote{Text: "step"})
		}
		b.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: "a", Text: text})
		b.Settle(p, sandbox.OutcomeFailed, "it said "+secret, text)
	}
	e := w.Engine(func(c *sessions.Config) { c.Scrub = []string{secret} })
	sessions.Hasten(e)
	w.Run(e)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: tell me")
	page := e.Subscribe(acc.Session.ID)
	defer page.Close()
	var shown strings.Builder
	for over := false; !over; {
		u := <-page.Updates()
		if u.Delta != nil {
			shown.WriteString(u.Delta.Text)
		}
		for _, ev := range u.Events {
			shown.Write(ev.Body)
			over = over || ev.Kind == sessions.KindEnded
		}
	}
	p := ended(t, e, acc.Prompt.ID)
	var stored string
	if err := w.DB.Get(&stored, `select string_agg(body::text, ' ') from events`); err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"page": shown.String(), "log": stored, "prompt": p.Answer + p.Reason} {
		for what, bad := range map[string]string{"key": secret, "token": token, "GitHub token": "ghs_a1B2"} {
			if strings.Contains(text, bad) {
				t.Errorf("the %s shows the %s", where, what)
			}
		}
		if !strings.Contains(text, "[redacted]") {
			t.Errorf("the %s shows nothing redacted: the test proves nothing", where)
		}
	}
}
