package sessions_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// keeping is a world whose session has been parked once, with one request done.
func keeping(t *testing.T, boot func(context.Context, *sessionstest.Box)) (*sessionstest.World, *sessions.Engine, sessions.Accepted) {
	t.Helper()
	w := sessionstest.New(t)
	w.Provider.Boot = boot
	e := w.Engine(func(c *sessions.Config) { c.ParkAfter = 50 * time.Millisecond })
	sessions.Hasten(e)
	w.Run(e)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	ended(t, e, acc.Prompt.ID)
	parked(t, w, acc.Session.ID)
	return w, e, acc
}

// parked waits until a session's sandbox is parked and returns what it is saved as.
func parked(t *testing.T, w *sessionstest.World, session string) (ref string) {
	t.Helper()
	sessionstest.Eventually(t, "the sandbox is parked", func() bool {
		return w.DB.Get(&ref, `select ref from sandboxes where session_id = $1 and state = 'parked'`, session) == nil
	})
	return ref
}

func TestASessionKeepsItsFilesWhenASandboxCannotContinueThem(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	w, e, acc := keeping(t, func(ctx context.Context, b *sessionstest.Box) {
		if broken.Load() {
			b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseStart, State: "failed", Detail: "start.sh failed"})
			return
		}
		sessionstest.Ready(ctx, b)
	})
	before := parked(t, w, acc.Session.ID)
	broken.Store(true)
	next := w.Ask(e, acc.Session.CreatedBy, "1.0", "two")
	if p := ended(t, e, next.Prompt.ID); p.State != sessions.Failed || !strings.Contains(p.Reason, "start.sh failed") {
		t.Fatalf("the request ended as %s: %s", p.State, p.Reason)
	}
	broken.Store(false)
	last := w.Ask(e, acc.Session.CreatedBy, "1.0", "three")
	if p := ended(t, e, last.Prompt.ID); p.State != sessions.Completed {
		t.Fatalf("the request after it ended as %s: %s", p.State, p.Reason)
	}
	specs := w.Provider.Specs()
	if len(specs) != 3 || string(specs[1].From) != before || specs[2].From == "" {
		t.Errorf("the sandboxes began from %q, %q, %q; want the last one to go on with what the second one continued", specs[0].From, specs[1].From, specs[len(specs)-1].From)
	}
}

func TestASandboxIsParkedBeforeItsLifetimeEnds(t *testing.T) { // I9
	t.Parallel()
	w, e, began, leave := world(t)
	w.Provider.Lifetime = 10 * time.Hour
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	<-began
	age := func(hours float64) {
		t.Helper()
		if _, err := w.DB.Exec(`update sandboxes set born_at = now() - make_interval(secs => $2) where session_id = $1`, acc.Session.ID, hours*3600); err != nil {
			t.Fatal(err)
		}
	}
	age(9.5) // old, but at work
	second := w.Ask(e, alice.ID, "1.0", "two")
	leave <- struct{}{}
	ended(t, e, acc.Prompt.ID)
	<-began
	age(9.9) // the end is near, work or not
	<-began  // in the next sandbox
	close(leave)
	if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request in the old sandbox ended as %s: %s", p.State, p.Reason)
	}
	if specs := w.Provider.Specs(); specs[len(specs)-1].From == "" {
		t.Error("nothing was kept of the old sandbox")
	}
}

func TestARequestThatComesWhileItsSandboxIsParkedWaitsForTheNext(t *testing.T) {
	t.Parallel()
	w, e, began, leave := world(t)
	close(leave)
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	<-began
	ended(t, e, acc.Prompt.ID)
	// Somebody who has not seen the request yet decides that the sandbox is idle,
	// and commits while the actor is about to hand the request out.
	tx := w.DB.MustBegin()
	tx.MustExec(`update sandboxes set state = 'parking', state_at = now(), reason = 'it was idle' where session_id = $1`, acc.Session.ID)
	second := w.Ask(e, alice.ID, "1.0", "two")
	sessionstest.Eventually(t, "the actor waits for the sandbox's row", func() bool {
		var waiting bool
		err := w.DB.Get(&waiting, `select exists (select from pg_stat_activity where wait_event_type = 'Lock'
			and query like '%select state from sandboxes%' and datname = current_database())`)
		return err == nil && waiting
	})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request ended as %s: %s", p.State, p.Reason)
	}
}

func TestWaitingForAProviderIsSaidOnce(t *testing.T) {
	t.Parallel()
	for says, cause := range map[string]error{"Waiting for a free sandbox": sandbox.ErrCapacity, "administrators have to renew": sandbox.ErrRefused} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			w := sessionstest.New(t)
			w.Provider.Fail(slices.Repeat([]error{cause}, 30)...)
			e := w.Engine()
			sessions.Hasten(e)
			w.Run(e)
			acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
			if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
				t.Fatalf("the request ended as %s: %s", p.State, p.Reason)
			}
			n, said := 0, 0
			for _, ev := range log(t, e, acc.Session.ID) {
				if ev.Kind == sessions.KindSandbox {
					n++
				}
				if strings.Contains(string(ev.Body), says) {
					said++
				}
			}
			if n > 6 || said != 1 {
				t.Errorf("the log has %d changes of the sandbox's state for 30 refusals, and says why %d times", n, said)
			}
		})
	}
}

