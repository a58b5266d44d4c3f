package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// withSpares lets an engine keep spares.
func withSpares(c *sessions.Config) { c.MaxSpares, c.SpareDayUSD = 4, 10 }

// spares counts the spares that are in a state.
func spares(t testing.TB, w *sessionstest.World, state string) int {
	t.Helper()
	var n int
	if err := w.DB.Get(&n, `select count(*) from spares where state = $1`, state); err != nil {
		t.Fatal(err)
	}
	return n
}

// interest shows interest in acme/greeter.
func interest(t testing.TB, e *sessions.Engine) {
	t.Helper()
	if err := e.Interest(bg, sessions.Interest{Repository: "acme/greeter"}); err != nil {
		t.Fatal(err)
	}
}

func waiting(t testing.TB, w *sessionstest.World) {
	t.Helper()
	sessionstest.Eventually(t, "a spare waits", func() bool { return spares(t, w, "ready") == 1 })
}

func TestWhoeverAsksAfterAnInterestGetsTheSandboxThatWaits(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, withSpares)
	alice := w.Person(e, "Alice")
	for range 3 {
		interest(t, e)
	}
	waiting(t, w)
	spare := w.Provider.Boxes()[0]
	token := spare.Spec().Env[sandbox.EnvToken]
	if g, err := e.Authenticate(bg, token); err != nil || g.Branch != "" || g.Repository != "acme/greeter" { // I8
		t.Errorf("the spare may do %+v (%v)", g, err)
	}
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Fatalf("it ended as %s: %s", p.State, p.Reason)
	}
	if specs := w.Provider.Specs(); len(specs) != 1 {
		t.Errorf("%d sandboxes were started", len(specs))
	}
	if got := spare.Prompts(); len(got) != 1 || got[0].ID != acc.Prompt.ID {
		t.Errorf("the spare got %+v", got)
	}
	if g, err := e.Authenticate(bg, token); err != nil || g.Session != acc.Session.ID || g.Branch != acc.Session.Branch() {
		t.Errorf("the session's sandbox may do %+v (%v)", g, err)
	}
	second := w.Ask(e, alice.ID, "2.0", "acme/greeter: two")
	if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("without a spare it ended as %s: %s", p.State, p.Reason)
	}
	if specs := w.Provider.Specs(); len(specs) != 2 {
		t.Errorf("%d sandboxes were started for two sessions", len(specs))
	}
	log(t, e, acc.Session.ID)
}

func TestOneSpareGoesToOneSession(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, withSpares)
	alice := w.Person(e, "Alice")
	interest(t, e)
	waiting(t, w)
	var asked []sessions.Accepted
	for i := range 4 {
		asked = append(asked, w.Ask(e, alice.ID, fmt.Sprint(i, ".0"), "acme/greeter: go"))
	}
	boxes := map[string]string{}
	for _, acc := range asked {
		if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
			t.Errorf("it ended as %s: %s", p.State, p.Reason)
		}
		var box string
		if err := w.DB.Get(&box, `select box from sandboxes where session_id = $1`, acc.Session.ID); err != nil {
			t.Fatal(err)
		}
		if other := boxes[box]; other != "" || box == "" {
			t.Errorf("sessions %s and %s share box %q", acc.Session.ID, other, box)
		}
		boxes[box] = acc.Session.ID
	}
	if n := len(w.Provider.Specs()); n != 4 {
		t.Errorf("%d sandboxes were started for 4 sessions", n)
	}
}

func TestASpareThatIsStillStartingIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	starting, proceed := make(chan struct{}, 10), make(chan struct{})
	w.Provider.Starting = func(context.Context, sandbox.Spec) {
		starting <- struct{}{}
		<-proceed
	}
	e := w.Engine(withSpares)
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	interest(t, e)
	<-starting
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	sessionstest.Eventually(t, "the session takes it", func() bool { return spares(t, w, "taken") == 1 })
	// Its starter keeps the claim for as long as the provider needs.
	until := time.Now().Add(time.Second)
	sessionstest.Eventually(t, "the claim is renewed", func() bool {
		var held time.Time
		if err := w.DB.Get(&held, `select held_until from sandboxes where session_id = $1`, acc.Session.ID); err != nil {
			t.Fatal(err)
		}
		return held.After(until)
	})
	close(proceed)
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("it ended as %s: %s", p.State, p.Reason)
	}
	if n := len(w.Provider.Specs()); n != 1 {
		t.Errorf("%d sandboxes were started", n)
	}
}

