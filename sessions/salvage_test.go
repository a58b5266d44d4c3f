package sessions_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// salvaging has a replica's provider save what dead boxes left.
func salvaging(w *sessionstest.World) func(*sessions.Config) {
	return func(c *sessions.Config) {
		c.Provider = sessionstest.Salvaging{Provider: w.Provider}
		c.SnapshotAfter = -1
	}
}

func TestWhatADeadSandboxLeftIsGoneOnFrom(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"", "killed before", "killed after", "failed before", "failed after"} {
		t.Run("the provider saves it, "+how, func(t *testing.T) {
			t.Parallel()
			w := sessionstest.New(t)
			began, leave := make(chan string, 100), make(chan struct{}, 100)
			w.Provider.Agent = held(began, leave)
			h := newHanging("salvage", strings.HasSuffix(how, "after"))
			h.fails = errors.New("the disk is busy")
			if how != "" {
				w.Provider.Interfere(h.interfere)
			}
			e := w.Engine(salvaging(w))
			sessions.Hasten(e)
			stop := w.Run(e)
			alice := w.Person(e, "Alice")
			first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
			heard(t, began)
			leave <- struct{}{}
			ended(t, e, first.Prompt.ID)
			second := w.Ask(e, alice.ID, "1.0", "two")
			heard(t, began)
			w.Provider.Boxes()[0].Crash()
			if how != "" {
				h.await(t)
			}
			if strings.HasPrefix(how, "killed") {
				stop()
				e = w.Engine(salvaging(w))
				sessions.Hasten(e)
				w.Run(e)
			} else {
				close(h.let)
			}
			if p := ended(t, e, second.Prompt.ID); p.State != sessions.Failed || p.Reason != "The sandbox was lost while this ran." {
				t.Errorf("the request in it ended as %s: %s", p.State, p.Reason)
			}
			third := w.Ask(e, alice.ID, "1.0", "three")
			heard(t, began)
			if files := w.Provider.Boxes()[0].Files(); !slices.Equal(files, []string{"acme/greeter: one", "two", "three"}) {
				t.Errorf("the next sandbox knows of %q", files)
			}
			leave <- struct{}{}
			if p := ended(t, e, third.Prompt.ID); p.State != sessions.Completed {
				t.Errorf("the next request ended as %s: %s", p.State, p.Reason)
			}
			var ref sandbox.Ref
			if err := w.DB.Get(&ref, `select ref from sandboxes`); err != nil {
				t.Fatal(err)
			}
			sessionstest.Eventually(t, "nothing else is kept", func() bool { return slices.Equal(w.Provider.Saved(), []sandbox.Ref{ref}) })
		})
	}
}

func TestWhatADeadSandboxLeftIsNotSavedUnseen(t *testing.T) { // I7
	t.Parallel()
	w, e, ada := governed(t, func(c *sessions.Config) { c.SnapshotAfter = -1 })
	set(t, e, ada, "acme/greeter", "NPM_TOKEN", "npm-token-of-greeter", true)
	e = w.Engine(salvaging(w))
	sessions.Hasten(e)
	w.Run(e)
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: one")
	ended(t, e, acc.Prompt.ID)
	w.Provider.Boxes()[0].Crash()
	lost(t, e, acc.Session.ID)
	if saved := w.Provider.Saved(); len(saved) != 0 {
		t.Errorf("%q are saved, in which nobody looked for secrets", saved)
	}
}

func TestASandboxThatDiesWhileItBootsLeavesNothing(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	booting := make(chan string, 10)
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) { booting <- b.ID(); <-ctx.Done() }
	e := w.Engine(salvaging(w))
	sessions.Hasten(e)
	w.Run(e)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	for range 3 {
		heard(t, booting)
		w.Provider.Boxes()[0].Crash()
	}
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Failed {
		t.Errorf("the request ended as %s: %s", p.State, p.Reason)
	}
	for _, s := range w.Provider.Specs() {
		if s.From != "" {
			t.Errorf("a sandbox went on from %q", s.From)
		}
	}
	if saved := w.Provider.Saved(); len(saved) != 0 {
		t.Errorf("%q are saved", saved)
	}
}

// lost waits until a session's sandbox is known to be no more.
func lost(t *testing.T, e *sessions.Engine, session string) {
	t.Helper()
	sessionstest.Eventually(t, "the sandbox is lost", func() bool {
		b, err := e.Sandbox(bg, session)
		return err == nil && b.State == sessions.SandboxLost
	})
}
