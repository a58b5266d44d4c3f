package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// held is an agent that says that it began and then waits for leave.
func held(began chan<- string, leave <-chan struct{}) sessionstest.Script {
	return func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		began <- p.ID
		select {
		case <-leave:
			sessionstest.Answer(ctx, b, p)
		case <-ctx.Done():
		}
	}
}

// world makes a world with a held agent and one hastened, running replica.
func world(t *testing.T, changes ...func(*sessions.Config)) (w *sessionstest.World, e *sessions.Engine, began chan string, leave chan struct{}) {
	t.Helper()
	w = sessionstest.New(t)
	began, leave = make(chan string, 100), make(chan struct{})
	w.Provider.Agent = held(began, leave)
	e = w.Engine(changes...)
	sessions.Hasten(e)
	w.Run(e)
	return w, e, began, leave
}

func TestAPromptWhoseBoxDiesFailsAndIsNotRunAgain(t *testing.T) { // I3, I5
	t.Parallel()
	for name, kill := range map[string]func(*sessionstest.Box) error{
		"box":        func(b *sessionstest.Box) error { b.Crash(); return nil },
		"supervisor": (*sessionstest.Box).Restart,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e, began, leave := world(t)
			alice := w.Person(e, "Alice")
			first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
			second := w.Ask(e, alice.ID, "1.0", "two")
			<-began
			if err := kill(w.Provider.Boxes()[0]); err != nil {
				t.Fatal(err)
			}
			p := ended(t, e, first.Prompt.ID)
			if p.State != sessions.Failed || p.Reason != "The sandbox was lost while this ran." {
				t.Errorf("the prompt ended as %s: %s", p.State, p.Reason)
			}
			close(leave)
			if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed {
				t.Errorf("the next prompt ended as %s: %s", p.State, p.Reason)
			}
			if got := <-began; got != second.Prompt.ID {
				t.Errorf("%s ran after the loss, want %s", got, second.Prompt.ID)
			}
			again, err := e.Retry(bg, "click:retry", first.Prompt.ID, alice.ID)
			if err != nil {
				t.Fatal(err)
			}
			if p := ended(t, e, again.Prompt.ID); p.State != sessions.Completed || p.Text != "acme/greeter: one" {
				t.Errorf("the retry of %q ended as %s: %s", p.Text, p.State, p.Reason)
			}
			log(t, e, first.Session.ID)
		})
	}
}

func TestACutBridgeLosesAndRepeatsNothing(t *testing.T) { // I5
	t.Parallel()
	w := sessionstest.New(t)
	const parts = 300
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		for i := range parts {
			b.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: fmt.Sprint("p", i), Text: fmt.Sprint(i)})
			if i%60 == 30 {
				w.Cut()
			}
		}
		b.Settle(p, sandbox.OutcomeCompleted, "", "counted")
	}
	e := w.Engine()
	sessions.Hasten(e)
	w.Run(e)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "", "acme/greeter: count")
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Fatalf("ended as %s: %s", p.State, p.Reason)
	}
	got := texts(log(t, e, acc.Session.ID))
	if len(got) != parts {
		t.Fatalf("%d of %d parts are in the log", len(got), parts)
	}
	for i, text := range got {
		if text != fmt.Sprint(i) {
			t.Fatalf("part %d of the log is %q", i, text)
		}
	}
}

func TestAStopWhileTheBridgeIsCutReachesTheBoxLater(t *testing.T) { // I12
	t.Parallel()
	w := sessionstest.New(t)
	began, ended1 := make(chan struct{}, 1), make(chan struct{})
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		began <- struct{}{}
		<-ctx.Done()
		close(ended1)
	}
	e := w.Engine()
	sessions.Hasten(e)
	stop := w.Run(e)
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	<-began
	stop() // no replica answers
	other := w.Engine()
	sessions.Hasten(other)
	if id, err := other.Stop(bg, "k", acc.Session.ID, "", alice.ID); err != nil || id != acc.Prompt.ID {
		t.Fatalf("Stop = %q, %v", id, err)
	}
	if p, err := other.Prompt(bg, acc.Prompt.ID); err != nil || p.State != sessions.Stopped {
		t.Errorf("the prompt is %s (%v)", p.State, err)
	}
	w.Run(other)
	select {
	case <-ended1:
	case <-time.After(time.Minute):
		t.Fatal("the box was never told to stop")
	}
}

