package doors

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// gitHost is a code host: git http-backend behind a credential. It is also the
// door's Upstream and remembers what the door recorded.
type gitHost struct {
	root   string // holds acme/greeter.git
	server *httptest.Server

	mu      sync.Mutex
	broken  func(w http.ResponseWriter, r *http.Request) bool // answers instead, if it wants
	writes  []bool
	headers []http.Header
	pushes  []string
	failing int // so many recordings fail first
}

const hostToken = "ghs_installation.token-1"

func newGitHost(t testing.TB) *gitHost {
	t.Helper()
	h := &gitHost{root: t.TempDir()}
	bare := filepath.Join(h.root, "acme", "greeter.git")
	git(t, h.root, nil, "init", "-q", "--bare", "-b", "main", bare)
	git(t, bare, nil, "config", "http.receivepack", "true")
	git(t, bare, nil, "config", "receive.advertisePushOptions", "true")
	git(t, bare, nil, "config", "receive.certNonceSeed", "seed")
	h.server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.server.Close)
	work := filepath.Join(h.root, "work")
	git(t, h.root, nil, "init", "-q", "-b", "main", work)
	commit(t, work, "README.md", "hello\n")
	git(t, work, nil, "push", "-q", bare, "main")
	return h
}

// serve runs git http-backend. Its CGI host wants a Content-Length, so the
// body is spooled.
func (h *gitHost) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.headers = append(h.headers, r.Header.Clone())
	broken := h.broken
	h.mu.Unlock()
	if broken != nil && broken(w, r) {
		return
	}
	if user, password, _ := r.BasicAuth(); user != "x-access-token" || password != hostToken {
		http.Error(w, "bad credentials", http.StatusUnauthorized)
		return
	}
	spool, err := os.CreateTemp(h.root, "spool")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	n, err := io.Copy(spool, r.Body)
	if err != nil {
		return // the body broke off: the door reports that
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	r.Body, r.ContentLength, r.TransferEncoding = spool, n, nil
	(&cgi.Handler{Path: "/usr/bin/git", Args: []string{"http-backend"}, Dir: h.root, Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + h.root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=app", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_PROTOCOL=" + r.Header.Get("Git-Protocol")}}).ServeHTTP(w, r)
}

func (h *gitHost) RepositoryURL(repository string) string {
	return h.server.URL + "/" + repository + ".git"
}

func (h *gitHost) Token(_ context.Context, repository string, write bool) (string, error) {
	if repository != "acme/greeter" {
		return "", fmt.Errorf("no such repository: %s", repository)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes = append(h.writes, write)
	return hostToken, nil
}

func (h *gitHost) pushed(_ context.Context, session, ref, oldOID, newOID string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failing > 0 {
		h.failing--
		return errors.New("the database is away")
	}
	h.pushes = append(h.pushes, strings.Join([]string{session, ref, oldOID, newOID}, " "))
	return nil
}

func (h *gitHost) breakWith(broken func(w http.ResponseWriter, r *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = broken
}

func (h *gitHost) recorded() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.pushes...)
}

// ref returns what a ref of the host's repository points to, or "".
func (h *gitHost) ref(t testing.TB, name string) string {
	t.Helper()
	return strings.TrimSpace(git(t, filepath.Join(h.root, "acme", "greeter.git"), nil, "for-each-ref", "--format=%(objectname)", name))
}

