package github

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gh "github.com/google/go-github/v62/github"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// practice is a stand-in that a test talks to over HTTP.
type practice struct {
	*Server
	t    *testing.T
	dir  string
	http *httptest.Server
	now  func() time.Time
}

// open starts a stand-in in a new folder.
func open(t *testing.T, o Options) *practice {
	t.Helper()
	p := &practice{t: t, dir: t.TempDir()}
	p.start(o)
	return p
}

// start opens the folder and serves it.
func (p *practice) start(o Options) {
	p.t.Helper()
	s, err := Open(p.dir, o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Server, p.now = s, s.now
	p.http = httptest.NewServer(s.Handler())
	s.SetURL(p.http.URL)
	p.t.Cleanup(p.stop)
}

func (p *practice) stop() {
	if p.http != nil {
		p.http.Close()
		p.http = nil
		if err := p.Close(); err != nil {
			p.t.Error(err)
		}
	}
}

// client is go-github with a token; "" is anonymous.
func (p *practice) client(token string) *gh.Client {
	c := gh.NewClient(p.http.Client())
	if token != "" {
		c = c.WithAuthToken(token)
	}
	c.BaseURL, _ = url.Parse(p.http.URL + "/api/v3/")
	return c
}

// as is go-github as a person.
func (p *practice) as(login string) *gh.Client { return p.client(p.token(login)) }

func (p *practice) token(login string) string {
	p.t.Helper()
	for _, u := range p.Seed().Users {
		if u.Login == login {
			return u.Token
		}
	}
	p.t.Fatalf("there is no %s", login)
	return ""
}

// jwt signs claims with the App's key.
func (p *practice) jwt(claims map[string]any) string {
	p.t.Helper()
	block, _ := pem.Decode([]byte(p.Seed().PrivateKey))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		p.t.Fatal(err)
	}
	return signJWT(p.t, key, `{"alg":"RS256","typ":"JWT"}`, claims)
}

func signJWT(t *testing.T, key *rsa.PrivateKey, header string, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// claims are good ones, with changes.
func (p *practice) claims(change map[string]any) map[string]any {
	now := p.now()
	c := map[string]any{"iss": appID, "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(9 * time.Minute).Unix()}
	for k, v := range change {
		c[k] = v
	}
	return c
}

// app is go-github as the App.
func (p *practice) app() *gh.Client { return p.client(p.jwt(p.claims(nil))) }

// installation is a token of the installation.
func (p *practice) installation(o *gh.InstallationTokenOptions) string {
	p.t.Helper()
	t, _, err := p.app().Apps.CreateInstallationToken(p.t.Context(), installationID, o)
	if err != nil {
		p.t.Fatal(err)
	}
	return t.GetToken()
}

// commit makes a branch with one more commit, over the API.
func (p *practice) commit(branch, path, content string) string {
	p.t.Helper()
	c, ctx := p.as("alice"), p.t.Context()
	main, _, err := c.Git.GetRef(ctx, "acme", "greeter", "heads/main")
	if err != nil {
		p.t.Fatal(err)
	}
	ref := "refs/heads/" + branch
	_, _, err = c.Git.CreateRef(ctx, "acme", "greeter", &gh.Reference{Ref: &ref, Object: main.Object})
	if err != nil && statusOf(err) != http.StatusUnprocessableEntity {
		p.t.Fatal(err)
	}
	got, _, err := c.Repositories.CreateFile(ctx, "acme", "greeter", path, &gh.RepositoryContentFileOptions{
		Message: gh.String("Write " + path), Content: []byte(content), Branch: &branch,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return got.GetSHA()
}

// pullRequest opens one for a branch, as alice.
func (p *practice) pullRequest(branch string) *gh.PullRequest {
	p.t.Helper()
	pr, _, err := p.as("alice").PullRequests.Create(p.t.Context(), "acme", "greeter", &gh.NewPullRequest{
		Title: gh.String("Try " + branch), Head: &branch, Base: gh.String("main"), Body: gh.String("Because **it** matters."),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return pr
}

// statusOf is the HTTP status of go-github's error; 0 for none.
func statusOf(err error) int {
	var refused *gh.ErrorResponse
	if errors.As(err, &refused) {
		return refused.Response.StatusCode
	}
	return 0
}

// runGit runs git in a folder and returns all that it printed.
func runGit(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Bob Baker", "GIT_AUTHOR_EMAIL=20002+bob@users.noreply.github.com",
		"GIT_COMMITTER_NAME=Bob Baker", "GIT_COMMITTER_EMAIL=20002+bob@users.noreply.github.com")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := runGit(t, dir, args...)
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// remote is the address of acme/greeter with a token in it.
func (p *practice) remote(token string) string {
	return strings.Replace(p.http.URL, "http://", "http://x-access-token:"+token+"@", 1) + "/acme/greeter.git"
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
