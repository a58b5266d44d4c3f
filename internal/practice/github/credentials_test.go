package github

import (
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gh "github.com/google/go-github/v62/github"
)

func TestOnlyTheAppsOwnFreshJWTIsTaken(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good := p.jwt(p.claims(nil))
	for _, test := range []struct {
		name, token, want string
	}{
		{"good", good, ""},
		{"by client id", p.jwt(p.claims(map[string]any{"iss": clientID})), ""},
		{"another issuer", p.jwt(p.claims(map[string]any{"iss": 7})), "'Issuer'"},
		{"too long", p.jwt(p.claims(map[string]any{"exp": now.Add(11 * time.Minute).Unix()})), "too far in the future"},
		{"expired", p.jwt(p.claims(map[string]any{"exp": now.Add(-time.Minute).Unix()})), "'Expiration time'"},
		{"from the future", p.jwt(p.claims(map[string]any{"iat": now.Add(time.Minute).Unix()})), "'Issued at'"},
		{"another key", signJWT(t, other, `{"alg":"RS256"}`, p.claims(nil)), "could not be decoded"},
		{"without a signature", good[:strings.LastIndexByte(good, '.')+1], "could not be decoded"},
		{"alg none", signJWT(t, other, `{"alg":"none"}`, p.claims(nil)), "could not be decoded"},
		{"a person's token", p.token("alice"), "could not be decoded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := p.client(test.token).Apps.Get(t.Context(), "")
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if statusOf(err) != http.StatusUnauthorized || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want 401 about %s", err, test.want)
			}
		})
	}
}

func TestInstallationTokenReachesWhatItWasAskedFor(t *testing.T) {
	t.Parallel()
	var late atomic.Int64
	p := open(t, Options{Now: func() time.Time { return time.Now().Add(time.Duration(late.Load())) }})
	ctx := t.Context()
	token := p.installation(&gh.InstallationTokenOptions{RepositoryIDs: []int64{30001}, Permissions: &gh.InstallationPermissions{Contents: gh.String("read")}})
	c := p.client(token)
	list, _, err := c.Apps.ListRepos(ctx, nil)
	if err != nil || list.GetTotalCount() != 1 || list.Repositories[0].GetFullName() != "acme/greeter" {
		t.Errorf("it lists %v, %v", list, err)
	}
	if _, _, err := c.Repositories.Get(ctx, "acme", "website"); statusOf(err) != http.StatusNotFound {
		t.Errorf("another repository: %v, want 404", err)
	}
	if _, _, err := c.PullRequests.List(ctx, "acme", "greeter", nil); statusOf(err) != http.StatusForbidden {
		t.Errorf("another permission: %v, want 403", err)
	}
	for _, o := range []*gh.InstallationTokenOptions{
		{Permissions: &gh.InstallationPermissions{Administration: gh.String("write")}},
		{Permissions: &gh.InstallationPermissions{Actions: gh.String("write")}},
		{Repositories: []string{"absent"}},
	} {
		if _, _, err := p.app().Apps.CreateInstallationToken(ctx, installationID, o); statusOf(err) != http.StatusUnprocessableEntity {
			t.Errorf("asking for %+v: %v, want 422", o, err)
		}
	}
	late.Store(int64(59 * time.Minute))
	if _, _, err := c.Repositories.Get(ctx, "acme", "greeter"); err != nil {
		t.Errorf("after 59 minutes: %v", err)
	}
	late.Store(int64(time.Hour))
	if _, _, err := c.Repositories.Get(ctx, "acme", "greeter"); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("after an hour: %v, want 401", err)
	}
}

