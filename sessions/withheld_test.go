package sessions_test

import (
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestWorkThatWasRefusedForASecretWaitsAndPeopleAreTold(t *testing.T) { // I7
	t.Parallel()
	w, e, ada := governed(t, func(c *sessions.Config) { c.ParkAfter = time.Hour })
	set(t, e, ada, "acme/greeter", "NPM_TOKEN", "npm-token-of-greeter", true)
	w.Provider.Kept = &sandbox.BodyKept{Places: []sandbox.KeptSecret{{Secret: "NPM_TOKEN", Path: "/workspace/greeter/a", Commit: "5ca1ab1e"}}}
	w.Run(e)
	held, mended, other := w.Ask(e, ada.ID, "1.0", "acme/greeter: one"), w.Ask(e, ada.ID, "2.0", "acme/greeter: two"), w.Ask(e, ada.ID, "3.0", "acme/greeter: three")
	for _, acc := range []sessions.Accepted{held, mended, other} {
		ended(t, e, acc.Prompt.ID)
	}
	refuse := func(acc sessions.Accepted) {
		t.Helper()
		if err := e.Withheld(bg, acc.Session.ID); err != nil {
			t.Fatal(err)
		}
		for _, b := range w.Provider.Boxes() {
			if b.Spec().Tags["session"] == acc.Session.ID {
				b.Bridge().Event(sandbox.KindPush, acc.Prompt.ID, sandbox.BodyPush{Error: "The branch was not pushed: commit 5ca1ab1e has in a the value of NPM_TOKEN."})
			}
		}
		sessionstest.Eventually(t, "the thread is told", func() bool {
			var told string
			return w.DB.Get(&told, `select body->>'Text' from outbox where key = 'notice:withheld:' || $1`, acc.Prompt.ID) == nil &&
				strings.Contains(told, "has in a the value of NPM_TOKEN") && strings.Contains(told, "12 hours")
		})
	}
	refuse(held)
	refuse(mended)
	if err := e.Pushed(bg, mended.Session.ID, "refs/heads/inspect/"+mended.Session.ID, strings.Repeat("0", 40), strings.Repeat("a", 40)); err != nil {
		t.Fatal(err)
	}
	idle := func(hours float64) {
		t.Helper()
		_, err := w.DB.Exec(`with long as (update sandboxes set state_at = now() - interval '30 hours' where state = 'ready')
			update sessions set idle_since = now() - make_interval(secs => $1)`, hours*3600)
		if err != nil {
			t.Fatal(err)
		}
	}
	is := func(acc sessions.Accepted, want sessions.SandboxState) bool {
		b, err := e.Sandbox(bg, acc.Session.ID)
		return err == nil && b.State == want
	}
	idle(12.9)
	sessionstest.Eventually(t, "the others end", func() bool { return is(mended, sessions.SandboxLost) && is(other, sessions.SandboxLost) })
	if !is(held, sessions.SandboxReady) {
		t.Error("the one whose work was refused did not wait")
	}
	idle(13.1)
	sessionstest.Eventually(t, "it ends as well", func() bool { return is(held, sessions.SandboxLost) })
	for acc, want := range map[string]string{held.Session.ID: "What was committed last is lost with them", other.Session.ID: "What was committed is on the branch"} {
		var told string
		err := w.DB.Get(&told, `select body->>'Text' from outbox where key like 'notice:unsaved:%' and session_id = $1`, acc)
		if err != nil || !strings.Contains(told, want) {
			t.Errorf("the thread is told %q (%v)", told, err)
		}
	}
}

func TestEachValueThatASecretHasOrHadIsRefusedInCommits(t *testing.T) { // I7
	t.Parallel()
	w, e, ada := governed(t)
	for _, one := range []struct{ repository, name, value string }{
		{"acme/greeter", "NPM_TOKEN", "npm-token-before"}, {"acme/greeter", "NPM_TOKEN", "npm-token-now"},
		{sessions.ForAll, "LINEAR", "linear-for-all"}, {"acme/billing", "BILLING", "key-of-billing"},
	} {
		set(t, e, ada, one.repository, one.name, one.value, true)
	}
	set(t, e, ada, "acme/greeter", "LEVEL", "a-plain-variable", false)
	if err := e.SetVariable(bg, ada.ID, "acme/greeter", "OUTER", "secret-for-outside", sessions.SecretOutside); err != nil {
		t.Fatal(err)
	}
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: one")
	m, err := e.CommitSecrets(bg, acc.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"npm-token-now": "NPM_TOKEN", "npm-token-before": "NPM_TOKEN (an earlier one)", "linear-for-all": "LINEAR",
		"secret-for-outside": "OUTER", "key-of-billing": "", "a-plain-variable": ""} {
		if got := m.Named([]byte("x" + text + "x")); got != want {
			t.Errorf("%s is said to be %q, want %q", text, got, want)
		}
	}
	plain := w.Ask(e, ada.ID, "2.0", "acme/billing: one")
	if _, err := e.CommitSecrets(bg, plain.Session.ID); err != nil {
		t.Fatal(err)
	}
}
