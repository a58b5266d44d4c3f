package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// lifeStory is a session that comes to each step of a sandbox's life, at one of
// which the provider's call fails, or hangs until its control plane is killed.
type lifeStory struct {
	t       *testing.T
	w       *sessionstest.World
	h       *hanging
	listing bool
	kill    bool

	e    *sessions.Engine
	stop func()
	mu   sync.Mutex
	seen []string // what the last request's sandbox knew of
}

func TestNothingIsLostOrLeaksAtAnyStepOfASandboxesLife(t *testing.T) {
	t.Parallel()
	type step struct {
		call           string
		listing, kills bool
	}
	var steps []step
	for _, call := range []string{"start", "restore", "snapshot", "park", "delete"} {
		steps = append(steps, step{call, true, true}, step{call, true, false})
	}
	// A provider that cannot list is asked for a snapshot, and then to kill.
	steps = append(steps, step{"snapshot", false, true}, step{"kill", false, true}, step{"kill", false, false})
	for _, s := range steps {
		for _, after := range []bool{false, true} {
			how := map[bool]string{true: "killed", false: "failed"}[s.kills] + map[bool]string{true: " after ", false: " before "}[after] + s.call
			if !s.listing {
				how += ", unlisting"
			}
			t.Run(how, func(t *testing.T) {
				t.Parallel()
				l := &lifeStory{t: t, w: sessionstest.New(t), h: newHanging(s.call, after), listing: s.listing, kill: s.kills}
				l.run()
			})
		}
	}
}

func (l *lifeStory) replica() {
	l.e = l.w.Engine(func(c *sessions.Config) {
		c.SnapshotAfter, c.ParkAfter = 20*time.Millisecond, 400*time.Millisecond
		if !l.listing {
			c.Provider = sessionstest.Unlisting{Provider: l.w.Provider}
		}
	})
	sessions.Hasten(l.e)
	l.stop = l.w.Run(l.e)
}

func (l *lifeStory) run() {
	l.w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		l.mu.Lock()
		l.seen = b.Files()
		l.mu.Unlock()
		sessionstest.Answer(ctx, b, p)
	}
	l.h.fails = errors.New("the line went dead")
	l.w.Provider.Interfere(l.h.interfere)
	if !l.kill {
		close(l.h.let)
	}
	l.replica()
	alice := l.w.Person(l.e, "Alice")
	want := []string{}
	var session string
	for _, text := range []string{"acme/greeter: one", "two", "three"} {
		acc := l.w.Ask(l.e, alice.ID, "1.0", text)
		session, want = acc.Session.ID, append(want, text)
		l.until("the request ends", func() bool {
			p, err := l.e.Prompt(bg, acc.Prompt.ID)
			return err == nil && p.State == sessions.Completed
		})
		l.until("the sandbox is parked", func() bool {
			b, err := l.e.Sandbox(bg, session)
			return err == nil && b.State == sessions.SandboxParked
		})
	}
	select {
	case <-l.h.hangs:
	default:
		l.t.Fatal("the story never came to the step")
	}
	l.mu.Lock()
	if !slices.Equal(l.seen, want) {
		l.t.Errorf("the last request found %q in its sandbox, want %q", l.seen, want)
	}
	l.mu.Unlock()
	log(l.t, l.e, session)
	l.checkLeaks(session)
}

// until waits, and has the control plane killed and replaced when the step comes.
func (l *lifeStory) until(what string, ok func() bool) {
	l.t.Helper()
	hangs := l.h.hangs
	if !l.kill {
		hangs = nil
	}
	sessionstest.Eventually(l.t, what, func() bool {
		select {
		case <-hangs:
			l.kill = false
			hangs = nil
			l.stop()
			l.replica()
		default:
		}
		return ok()
	})
}

// checkLeaks checks that what is left at the provider is what the session goes on from.
func (l *lifeStory) checkLeaks(session string) {
	l.t.Helper()
	var left string
	owned := func() bool {
		var ref sandbox.Ref
		if err := l.w.DB.Get(&ref, `select ref from sandboxes where session_id = $1`, session); err != nil {
			l.t.Fatal(err)
		}
		saved := l.w.Provider.Saved()
		left = fmt.Sprintf("%d sandboxes and %q are left; the session goes on from %s", len(l.w.Provider.Boxes()), saved, ref)
		if !l.listing { // what it was asked for and nobody heard the name of ends by itself
			saved = slices.DeleteFunc(saved, func(r sandbox.Ref) bool { return r != ref && strings.HasPrefix(string(r), "snapshot") && l.unnamed(r) })
		}
		return len(l.w.Provider.Boxes()) == 0 && slices.Equal(saved, []sandbox.Ref{ref})
	}
	deadline := time.Now().Add(time.Minute)
	for !owned() {
		if time.Now().After(deadline) {
			l.t.Fatal(left)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

// unnamed says whether no row ever named it.
func (l *lifeStory) unnamed(r sandbox.Ref) bool {
	var known bool
	return l.w.DB.Get(&known, `select exists (select from saved where ref = $1)`, string(r)) == nil && !known
}