func TestALateStopSparesWhatWasAskedForAfterIt(t *testing.T) {
	t.Parallel()
	w, e, began, leave := world(t)
	alice := w.Person(e, "Alice")
	first := w.AskAt(e, alice.ID, "1.0", "1700000000.000100", "acme/greeter: one")
	<-began
	close(leave)
	ended(t, e, first.Prompt.ID)
	second := w.AskAt(e, alice.ID, "1.0", "1700000000.000300", "two")
	stopped, err := e.StopSaid(bg, "slack:stop", first.Session.ID, "1700000000.000200", alice.ID)
	if err != nil || stopped != "" {
		t.Errorf("the stop ended %q, %v", stopped, err)
	}
	if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request after the stop ended as %s: %s", p.State, p.Reason)
	}
}

func TestRepositoriesThatAreAllGoneTakeNoMore(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	w.Forge.SetRepositories()
	if err := e.RefreshRepositories(bg); err != nil {
		t.Fatal(err)
	}
	if left, err := e.Repositories(bg); err != nil || len(left) != 0 {
		t.Errorf("there are still %v, %v", left, err)
	}
}

func TestRepliesRunInTheOrderInWhichTheyWereSaid(t *testing.T) { // I2
	t.Parallel()
	w, e, began, leave := world(t)
	alice := w.Person(e, "Alice")
	first := w.AskAt(e, alice.ID, "1.0", "1700000000.000100", "acme/greeter: one")
	<-began
	for _, at := range []string{"5", "3", "2", "4", "6"} { // as Slack happened to deliver them
		w.AskAt(e, alice.ID, "1.0", "1700000000.00010"+at, at)
	}
	close(leave)
	var order string
	for _, p := range waitAll(t, e, first.Session.ID) {
		order += p.Text[len(p.Text)-1:]
	}
	if order != "e23456" {
		t.Errorf("the requests ran as %s", order)
	}
}

// waitAll waits until all prompts of a session have ended, and returns them as they ran.
func waitAll(t *testing.T, e *sessions.Engine, session string) []sessions.Prompt {
	t.Helper()
	var all []sessions.Prompt
	sessionstest.Eventually(t, "all requests have ended", func() bool {
		var err error
		all, err = e.Prompts(bg, session)
		return err == nil && !slices.ContainsFunc(all, func(p sessions.Prompt) bool { return !p.State.Settled() })
	})
	slices.SortFunc(all, func(a, b sessions.Prompt) int { return a.StartedAt.Compare(*b.StartedAt) })
	return all
}

func TestALargeFilesystemHasItsTimeToBeSavedWhenItsBoxParks(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	had := make(chan time.Duration, 1)
	w.Provider.Save = func(ctx context.Context, _ *sessionstest.Box) error {
		until, _ := ctx.Deadline()
		select {
		case had <- time.Until(until):
		default:
		}
		return nil
	}
	e := w.Engine(func(c *sessions.Config) {
		c.Provider, c.ParkAfter, c.SnapshotAfter = sessionstest.Unlisting{Provider: w.Provider}, 50*time.Millisecond, -1
	})
	sessions.Hasten(e)
	sessions.SlowSaves(e)
	w.Run(e)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	ended(t, e, acc.Prompt.ID)
	parked(t, w, acc.Session.ID)
	if got := <-had; got < 30*time.Minute {
		t.Errorf("the provider had %s to save it, where saving may take an hour", got)
	}
}

// The look for idle sandboxes is held up between what it sees and what it does.
func TestARequestThatBeginsAsItsSandboxIsAboutToParkIsDone(t *testing.T) { // I3
	t.Parallel()
	w := sessionstest.New(t)
	began, leave := make(chan string, 100), make(chan struct{}, 100)
	w.Provider.Agent = held(began, leave)
	e := w.Engine(func(c *sessions.Config) { c.ParkAfter = time.Second })
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	age(t, w, `
		alter table watchers rename to watching;
		create function held_up() returns setof watching language plpgsql as $$
			begin perform pg_advisory_xact_lock_shared(1); return query select * from watching; end $$;
		create view watchers as select * from held_up()`)
	hold, err := w.DB.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hold.Rollback() }()
	leave <- struct{}{}
	ended(t, e, first.Prompt.ID)
	if _, err := hold.Exec(`select pg_advisory_xact_lock(1)`); err != nil {
		t.Fatal(err)
	}
	age(t, w, `update sessions set idle_since = now() - interval '1 hour'`)
	age(t, w, `update sandboxes set state_at = now() - interval '1 hour'`)
	sessionstest.Eventually(t, "the idle sandbox is seen", func() bool {
		var waits bool
		return w.DB.Get(&waits, `select exists (select from pg_locks where locktype = 'advisory' and objid = 1 and not granted
			and database = (select oid from pg_database where datname = current_database()))`) == nil && waits
	})
	second := w.Ask(e, alice.ID, "1.0", "two")
	heard(t, began)
	if err := hold.Commit(); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the look is over", func() bool {
		var waits bool
		return w.DB.Get(&waits, `select exists (select from pg_locks where locktype = 'advisory' and objid = 1
			and database = (select oid from pg_database where datname = current_database()))`) == nil && !waits
	})
	if b, err := e.Sandbox(bg, first.Session.ID); err != nil || b.State != sessions.SandboxReady {
		t.Errorf("the sandbox in which it runs is %s (%v)", b.State, err)
	}
	leave <- struct{}{}
	if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("ended as %s: %s", p.State, p.Reason)
	}
}