func TestABootThatFailsNamesItsPhase(t *testing.T) { // I3
	t.Parallel()
	w := sessionstest.New(t)
	var broken sync.Once
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		fail := false
		broken.Do(func() { fail = true })
		if !fail {
			sessionstest.Ready(ctx, b)
			return
		}
		b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseSync, State: "done"})
		b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseSetup, State: "failed", Detail: "exit status 3",
			Log: "npm: command not found"})
	}
	e := w.Engine()
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	p := ended(t, e, first.Prompt.ID)
	want := "The repository's setup script failed: exit status 3.\nnpm: command not found"
	if p.State != sessions.Failed || p.Reason != want {
		t.Errorf("ended as %s: %q, want %q", p.State, p.Reason, want)
	}
	sessionstest.Eventually(t, "the failed box is ended", func() bool { return len(w.Provider.Boxes()) == 0 })
	listedAs(t, e, "failed")
	if p := ended(t, e, w.Ask(e, alice.ID, "1.0", "two").Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the next request ended as %s: %s", p.State, p.Reason)
	}
	listedAs(t, e, "idle")
}

// listedAs checks what the list of sessions says of the only one.
func listedAs(t *testing.T, e *sessions.Engine, status string) {
	t.Helper()
	list, err := e.Sessions(bg, uuid.Nil, 10, 0)
	if err != nil || len(list) != 1 || list[0].Status != status {
		t.Errorf("the list shows %+v (%v), want %s", list, err, status)
	}
}

func TestWhatAProviderAnswersIsActedOn(t *testing.T) { // I3
	t.Parallel()
	down := errors.New("the machine is on fire")
	for name, c := range map[string]struct {
		fails  []error
		state  sessions.PromptState
		reason string
		starts int
	}{
		"capacity is waited for":      {[]error{sandbox.ErrCapacity, sandbox.ErrCapacity}, sessions.Completed, "", 3},
		"renewed credentials too":     {[]error{sandbox.ErrRefused, sandbox.ErrRefused, sandbox.ErrRefused, sandbox.ErrRefused}, sessions.Completed, "", 5},
		"two failures are tried over": {[]error{down, down}, sessions.Completed, "", 3},
		"three failures are told":     {[]error{down, down, down}, sessions.Failed, "The sandbox could not be started: the machine is on fire", 3},
		"an invalid one is told":      {[]error{fmt.Errorf("%w: no bubblewrap: install it", sandbox.ErrInvalid)}, sessions.Failed, "no bubblewrap: install it", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e, _ := running(t)
			w.Provider.Fail(c.fails...)
			p := ended(t, e, w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one").Prompt.ID)
			if p.State != c.state || !strings.Contains(p.Reason, c.reason) {
				t.Errorf("ended as %s: %q", p.State, p.Reason)
			}
			if got := len(w.Provider.Specs()); got != c.starts {
				t.Errorf("a box was started %d times, want %d", got, c.starts)
			}
		})
	}
}