func TestStatelessTokensAreLong(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	req, err := p.app().NewRequest("POST", "app/installations/42000001/access_tokens", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-GitHub-Stateless-S2S-Token", "enabled")
	var got gh.InstallationToken
	if _, err := p.app().Do(t.Context(), req, &got); err != nil {
		t.Fatal(err)
	}
	if n := len(got.GetToken()); n < 480 || n > 560 || !strings.HasPrefix(got.GetToken(), "ghs_310001_") {
		t.Errorf("the token has %d characters: %s", n, got.GetToken())
	}
	if out, err := runGit(t, t.TempDir(), "ls-remote", p.remote(got.GetToken())); err != nil {
		t.Errorf("git with it: %v\n%s", err, out)
	}
}

func TestGitAsksForTheRightCredential(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	reading := &gh.InstallationTokenOptions{Repositories: []string{"greeter"}, Permissions: &gh.InstallationPermissions{Contents: gh.String("read")}}
	elsewhere := &gh.InstallationTokenOptions{Repositories: []string{"website"}}
	dir := filepath.Join(t.TempDir(), "work")
	mustGit(t, t.TempDir(), "clone", "-q", p.remote(p.token("carol")), dir)
	mustGit(t, dir, "commit", "-q", "--allow-empty", "-m", "Nothing")
	anonymous := p.http.URL + "/acme/greeter.git"
	for _, test := range []struct{ name, remote, fetch, push string }{
		{"nobody", anonymous, "could not read Username", "could not read Username"},
		{"a wrong token", p.remote("ghs_wrong"), "Authentication failed", "Authentication failed"},
		{"a reader", p.remote(p.token("carol")), "", "403"},
		{"a reading installation token", p.remote(p.installation(reading)), "", "403"},
		{"a token for another repository", p.remote(p.installation(elsewhere)), "not found", "not found"},
		{"a writer", p.remote(p.token("bob")), "", ""},
		{"a writer, without .git", strings.TrimSuffix(p.remote(p.token("bob")), ".git"), "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			check := func(want string, args ...string) {
				out, err := runGit(t, dir, args...)
				if (err == nil) != (want == "") || !strings.Contains(out, want) {
					t.Errorf("git %s: %v\n%s", args[0], err, out)
				}
			}
			check(test.fetch, "ls-remote", test.remote)
			check(test.push, "push", test.remote, "HEAD:refs/heads/from-test")
		})
	}
}

func TestRefusedPushesSayWhy(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	if err := p.Protect("acme/greeter", "main"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "work")
	mustGit(t, t.TempDir(), "clone", "-q", p.remote(p.token("bob")), dir)
	mustGit(t, dir, "commit", "-q", "--allow-empty", "-m", "Nothing")
	if out, err := runGit(t, dir, "push", "origin", "HEAD:main"); err == nil || !strings.Contains(out, "GH006: Protected branch update failed for refs/heads/main") {
		t.Errorf("pushing a protected branch: %v\n%s", err, out)
	}
	writeFile(t, filepath.Join(dir, ".github/workflows/ci.yml"), "on: push\n")
	mustGit(t, dir, "add", ".")
	mustGit(t, dir, "commit", "-q", "-m", "Add a workflow")
	if out, err := runGit(t, dir, "push", "origin", "HEAD:ci"); err == nil || !strings.Contains(out, "without `workflows` permission") {
		t.Errorf("pushing a workflow: %v\n%s", err, out)
	}
}

func TestLargePushesArriveInChunks(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	dir := filepath.Join(t.TempDir(), "work")
	mustGit(t, t.TempDir(), "clone", "-q", p.remote(p.token("bob")), dir)
	noise := make([]byte, 3<<20) // over http.postBuffer, and does not compress
	rand.Read(noise)
	writeFile(t, filepath.Join(dir, "noise.bin"), string(noise))
	mustGit(t, dir, "add", ".")
	mustGit(t, dir, "commit", "-q", "-m", "Add noise")
	mustGit(t, dir, "push", "-q", "origin", "HEAD:noise")
	b, _, err := p.as("bob").Repositories.GetBranch(t.Context(), "acme", "greeter", "noise", 0)
	if want := strings.TrimSpace(mustGit(t, dir, "rev-parse", "HEAD")); err != nil || b.GetCommit().GetSHA() != want {
		t.Errorf("the branch is at %s, %v, want %s", b.GetCommit().GetSHA(), err, want)
	}
}

func TestUnknownRoutesAreNotFound(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	c := p.as("alice")
	for _, path := range []string{"nonsense", "repos/acme/greeter/nonsense", "repos/acme/absent", "repos/acme/greeter/pulls/99", "repos/acme/greeter/pulls/comments/1/x"} {
		req, err := c.NewRequest("GET", path, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Do(t.Context(), req, nil)
		refused, is := err.(*gh.ErrorResponse)
		if !is || refused.Response.StatusCode != http.StatusNotFound || refused.DocumentationURL == "" || refused.Response.Header.Get("X-GitHub-Request-Id") == "" {
			t.Errorf("%s: %v", path, err)
		}
	}
}
