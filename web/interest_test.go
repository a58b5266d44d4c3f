package web

import (
	"net/http"
	"testing"

	"github.com/chromedp/chromedp"

	"openinspect/sessions/sessionstest"
)

// spares counts the sandboxes that are being made ready for a repository.
func (r *rig) spares(repository string) int {
	r.T.Helper()
	var n int
	if err := r.DB.Get(&n, `select count(*) from spares where repository = $1`, repository); err != nil {
		r.T.Fatal(err)
	}
	return n
}

func TestWhileSomebodyWritesARequestASandboxIsMadeReady(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice")
	page := alice.open("/new")
	page.do(chromedp.SendKeys("#prompt", "Mend the greeter"))
	sessionstest.Eventually(t, "a sandbox of the repository that is named", func() bool { return r.spares("acme/greeter") == 1 })
	page.eval(`(() => {
		const menu = document.querySelector('#repository');
		menu.value = 'acme/billing';
		menu.dispatchEvent(new Event('change'));
	})()`)
	sessionstest.Eventually(t, "a sandbox of the repository that is chosen", func() bool { return r.spares("acme/billing") == 1 })
	if n := r.spares("acme/greeter"); n != 1 {
		t.Errorf("%d sandboxes for one text", n)
	}
}

func TestWhileSomebodyWritesAReplyTheSessionsSandboxIsMadeReady(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix the failing test")
	page := alice.open(sessionPath(s)).live()
	page.do(chromedp.SendKeys("#text", "And the README"))
	sessionstest.Eventually(t, "the sandbox is wanted", func() bool {
		var wanted bool
		if err := r.DB.Get(&wanted, `select wanted_until > now() from sandboxes where session_id = $1 and wanted_until is not null`, s.session); err != nil {
			return false
		}
		return wanted
	})
}

func TestInterestIsForPeopleWhoAreSignedIn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	body := `{"repository": "acme/greeter"}`
	if status := r.open(t, "bob").call("POST", "/api/interest", body, nil); status != http.StatusUnauthorized {
		t.Errorf("a stranger's interest answers %d", status)
	}
	if n := r.spares("acme/greeter"); n != 0 {
		t.Errorf("%d sandboxes for a stranger", n)
	}
	if status := r.signIn(t, "alice").call("POST", "/api/interest", body, nil); status != http.StatusNoContent {
		t.Errorf("Alice's interest answers %d", status)
	}
	for _, nothing := range []string{`{}`, `{"session": "none"}`, `{"repository": "acme/none"}`, `{"text": "no repository is named"}`} {
		if status := r.signIn(t, "alice").call("POST", "/api/interest", nothing, nil); status != http.StatusNoContent {
			t.Errorf("%s answers %d", nothing, status)
		}
	}
}