func TestSandboxesBeyondTheLimitWaitAndSaySo(t *testing.T) {
	t.Parallel()
	w, e, began, leave := world(t, func(c *sessions.Config) { c.MaxSandboxes = 1 })
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	<-began
	second := w.Ask(e, alice.ID, "2.0", "acme/greeter: two")
	sessionstest.Eventually(t, "the second says why it waits", func() bool {
		b, err := e.Sandbox(bg, second.Session.ID)
		return err == nil && strings.Contains(b.Reason, "1 are running, which is the limit")
	})
	if got := len(w.Provider.Boxes()); got != 1 {
		t.Errorf("%d boxes run", got)
	}
	close(leave)
	ended(t, e, first.Prompt.ID)
	if p := ended(t, e, second.Prompt.ID); p.State != sessions.Completed { // the idle box makes room
		t.Errorf("the second ended as %s: %s", p.State, p.Reason)
	}
}

func TestDeadlinesEndWhatTakesTooLong(t *testing.T) { // I9
	t.Parallel()
	t.Run("prompt", func(t *testing.T) {
		t.Parallel()
		w, e, _, _ := world(t, func(c *sessions.Config) { c.PromptTimeout = 50 * time.Millisecond })
		p := ended(t, e, w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one").Prompt.ID)
		if p.State != sessions.Failed || !strings.Contains(p.Reason, "ran longer than 50ms") {
			t.Errorf("ended as %s: %s", p.State, p.Reason)
		}
	})
	t.Run("boot", func(t *testing.T) {
		t.Parallel()
		w := sessionstest.New(t)
		w.Provider.Boot = func(context.Context, *sessionstest.Box) {} // hangs
		e := w.Engine(func(c *sessions.Config) { c.BootTimeout = 200 * time.Millisecond })
		sessions.Hasten(e)
		w.Run(e)
		p := ended(t, e, w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one").Prompt.ID)
		if p.State != sessions.Failed || p.Reason != "The sandbox was not ready within 200ms." {
			t.Errorf("ended as %s: %s", p.State, p.Reason)
		}
		sessionstest.Eventually(t, "the box is ended", func() bool { return len(w.Provider.Boxes()) == 0 })
	})
}

func TestAnIdleSandboxIsParkedAndContinues(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, func(c *sessions.Config) { c.ParkAfter = 50 * time.Millisecond })
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	ended(t, e, first.Prompt.ID)
	parked := func() bool {
		b, err := e.Sandbox(bg, first.Session.ID)
		return err == nil && b.State == sessions.SandboxParked
	}
	sessionstest.Eventually(t, "the idle sandbox is parked", parked)
	if p := ended(t, e, w.Ask(e, alice.ID, "1.0", "two").Prompt.ID); p.State != sessions.Completed {
		t.Errorf("after parking a prompt ended as %s: %s", p.State, p.Reason)
	}
	specs := w.Provider.Specs()
	if len(specs) != 2 || specs[1].From == "" {
		t.Errorf("%d boxes were started, the last from %q; want one that continues the parked one", len(specs), specs[len(specs)-1].From)
	}
	sessionstest.Eventually(t, "it is parked again", parked)
	w.Provider.Forget() // what was saved is gone: it begins from the branch
	if p := ended(t, e, w.Ask(e, alice.ID, "1.0", "three").Prompt.ID); p.State != sessions.Completed {
		t.Errorf("without its saved files a prompt ended as %s: %s", p.State, p.Reason)
	}
	log(t, e, first.Session.ID)
}

func TestABoxThatDiesWheneverItBootsIsAFailure(t *testing.T) { // I3
	t.Parallel()
	w := sessionstest.New(t)
	w.Provider.Boot = func(_ context.Context, b *sessionstest.Box) { go b.Crash() }
	w.Provider.Log = "fetching\nno supervisor\n"
	e := w.Engine()
	sessions.Hasten(e)
	w.Run(e)
	p := ended(t, e, w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one").Prompt.ID)
	if p.State != sessions.Failed || p.Reason != "The sandbox ended while it was being prepared, and said: no supervisor" {
		t.Errorf("ended as %s: %s", p.State, p.Reason)
	}
	if got := len(w.Provider.Specs()); got != 3 {
		t.Errorf("a box was started %d times, want 3", got)
	}
}