// git runs the git program without the machine's own configuration and fails
// the test if it fails.
func git(t testing.TB, dir string, env []string, args ...string) string {
	t.Helper()
	out, err := tryGit(t, dir, env, args...)
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryGit(t testing.TB, dir string, env []string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_TERMINAL_PROMPT=0", "LC_ALL=C.UTF-8", "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com"}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func commit(t testing.TB, dir, file, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	git(t, dir, nil, "add", "-A")
	git(t, dir, nil, "commit", "-q", "-m", "change "+file)
}

// gitSandbox is a clone made through the door, set up as a sandbox is: the
// remote is the code host's public address, the door an insteadOf.
type gitSandbox struct {
	t    testing.TB
	host *gitHost
	url  string
	env  []string
	dir  string
}

const publicURL = "https://code.example.com/"

func sandboxEnv(door, token string) []string {
	return []string{"GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=url." + door + "/git/.insteadOf", "GIT_CONFIG_VALUE_0=" + publicURL,
		"GIT_CONFIG_KEY_1=http." + door + "/.extraHeader", "GIT_CONFIG_VALUE_1=" + TokenHeader + ": " + token}
}

func newGitSandbox(t testing.TB, change func(*GitConfig)) *gitSandbox {
	t.Helper()
	host := newGitHost(t)
	c := GitConfig{Upstream: host, Pushed: host.pushed, Log: quiet}
	if change != nil {
		change(&c)
	}
	door := NewGit(c)
	t.Cleanup(func() { door.c.Transport.(*http.Transport).CloseIdleConnections() })
	s := &gitSandbox{t: t, host: host, url: serveDoors(t, Config{Git: door}), dir: filepath.Join(t.TempDir(), "clone")}
	s.env = sandboxEnv(s.url, sandboxToken)
	git(t, filepath.Dir(s.dir), s.env, "clone", "-q", publicURL+"acme/greeter.git", s.dir)
	git(t, s.dir, s.env, "checkout", "-q", "-b", "inspect/s1")
	return s
}

func (s *gitSandbox) commit(file string) {
	s.t.Helper()
	commit(s.t, s.dir, file, "text of "+file+"\n")
}

func (s *gitSandbox) git(args ...string) (string, error) {
	s.t.Helper()
	return tryGit(s.t, s.dir, s.env, args...)
}

func (s *gitSandbox) head() string {
	s.t.Helper()
	return strings.TrimSpace(git(s.t, s.dir, nil, "rev-parse", "HEAD"))
}

func TestASessionPushesItsBranchAndTheHeadIsRecorded(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	s.commit("a.txt")
	first := s.head()
	if out, err := s.git("push", "-o", "ci.skip", "origin", "inspect/s1"); err != nil {
		t.Fatalf("push: %v\n%s", err, out)
	}
	git(t, s.dir, nil, "commit", "-q", "--amend", "-m", "said better")
	second := s.head()
	if out, err := s.git("push", "--force", "origin", "inspect/s1"); err != nil {
		t.Fatalf("forced push: %v\n%s", err, out)
	}
	want := []string{
		"s1 refs/heads/inspect/s1 " + strings.Repeat("0", 40) + " " + first,
		"s1 refs/heads/inspect/s1 " + first + " " + second,
	}
	if diff := cmp.Diff(want, s.host.recorded()); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
	if got := s.host.ref(t, "refs/heads/inspect/s1"); got != second {
		t.Errorf("the host has %s", got)
	}
	remote := git(t, s.dir, nil, "config", "remote.origin.url")
	if config, err := os.ReadFile(filepath.Join(s.dir, ".git", "config")); err != nil ||
		strings.Contains(string(config), sandboxToken) || strings.TrimSpace(remote) != publicURL+"acme/greeter.git" {
		t.Errorf("the clone's configuration: %v\n%s", err, config)
	}
}

func TestALargePushInChunksPasses(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	big := make([]byte, 3<<20)
	for i := range big { // does not compress
		big[i] = byte(i*i>>7 ^ i>>3 ^ i*31>>11)
	}
	commit(t, s.dir, "big.bin", string(big))
	if out, err := s.git("-c", "http.postBuffer=65536", "push", "origin", "HEAD"); err != nil {
		t.Fatalf("push: %v\n%s", err, out)
	}
	if got := s.host.ref(t, "refs/heads/inspect/s1"); got != s.head() || len(s.host.recorded()) != 1 {
		t.Errorf("the host has %s, recorded %v", got, s.host.recorded())
	}
}

func TestRefusedPushesAreExplainedByGitItself(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	s.commit("a.txt")
	if out, err := s.git("push", "origin", "inspect/s1"); err != nil {
		t.Fatalf("push: %v\n%s", err, out)
	}
	own, main := s.host.ref(t, "refs/heads/inspect/s1"), s.host.ref(t, "refs/heads/main")
	s.commit("b.txt")
	git(t, s.dir, nil, "tag", "v1")
	const only = "this session may only push refs/heads/inspect/s1"
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"the default branch", "! [remote rejected] HEAD -> main (this session may not push refs/heads/main; push refs/heads/inspect/s1 and open a pull request)", []string{"HEAD:main"}},
		{"a tag", "! [remote rejected] v1 -> v1 (" + only + ")", []string{"v1"}},
		{"another branch", "! [remote rejected] HEAD -> other (" + only + ")", []string{"HEAD:other"}},
		{"a branch that begins alike", "HEAD -> inspect/s10 (" + only + ")", []string{"HEAD:refs/heads/inspect/s10"}},
		{"a deletion", "! [remote rejected] inspect/s1 (this session may not delete its branch)", []string{":inspect/s1"}},
		{"two refs", "not pushed, because the same push asks for something else", []string{"HEAD:inspect/s1", "HEAD:main"}},
		{"a ref outside of branches", "(" + only + ")", []string{"HEAD:refs/notes/x"}},
	} {
		out, err := s.git(append([]string{"push", "--force", "origin"}, c.args...)...)
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v, git says\n%s", c.name, err, out)
		}
	}
	if s.host.ref(t, "refs/heads/inspect/s1") != own || s.host.ref(t, "refs/heads/main") != main || s.host.ref(t, "refs/tags/v1") != "" {
		t.Error("a refused push changed the host")
	}
	if n := len(s.host.recorded()); n != 1 {
		t.Errorf("%d pushes were recorded, want the first only", n)
	}
}

