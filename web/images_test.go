package web

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"openinspect/sessions"
)

func TestThePageOfAnImageShowsItsBuildsAndLetsAdministratorsBuildIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice, bob := r.signIn(t, "alice"), r.signIn(t, "bob")
	const path = "/repositories/acme/greeter/image"
	run := func(statement string) {
		t.Helper()
		if _, err := r.DB.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	run(`update people set admin = true where slack_user = '` + r.person(t, "alice").ID + `'`)
	if page := bob.page(path); !strings.Contains(page, "There is no image yet") || strings.Contains(page, "Build it anew") {
		t.Errorf("Bob sees\n%s", page)
	}
	run(`insert into images (id, repository, why, state, commit, image, ref, provider, queued_at, ended_at) values
		('good', 'acme/greeter', 'there was no image', 'succeeded', '1234567890123456789012345678901234567890', 'ready', 'r', 'test', now() - interval '3 hours', now() - interval '2 hours')`)
	run(`insert into images (id, repository, why, state, reason, log, queued_at, ended_at) values
		('bad', 'acme/greeter', 'the default branch moved to 22222222', 'failed', '.openinspect/setup.sh failed.', '<b>npm</b> ERR!', now(), now())`)
	page := alice.page(path)
	for _, want := range []string{"There is an image", "12345678", "2 h ago", "The last build failed", ".openinspect/setup.sh failed.",
		"Sessions go on with the last good image", "&lt;b&gt;npm&lt;/b&gt; ERR!", "Build it anew", "The default branch moved to 22222222"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	for where, want := range map[string]string{"/repositories": "Its image cannot be built", "/repositories/acme/greeter": "failing"} {
		if page := bob.page(where); !strings.Contains(page, want) {
			t.Errorf("%s does not say that builds fail:\n%s", where, page)
		}
	}
	if log := bob.page(path + "/bad/log"); log != "<b>npm</b> ERR!" {
		t.Errorf("the log is %q", log)
	}
	var api struct {
		Builds []struct {
			ID, State, Reason string
			Usable            bool
		}
		Log string
	}
	if status := bob.call("GET", "/api"+path, "", &api); status != http.StatusOK || len(api.Builds) != 2 || api.Builds[0].State != "failed" || !api.Builds[1].Usable || api.Log == "" {
		t.Errorf("the API answers %d, %+v", status, api)
	}
	for _, unknown := range []string{"/api/repositories/acme/nothing/image", path + "/nothing/log", "/api/repositories/acme/greeter/images"} {
		if status := bob.call("GET", unknown, "", nil); status != http.StatusNotFound {
			t.Errorf("%s answers %d", unknown, status)
		}
	}
}

func TestAnImageIsBuiltAnewByAnAdministratorOnly(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, func(c *sessions.Config) { c.ImageBuilds = 1 })
	alice := r.signIn(t, "alice")
	const path = "/repositories/acme/greeter/image"
	var refused refusal
	if status := alice.call("POST", "/api"+path, "", &refused); status != http.StatusForbidden || !strings.Contains(refused.Error.Text, "Only administrators") {
		t.Errorf("a rebuild by Alice answers %d, %+v", status, refused)
	}
	if _, err := r.DB.Exec(`update people set admin = true`); err != nil {
		t.Fatal(err)
	}
	resp, err := alice.PostForm(r.url+path, url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Request.URL.Path != path || resp.Header.Get("Refresh") == "" {
		t.Errorf("the button leads to %s %s, refreshed after %q", resp.Status, resp.Request.URL, resp.Header.Get("Refresh"))
	}
	if page := alice.page(path); !strings.Contains(page, "Waiting to be built") || !strings.Contains(page, "Asked for by") {
		t.Errorf("the page is\n%s", page)
	}
}
