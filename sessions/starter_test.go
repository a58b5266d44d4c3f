package sessions_test

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestASandboxThatParksBeforeItsStarterCouldNameItIsSaved(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	h := newHanging("start", true)
	w.Provider.Interfere(h.interfere)
	list := newAbsent(w) // else the watch might find out which box it is
	e := w.Engine(func(c *sessions.Config) { c.Provider, c.ParkAfter = list, time.Second })
	sessions.Hasten(e)
	w.Run(e)
	t.Cleanup(func() { close(list.answer); close(h.let) })
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	ended(t, e, first.Prompt.ID)
	<-list.asked
	ref := parked(t, w, first.Session.ID)
	if p := ended(t, e, w.Ask(e, alice.ID, "1.0", "two").Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the next request ended as %s: %s", p.State, p.Reason)
	}
	if specs := w.Provider.Specs(); len(specs) != 2 || specs[1].From != sandbox.Ref(ref) {
		t.Errorf("%d sandboxes were started, the last from %q, want %q", len(specs), specs[len(specs)-1].From, ref)
	}
}

// absent is a provider whose first answer about the boxes of a session takes a while.
type absent struct {
	*sessionstest.Provider
	asked, answer chan struct{}
	first         *atomic.Bool
}

func newAbsent(w *sessionstest.World) absent {
	return absent{w.Provider, make(chan struct{}), make(chan struct{}), new(atomic.Bool)}
}

func (a absent) List(ctx context.Context, tags map[string]string) iter.Seq2[sandbox.Info, error] {
	if tags["session"] != "" && !a.first.Swap(true) {
		close(a.asked)
		<-a.answer
	}
	return a.Provider.List(ctx, tags)
}

func TestALookForAnEarlierSandboxDoesNotEndTheNextOne(t *testing.T) { // I5
	t.Parallel()
	w := sessionstest.New(t)
	h := newHanging("start", true)
	w.Provider.Interfere(h.interfere)
	var boots atomic.Int32
	broken := make(chan struct{})
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		if boots.Add(1) == 1 {
			<-broken
			fails(ctx, b)
			return
		}
		sessionstest.Ready(ctx, b)
	}
	began, leave := make(chan string, 100), make(chan struct{})
	w.Provider.Agent = held(began, leave)
	list := newAbsent(w)
	e := w.Engine(func(c *sessions.Config) { c.Provider = list })
	sessions.Hasten(e)
	w.Run(e)
	answer := sync.OnceFunc(func() { close(list.answer) })
	t.Cleanup(func() { answer(); close(h.let) })
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	<-list.asked
	close(broken)
	ended(t, e, first.Prompt.ID)
	second := w.Ask(e, alice.ID, "1.0", "two")
	heard(t, began)
	answer()
	sessionstest.Eventually(t, "the earlier sandbox is ended", func() bool { return len(w.Provider.Boxes()) <= 1 })
	close(leave)
	if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("ended as %s: %s", p.State, p.Reason)
	}
}

func TestOneRequestWithoutRoomParksOneIdleSandbox(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	h := newHanging("park", false)
	w.Provider.Interfere(h.interfere)
	e := w.Engine(func(c *sessions.Config) { c.MaxSandboxes = 3 })
	sessions.Hasten(e)
	w.Run(e)
	let := sync.OnceFunc(func() { close(h.let) })
	t.Cleanup(let)
	alice := w.Person(e, "Alice")
	for _, ts := range []string{"1.0", "2.0", "3.0"} {
		ended(t, e, w.Ask(e, alice.ID, ts, "acme/greeter: one").Prompt.ID)
	}
	acc := w.Ask(e, alice.ID, "4.0", "acme/greeter: two")
	h.await(t)
	tries := map[time.Time]bool{}
	sessionstest.Eventually(t, "it is tried again and again", func() bool {
		var at *time.Time
		if err := w.DB.Get(&at, `select retry_at from sandboxes where session_id = $1`, acc.Session.ID); err != nil {
			t.Fatal(err)
		}
		if at != nil {
			tries[*at] = true
		}
		return len(tries) >= 5
	})
	var parking int
	if err := w.DB.Get(&parking, `select count(*) from sandboxes where state in ('parking', 'parked')`); err != nil || parking != 1 {
		t.Errorf("%d sandboxes of others are parked for one request (%v)", parking, err)
	}
	let()
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("it ended as %s: %s", p.State, p.Reason)
	}
}

// slow is a provider whose starts wait.
type slow struct {
	sandbox.Provider
	begun atomic.Int32
	asked sync.Map // by session
	let   chan struct{}
}

func (s *slow) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Box, error) {
	s.asked.Store(spec.Tags["session"], true)
	s.begun.Add(1)
	select {
	case <-s.let:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.Provider.Start(ctx, spec)
}

func TestWhatOneReplicaIsTooBusyToStartAnotherStarts(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	const atOnce = 8
	s := &slow{Provider: w.Provider, let: make(chan struct{})}
	busy := w.Engine(func(c *sessions.Config) { c.Provider = s })
	sessions.Hasten(busy)
	w.Run(busy)
	alice := w.Person(busy, "Alice")
	ask := func(n int) sessions.Accepted {
		return w.Ask(busy, alice.ID, time.Duration(n).String(), "acme/greeter: one")
	}
	var asked []sessions.Accepted
	for n := range atOnce {
		asked = append(asked, ask(n))
	}
	sessionstest.Eventually(t, "it has its hands full", func() bool { return s.begun.Load() == atOnce })
	late := ask(atOnce)
	free := w.Engine()
	sessions.Hasten(free)
	w.Run(free)
	if p := ended(t, free, late.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request that came last ended as %s: %s", p.State, p.Reason)
	}
	close(s.let)
	for _, acc := range asked {
		if p := ended(t, free, acc.Prompt.ID); p.State != sessions.Completed {
			t.Errorf("ended as %s: %s", p.State, p.Reason)
		}
	}
	if _, twice := s.asked.Load(late.Session.ID); twice {
		t.Error("the busy replica started a sandbox for it as well")
	}
}