func TestTheDefaultBranchIsRefusedEvenWhenItIsTheSessions(t *testing.T) {
	t.Parallel()
	p := &pushRequest{commands: []pushCommand{{old: strings.Repeat("0", 40), new: strings.Repeat("a", 40), ref: "refs/heads/main"}}}
	if reasons := p.forbidden(Access{Branch: "main", DefaultBranch: "main"}); len(reasons) != 1 {
		t.Errorf("reasons %v", reasons)
	}
	for _, ref := range []string{"refs/heads/", "refs/heads/inspect/s1", "refs/heads/inspect/"} {
		p.commands[0].ref = ref
		if reasons := p.forbidden(waiting); !strings.Contains(reasons[ref], "works for no session") {
			t.Errorf("a sandbox without a session pushes %s: %v", ref, reasons)
		}
	}
}

func TestAnotherRepositoryIsRefusedWithASentence(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	for _, repository := range []string{"acme/secrets", "acme/greeter.git.git"} {
		out, err := s.git("ls-remote", publicURL+repository)
		if err == nil || !strings.Contains(out, "fatal: remote error: this session works on acme/greeter and cannot reach") {
			t.Errorf("%s: %v\n%s", repository, err, out)
		}
	}
	if out, err := s.git("ls-remote", publicURL+"Acme/Greeter"); err != nil || !strings.Contains(out, "refs/heads/main") {
		t.Errorf("without .git and in another case: %v\n%s", err, out)
	}
	s.env = sandboxEnv(s.url, "stolen")
	for _, args := range [][]string{{"ls-remote", "origin"}, {"push", "origin", "HEAD"}} {
		if out, err := s.git(args...); err == nil || !strings.Contains(out, "remote error: this sandbox's credential is not known") {
			t.Errorf("git %v with a wrong token: %v\n%s", args, err, out)
		}
	}
}

