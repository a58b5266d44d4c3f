package sessions_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// aging is a world in which boxes may live for ten hours, whose age a test sets.
func aging(t *testing.T, changes ...func(*sessions.Config)) (w *sessionstest.World, e *sessions.Engine, began chan string, leave chan struct{}, age func(hours float64)) {
	t.Helper()
	w = sessionstest.New(t)
	w.Provider.Lifetime = 10 * time.Hour
	began, leave = make(chan string, 100), make(chan struct{})
	w.Provider.Agent = held(began, leave)
	e = w.Engine(changes...)
	sessions.Hasten(e)
	w.Run(e)
	return w, e, began, leave, func(hours float64) {
		t.Helper()
		if _, err := w.DB.Exec(`update sandboxes set born_at = now() - make_interval(secs => $1) where box <> ''`, hours*3600); err != nil {
			t.Fatal(err)
		}
	}
}

var errSmoke = errors.New("the machine is on fire")

// heard waits until the next prompt runs, and returns its id.
func heard(t *testing.T, began <-chan string) (prompt string) {
	t.Helper()
	sessionstest.Eventually(t, "a request runs", func() bool {
		select {
		case prompt = <-began:
			return true
		default:
			return false
		}
	})
	return prompt
}

// carried waits until a prompt is between two boxes.
func carried(t *testing.T, e *sessions.Engine, prompt string) {
	t.Helper()
	sessionstest.Eventually(t, "the request is carried over", func() bool {
		p, err := e.Prompt(bg, prompt)
		return err == nil && p.Carried
	})
}

