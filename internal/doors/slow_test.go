package doors

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long these tests wait for what has to come.
const patience = time.Minute

// stall sends the beginning of a request's body and then nothing until the test ends.
// begun is closed once the server has read what was sent; the answer, or nil if the
// connection ended without one, comes on answer.
func stall(t *testing.T, token, url string, beginning []byte) (begun <-chan struct{}, answer <-chan *http.Response) {
	t.Helper()
	body, send := io.Pipe()
	t.Cleanup(func() { send.CloseWithError(context.Canceled) })
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	sent, answered := make(chan struct{}), make(chan *http.Response, 1)
	go func() {
		if _, err := send.Write(beginning); err == nil {
			close(sent)
		}
	}()
	go func() {
		res, err := sandboxClient(token).Do(r)
		if err != nil {
			answered <- nil
			return
		}
		res.Body.Close()
		answered <- res
	}()
	return sent, answered
}

// bigPush is the beginning of a push, larger than what networks keep on the way.
func bigPush(branch string) []byte {
	command := strings.Repeat("0", 40) + " " + strings.Repeat("a", 40) + " refs/heads/" + branch
	return append([]byte(pushBody("report-status side-band-64k", command)+"PACK\x00\x00\x00\x02\x00\x00\x00\x01"), make([]byte, 32<<20)...)
}

func TestSandboxesThatSendTheirPushesSlowlyHoldUpNobodyElses(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, func(c *GitConfig) {
		c.Idle = time.Hour
		c.Secrets = func(context.Context, Access) (FindSecret, error) { return findToken, nil }
		c.Refused = func(context.Context, string) error { return nil }
	})
	for _, token := range slowTokens[:mostLooks] {
		begun, _ := stall(t, token, s.url+"/git/acme/greeter/git-receive-pack", bigPush(slow(token).Branch))
		select {
		case <-begun:
		case <-time.After(patience):
			t.Fatal("the door does not read a push")
		}
	}
	s.commit("a.txt")
	pushed := make(chan string, 1)
	go func() {
		out, err := s.git("push", "origin", "HEAD")
		if err == nil {
			out = ""
		}
		pushed <- out
	}()
	select {
	case out := <-pushed:
		if out != "" {
			t.Errorf("the push says %s", out)
		}
	case <-time.After(patience):
		t.Fatal("a push waits for those of others, who do not send theirs")
	}
}

func TestARequestThatNeverArrivesWholeIsGivenUp(t *testing.T) {
	t.Parallel()
	const total = 200 * time.Millisecond
	git := NewGit(GitConfig{Log: quiet, Idle: time.Hour, Total: total,
		Secrets: func(context.Context, Access) (FindSecret, error) { return findToken, nil },
		Refused: func(context.Context, string) error { return nil }})
	model := NewModel(ModelConfig{Log: quiet, Idle: time.Hour, Total: total, Meter: &budget{},
		Providers: map[string]Provider{"openai": {Protocol: OpenAI, BaseURL: "http://127.0.0.1:1"}}})
	url := serveDoors(t, Config{Git: git, Model: model})
	for name, c := range map[string]struct {
		token, path string
		body        []byte
	}{
		"a push":                      {sandboxToken, "/git/acme/greeter/git-receive-pack", bigPush("inspect/s1")},
		"a push to another branch":    {sandboxToken, "/git/acme/greeter/git-receive-pack", bigPush("main")},
		"a push of nobody":            {"wrong", "/git/acme/greeter/git-receive-pack", bigPush("main")},
		"a question to a model":       {sandboxToken, "/model/openai/v1/chat/completions", []byte(`{"model":`)},
		"a question of nobody to one": {"wrong", "/model/openai/v1/chat/completions", []byte(`{"model":`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, answered := stall(t, c.token, url+c.path, c.body)
			select {
			case <-answered:
			case <-time.After(patience):
				t.Error("it is waited for without end")
			}
		})
	}
}

// crowd is a server whose answers wait for the test.
type crowd struct {
	url            string
	arrived, leave chan struct{}
	mu             sync.Mutex
	now, most      int
}

func newCrowd(t *testing.T) *crowd {
	h := &crowd{arrived: make(chan struct{}, 100), leave: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.count(1)
		h.arrived <- struct{}{}
		<-h.leave
		h.count(-1)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"usage":{"prompt_tokens":1,"completion_tokens":1}}`)
	}))
	t.Cleanup(server.Close)
	h.url = server.URL
	return h
}

func (h *crowd) count(by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now += by
	h.most = max(h.most, h.now)
}

// pass waits until first are there, lets all of them go and returns how many there were at once.
func (h *crowd) pass(all, first int) int {
	for range first {
		<-h.arrived
	}
	for range all {
		h.leave <- struct{}{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.most
}

// What a request costs is known when it ends: a budget can be passed by as many as
// are on their way. Each is in memory, too.
func TestASessionAsksModelsAFewThingsAtATime(t *testing.T) {
	t.Parallel()
	h := newCrowd(t)
	b := &budget{}
	url := serveModel(t, h.url, b, nil)
	const asked = 4 * callsAtOnce
	var all sync.WaitGroup
	for range asked {
		all.Go(func() {
			send(t, sandboxClient(sandboxToken), http.MethodPost, url+"/model/openai/v1/chat/completions", chat("house-model", false))
		})
	}
	most := h.pass(asked, callsAtOnce)
	all.Wait()
	if most != callsAtOnce || len(b.all()) != asked {
		t.Errorf("%d at once, %d counted", most, len(b.all()))
	}
}

func TestASandboxThatOpensEverMoreRequestsWaits(t *testing.T) {
	t.Parallel()
	h := newCrowd(t)
	doors := New(Config{Auth: tokens{sandboxToken: access}, Log: quiet,
		Tools: NewTools(ToolsConfig{Servers: toolServers{h.url}, Log: quiet, Transport: &http.Transport{DisableKeepAlives: true}})}).(*handler)
	doors.requests = newAtOnce(2)
	server := httptest.NewServer(doors)
	t.Cleanup(server.Close)
	const asked = 20
	var all sync.WaitGroup
	for range asked {
		all.Go(func() { send(t, sandboxClient(sandboxToken), http.MethodPost, server.URL+"/mcp/linear", "{}") })
	}
	if most := h.pass(asked, 2); most != 2 {
		t.Errorf("%d at once", most)
	}
	all.Wait()
}

func TestAQuestionThatSaysTwoThingsIsAskedAsItWasUnderstood(t *testing.T) {
	t.Parallel()
	var got string
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = string(body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"usage":{"prompt_tokens":1000000,"completion_tokens":1}}`)
	}))
	t.Cleanup(upstream.Close)
	b := &budget{}
	url := serveModel(t, upstream.URL, b, nil)
	send(t, sandboxClient(sandboxToken), http.MethodPost, url+"/model/openai/v1/chat/completions", `{"model":"dear-model","model":"house-model","messages":[]}`)
	if want := `{"messages":[],"model":"house-model"}`; got != want || b.all()[0].Model != "house-model" {
		t.Errorf("the provider was asked %s, and %+v counted", got, b.all())
	}
}
