package sessions_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// A control plane that shall leave nothing running is stopped in the middle of a boot.
func TestAStopDuringABootLosesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, continued := range map[string]bool{"the session's first one": false, "one that continues saved files": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := sessionstest.New(t)
			var hold atomic.Bool
			booting := make(chan string, 10)
			w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
				if hold.Load() {
					booting <- b.ID()
					return
				}
				sessionstest.Ready(ctx, b)
			}
			first := w.Engine(func(c *sessions.Config) { c.ParkAfter = 50 * time.Millisecond })
			sessions.Hasten(first)
			stop := w.Run(first)
			alice := w.Person(first, "Alice")
			if continued {
				acc := w.Ask(first, alice.ID, "1.0", "acme/greeter: zero")
				ended(t, first, acc.Prompt.ID)
				parked(t, w, acc.Session.ID)
			}
			hold.Store(true)
			acc := w.Ask(first, alice.ID, "1.0", "acme/greeter: one")
			heard(t, booting)
			stop()
			if err := first.EndStarting(bg); err != nil {
				t.Fatal(err)
			}
			if left := len(w.Provider.Boxes()); left != 0 {
				t.Errorf("%d sandboxes are left running", left)
			}
			var ref sandbox.Ref
			if err := w.DB.Get(&ref, `select ref from sandboxes where session_id = $1`, acc.Session.ID); err != nil || (ref != "") != continued {
				t.Errorf("the session goes on from %q (%v)", ref, err)
			}
			hold.Store(false)
			second := w.Engine()
			sessions.Hasten(second)
			w.Run(second)
			if p := ended(t, second, acc.Prompt.ID); p.State != sessions.Completed {
				t.Errorf("the request ended as %s: %s", p.State, p.Reason)
			}
			specs := w.Provider.Specs()
			if specs[len(specs)-1].From != ref {
				t.Errorf("it went on from %q, want %q", specs[len(specs)-1].From, ref)
			}
			sessionstest.Eventually(t, "nothing is saved that nobody refers to", func() bool {
				saved := w.Provider.Saved()
				return len(saved) == 0 && ref == "" || len(saved) == 1 && saved[0] == ref
			})
		})
	}
}

func TestASandboxThatDoesNotEndAtAStopDoesNotKeepTheOthersRunning(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	booting := make(chan string, 10)
	w.Provider.Boot = func(_ context.Context, b *sessionstest.Box) { booting <- b.ID() }
	e := w.Engine()
	sessions.Hasten(e)
	stop := w.Run(e)
	alice := w.Person(e, "Alice")
	for _, ts := range []string{"1.0", "2.0", "3.0"} {
		w.Ask(e, alice.ID, ts, "acme/greeter: one")
		heard(t, booting)
	}
	stop()
	var kills atomic.Int32
	w.Provider.Interfere(func(_ context.Context, call string, after bool) error {
		if call == "kill" && !after && kills.Add(1) == 1 {
			return errors.New("the provider is busy")
		}
		return nil
	})
	if err := e.EndStarting(bg); err == nil || !strings.Contains(err.Error(), "the provider is busy") {
		t.Errorf("EndStarting = %v, want what the provider said", err)
	}
	if left := len(w.Provider.Boxes()); left != 1 {
		t.Errorf("%d sandboxes are left running, want the one that did not end", left)
	}
}

func TestASpareIsNotLeftBehind(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine(func(c *sessions.Config) { c.MaxSpares, c.PoolSize = 2, 2 })
	sessions.Hasten(e)
	stop := w.Run(e)
	if err := e.Interest(bg, sessions.Interest{Repository: "acme/greeter"}); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "a spare is there", func() bool { return len(w.Provider.Boxes()) == 1 })
	stop()
	if err := e.EndStarting(bg); err != nil {
		t.Fatal(err)
	}
	if boxes, saved := w.Provider.Boxes(), w.Provider.Saved(); len(boxes) != 0 || len(saved) != 0 {
		t.Errorf("%d sandboxes and %q are left", len(boxes), saved)
	}
}

// A control plane that shall leave nothing running is stopped while a request runs.
func TestARequestGoesOnAfterAStopThatLeavesNothingRunning(t *testing.T) { // I3, I5
	t.Parallel()
	w := sessionstest.New(t)
	began, leave := make(chan string, 100), make(chan struct{})
	w.Provider.Agent = held(began, leave)
	first := w.Engine()
	sessions.Hasten(first)
	stop := w.Run(first)
	alice := w.Person(first, "Alice")
	acc := w.Ask(first, alice.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	next := w.Ask(first, alice.ID, "1.0", "two")
	if err := first.ParkAll(bg); err != nil {
		t.Fatal(err)
	}
	carried(t, first, acc.Prompt.ID)
	stop()
	if err := first.EndStarting(bg); err != nil {
		t.Fatal(err)
	}
	if left := len(w.Provider.Boxes()); left != 0 {
		t.Errorf("%d sandboxes are left running", left)
	}
	if specs := w.Provider.Specs(); len(specs) != 1 {
		t.Errorf("%d sandboxes were started by a control plane that was about to end", len(specs)-1)
	}
	second := w.Engine()
	sessions.Hasten(second)
	w.Run(second)
	if again := heard(t, began); again != acc.Prompt.ID {
		t.Fatalf("%s runs first, want the interrupted %s", again, acc.Prompt.ID)
	}
	if got := w.Provider.Boxes()[0].Prompts()[0].Text; !strings.Contains(got, "go on where you stopped") {
		t.Errorf("the next sandbox was told %q", got)
	}
	close(leave)
	for _, id := range []string{acc.Prompt.ID, next.Prompt.ID} {
		if p := ended(t, second, id); p.State != sessions.Completed {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	log(t, second, acc.Session.ID)
}

func TestAStopLeavesWhatOthersBuildAlone(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	building, finish := make(chan string, 10), make(chan struct{})
	w.Provider.Prepare = func(ctx context.Context, b *sessionstest.Box, c sandbox.Cmd) (int, error) {
		building <- b.ID()
		select {
		case <-finish:
			return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	builder := replicaWithImages(w)
	w.Run(builder)
	used(t, w, builder, "1.0")
	box := heard(t, building)
	foreign, err := w.Provider.Start(bg, sandbox.Spec{Name: "image-other-1", Tags: map[string]string{"build": "other", "build-epoch": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	left, err := w.Provider.Start(bg, sandbox.Spec{Name: "image-ours-1", Tags: map[string]string{"build": "ours", "build-epoch": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	leaver := replicaWithImages(w)
	age(t, w, `insert into images (id, repository, why, state, epoch, holder, held_until) values ('ours', 'acme/billing', 'testing', 'building', 1,
		'a replica that let it go', now() - interval '1 second')`)
	if err := leaver.EndStarting(bg); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{box: true, foreign.ID(): true, left.ID(): false} {
		if _, err := w.Provider.Attach(bg, id); (err == nil) != want {
			t.Errorf("%s lives: %v, want %v", id, err == nil, want)
		}
	}
	close(finish)
	built(t, builder, "the image is built", succeeded)
}