func TestARequestGoesOnInANewSandboxWhenTheOldOnesLifeEnds(t *testing.T) { // I2, I3, I5, I9
	t.Parallel()
	w, e, began, leave, age := aging(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	second := w.Ask(e, alice.ID, "1.0", "two")
	old := w.Provider.Boxes()[0]
	age(9.95)
	if again := heard(t, began); again != acc.Prompt.ID {
		t.Fatalf("%s runs in the new sandbox, want the interrupted %s", again, acc.Prompt.ID)
	}
	box := w.Provider.Boxes()[0]
	got := box.Prompts()[0]
	if box.ID() == old.ID() || !strings.Contains(got.Text, "go on where you stopped") || !strings.HasSuffix(got.Text, "acme/greeter: one") {
		t.Errorf("%s was told %q", box.ID(), got.Text)
	}
	if got.AuthorEmail != old.Prompts()[0].AuthorEmail || got.Subject != "acme/greeter: one" || got.Since != "c0ffee" { // I11
		t.Errorf("the new sandbox works for %s on %q since %q", got.AuthorEmail, got.Subject, got.Since)
	}
	if files := box.Files(); !slices.Contains(files, "acme/greeter: one") {
		t.Errorf("the new sandbox has not what the old one left: %q", files)
	}
	close(leave)
	for _, id := range []string{acc.Prompt.ID, second.Prompt.ID} {
		if p := ended(t, e, id); p.State != sessions.Completed {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	checkCarriedLog(t, log(t, e, acc.Session.ID), acc.Prompt.ID, got.Text)
}

// checkCarriedLog checks that the log says that one boot stopped the prompt, and
// with which words another one got it.
func checkCarriedLog(t *testing.T, events []sessions.Event, prompt, told string) {
	t.Helper()
	var story []string
	boots := map[string]bool{}
	for _, ev := range events {
		if ev.Prompt != prompt {
			continue
		}
		switch ev.Kind {
		case sessions.KindStarted:
			var b sessions.BodyStarted
			if err := json.Unmarshal(ev.Body, &b); err != nil {
				t.Fatal(err)
			}
			boots[b.Boot] = true
			story = append(story, ev.Kind)
		case sessions.KindCarried:
			var b sessions.BodyCarried
			if err := json.Unmarshal(ev.Body, &b); err != nil {
				t.Fatal(err)
			}
			if !boots[b.Boot] || b.Text != told {
				t.Errorf("the log says that boot %s stopped it, and %q", b.Boot, b.Text)
			}
			story = append(story, ev.Kind)
		case sessions.KindEnded:
			story = append(story, ev.Kind)
		}
	}
	want := []string{sessions.KindStarted, sessions.KindCarried, sessions.KindStarted, sessions.KindEnded}
	if !slices.Equal(story, want) || len(boots) != 2 {
		t.Errorf("the log tells %q in %d boots, want %q in 2", story, len(boots), want)
	}
}

func TestAStopReachesARequestBetweenTwoSandboxes(t *testing.T) { // I12
	t.Parallel()
	w, e, began, leave, age := aging(t)
	defer close(leave)
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	h := newHanging("restore", false)
	h.fails = sandbox.ErrCapacity
	w.Provider.Interfere(h.interfere)
	age(9.95)
	h.await(t)
	carried(t, e, acc.Prompt.ID)
	if id, err := e.Stop(bg, "k", acc.Session.ID, "", alice.ID); err != nil || id != acc.Prompt.ID {
		t.Fatalf("Stop = %q, %v", id, err)
	}
	if p, err := e.Prompt(bg, acc.Prompt.ID); err != nil || p.State != sessions.Stopped || p.Reason != "Stopped by Alice." {
		t.Errorf("the request is %s: %s (%v)", p.State, p.Reason, err)
	}
	close(h.let)
	next := w.Ask(e, alice.ID, "1.0", "two")
	if id := heard(t, began); id != next.Prompt.ID {
		t.Errorf("%s runs after the stop, want %s", id, next.Prompt.ID)
	}
}

func TestARequestWhoseNextSandboxDoesNotStartFails(t *testing.T) { // I3
	t.Parallel()
	w, e, began, leave, age := aging(t)
	defer close(leave)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	heard(t, began)
	w.Provider.Fail(errSmoke, errSmoke, errSmoke)
	age(9.95)
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Failed || !strings.Contains(p.Reason, errSmoke.Error()) {
		t.Errorf("ended as %s: %s", p.State, p.Reason)
	}
	log(t, e, acc.Session.ID)
}

func TestARequestIsNotCarriedOverFromASandboxThatDies(t *testing.T) { // I5
	t.Parallel()
	w, e, began, leave, age := aging(t)
	defer close(leave)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	heard(t, began)
	w.Provider.Boxes()[0].Deaf() // it does not hear that its life ends
	age(9.95)
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Failed || p.Reason != "The sandbox was lost while this ran." {
		t.Errorf("ended as %s: %s", p.State, p.Reason)
	}
}

// A control plane is killed after each step of the way from one sandbox to the
// next: the request goes on, once.
func TestAControlPlaneThatDiesWhileARequestIsCarriedOverLosesNothing(t *testing.T) { // I3, I5
	t.Parallel()
	for name, at := range map[string]struct {
		call  string
		after bool
	}{
		"before the old one is parked": {"park", false}, "after the old one was parked": {"park", true},
		"before the new one is started": {"restore", false}, "after the new one was started": {"restore", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := sessionstest.New(t)
			w.Provider.Lifetime = 10 * time.Hour
			began, leave := make(chan string, 100), make(chan struct{})
			w.Provider.Agent = held(began, leave)
			h := newHanging(at.call, at.after)
			w.Provider.Interfere(h.interfere)
			first := w.Engine()
			sessions.Hasten(first)
			stop := w.Run(first)
			acc := w.Ask(first, w.Person(first, "Alice").ID, "1.0", "acme/greeter: one")
			heard(t, began)
			if _, err := w.DB.Exec(`update sandboxes set born_at = now() - interval '597 minutes'`); err != nil {
				t.Fatal(err)
			}
			h.await(t)
			stop()
			second := w.Engine()
			sessions.Hasten(second)
			w.Run(second)
			heard(t, began) // in the new sandbox
			close(leave)
			if p := ended(t, second, acc.Prompt.ID); p.State != sessions.Completed {
				t.Errorf("ended as %s: %s", p.State, p.Reason)
			}
			if more := len(began); more != 0 {
				t.Errorf("it ran %d times more", more)
			}
			log(t, second, acc.Session.ID)
		})
	}
}
