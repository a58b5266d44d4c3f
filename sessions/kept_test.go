package sessions_test

import (
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// guarded is a session of a repository with a secret that has been answered and is
// parked, or not, as the box says what it found.
func guarded(t *testing.T, kept *sandbox.BodyKept) (*sessionstest.World, *sessions.Engine, sessions.Accepted) {
	t.Helper()
	w, e, ada := governed(t, func(c *sessions.Config) { c.ParkAfter = 50 * time.Millisecond })
	set(t, e, ada, "acme/greeter", "NPM_TOKEN", "npm-token-of-greeter", true)
	w.Provider.Kept = kept
	w.Run(e)
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: hello")
	ended(t, e, acc.Prompt.ID)
	return w, e, acc
}

// dropped waits until a session's box has ended without being saved, and returns why.
func dropped(t *testing.T, w *sessionstest.World, session string) (reason string) {
	t.Helper()
	sessionstest.Eventually(t, "the box is ended without being saved", func() bool {
		return w.DB.Get(&reason, `select reason from sandboxes where session_id = $1 and state = 'lost' and box = '' and ref = ''`, session) == nil
	})
	if live := len(w.Provider.Boxes()); live != 0 {
		t.Errorf("%d boxes live", live)
	}
	return reason
}

func TestFilesWithoutSecretsAreSaved(t *testing.T) {
	t.Parallel()
	w, _, acc := guarded(t, &sandbox.BodyKept{})
	if ref := parked(t, w, acc.Session.ID); ref == "" {
		t.Error("nothing was saved")
	}
}

func TestFilesWithASecretInThemAreNotSavedAndPeopleAreTold(t *testing.T) { // I7
	t.Parallel()
	w, e, acc := guarded(t, &sandbox.BodyKept{Places: []sandbox.KeptSecret{
		{Secret: "NPM_TOKEN", Path: "~/.npmrc"}, {Secret: "NPM_TOKEN", Path: "/workspace/greeter/config.env", Commit: "5ca1ab1e"}}, Omitted: 3})
	if reason := dropped(t, w, acc.Session.ID); !strings.Contains(reason, "not saved") {
		t.Errorf("the reason is %q", reason)
	}
	var told string
	if err := w.DB.Get(&told, `select body->>'Text' from outbox where kind = 'notice' and session_id = $1`, acc.Session.ID); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NPM_TOKEN in ~/.npmrc", "NPM_TOKEN in /workspace/greeter/config.env (added to git)",
		"3 more places", "from the environment"} {
		if !strings.Contains(told, want) {
			t.Errorf("the thread is not told %q: %s", want, told)
		}
	}
	next := w.Ask(e, acc.Session.CreatedBy, "1.0", "and now?")
	if p := ended(t, e, next.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the next request ended as %s: %s", p.State, p.Reason)
	}
	if specs := w.Provider.Specs(); len(specs) != 2 || specs[1].From != "" {
		t.Errorf("the next sandbox began from %q", specs[len(specs)-1].From)
	}
}

func TestFilesThatNobodyLookedAtAreNotSaved(t *testing.T) { // I7
	t.Parallel()
	t.Run("the supervisor says nothing of them", func(t *testing.T) {
		t.Parallel()
		w, _, acc := guarded(t, nil)
		if reason := dropped(t, w, acc.Session.ID); !strings.Contains(reason, "could not say") {
			t.Errorf("the reason is %q", reason)
		}
	})
	t.Run("it could not look everywhere", func(t *testing.T) {
		t.Parallel()
		w, _, acc := guarded(t, &sandbox.BodyKept{Unchecked: "It took too long."})
		dropped(t, w, acc.Session.ID)
		var told bool
		if err := w.DB.Get(&told, `select exists (select from outbox where kind = 'notice' and body->>'Text' like '%It took too long.%')`); err != nil || !told {
			t.Errorf("the thread is not told (%v)", err)
		}
	})
}