func TestASpareOfADeadControlPlaneIsStartedAgainAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	first := w.Engine(withSpares)
	sessions.Hasten(first)
	// It dies with the box started and not recorded.
	if _, err := w.DB.Exec(`insert into spares (id, repository, cause, until, token_hash, holder, held_until, claimed_at, try)
		values ('halfdone', 'acme/greeter', 'interest', now() + interval '5 minutes', 'x', 'dead', now() - interval '1 second', now(), 1)`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Provider.Start(bg, sandbox.Spec{Name: "left", Tags: map[string]string{"spare": "halfdone"},
		Env: map[string]string{sandbox.EnvControl: "http://127.0.0.1:1", sandbox.EnvToken: "old"}}); err != nil {
		t.Fatal(err)
	}
	w.Run(first)
	waiting(t, w)
	sessionstest.Eventually(t, "only the new box lives", func() bool {
		boxes := w.Provider.Boxes()
		return len(boxes) == 1 && boxes[0].Spec().Name != "left"
	})
}

func TestSparesThatNobodyTakesAreEnded(t *testing.T) {
	t.Parallel()
	for name, over := range map[string]string{
		"their time is over":           `update spares set until = now() - interval '1 second'`,
		"nothing was heard of them":    `update spares set held_until = now() - interval '10 minutes', token_hash = 'another'`,
		"their row was removed":        `delete from spares`,
		"they have ended, says a row":  `update spares set state = 'ended', ended_at = now(), token_hash = null`,
		"a session took them and died": `update spares set state = 'taken', ended_at = now(), token_hash = null`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e, stop := running(t, withSpares)
			interest(t, e)
			waiting(t, w)
			stop()
			if _, err := w.DB.Exec(over); err != nil {
				t.Fatal(err)
			}
			next := w.Engine(withSpares)
			sessions.Hasten(next)
			w.Run(next)
			sessionstest.Eventually(t, "the box is gone", func() bool { return len(w.Provider.Boxes()) == 0 })
		})
	}
}

func TestASpareOutlivesARestartOfTheControlPlane(t *testing.T) {
	t.Parallel()
	w, e, stop := running(t, withSpares)
	alice := w.Person(e, "Alice")
	interest(t, e)
	waiting(t, w)
	stop()
	next := w.Engine(withSpares)
	sessions.Hasten(next)
	w.Run(next)
	sessionstest.Eventually(t, "it dials in again", func() bool {
		var held bool
		if err := w.DB.Get(&held, `select exists (select from spares where state = 'ready' and held_until > now())`); err != nil {
			t.Fatal(err)
		}
		return held
	})
	acc := w.Ask(next, alice.ID, "1.0", "acme/greeter: one")
	if p := ended(t, next, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("it ended as %s: %s", p.State, p.Reason)
	}
	if n := len(w.Provider.Specs()); n != 1 {
		t.Errorf("%d sandboxes were started", n)
	}
}

func TestASpareMakesRoomForASession(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, withSpares, func(c *sessions.Config) { c.MaxSandboxes = 1 })
	alice := w.Person(e, "Alice")
	interest(t, e)
	waiting(t, w)
	acc := w.Ask(e, alice.ID, "1.0", "acme/billing: one")
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("it ended as %s: %s", p.State, p.Reason)
	}
	interest(t, e)
	if n := spares(t, w, "starting") + spares(t, w, "booting") + spares(t, w, "ready"); n != 0 {
		t.Errorf("%d spares although there is no room", n)
	}
}

