package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// ledger counts how often the agent ran each prompt.
type ledger struct {
	mu   sync.Mutex
	runs map[string]int
}

func (l *ledger) agent(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
	l.mu.Lock()
	l.runs[p.ID]++
	l.mu.Unlock()
	for i := range 5 {
		b.Bridge().Delta(sandbox.Delta{Prompt: p.ID, Part: "d" + p.ID, Kind: sandbox.KindText, Offset: i, Text: "x"})
		b.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: fmt.Sprint(p.ID, i), Text: fmt.Sprint(i)})
	}
	sessionstest.Answer(ctx, b, p)
}

func (l *ledger) twice() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for id, n := range l.runs {
		if n > 1 {
			list = append(list, id)
		}
	}
	return list
}

// A control plane that is killed again and again loses nothing and does nothing
// twice: whatever it was doing, its successor goes on.
func TestKillsOfTheControlPlaneAreNotNoticed(t *testing.T) { // I1 to I6
	t.Parallel()
	w := sessionstest.New(t)
	l := &ledger{runs: map[string]int{}}
	w.Provider.Agent = l.agent
	asker := w.Engine()
	alice := w.Person(asker, "Alice")
	var asked []sessions.Accepted
	for round := range 12 {
		e := w.Engine()
		sessions.Hasten(e)
		stop := w.Run(e)
		asked = append(asked, w.Ask(asker, alice.ID, fmt.Sprint(round%3, ".0"), fmt.Sprintf("acme/greeter: %d", round)))
		// Each life ends a little later in its work than the one before.
		expire := time.After(time.Duration(round) * 15 * time.Millisecond)
		<-expire
		stop()
	}
	last := w.Engine()
	sessions.Hasten(last)
	w.Run(last)
	for _, acc := range asked {
		if p := ended(t, last, acc.Prompt.ID); p.State != sessions.Completed {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	if again := l.twice(); len(again) > 0 {
		t.Errorf("%d prompts ran twice", len(again))
	}
	checkEffects(t, last, asked)
}

// checkEffects checks that each prompt has exactly one card and one answer, each
// log is whole, and nothing is left running.
func checkEffects(t *testing.T, e *sessions.Engine, asked []sessions.Accepted) {
	t.Helper()
	due, err := e.Due(bg, "slack", 1000)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	for _, d := range due {
		keys[d.Key]++
	}
	for _, acc := range asked {
		if keys["card:"+acc.Prompt.ID] != 1 || keys["answer:"+acc.Prompt.ID] != 1 {
			t.Errorf("prompt %s has %d cards and %d answers", acc.Prompt.ID, keys["card:"+acc.Prompt.ID], keys["answer:"+acc.Prompt.ID])
		}
		perPrompt := map[string]int{}
		for _, ev := range log(t, e, acc.Session.ID) {
			if ev.Kind == sandbox.KindText {
				perPrompt[ev.Prompt]++
			}
		}
		for id, n := range perPrompt {
			if n != 6 {
				t.Errorf("prompt %s has %d parts in the log, want 6", id, n)
			}
		}
		if parts, err := e.RunningParts(bg, acc.Session.ID); err != nil || len(parts) != 0 {
			t.Errorf("parts are left running: %v (%v)", parts, err)
		}
	}
}

func TestReplicasShareTheWork(t *testing.T) { // I2
	t.Parallel()
	w := sessionstest.New(t)
	l := &ledger{runs: map[string]int{}}
	w.Provider.Agent = l.agent
	var engines []*sessions.Engine
	for range 3 {
		e := w.Engine()
		sessions.Hasten(e)
		w.Run(e)
		engines = append(engines, e)
	}
	alice := w.Person(engines[0], "Alice")
	var asked []sessions.Accepted
	for i := range 18 {
		asked = append(asked, w.Ask(engines[i%3], alice.ID, fmt.Sprint(i%6, ".0"), fmt.Sprintf("acme/greeter: %d", i)))
	}
	for _, acc := range asked {
		if p := ended(t, engines[0], acc.Prompt.ID); p.State != sessions.Completed {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	if again := l.twice(); len(again) > 0 {
		t.Errorf("%d prompts ran twice", len(again))
	}
	if got := len(w.Provider.Specs()); got != 6 {
		t.Errorf("%d boxes were started for six sessions", got)
	}
	checkEffects(t, engines[0], asked)
}

// dying is a provider whose control plane dies right after a box was started.
type dying struct {
	sandbox.Provider
	started chan struct{}
	dead    chan struct{}
}

func (d *dying) Start(ctx context.Context, s sandbox.Spec) (sandbox.Box, error) {
	if _, err := d.Provider.Start(ctx, s); err != nil {
		return nil, err
	}
	close(d.started)
	<-d.dead
	return nil, ctx.Err()
}

func TestABoxWhoseStarterDiedIsAdopted(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	d := &dying{Provider: w.Provider, started: make(chan struct{}), dead: make(chan struct{})}
	dialled := make(chan struct{})
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		<-dialled
		sessionstest.Ready(ctx, b)
	}
	first := w.Engine(func(c *sessions.Config) { c.Provider = d })
	sessions.Hasten(first)
	ctx, kill := context.WithCancel(bg)
	gone := make(chan error, 1)
	go func() { gone <- first.Run(ctx) }() // it never answers the bridge
	acc := w.Ask(first, w.Person(first, "Alice").ID, "1.0", "acme/greeter: one")
	<-d.started
	kill()
	close(d.dead)
	if err := <-gone; err != nil {
		t.Fatal(err)
	}
	second := w.Engine()
	sessions.Hasten(second)
	w.Run(second)
	close(dialled)
	if p := ended(t, second, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("ended as %s: %s", p.State, p.Reason)
	}
	if got := len(w.Provider.Specs()); got != 1 {
		t.Errorf("%d boxes were started, want the one to be adopted", got)
	}
	sessionstest.Eventually(t, "the box is recorded", func() bool {
		b, err := second.Sandbox(bg, acc.Session.ID)
		return err == nil && b.Box == w.Provider.Boxes()[0].ID()
	})
}

// A second connection of the same sandbox takes the session over: whoever held
// it before can write nothing more.
func TestWhoLostTheLeaseWritesNothingMore(t *testing.T) { // I5
	t.Parallel()
	w, e, began, leave := world(t)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	<-began
	old := w.Provider.Boxes()[0]
	before, err := e.Sandbox(bg, acc.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	// An impostor with the same token and another boot.
	other, err := sandbox.NewBridge(sandbox.BridgeConfig{Control: old.Spec().Env[sandbox.EnvControl],
		Token: old.Spec().Env[sandbox.EnvToken], Boot: uuid.NewString(), SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, cancel := context.WithCancel(bg)
	welcomed := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() { defer close(done); _ = other.Run(ctx, silentOrders{welcomed}) }()
	defer func() { cancel(); <-done }()
	<-welcomed
	after, err := e.Sandbox(bg, acc.Session.ID)
	if err != nil || after.Epoch <= before.Epoch {
		t.Errorf("the epoch went from %d to %d (%v)", before.Epoch, after.Epoch, err)
	}
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Failed {
		t.Errorf("what the earlier boot ran is %s", p.State)
	}
	close(leave)
	log(t, e, acc.Session.ID)
}

// silentOrders is a supervisor that does nothing.
type silentOrders struct{ welcomed chan<- struct{} }

func (o silentOrders) Welcome(sandbox.Welcome) {
	select {
	case o.welcomed <- struct{}{}:
	default:
	}
}
func (silentOrders) Prompt(sandbox.Prompt) {}
func (silentOrders) Stop(sandbox.Stop)     {}
func (silentOrders) Park(sandbox.Park)     {}
func (silentOrders) Vet(sandbox.Vet)       {}

func TestOneHolderOfALeaseAtATime(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	var mu sync.Mutex
	holders := map[int]bool{}
	held := map[int]int{}
	ctx, cancel := context.WithCancel(bg)
	var all sync.WaitGroup
	for i := range 3 {
		e := w.Engine()
		sessions.Hasten(e)
		all.Go(func() {
			err := e.HoldLease(ctx, "slack", func(ctx context.Context) error {
				mu.Lock()
				if holders[i] = true; len(holders) > 1 {
					t.Errorf("%d replicas hold the lease", len(holders))
				}
				held[i]++
				mu.Unlock()
				select { // gives it back after a while
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
				mu.Lock()
				delete(holders, i)
				mu.Unlock()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	sessionstest.Eventually(t, "each replica had the lease", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(slices.Collect(maps.Keys(held))) == 3
	})
	cancel()
	all.Wait()
}

func TestALeaseThatIsTakenAwayEndsItsHolder(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	sessions.Hasten(e)
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	taken := errors.New("taken")
	holding := make(chan struct{})
	ended := make(chan error, 1)
	var once sync.Once
	go func() {
		ended <- e.HoldLease(ctx, "slack", func(ctx context.Context) error {
			once.Do(func() { close(holding) })
			<-ctx.Done()
			return taken
		})
	}()
	<-holding
	if _, err := w.DB.Exec(`update leases set holder = 'somebody else', until = now() + interval '1 hour' where name = 'slack'`); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, taken) {
		t.Errorf("HoldLease = %v, want the function's own error", err)
	}
}
