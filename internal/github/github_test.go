package github

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gh "github.com/google/go-github/v62/github"
	"go.uber.org/goleak"

	practice "openinspect/internal/practice/github"
	"openinspect/sessions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that tests move.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// world is the App and the GitHub that it talks to.
type world struct {
	t      *testing.T
	app    *App
	github *practice.Server
	seed   practice.Seed
	url    string
	clock  *clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{}}
	var err error
	if w.github, err = practice.Open(t.TempDir(), practice.Options{Now: w.clock.now}); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(w.github.Handler())
	w.url, w.seed = srv.URL, w.github.Seed()
	w.github.SetURL(srv.URL)
	w.app = w.newApp([]byte(w.seed.PrivateKey))
	t.Cleanup(func() {
		w.app.http.CloseIdleConnections()
		srv.Close()
		if err := w.github.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) newApp(key []byte) *App {
	w.t.Helper()
	app, err := NewApp(AppConfig{AppID: "310001", PrivateKey: key, ClientID: w.seed.ClientID, ClientSecret: w.seed.ClientSecret,
		APIURL: w.url + "/api/v3", WebURL: w.url})
	if err != nil {
		w.t.Fatal(err)
	}
	app.now = w.clock.now
	w.t.Cleanup(app.http.CloseIdleConnections)
	return app
}

func (w *world) userToken(login string) string {
	w.t.Helper()
	for _, u := range w.seed.Users {
		if u.Login == login {
			return u.Token
		}
	}
	w.t.Fatalf("there is no %s", login)
	return ""
}

// branch makes a branch of acme/greeter with one commit.
func (w *world) branch(name string) {
	w.t.Helper()
	c, ctx := w.app.client(w.userToken("alice")), w.t.Context()
	main, _, err := c.Git.GetRef(ctx, "acme", "greeter", "heads/main")
	if err != nil {
		w.t.Fatal(err)
	}
	if _, _, err := c.Git.CreateRef(ctx, "acme", "greeter", &gh.Reference{Ref: gh.String("refs/heads/" + name), Object: main.Object}); err != nil {
		w.t.Fatal(err)
	}
	_, _, err = c.Repositories.CreateFile(ctx, "acme", "greeter", name+".txt", &gh.RepositoryContentFileOptions{
		Message: gh.String("Write"), Content: []byte(name), Branch: &name})
	if err != nil {
		w.t.Fatal(err)
	}
}

// minted counts the installation tokens that were made.
func (w *world) minted() int {
	n := 0
	for _, c := range w.github.Calls() {
		if strings.HasSuffix(c.Path, "/access_tokens") && c.Status == http.StatusCreated {
			n++
		}
	}
	return n
}

func wanted(branch string) sessions.NewPullRequest {
	return sessions.NewPullRequest{Repository: "acme/greeter", Base: "main", Head: branch, Title: "Fix it", Body: "It was *wrong*."}
}

// wantProblem checks that an error is a problem with a code and a sentence.
func wantProblem(t *testing.T, err error, code, text string) {
	t.Helper()
	p, is := errors.AsType[*sessions.Problem](err)
	if !is || p.Code != code || !strings.Contains(p.Text, text) {
		t.Errorf("got %v, want a problem %s that says %q", err, code, text)
	}
}

func TestTokensReachOneRepositoryOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	reading, err := w.app.Token(ctx, "acme/greeter", false)
	if err != nil {
		t.Fatal(err)
	}
	writing, err := w.app.Token(ctx, "acme/greeter", true)
	if err != nil || writing == reading {
		t.Fatalf("the writing token is the reading one, or %v", err)
	}
	sees := func(token, repository string) int {
		_, resp, err := w.app.client(token).Repositories.ListBranches(ctx, "acme", repository, nil)
		if resp == nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	if got := sees(reading, "greeter"); got != http.StatusOK {
		t.Errorf("reading the repository: %d", got)
	}
	if got := sees(writing, "website"); got != http.StatusNotFound {
		t.Errorf("reading another repository: %d, want 404", got)
	}
	ref := &gh.Reference{Ref: gh.String("refs/heads/x"), Object: &gh.GitObject{SHA: gh.String(strings.Repeat("1", 40))}}
	if _, _, err := w.app.client(reading).Git.CreateRef(ctx, "acme", "greeter", ref); status(err) != http.StatusForbidden {
		t.Errorf("writing with the reading token: %v, want 403", err)
	}
	if _, err := w.app.FindPullRequest(ctx, "acme/greeter", "x"); err != nil {
		t.Error(err)
	}
	if _, _, err := w.app.client(writing).PullRequests.List(ctx, "acme", "greeter", nil); status(err) != http.StatusForbidden {
		t.Errorf("the git door's token sees pull requests: %v, want 403", err)
	}
}

func TestTokensAreKeptUntilTenMinutesRemain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	get := func() string {
		t.Helper()
		token, err := w.app.Token(t.Context(), "acme/greeter", true)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	first := get()
	w.clock.advance(49 * time.Minute)
	if get() != first {
		t.Error("a token with 11 minutes left was replaced")
	}
	w.clock.advance(2 * time.Minute)
	second := get()
	if second == first {
		t.Error("a token with 9 minutes left was given out")
	}
	if n := w.minted(); n != 2 {
		t.Errorf("%d tokens were made, want 2", n)
	}
}

func TestManyCallersShareOneTokenRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.github.Inject(practice.Fault{Method: "POST", Path: "/api/v3/app/installations/", Latency: 50 * time.Millisecond})
	tokens := make(chan string)
	for range 16 {
		go func() {
			token, err := w.app.Token(t.Context(), "acme/greeter", true)
			if err != nil {
				t.Error(err)
			}
			tokens <- token
		}()
	}
	seen := map[string]bool{}
	for range 16 {
		seen[<-tokens] = true
	}
	if n := w.minted(); n != 1 || len(seen) != 1 {
		t.Errorf("%d tokens were made and %d given out, want one", n, len(seen))
	}
}

func TestWaitingForATokenEndsWithTheContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.app.Repositories(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.github.Inject(practice.Fault{Method: "POST", Path: "/api/v3/app/installations/", Latency: time.Minute})
	first, cancelFirst := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := w.app.Token(first, "acme/greeter", true)
		done <- err
	}()
	second, cancelSecond := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelSecond()
	if _, err := w.app.Token(second, "acme/greeter", true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second caller got %v", err)
	}
	cancelFirst()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller got %v", err)
	}
	if _, err := w.app.Token(t.Context(), "acme/greeter", true); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestKeysOfBothFormsWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	block, _ := pem.Decode([]byte(w.seed.PrivateKey))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	app := w.newApp(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if name, email := app.BotIdentity(t.Context()); name != "inspect[bot]" || email != "20100+inspect[bot]@users.noreply.github.com" {
		t.Errorf("the App is %s <%s>", name, email)
	}
	for _, bad := range []string{"", "not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := NewApp(AppConfig{PrivateKey: []byte(bad), APIURL: w.url, WebURL: w.url}); err == nil {
			t.Errorf("the key %q was taken", bad)
		}
	}
}

func TestRepositoriesOfTheInstallationAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got, err := w.app.Repositories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Name != "acme/greeter" || got[0].GitHubID != 30001 || got[0].DefaultBranch != "main" || got[0].Description == "" || !got[0].Private {
		t.Errorf("repositories are %+v", got)
	}
	if remote := w.app.RemoteURL("acme/greeter"); remote != w.url+"/acme/greeter.git" {
		t.Errorf("the remote is %s", remote)
	}
}

func TestRepositoryWithoutTheAppIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"acme/absent", "nonsense", "acme/../x"} {
		_, err := w.app.Token(t.Context(), name, false)
		wantProblem(t, err, CodeNoRepository, name)
	}
}

func TestWrongAppKeyIsSaid(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	app := w.newApp([]byte(other.seed.PrivateKey))
	_, err := app.Repositories(t.Context())
	wantProblem(t, err, CodeAppRefused, "GITHUB_PRIVATE_KEY")
}

func TestCompareURLOpensThePrefilledForm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.branch("inspect/s1")
	link := w.app.CompareURL(wanted("inspect/s1"))
	if want := w.url + "/acme/greeter/compare/main...inspect/s1?"; !strings.HasPrefix(link, want) {
		t.Errorf("the link is %s", link)
	}
	pr := wanted("inspect/s1")
	pr.Body = strings.Repeat("ä \"quoted\" & long\n", 5000)
	u, err := url.Parse(w.app.CompareURL(pr))
	if err != nil {
		t.Fatal(err)
	}
	body := u.Query().Get("body")
	if n := len(u.String()); n > maxCompareURL || n < maxCompareURL*3/4 {
		t.Errorf("a long text makes an address of %d bytes", n)
	}
	if !strings.HasSuffix(body, "…") || !strings.HasPrefix(pr.Body, strings.TrimSuffix(body, "…")) || u.Query().Get("title") != "Fix it" {
		t.Errorf("the text was not cut at its end: %q", body[max(0, len(body)-50):])
	}
}

func TestSlowGitHubIsRetryable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app.http.Transport.(*timed).limit = 20 * time.Millisecond
	w.github.Inject(practice.Fault{Path: "/api/v3/user", Latency: time.Minute})
	_, _, err := w.app.GetUser(t.Context(), w.userToken("alice"))
	if r, is := errors.AsType[*sessions.Retryable](err); !is || r.Unknown || !strings.Contains(err.Error(), errSlow.Error()) {
		t.Errorf("got %v", err)
	}
}