func TestInterestInAParkedSessionRestoresItBeforeAnybodyAsks(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, withSpares, func(c *sessions.Config) { c.ParkAfter = 200 * time.Millisecond })
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	ended(t, e, acc.Prompt.ID)
	parked := func() bool {
		s, err := e.Sandbox(bg, acc.Session.ID)
		if err != nil {
			t.Fatal(err)
		}
		return s.State == sessions.SandboxParked
	}
	sessionstest.Eventually(t, "it is parked", parked)
	if err := e.Interest(bg, sessions.Interest{Session: acc.Session.ID}); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "it is restored", func() bool { return len(w.Provider.Specs()) == 2 })
	sessionstest.Eventually(t, "it is parked again, as nobody asks", parked)
	var wanted int
	if err := w.DB.Get(&wanted, `select count(*) from sandboxes where wanted_until is not null`); err != nil || wanted != 0 {
		t.Errorf("%d sandboxes are wanted still (%v)", wanted, err)
	}
	if n := len(w.Provider.Specs()); n != 2 {
		t.Errorf("%d sandboxes were started after one sign of interest", n)
	}
	if n := spares(t, w, "taken"); n != 0 {
		t.Errorf("%d spares were taken by a session that has files of its own", n)
	}
}

func TestABusyRepositoryHasASpareWaiting(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, withSpares, func(c *sessions.Config) { c.PoolSize = 2 })
	alice := w.Person(e, "Alice")
	for i := range 2 {
		ended(t, e, w.Ask(e, alice.ID, fmt.Sprint(i, ".0"), "acme/greeter: go").Prompt.ID)
	}
	waiting(t, w)
	ended(t, e, w.Ask(e, alice.ID, "3.0", "acme/greeter: go").Prompt.ID)
	sessionstest.Eventually(t, "it is taken", func() bool { return spares(t, w, "taken") == 1 })
	waiting(t, w) // and replaced
	var elsewhere int
	if err := w.DB.Get(&elsewhere, `select count(*) from spares where repository <> 'acme/greeter'`); err != nil || elsewhere != 0 {
		t.Errorf("%d spares of repositories on which nothing happens (%v)", elsewhere, err)
	}
}

func TestARepositoryWhoseWarmSandboxesAreSwitchedOffIsStartedWhenSomebodyAsks(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, withSpares, func(c *sessions.Config) {
		c.PoolSize, c.ParkAfter, c.Admins = 2, 100*time.Millisecond, []string{"U1"}
	})
	alice := w.Person(e, "Alice")
	interest(t, e)
	waiting(t, w)
	change(t, e, alice, "acme/greeter", sessions.Settings{Spares: sessions.No})
	sessionstest.Eventually(t, "the one that waits is ended", func() bool { return spares(t, w, "ended") == 1 && len(w.Provider.Boxes()) == 0 })
	// One that was asked for at the same moment is ended as well.
	if _, err := w.DB.Exec(`insert into spares (id, repository, cause, until) values ('late', 'acme/greeter', 'interest', now() + interval '1 hour')`); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the late one is ended", func() bool { return spares(t, w, "ended") == 2 && len(w.Provider.Boxes()) == 0 })
	interest(t, e)
	var last sessions.Accepted
	for i := range 3 { // enough for a busy one
		last = w.Ask(e, alice.ID, fmt.Sprint(i, ".0"), "acme/greeter: go")
		if p := ended(t, e, last.Prompt.ID); p.State != sessions.Completed {
			t.Errorf("it ended as %s: %s", p.State, p.Reason)
		}
	}
	parked(t, w, last.Session.ID)
	started := len(w.Provider.Specs())
	if err := e.Interest(bg, sessions.Interest{Session: last.Session.ID}); err != nil {
		t.Fatal(err)
	}
	if err := e.Interest(bg, sessions.Interest{Repository: "acme/billing"}); err != nil {
		t.Fatal(err)
	}
	waiting(t, w) // of the other repository
	for _, s := range w.Provider.Specs()[started:] {
		if s.Tags["session"] != "" {
			t.Errorf("the parked sandbox was started before anybody asked: %v", s.Tags)
		}
	}
	var of int
	if err := w.DB.Get(&of, `select count(*) from spares where repository = 'acme/greeter'`); err != nil || of != 2 {
		t.Errorf("%d spares of the repository in all (%v)", of, err)
	}
}