func TestFetchesSpeakEveryVersionAndCarryOnlyTheHostsCredential(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	for _, version := range []string{"0", "1", "2"} {
		work := filepath.Join(s.host.root, "work")
		commit(t, work, "v"+version, version)
		git(t, work, nil, "push", "-q", filepath.Join(s.host.root, "acme", "greeter.git"), "main")
		out, err := s.git("-c", "protocol.version="+version, "-c", "http.cookieFile=/dev/null", "fetch", "origin", "main")
		if err != nil || s.host.ref(t, "refs/heads/main") != strings.TrimSpace(git(t, s.dir, nil, "rev-parse", "origin/main")) {
			t.Errorf("version %s: %v\n%s", version, err, out)
		}
	}
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	for _, h := range s.host.headers {
		if h.Get(TokenHeader) != "" || h.Get("Cookie") != "" || !strings.HasPrefix(h.Get("Authorization"), "Basic ") {
			t.Errorf("the host was sent %v", h)
		}
	}
	for _, write := range s.host.writes {
		if write {
			t.Error("a fetch used a credential that may write")
		}
	}
}

func TestTroubleOfTheHostIsToldInGitsWords(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	s.commit("a.txt")
	for _, c := range []struct {
		status int
		want   string
	}{
		{401, "refused the deployment's credential: the operator has to check the GitHub App"},
		{403, "the GitHub App may not %s acme/greeter: the operator has to check its permissions (it says: suspended)"},
		{404, "does not show acme/greeter to the GitHub App"},
		{301, "acme/greeter was renamed or moved"},
		{503, "the git server answers 503 at the moment; try again in a minute"},
		{429, "the git server answers 429 at the moment"},
		{418, "the git server answered 418 (it says: suspended)"},
	} {
		fail := func(method string) {
			s.host.breakWith(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != method {
					return false
				}
				w.Header().Set("Location", "/elsewhere")
				http.Error(w, "suspended", c.status)
				return true
			})
		}
		fail(http.MethodGet)
		want := strings.Replace(c.want, "%s", "read", 1)
		if out, err := s.git("fetch", "origin"); err == nil || !strings.Contains(out, "fatal: remote error: ") || !strings.Contains(out, want) {
			t.Errorf("%d on fetch: %v\n%s", c.status, err, out)
		}
		fail(http.MethodPost)
		want = "! [remote rejected] HEAD -> inspect/s1 ("
		if out, err := s.git("push", "origin", "HEAD"); err == nil || !strings.Contains(out, want) ||
			!strings.Contains(out, strings.Replace(c.want, "%s", "write to", 1)) {
			t.Errorf("%d on push: %v\n%s", c.status, err, out)
		}
	}
	if len(s.host.recorded()) != 0 {
		t.Errorf("recorded %v", s.host.recorded())
	}
}

