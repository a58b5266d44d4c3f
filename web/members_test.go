package web

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"openinspect/internal/practice/slack"
)

// become changes what a person is in the workspace.
func (r *rig) become(t testing.TB, name string, to slack.Standing) {
	t.Helper()
	if err := r.slack.SetStanding(r.person(t, name).ID, to); err != nil {
		t.Fatal(err)
	}
}

func TestAGuestOfTheWorkspaceCannotSignIn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.become(t, "bob", slack.Guest)
	bob := r.open(t, "bob")
	if _, status, page := bob.trySignIn(); status != http.StatusForbidden || !strings.Contains(page, "Ask a full member") {
		t.Errorf("a guest who signs in is answered %d:\n%s", status, page)
	}
	if status := bob.call("GET", "/api/sessions/x", "", nil); status != http.StatusUnauthorized {
		t.Errorf("a guest who was refused is signed in: %d", status)
	}
	r.become(t, "bob", slack.FullMember)
	if at, status, _ := bob.trySignIn(); at != "/settings" || status != http.StatusOK {
		t.Errorf("a guest who was made a member ends at %s with %d", at, status)
	}
}

func TestWhoIsNoMemberAnyMoreLosesThePage(t *testing.T) {
	t.Parallel()
	for what, to := range map[string]slack.Standing{"a deactivated person": slack.Deactivated, "a new guest": slack.Guest} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			bob, elsewhere, alice := r.signIn(t, "bob"), r.signIn(t, "bob"), r.signIn(t, "alice")
			s := alice.scribe("Fix it")
			r.become(t, "bob", to)
			if status := bob.call("GET", "/api/sessions/"+s.session, "", nil); status != http.StatusOK {
				t.Errorf("before the next look the answer is %d", status)
			}
			r.server.timing.member = 0
			if status := bob.call("GET", "/api/sessions/"+s.session, "", nil); status != http.StatusForbidden {
				t.Errorf("at the next look the answer is %d", status)
			}
			if status := alice.call("GET", "/api/sessions/"+s.session, "", nil); status != http.StatusOK {
				t.Errorf("a member is answered %d", status)
			}
			// Slack says nothing any more: what it said once holds in other browsers, too.
			r.slack.FailNext("users.info", 100, slack.Fault{Drop: true})
			if status := elsewhere.call("GET", "/api/sessions/"+s.session, "", nil); status != http.StatusUnauthorized {
				t.Errorf("another browser is answered %d", status)
			}
		})
	}
}

func TestALiveConnectionEndsWithTheMembership(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.timing.authorise, r.server.timing.member = 20*time.Millisecond, 0
	bob := r.signIn(t, "bob")
	s := bob.scribe("Fix it")
	ws := bob.watch(s.session, 0)
	ws.next(frameLive)
	r.become(t, "bob", slack.Deactivated)
	if code := ws.closed(); code != websocket.ClosePolicyViolation {
		t.Errorf("closed with %d", code)
	}
}

func TestASlackThatDoesNotAnswerSignsNobodyOut(t *testing.T) {
	t.Parallel()
	for what, fault := range map[string]slack.Fault{
		"cut off": {Drop: true}, "limited": {Status: http.StatusTooManyRequests, RetryAfter: 60}, "broken": {Error: "internal_error"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			alice, bob := r.signIn(t, "alice"), r.open(t, "bob")
			r.server.timing.member = 0
			r.slack.FailNext("users.info", 1000, fault)
			before := len(r.slack.Calls("users.info"))
			for range 3 {
				if page := alice.page("/settings"); !strings.Contains(page, "Alice Ahmed") {
					t.Error("Alice is not shown her settings")
				}
			}
			if asked := len(r.slack.Calls("users.info")) - before; asked != 1 {
				t.Errorf("Slack was asked %d times in a row", asked)
			}
			if _, status, page := bob.trySignIn(); status != http.StatusBadGateway || !strings.Contains(page, "could not be asked") {
				t.Errorf("signing in meanwhile answers %d:\n%s", status, page)
			}
			r.slack.ClearFaults()
			if at, _, _ := bob.trySignIn(); at != "/settings" {
				t.Errorf("trying again ends at %s", at)
			}
		})
	}
}

func TestWhoWasDeactivatedWhileSlackWasSilentLosesThePageLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bob := r.signIn(t, "bob")
	r.server.timing.member, r.server.timing.askAgain = 0, 0
	r.become(t, "bob", slack.Deactivated)
	r.slack.FailNext("users.info", 1, slack.Fault{Drop: true})
	for _, want := range []int{http.StatusNotFound, http.StatusForbidden, http.StatusUnauthorized} {
		if status := bob.call("GET", "/api/sessions/none", "", nil); status != want {
			t.Errorf("the API answers %d, want %d", status, want)
		}
	}
}
