package sessions_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// fails is a boot that says that it failed.
func fails(_ context.Context, b *sessionstest.Box) {
	b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseSetup, State: "failed", Detail: "exit status 3"})
}

func TestAProviderThatHangsKeepsNobodyElseWaiting(t *testing.T) { // I9
	t.Parallel()
	w := sessionstest.New(t)
	var boots, kills atomic.Int32
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		if boots.Add(1) <= 2 {
			fails(ctx, b)
			return
		}
		sessionstest.Ready(ctx, b)
	}
	hangs := make(chan struct{})
	w.Provider.Interfere(func(_ context.Context, call string, after bool) error {
		if call == "kill" && !after && kills.Add(1) == 1 {
			<-hangs
		}
		return nil
	})
	w.Provider.Agent = func(ctx context.Context, _ *sessionstest.Box, _ sandbox.Prompt) { <-ctx.Done() }
	e := w.Engine(func(c *sessions.Config) { c.PromptTimeout = 50 * time.Millisecond })
	sessions.Hasten(e)
	w.Run(e)
	t.Cleanup(func() { close(hangs) }) // before the replica is stopped
	alice := w.Person(e, "Alice")
	ended(t, e, w.Ask(e, alice.ID, "1.0", "acme/greeter: one").Prompt.ID)
	sessionstest.Eventually(t, "the box of the failed boot is being ended", func() bool { return kills.Load() == 1 })
	ended(t, e, w.Ask(e, alice.ID, "2.0", "acme/greeter: two").Prompt.ID)
	sessionstest.Eventually(t, "the next one's is ended", func() bool { return len(w.Provider.Boxes()) == 1 })
	p := ended(t, e, w.Ask(e, alice.ID, "3.0", "acme/greeter: three").Prompt.ID)
	if p.State != sessions.Failed || !strings.Contains(p.Reason, "ran longer than 50ms") {
		t.Errorf("ended as %s: %s", p.State, p.Reason)
	}
}

// sweeping counts how often somebody looked at all boxes.
type sweeping struct {
	*sessionstest.Provider
	looks *atomic.Int32
}

func (s sweeping) List(ctx context.Context, tags map[string]string) iter.Seq2[sandbox.Info, error] {
	return func(yield func(sandbox.Info, error) bool) {
		for info, err := range s.Provider.List(ctx, tags) {
			if !yield(info, err) {
				return
			}
		}
		if len(tags) == 0 {
			s.looks.Add(1)
		}
	}
}

func TestABoxThatCouldNotBeSavedYetIsNoOrphan(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	var boots, looks atomic.Int32
	var broken, killed atomic.Bool
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		if boots.Add(1) == 2 {
			broken.Store(true)
			fails(ctx, b)
			return
		}
		sessionstest.Ready(ctx, b)
	}
	w.Provider.Interfere(func(_ context.Context, call string, _ bool) error {
		if call == "park" && broken.Load() {
			return errors.New("the provider is busy")
		}
		if call == "kill" {
			killed.Store(true)
		}
		return nil
	})
	e := w.Engine(func(c *sessions.Config) {
		c.ParkAfter = 50 * time.Millisecond
		c.Provider = sweeping{w.Provider, &looks}
	})
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	ended(t, e, first.Prompt.ID)
	sessionstest.Eventually(t, "the idle sandbox is parked", func() bool {
		b, err := e.Sandbox(bg, first.Session.ID)
		return err == nil && b.State == sessions.SandboxParked
	})
	ended(t, e, w.Ask(e, alice.ID, "1.0", "two").Prompt.ID) // what continues it does not boot
	seen := looks.Load()
	sessionstest.Eventually(t, "all boxes are looked at", func() bool { return looks.Load() >= seen+3 })
	broken.Store(false)
	if p := ended(t, e, w.Ask(e, alice.ID, "1.0", "three").Prompt.ID); p.State != sessions.Completed {
		t.Fatalf("ended as %s: %s", p.State, p.Reason)
	}
	if killed.Load() {
		t.Error("the box was killed before it could be saved")
	}
}

func TestAnOrphanThatDoesNotEndKeepsNoOtherAlive(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	sessions.Hasten(e)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	for _, generation := range []string{"-3", "-2", "-1"} { // of starters that died long ago
		_, err := w.Provider.Start(bg, sandbox.Spec{Name: "inspect" + generation,
			Tags: map[string]string{"session": acc.Session.ID, "epoch": generation}})
		if err != nil {
			t.Fatal(err)
		}
	}
	var kills atomic.Int32
	hangs := make(chan struct{})
	w.Provider.Interfere(func(_ context.Context, call string, after bool) error {
		if call == "kill" && !after && kills.Add(1) == 1 {
			<-hangs
		}
		return nil
	})
	w.Run(e)
	t.Cleanup(func() { close(hangs) }) // before the replica is stopped
	ended(t, e, acc.Prompt.ID)
	sessionstest.Eventually(t, "all others are ended", func() bool { return len(w.Provider.Boxes()) == 2 })
}
