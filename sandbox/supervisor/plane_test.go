package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	"openinspect/internal/practice/model"
	"openinspect/sandbox"
)

// TestMain lets the test binary be the supervisor of a box: Run takes over its
// process, so it needs one of its own.
func TestMain(m *testing.M) {
	if raw := os.Getenv("SUPERVISOR_UNDER_TEST"); raw != "" {
		os.Exit(superviseForTest(raw))
	}
	if os.Getenv("TOOL_SERVER_UNDER_TEST") != "" {
		os.Exit(serveToolsForTest())
	}
	goleak.VerifyTestMain(m)
}

// boxConfig travels to the supervisor's process as JSON.
type boxConfig struct {
	Control, Token, Home, Workspace, OpenCode string
	Patience                                  time.Duration
	Prepare                                   *sandbox.Preparation // prepare an image instead
}

func superviseForTest(raw string) int {
	var c boxConfig
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	os.Unsetenv("SUPERVISOR_UNDER_TEST")
	config := Config{
		Control: c.Control, Token: c.Token, Home: c.Home, Workspace: c.Workspace,
		OpenCode: c.OpenCode, Gateway: "127.0.0.1:0",
		Patience: c.Patience,
		Log:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	var err error
	if c.Prepare != nil {
		var did sandbox.Prepared
		if did, err = Prepare(context.Background(), config, *c.Prepare, os.Stderr); err != nil {
			did.Error = err.Error()
		}
		err = json.NewEncoder(os.Stdout).Encode(did)
	} else {
		err = Run(context.Background(), config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const (
	testToken = "box-token"
	modelKey  = "model-key"
	botName   = "inspect[bot]"
	botEmail  = "7+inspect[bot]@users.noreply.github.com"
)

// plane is a small control plane: the bridge's real other end, a git door over
// real repositories, and a model door to the scripted provider.
type plane struct {
	t       testing.TB
	dir     string
	welcome sandbox.Welcome
	model   *model.Server
	control string

	mu      sync.Mutex
	events  map[string][]sandbox.Event // by boot
	all     []sandbox.Event
	deltas  []sandbox.Delta
	calls   []sandbox.Call
	uploads []sandbox.Upload
	busy    int              // files that it cannot take at the moment
	refused []string         // the ids of these
	prompts []sandbox.Prompt // to be delivered; one goes to one boot
	owner   map[string]string
	stops   []string
	park    string
	carry   bool     // with park: what runs goes on elsewhere
	vet     string   // the prompt after which secrets are to be looked for
	quiet   []string // what heartbeats said
	link    *sandbox.Link
	changed chan struct{}
	tokens  map[string]bool // seen at the doors
	tunnels []string        // asked of the egress proxy
	asked   string          // the newest request to the model

	requests int // to the model

	egress http.HandlerFunc // what the egress proxy does; nil: it refuses

	held   chan struct{} // git requests wait until it is closed
	waits  int           // git requests that came to wait
	denied bool          // and are then refused
}

// newPlane starts one; each script is as package model describes them.
func newPlane(t testing.TB, scripts ...string) *plane {
	t.Helper()
	files := fstest.MapFS{}
	for i, text := range scripts {
		files[fmt.Sprintf("%02d.txt", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	p := &plane{t: t, dir: t.TempDir(), events: make(map[string][]sandbox.Event),
		owner: make(map[string]string), changed: make(chan struct{}), tokens: make(map[string]bool)}
	m, err := model.New(model.Options{Key: modelKey, Log: slog.New(slog.DiscardHandler),
		Scripts: files})
	if err != nil {
		t.Fatal(err)
	}
	p.model = m
	p.seed()
	p.welcome = sandbox.Welcome{
		Session: "s1", PageURL: "https://inspect.example/s/s1", Repository: "acme/greeter",
		RemoteURL: "https://github.com/acme/greeter.git", BaseBranch: "main", Branch: "inspect/s1",
		BotName: botName, BotEmail: botEmail, Model: "openai/scripted", Protocol: "openai",
		PromptTimeout: 2 * time.Minute, SetupTimeout: 20 * time.Second,
	}
	socket := filepath.Join(p.dir, "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p.control = "unix:" + socket
	server := &http.Server{Handler: p.doors()}
	ctx, cancel := context.WithCancel(context.Background())
	server.BaseContext = func(net.Listener) context.Context { return ctx }
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { cancel(); server.Close(); <-done })
	return p
}

// gitServer serves the repositories in a folder by smart HTTP below /git/.
func gitServer(root string) http.Handler {
	return &cgi.Handler{Path: "/usr/bin/git", Args: []string{"http-backend"}, Root: "/git",
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.receivepack", "GIT_CONFIG_VALUE_0=true"}}
}

// doors is the machine listener.
func (p *plane) doors() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(sandbox.BridgePath, sandbox.BridgeHandler(p.serve))
	mux.Handle(sandbox.UploadPath, sandbox.UploadHandler(func(context.Context, string) error { return nil }, p.takeUpload))
	git := gitServer(filepath.Join(p.dir, "remotes"))
	mux.HandleFunc("/git/", func(w http.ResponseWriter, r *http.Request) {
		p.saw(r)
		if p.passes(r) {
			git.ServeHTTP(w, r)
			return
		}
		http.Error(w, "the repository is not for you", http.StatusForbidden)
	})
	mux.Handle(sandbox.ToolsPath+"remote", mcp.NewStreamableHTTPHandler(func(r *http.Request) *mcp.Server {
		p.saw(r)
		return toolServer("over there")
	}, &mcp.StreamableHTTPOptions{Stateless: true}))
	mux.HandleFunc("/model/", func(w http.ResponseWriter, r *http.Request) {
		p.saw(r)
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.asked = string(data)
		p.requests++
		p.notify()
		p.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(data))
		r.Header.Del("X-Api-Key")
		r.Header.Set("Authorization", "Bearer "+modelKey)
		http.StripPrefix("/model/"+p.welcome.Protocol, p.model.Handler()).ServeHTTP(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect && r.URL.Host == "" {
			mux.ServeHTTP(w, r)
			return
		}
		if p.egress != nil {
			p.egress(w, r)
			return
		}
		p.mu.Lock()
		p.tunnels = append(p.tunnels, r.Host)
		p.mu.Unlock()
		http.Error(w, "this host is not on the allow list", http.StatusForbidden)
	})
}

// checkRemembered expects that the model's newest request holds the text of an
// earlier one.
func (p *plane) checkRemembered(text string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.Contains(p.asked, text) {
		p.t.Errorf("the agent does not remember %q", text)
	}
}

// cut ends the supervisor's connection, which then dials again.
func (p *plane) cut() {
	p.mu.Lock()
	l := p.link
	p.mu.Unlock()
	l.Close("cut by the test")
}

func (p *plane) modelRequests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

func (p *plane) saw(r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens[r.Header.Get(sandbox.TokenHeader)] = true
}

// seed makes the bare repository with one commit.
func (p *plane) seed() {
	work := filepath.Join(p.dir, "seed")
	remote := filepath.Join(p.dir, "remotes", "acme", "greeter.git")
	p.sh(p.dir, "git init -q -b main seed && git init -q --bare -b main "+remote)
	p.write(work, "greet.go", "package greeter\n\nfunc Greet() string { return \"helo\" }\n")
	p.write(work, ".gitignore", "ignored.txt\n")
	p.sh(work, "git add -A && git commit -q -m first && git push -q "+remote+" main")
}

// seedFile adds a file to the repository's main branch.
func (p *plane) seedFile(name, text string) {
	work := filepath.Join(p.dir, "seed")
	p.write(work, name, text)
	p.sh(work, "git add -A && git commit -q -m more && git push -q "+p.remote()+" main")
}

func (p *plane) remote() string { return filepath.Join(p.dir, "remotes", "acme", "greeter.git") }

func (p *plane) write(dir, name, text string) {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		p.t.Fatal(err)
	}
}

// sh runs a shell command as the seeding person and returns what it printed.
func (p *plane) sh(dir, script string) string {
	p.t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+p.dir, "GIT_AUTHOR_NAME=Seed", "GIT_AUTHOR_EMAIL=seed@example.com",
		"GIT_COMMITTER_NAME=Seed", "GIT_COMMITTER_EMAIL=seed@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// serve is what the engine does with a link, as far as these tests need it.
func (p *plane) serve(ctx context.Context, token string, l *sandbox.Link) {
	if token != testToken {
		l.Close("unknown token")
		return
	}
	boot := l.Hello().Boot
	p.mu.Lock()
	p.link = l
	w := p.welcome
	w.AckedThrough = int64(len(p.events[boot]))
	known := l.Hello().Prompts
	p.notify()
	p.mu.Unlock()
	if l.Send(ctx, sandbox.Message{Welcome: &w}) != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	sending.Go(func() { p.deliver(ctx, boot, known, l) })
	defer sending.Wait()
	defer cancel()
	for {
		m, err := l.Recv(ctx)
		if err != nil {
			return
		}
		if ack := p.take(boot, m); ack > 0 {
			_ = l.Send(ctx, sandbox.Message{Ack: &sandbox.Ack{N: ack}})
		}
		if m.Call != nil {
			_ = l.Send(ctx, sandbox.Message{Result: &sandbox.Result{ID: m.Call.ID, Text: "opened https://github.com/acme/greeter/pull/1"}})
		}
	}
}

// take stores an event; it returns the number to acknowledge.
func (p *plane) take(boot string, m sandbox.Message) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case m.Event != nil:
		have := int64(len(p.events[boot]))
		if m.Event.N > have+1 {
			p.t.Errorf("event %d came after %d", m.Event.N, have)
		}
		if m.Event.N == have+1 {
			p.events[boot] = append(p.events[boot], *m.Event)
			p.all = append(p.all, *m.Event)
			p.notify()
		}
		return m.Event.N
	case m.Heartbeat != nil:
		p.quiet = append(p.quiet, m.Heartbeat.Quiet)
		p.notify()
	case m.Delta != nil:
		p.deltas = append(p.deltas, *m.Delta)
		p.notify()
	case m.Call != nil:
		p.calls = append(p.calls, *m.Call)
		p.notify()
	}
	return 0
}

// notify wakes everybody who waits. p.mu is held.
func (p *plane) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// deliver sends prompts, stops and the park order as they come.
func (p *plane) deliver(ctx context.Context, boot string, known []sandbox.KnownPrompt, l *sandbox.Link) {
	sent := make(map[string]bool)
	for _, k := range known {
		sent[k.ID] = true
	}
	for {
		p.mu.Lock()
		var out []sandbox.Message
		for i := range p.prompts {
			id := p.prompts[i].ID
			if p.owner[id] == "" {
				p.owner[id] = boot
			}
			if p.owner[id] == boot && !sent[id] {
				sent[id] = true
				out = append(out, sandbox.Message{Prompt: &p.prompts[i]})
			}
		}
		for _, id := range p.stops {
			if p.owner[id] == boot && !sent["stop "+id] {
				sent["stop "+id] = true
				out = append(out, sandbox.Message{Stop: &sandbox.Stop{Prompt: id}})
			}
		}
		if p.park != "" && !sent["park "+p.park] {
			sent["park "+p.park] = true
			out = append(out, sandbox.Message{Park: &sandbox.Park{Reason: p.park, Carry: p.carry}})
		}
		if p.vet != "" && !sent["vet "+p.vet] {
			sent["vet "+p.vet] = true
			out = append(out, sandbox.Message{Vet: &sandbox.Vet{Prompt: p.vet}})
		}
		changed := p.changed
		p.mu.Unlock()
		for _, m := range out {
			if l.Send(ctx, m) != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// prompt accepts one.
func (p *plane) prompt(id, text, author string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prompts = append(p.prompts, sandbox.Prompt{ID: id, Text: text, AuthorName: author,
		AuthorEmail: "1+" + strings.ToLower(author) + "@users.noreply.github.com"})
	p.notify()
}

func (p *plane) stop(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops = append(p.stops, id)
	p.notify()
}

// wait returns the first event from the beginning that match accepts.
func (p *plane) wait(what string, match func(sandbox.Event) bool) sandbox.Event {
	p.t.Helper()
	var found sandbox.Event
	p.until(what, func() bool {
		i := slices.IndexFunc(p.all, match)
		if i >= 0 {
			found = p.all[i]
		}
		return i >= 0
	})
	return found
}

// until waits for a condition over what the plane has seen; it holds p.mu.
func (p *plane) until(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.After(3 * time.Minute)
	for {
		p.mu.Lock()
		good, changed := ok(), p.changed
		p.mu.Unlock()
		if good {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			p.t.Fatalf("waited in vain for %s; the log is:\n%s", what, p.log())
		}
	}
}

// log prints all events for a failure's message.
func (p *plane) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, e := range p.all {
		fmt.Fprintf(&b, "%s %s %s %.300s\n", e.At.Format("05.000"), e.Prompt, e.Kind, e.Body)
	}
	return b.String()
}

// settled waits for a prompt's end.
func (p *plane) settled(id string) sandbox.BodySettled {
	p.t.Helper()
	return body[sandbox.BodySettled](p.t, p.wait("the end of "+id, func(e sandbox.Event) bool {
		return e.Kind == sandbox.KindSettled && e.Prompt == id
	}))
}

// of returns the bodies of a prompt's events of one kind so far.
func of[T any](p *plane, id, kind string) []T {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []T
	for _, e := range p.all {
		if e.Prompt == id && e.Kind == kind {
			all = append(all, body[T](p.t, e))
		}
	}
	return all
}

func body[T any](t testing.TB, e sandbox.Event) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(e.Body, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
