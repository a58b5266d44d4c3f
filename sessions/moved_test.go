package sessions_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// elsewhere is another provider, which can do nothing with what the first one saved.
type elsewhere struct {
	*sessionstest.Provider
	foreign sandbox.Ref
}

var errForeign = sandbox.Invalid("it names no filesystem of this provider")

// Caps implements sandbox.Provider.
func (p *elsewhere) Caps() sandbox.Caps {
	c := p.Provider.Caps()
	c.Name = "elsewhere"
	return c
}

// Start implements sandbox.Provider.
func (p *elsewhere) Start(ctx context.Context, s sandbox.Spec) (sandbox.Box, error) {
	if s.From == p.foreign {
		return nil, errForeign
	}
	return p.Provider.Start(ctx, s)
}

func TestASessionGoesOnFromItsBranchWhenTheProviderIsChanged(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	other := &elsewhere{Provider: w.Provider}
	var e *sessions.Engine
	replica := func(p sandbox.Provider) (stop func()) {
		e = w.Engine(func(c *sessions.Config) { c.Provider, c.ParkAfter = p, 50*time.Millisecond })
		sessions.Hasten(e)
		return w.Run(e)
	}
	stop := replica(w.Provider)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	ended(t, e, acc.Prompt.ID)
	left := sandbox.Ref(parked(t, w, acc.Session.ID))
	other.foreign = left
	stop()

	stop = replica(other)
	next := w.Ask(e, acc.Session.CreatedBy, "1.0", "two")
	if p := ended(t, e, next.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request at the other provider ended as %s: %s", p.State, p.Reason)
	}
	said := 0
	for _, ev := range log(t, e, acc.Session.ID) {
		if ev.Kind == sandbox.KindNote && strings.Contains(string(ev.Body), "another provider of sandboxes (test)") {
			said++
		}
	}
	if said != 1 {
		t.Errorf("people are told %d times that the session's files stayed behind", said)
	}
	second := sandbox.Ref(parked(t, w, acc.Session.ID))
	third := w.Ask(e, acc.Session.CreatedBy, "1.0", "three")
	if p := ended(t, e, third.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request after that ended as %s: %s", p.State, p.Reason)
	}
	sessionstest.Eventually(t, "the other provider deletes what it saved first", func() bool { return !slices.Contains(w.Provider.Saved(), second) })
	if !slices.Contains(w.Provider.Saved(), left) {
		t.Error("the other provider was told to delete what the first one keeps")
	}
	stop()

	defer replica(w.Provider)()
	sessionstest.Eventually(t, "the first provider deletes what is not wanted any more", func() bool {
		return !slices.Contains(w.Provider.Saved(), left)
	})
}
