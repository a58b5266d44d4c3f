package web

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestAPersonOfTheWorkspaceSignsInAndOut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	if page := alice.page("/settings"); !strings.Contains(page, r.person(t, "alice").RealName) {
		t.Error("the settings do not name Alice")
	}
	resp, err := alice.Post(r.url+"/signout", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.Request.URL.Path != "/signin" {
		t.Errorf("signing out ends at %s", resp.Request.URL)
	}
	if status := alice.call("GET", "/api/sessions/x", "", nil); status != http.StatusUnauthorized {
		t.Errorf("after signing out the API answers %d", status)
	}
}

func TestSomebodyOfAnotherWorkspaceIsRefused(t *testing.T) {
	t.Parallel()
	// Slack's own check of the team parameter is left out, as by a person who
	// edits the address: what the signed token says has to be refused.
	r := newRig(t, func(c *Config) { c.TeamID = "T0OTHER" })
	c := r.fresh(t)
	at, _ := url.Parse(r.issuer)
	c.Jar.SetCookies(at, []*http.Cookie{{Name: "practice_as", Value: r.person(t, "alice").Token}})
	c.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		q := req.URL.Query()
		q.Del("team")
		req.URL.RawQuery = q.Encode()
		return nil
	}
	resp, err := c.Get(r.url + "/signin/slack")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || resp.Request.URL.Path != "/signin/slack/callback" {
		t.Errorf("signing in ends at %s with %s", resp.Request.URL.Path, resp.Status)
	}
	if again, err := c.Get(r.url + "/settings"); err != nil || again.Request.URL.Path != "/signin" {
		t.Errorf("somebody of another workspace sees %v, %v", again, err)
	} else {
		again.Body.Close()
	}
}

func TestASignInBegunElsewhereIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	victim, attacker := r.fresh(t), r.fresh(t)
	at, _ := url.Parse(r.issuer)
	attacker.Jar.SetCookies(at, []*http.Cookie{{Name: "practice_as", Value: r.person(t, "bob").Token}})
	var callback string
	attacker.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if strings.HasSuffix(req.URL.Path, "/callback") {
			callback = req.URL.String()
			return http.ErrUseLastResponse
		}
		return nil
	}
	resp, err := attacker.Get(r.url + "/signin/slack")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if callback == "" {
		t.Fatal("the flow did not come back")
	}
	resp, err = victim.Get(callback)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || len(resp.Cookies()) != 0 {
		t.Errorf("a forwarded callback answers %s and sets %v", resp.Status, resp.Cookies())
	}
}

func TestReturnPathsStayHere(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/sessions/x?a=b#e3": "/sessions/x?a=b#e3", "": "/", "https://evil.test/": "/", "//evil.test": "/",
		"/\\evil.test": "/", "javascript:alert(1)": "/", "sessions": "/", "/ok": "/ok",
	} {
		if got := localPath(path); got != want {
			t.Errorf("localPath(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestEveryPageNeedsASignIn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.signIn(t, "alice").scribe("hello")
	nobody := r.fresh(t)
	nobody.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, path := range []string{"/", "/new", "/settings", "/link/github", sessionPath(s), sessionPath(s) + "/log.jsonl",
		sessionPath(s) + "/section?from=1", "/api/sessions/" + s.session, "/api/sessions/" + s.session + "/events", sessionPath(s) + "/live"} {
		resp, err := nobody.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusSeeOther && resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s answers %s to nobody", path, resp.Status)
		}
	}
}

func TestAnotherSiteCannotPost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	for _, header := range [][]string{{"Origin", "https://evil.test"}, {"Sec-Fetch-Site", "cross-site"}} {
		if status := alice.call("POST", "/api/sessions", `{"prompt":"x"}`, nil, header...); status != http.StatusForbidden {
			t.Errorf("a post with %v answers %d", header, status)
		}
	}
}
