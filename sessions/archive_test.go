package sessions_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestAnArchivedSessionParksAtOnceAndLosesItsFilesLater(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t)
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	ended(t, e, acc.Prompt.ID)
	for range 2 { // the same click twice
		if err := e.Archive(bg, "click:1", acc.Session.ID, alice.ID); err != nil {
			t.Fatal(err)
		}
	}
	ref := sandbox.Ref(parked(t, w, acc.Session.ID))
	listedAs(t, e, "archived")
	if !slices.Contains(w.Provider.Saved(), ref) {
		t.Errorf("%s is deleted at once", ref)
	}
	if _, err := w.DB.Exec(`update sessions set archived_at = now() - interval '8 days'`); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "its files are deleted", func() bool { return len(w.Provider.Saved()) == 0 })
	next := w.Ask(e, alice.ID, "1.0", "two")
	if p := ended(t, e, next.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("a request in an archived session ended as %s: %s", p.State, p.Reason)
	}
	listedAs(t, e, "idle")
	if specs := w.Provider.Specs(); specs[len(specs)-1].From != "" {
		t.Errorf("it began from %q", specs[len(specs)-1].From)
	}
	var moves []string
	for _, ev := range log(t, e, acc.Session.ID) {
		if ev.Kind == sessions.KindArchived {
			moves = append(moves, string(ev.Body))
		}
	}
	if want := []string{`{"by":"Alice","state":"archived"}`, `{"by":"Alice","state":"open"}`}; !slices.Equal(moves, want) {
		t.Errorf("the log tells %q, want %q", moves, want)
	}
}

func TestASessionAtWorkIsNotArchived(t *testing.T) {
	t.Parallel()
	w, e, began, leave := world(t)
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	err := e.Archive(bg, "click:1", acc.Session.ID, alice.ID)
	if problem, ok := errors.AsType[*sessions.Problem](err); !ok || problem.Code != "open" {
		t.Errorf("Archive = %v, want a sentence", err)
	}
	close(leave)
	ended(t, e, acc.Prompt.ID)
	if err := e.Archive(bg, "click:2", acc.Session.ID, alice.ID); err != nil {
		t.Error(err)
	}
	if err := e.Unarchive(bg, "click:3", acc.Session.ID, alice.ID); err != nil {
		t.Error(err)
	}
	listedAs(t, e, "idle")
}

func TestSessionsInWhichNothingHappensArchiveThemselves(t *testing.T) {
	t.Parallel()
	w, e, began, leave := world(t)
	alice := w.Person(e, "Alice")
	old := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	busy := w.Ask(e, alice.ID, "2.0", "acme/greeter: two")
	heard(t, began)
	heard(t, began)
	leave <- struct{}{} // one of the two
	sessionstest.Eventually(t, "one is done", func() bool {
		if p, err := e.Prompt(bg, busy.Prompt.ID); err == nil && p.State.Settled() {
			old, busy = busy, old
		}
		p, err := e.Prompt(bg, old.Prompt.ID)
		return err == nil && p.State.Settled()
	})
	if _, err := w.DB.Exec(`update sessions set updated_at = now() - interval '31 days'`); err != nil {
		t.Fatal(err)
	}
	state := func(id string) string {
		s, err := e.Session(bg, id)
		if err != nil {
			t.Fatal(err)
		}
		return s.State
	}
	sessionstest.Eventually(t, "the idle one is archived", func() bool { return state(old.Session.ID) == "archived" })
	if got := state(busy.Session.ID); got != "open" {
		t.Errorf("the one at work is %s", got)
	}
	close(leave)
}

// Somebody who looks at the page may be about to ask for something.
func TestASandboxThatSomebodyWatchesOrWhosePortIsOpenIsParkedALittleLater(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, func(c *sessions.Config) { c.ParkAfter = time.Hour })
	alice := w.Person(e, "Alice")
	watched := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	alone, opened, left := w.Ask(e, alice.ID, "2.0", "acme/greeter: two"), w.Ask(e, alice.ID, "3.0", "acme/greeter: three"), w.Ask(e, alice.ID, "4.0", "acme/greeter: four")
	for _, acc := range []sessions.Accepted{watched, alone, opened, left} {
		ended(t, e, acc.Prompt.ID)
	}
	visit(t, w, e, opened, alice)
	visit(t, w, e, left, alice)
	if _, err := w.DB.Exec(`update sandboxes set port_used_at = port_used_at - interval '4 minutes' where session_id = $1`, left.Session.ID); err != nil {
		t.Fatal(err)
	}
	if err := e.Watching(bg, watched.Session.ID, alice.ID, time.Hour); err != nil {
		t.Fatal(err)
	}
	idle := func(minutes int) {
		t.Helper()
		_, err := w.DB.Exec(`with long as (update sandboxes set state_at = now() - interval '3 hours' where state = 'ready')
			update sessions set idle_since = now() - make_interval(mins => $1)`, minutes)
		if err != nil {
			t.Fatal(err)
		}
	}
	state := func(acc sessions.Accepted) sessions.SandboxState {
		b, err := e.Sandbox(bg, acc.Session.ID)
		if err != nil {
			t.Fatal(err)
		}
		return b.State
	}
	idle(63)
	sessionstest.Eventually(t, "the others are parked", func() bool {
		return state(alone) == sessions.SandboxParked && state(left) == sessions.SandboxParked
	})
	for what, acc := range map[string]sessions.Accepted{"watched one": watched, "one with an open port": opened} {
		if got := state(acc); got != sessions.SandboxReady {
			t.Errorf("the %s is %s after 63 minutes of 60", what, got)
		}
	}
	idle(66)
	sessionstest.Eventually(t, "these are parked too", func() bool {
		return state(watched) == sessions.SandboxParked && state(opened) == sessions.SandboxParked
	})
}

// visit has a person use a port of a session's sandbox once.
func visit(t *testing.T, w *sessionstest.World, e *sessions.Engine, acc sessions.Accepted, by sessions.Person) {
	t.Helper()
	login, err := e.Login(bg, by.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.DB.Exec(`insert into repository_settings (repository, body) values ('acme/greeter', '{"ports":[{"port":3000}]}') on conflict do nothing`); err != nil {
		t.Fatal(err)
	}
	ticket, err := e.PortTicket(bg, login, acc.Session.ID, 3000)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := e.EnterPort(bg, ticket, acc.Session.ID, 3000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.PortVisitor(bg, secret, acc.Session.ID, 3000); err != nil {
		t.Fatal(err)
	}
}

func TestADeletionThatHangsKeepsNoOtherFilesystemThere(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t)
	var deletions atomic.Int32
	hangs := make(chan struct{})
	w.Provider.Interfere(func(_ context.Context, call string, after bool) error {
		if call == "delete" && !after && deletions.Add(1) == 1 {
			<-hangs
		}
		return nil
	})
	alice := w.Person(e, "Alice")
	for _, ts := range []string{"1.0", "2.0", "3.0"} {
		acc := w.Ask(e, alice.ID, ts, "acme/greeter: one")
		ended(t, e, acc.Prompt.ID)
		if err := e.Archive(bg, "click:"+ts, acc.Session.ID, alice.ID); err != nil {
			t.Fatal(err)
		}
		parked(t, w, acc.Session.ID)
	}
	if _, err := w.DB.Exec(`update sessions set archived_at = now() - interval '8 days'`); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "all but the one that hangs are deleted", func() bool { return len(w.Provider.Saved()) == 1 })
	close(hangs)
	sessionstest.Eventually(t, "that one is deleted as well", func() bool { return len(w.Provider.Saved()) == 0 })
}