func TestAHostThatIsAwayIsToldInGitsWords(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	s.host.server.Close()
	if out, err := s.git("fetch", "origin"); err == nil || !strings.Contains(out, "remote error: the git server cannot be reached at the moment") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAPushThatTheHostRefusesIsNotRecorded(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	hook := filepath.Join(s.host.root, "acme", "greeter.git", "hooks", "pre-receive")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho 'no workflows here' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.commit("a.txt")
	out, err := s.git("push", "origin", "HEAD")
	if err == nil || !strings.Contains(out, "remote: no workflows here") || !strings.Contains(out, "pre-receive hook declined") {
		t.Errorf("%v\n%s", err, out)
	}
	if len(s.host.recorded()) != 0 {
		t.Errorf("recorded %v", s.host.recorded())
	}
}

func TestARecordingIsTriedAgainUntilItWorks(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	s.host.failing = 2
	s.commit("a.txt")
	if out, err := s.git("push", "origin", "HEAD"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(s.host.recorded()) != 1 {
		t.Errorf("recorded %v", s.host.recorded())
	}
}

func TestAPushOverTheLimitIsRefusedWithTheLimit(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, func(c *GitConfig) { c.MaxPush = 1 << 20 })
	big := make([]byte, 2<<20)
	for i := range big {
		big[i] = byte(i*i>>7 ^ i>>3 ^ i*31>>11)
	}
	commit(t, s.dir, "big.bin", string(big))
	for name, buffer := range map[string]string{"in chunks": "65536", "with its length": "104857600"} {
		out, err := s.git("-c", "http.postBuffer="+buffer, "-c", "core.compression=0", "push", "origin", "HEAD")
		if err == nil || !strings.Contains(out, "a push may have at most 1 MB") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestASessionThatHammersIsToldToWait(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, func(c *GitConfig) { c.PerSecond, c.Burst = 0.01, 3 }) // the clone takes two or three
	var out string
	var err error
	for range 3 {
		if out, err = s.git("ls-remote", "origin"); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(out, "remote error: this session makes too many git requests") {
		t.Errorf("%v\n%s", err, out)
	}
}

// pushBody is the beginning of a push as a client writes it.
func pushBody(caps string, lines ...string) string {
	var b strings.Builder
	for i, line := range lines {
		if i == 0 {
			line += "\x00" + caps
		}
		b.WriteString(packet(line))
	}
	return b.String() + flush
}

func TestPushesThatCannotBeCheckedAreRefused(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	command := strings.Repeat("0", 40) + " " + strings.Repeat("a", 40) + " refs/heads/inspect/s1"
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, pushBody("report-status", command))
	z.Close()
	many := make([]string, 700)
	for i := range many {
		many[i] = strings.Repeat("0", 40) + " " + strings.Repeat("a", 40) + fmt.Sprintf(" refs/heads/b%d", i)
	}
	for name, c := range map[string]struct{ body, encoding, want string }{
		"compressed":                {zipped.String(), "gzip", "a compressed push cannot be checked"},
		"signed":                    {packet("push-cert\x00report-status") + packet("certificate version 0.1\n") + flush, "", "unpack signed pushes"},
		"too many commands":         {pushBody("report-status", many...), "", "reading the commands of a push (at most 64 kB)"},
		"not pkt-lines":             {"GET / HTTP/1.1\r\n\r\n", "", "not a pkt-line"},
		"broken off":                {"00a0" + command, "", "reading a pkt-line"},
		"not a command":             {pushBody("report-status", "please push"), "", "not a command of a push"},
		"without a report":          {pushBody("ofs-delta", command), "", "report-status"},
		"wrong ref, no report":      {pushBody("", command+"0"), "", "may only push"},
		"wrong ref, plain report":   {pushBody("report-status", command+"0"), "", "ng refs/heads/inspect/s10 this session may only push"},
		"wrong ref, short bands":    {pushBody("report-status side-band", command+"0"), "", "\x01000eunpack ok\n"},
		"a line break in a command": {pushBody("report-status", command+"\nx"), "", "may only push"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/git/acme/greeter/git-receive-pack", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.encoding != "" {
			r.Header.Set("Content-Encoding", c.encoding)
		}
		res, err := sandboxClient(sandboxToken).Do(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !strings.Contains(string(body), c.want) {
			t.Errorf("%s: %v %d %q", name, err, res.StatusCode, body)
		}
	}
	if got := s.host.ref(t, "refs/heads/inspect"); got != "" || len(s.host.recorded()) != 0 {
		t.Errorf("something was pushed: %s %v", got, s.host.recorded())
	}
}

func TestACompressedFetchRequestIsPassedOn(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, packet("command=ls-refs\n")+"0001"+packet("ref-prefix refs/heads/main\n")+flush)
	z.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/git/acme/greeter.git/git-upload-pack", &zipped)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	r.Header.Set("Content-Encoding", "gzip")
	r.Header.Set("Git-Protocol", "version=2")
	res, err := sandboxClient(sandboxToken).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	want := packet(s.host.ref(t, "refs/heads/main")+" refs/heads/main\n") + flush
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != want {
		t.Errorf("%d %q, %v; want %q", res.StatusCode, body, err, want)
	}
}

func TestOnlySmartGitIsServed(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	for _, path := range []string{"/info/refs", "/HEAD", "/objects/info/packs", "/info/refs?service=git-upload-archive", "/../secrets.git/HEAD"} {
		if res, body := send(t, sandboxClient(sandboxToken), http.MethodGet, s.url+"/git/acme/greeter"+path, ""); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
}