func TestASpareHasWhatIsSetNow(t *testing.T) {
	t.Parallel()
	w, e, ada := governed(t, withSpares, func(c *sessions.Config) { c.PoolSize = 1 })
	w.Run(e)
	for i := range 2 {
		ended(t, e, w.Ask(e, ada.ID, fmt.Sprint(i, ".0"), "acme/greeter: go").Prompt.ID)
	}
	waiting(t, w)
	before := spares(t, w, "taken") // the second may have been fast enough to take one
	set(t, e, ada, "acme/greeter", "LEVEL", "seven", false)
	sessionstest.Eventually(t, "the spare without it is ended", func() bool { return spares(t, w, "ended") == 1 })
	waiting(t, w) // and replaced
	ended(t, e, w.Ask(e, ada.ID, "3.0", "acme/greeter: go").Prompt.ID)
	specs := w.Provider.Specs()
	if env := specs[len(specs)-1].Env; spares(t, w, "taken") != before+1 || env["LEVEL"] != "seven" {
		t.Errorf("%d spares were taken, %d before, and the last sandbox has %v", spares(t, w, "taken"), before, env)
	}
}

func TestSparesStopWhenTheirDaysMoneyIsSpent(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	w.Provider.Price = sandbox.Price{CoreSecond: 1}
	e := w.Engine(withSpares)
	sessions.Hasten(e)
	w.Run(e)
	if _, err := w.DB.Exec(`insert into sandbox_usage (purpose, began_at, ended_at, cpu, mem_mib, cost_usd)
		values ('pool', now() - interval '24 hours', now() - interval '23 hours', 1, 1024, 10)`); err != nil {
		t.Fatal(err)
	}
	interest(t, e)
	var live int
	if err := w.DB.Get(&live, `select count(*) from spares where ended_at is null`); err != nil || live != 0 {
		t.Fatalf("%d spares although the money is spent (%v)", live, err)
	}
	if _, err := w.DB.Exec(`update sandbox_usage set ended_at = ended_at - interval '2 hours'`); err != nil {
		t.Fatal(err)
	}
	interest(t, e)
	waiting(t, w)
	if _, err := w.DB.Exec(`update spares set claimed_at = now() - interval '7 seconds', until = now() where state = 'ready'`); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "its cost is counted", func() bool {
		var cost float64
		if err := w.DB.Get(&cost, `select coalesce(sum(cost_usd), 0) from sandbox_usage where purpose = 'pool' and cost_usd <> 10`); err != nil {
			t.Fatal(err)
		}
		return cost >= 7 && cost < 60
	})
}

func TestASpareThatDiesUnderASessionIsReplaced(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	var boots atomic.Int32
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		if boots.Add(1) == 1 {
			go b.Crash() // right after it heard of its session
			return
		}
		sessionstest.Ready(ctx, b)
	}
	e := w.Engine(withSpares)
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	interest(t, e)
	waiting(t, w)
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("it ended as %s: %s", p.State, p.Reason)
	}
	if n := len(w.Provider.Boxes()); n != 1 {
		t.Errorf("%d sandboxes live", n)
	}
}

func TestASpareThatCannotBePreparedHarmsNobody(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	w.Provider.Spare = func(_ context.Context, b *sessionstest.Box) {
		b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseSetup, State: "failed", Detail: "setup.sh failed"})
	}
	e := w.Engine(withSpares)
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	interest(t, e)
	sessionstest.Eventually(t, "it is given up", func() bool { return spares(t, w, "ended") == 1 && len(w.Provider.Boxes()) == 0 })
	w.Provider.Fail(errors.New("no machine"))
	interest(t, e)
	sessionstest.Eventually(t, "a failed start is given up", func() bool { return spares(t, w, "ended") == 2 })
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("it ended as %s: %s", p.State, p.Reason)
	}
}

func TestWhileARepositoryIsChosenASandboxOfTheLikeliestIsMadeReady(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	e := w.Engine(withSpares, func(c *sessions.Config) {
		c.Chooser = chooser(func(context.Context, string, []sessions.Repository) (string, string, error) {
			close(asked)
			<-answer
			return "acme/billing", "it says bill", nil
		})
	})
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	if _, err := w.DB.Exec(`insert into sessions (id, repository, team, channel, thread, created_by) values ('old', 'acme/billing', 'T1', 'C1', '0.1', $1)`, alice.ID); err != nil {
		t.Fatal(err)
	}
	acc := w.Ask(e, alice.ID, "1.0", "mend the bill")
	<-asked
	sessionstest.Eventually(t, "one is on its way", func() bool { return len(w.Provider.Specs()) == 1 })
	close(answer)
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("it ended as %s: %s", p.State, p.Reason)
	}
	if n := len(w.Provider.Specs()); n != 1 {
		t.Errorf("%d sandboxes were started", n)
	}
}
