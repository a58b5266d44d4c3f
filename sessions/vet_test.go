package sessions_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// looked is a world in which the repository has a secret and snapshots are taken
// almost at once.
func looked(t *testing.T, changes ...func(*sessions.Config)) (*sessionstest.World, *sessions.Engine, sessions.Person) {
	t.Helper()
	w, e, ada := governed(t, append([]func(*sessions.Config){soon}, changes...)...)
	set(t, e, ada, "acme/greeter", "NPM_TOKEN", "npm-token-of-greeter", true)
	return w, e, ada
}

// notices are the texts of what a session's thread is told whose key begins so.
func notices(t *testing.T, w *sessionstest.World, session, key string) (texts []string) {
	t.Helper()
	if err := w.DB.Select(&texts, `select body->>'Text' from outbox where session_id = $1 and starts_with(key, $2)`, session, "notice:"+key); err != nil {
		t.Fatal(err)
	}
	return texts
}

// reports counts what the log has of looks for secrets after a prompt.
func reports(t *testing.T, w *sessionstest.World, prompt string) (n int) {
	t.Helper()
	if err := w.DB.Get(&n, `select count(*) from events where kind = 'kept' and prompt_id = $1`, prompt); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestASandboxWithSecretsIsSavedWhileItIsQuiet(t *testing.T) { // I7
	t.Parallel()
	w, e, ada := looked(t)
	w.Run(e)
	first := w.Ask(e, ada.ID, "1.0", "acme/greeter: one")
	ended(t, e, first.Prompt.ID)
	ref := snapped(t, w, first.Prompt.ID)
	if n := reports(t, w, first.Prompt.ID); n != 1 {
		t.Errorf("it was looked through %d times for one snapshot", n)
	}
	w.Provider.Boxes()[0].Crash()
	sessionstest.Eventually(t, "the next sandbox starts from the snapshot", func() bool {
		next := w.Ask(e, ada.ID, "1.0", "go on")
		p := ended(t, e, next.Prompt.ID)
		specs := w.Provider.Specs()
		return p.State == sessions.Completed && len(specs) == 2 && specs[1].From == ref
	})
}

func TestALookBeforeALaterRequestIsNotReliedOn(t *testing.T) { // I7
	t.Parallel()
	w, e, ada := looked(t)
	began, leave := make(chan string, 100), make(chan struct{})
	w.Provider.Agent = held(began, leave)
	asked, answer := make(chan string, 10), make(chan struct{})
	var first sessions.Accepted
	w.Provider.Vetting = func(ctx context.Context, b *sessionstest.Box) {
		asked <- b.ID()
		select {
		case <-answer:
		case <-ctx.Done():
		}
		// It was found before the second request began, and is heard after that.
		b.Bridge().Event(sandbox.KindKept, first.Prompt.ID, sandbox.BodyKept{})
	}
	w.Run(e)
	first = w.Ask(e, ada.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	leave <- struct{}{}
	ended(t, e, first.Prompt.ID)
	heard(t, asked)
	second := w.Ask(e, ada.ID, "1.0", "two")
	heard(t, began) // it does not wait for the look
	close(answer)
	sessionstest.Eventually(t, "the late answer is in the log", func() bool { return reports(t, w, first.Prompt.ID) > 0 })
	var relied bool
	if err := w.DB.Get(&relied, `select kept_at is not null from sandboxes`); err != nil || relied {
		t.Errorf("what was found before the second request counts after it (%v)", err)
	}
	close(leave)
	ended(t, e, second.Prompt.ID)
	snapped(t, w, second.Prompt.ID)
}

func TestPeopleAreToldOnceThatASandboxCannotBeSaved(t *testing.T) { // I7
	t.Parallel()
	w, e, ada := looked(t)
	w.Provider.Kept = &sandbox.BodyKept{Places: []sandbox.KeptSecret{{Secret: "NPM_TOKEN", Path: "~/.npmrc"}}}
	w.Run(e)
	var session string
	for n := range 3 {
		acc := w.Ask(e, ada.ID, "1.0", fmt.Sprint("acme/greeter: ", n))
		session = acc.Session.ID
		ended(t, e, acc.Prompt.ID)
		sessionstest.Eventually(t, "its files are looked through", func() bool { return reports(t, w, acc.Prompt.ID) > 0 })
	}
	told := notices(t, w, session, "kept:")
	if len(told) != 1 || !strings.Contains(told[0], "NPM_TOKEN in ~/.npmrc") || !strings.Contains(told[0], "only what was committed goes on") {
		t.Errorf("people were told %q", told)
	}
	var asked int
	if err := w.DB.Get(&asked, `select count(*) from saved`); err != nil || asked != 0 || len(w.Provider.Saved()) != 0 {
		t.Errorf("%d times it was about to be saved, %q are (%v)", asked, w.Provider.Saved(), err)
	}
}

func TestASandboxThatCannotSpeakAnyMoreGoesOnFromItsLastSnapshot(t *testing.T) { // I7
	t.Parallel()
	w, e, ada := looked(t)
	quiet := make(chan struct{})
	var looks int
	w.Provider.Vetting = func(ctx context.Context, _ *sessionstest.Box) {
		if looks++; looks > 1 { // of the second request nobody hears what was found
			close(quiet)
			<-ctx.Done()
		}
	}
	w.Run(e)
	first := w.Ask(e, ada.ID, "1.0", "acme/greeter: one")
	ended(t, e, first.Prompt.ID)
	ref := snapped(t, w, first.Prompt.ID)
	second := w.Ask(e, ada.ID, "1.0", "two")
	ended(t, e, second.Prompt.ID)
	w.Provider.Boxes()[0].Deaf()
	<-quiet
	idle(t, w, first.Session.ID)
	sessionstest.Eventually(t, "the box is ended without being saved", func() bool {
		b, err := e.Sandbox(bg, first.Session.ID)
		return err == nil && b.State == sessions.SandboxLost && len(w.Provider.Boxes()) == 0
	})
	told := notices(t, w, first.Session.ID, "unsaved:")
	if len(told) != 1 || !strings.Contains(told[0], "“acme/greeter: one”") || !strings.Contains(told[0], "not committed is lost") {
		t.Errorf("people were told %q", told)
	}
	w.Provider.Vetting = nil
	third := w.Ask(e, ada.ID, "1.0", "three")
	if p := ended(t, e, third.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the next request ended as %s: %s", p.State, p.Reason)
	}
	if specs := w.Provider.Specs(); len(specs) != 2 || specs[1].From != ref {
		t.Errorf("it went on from %q, want %q", specs[len(specs)-1].From, ref)
	}
}

// idle has a session's sandbox idle for long enough to be parked.
func idle(t *testing.T, w *sessionstest.World, session string) {
	t.Helper()
	if _, err := w.DB.Exec(`update sandboxes set state_at = now() - interval '1 day' where session_id = $1`, session); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DB.Exec(`update sessions set idle_since = now() - interval '1 day' where id = $1`, session); err != nil {
		t.Fatal(err)
	}
}

func TestASandboxThatWasLookedThroughIsParkedThoughItCannotSpeak(t *testing.T) {
	t.Parallel()
	w, e, ada := looked(t)
	w.Run(e)
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: one")
	ended(t, e, acc.Prompt.ID)
	ref := snapped(t, w, acc.Prompt.ID)
	w.Provider.Boxes()[0].Deaf()
	idle(t, w, acc.Session.ID)
	if saved := parked(t, w, acc.Session.ID); saved == string(ref) {
		t.Error("it goes on from its snapshot, though it could be saved as it was")
	}
}

func TestAControlPlaneThatDiesDuringALookLosesNothing(t *testing.T) {
	t.Parallel()
	for name, answered := range map[string]bool{"before the answer": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, first, ada := looked(t)
			asked, answer := make(chan string, 10), make(chan struct{})
			w.Provider.Vetting = func(ctx context.Context, b *sessionstest.Box) {
				asked <- b.ID()
				select {
				case <-answer:
				case <-ctx.Done():
				}
			}
			stop := w.Run(first)
			acc := w.Ask(first, ada.ID, "1.0", "acme/greeter: one")
			ended(t, first, acc.Prompt.ID)
			heard(t, asked)
			if answered {
				h := newHanging("snapshot", false)
				w.Provider.Interfere(h.interfere)
				close(answer)
				h.await(t)
			}
			stop()
			if !answered {
				close(answer) // nobody hears it but the next control plane
			}
			second := w.Engine(soon)
			sessions.Hasten(second)
			w.Run(second)
			snapped(t, w, acc.Prompt.ID)
			sessionstest.Eventually(t, "one snapshot is left", func() bool { return len(w.Provider.Saved()) == 1 })
		})
	}
}

func TestASecretThatIsSetLaterDoesNotKeepASandboxFromBeingSaved(t *testing.T) {
	t.Parallel()
	w, e, ada := governed(t, soon)
	began, leave := make(chan string, 100), make(chan struct{})
	w.Provider.Agent = held(began, leave)
	w.Run(e)
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	set(t, e, ada, "acme/greeter", "NPM_TOKEN", "npm-token-of-greeter", true)
	close(leave)
	ended(t, e, acc.Prompt.ID)
	snapped(t, w, acc.Prompt.ID)
	idle(t, w, acc.Session.ID)
	if ref := parked(t, w, acc.Session.ID); ref == "" {
		t.Error("nothing was saved")
	}
}
