package doors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"openinspect/internal/practice/model"

	"github.com/google/go-cmp/cmp"
)

const providerKey = "sk-provider-secret-0123456789"

// budget is a Meter that remembers what was used.
type budget struct {
	refusal error
	failing error

	mu   sync.Mutex
	used []Usage
}

func (b *budget) Allow(context.Context, Access) error { return b.refusal }

func (b *budget) Used(_ context.Context, a Access, u Usage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a != access {
		return fmt.Errorf("usage of an unknown access %+v", a)
	}
	b.used = append(b.used, u)
	return b.failing
}

func (b *budget) all() []Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Usage(nil), b.used...)
}

// modelDoor is a model door before the scripted provider.
type modelDoor struct {
	provider *model.Server
	budget   *budget
	url      string
}

func newModelDoor(t *testing.T, change func(*ModelConfig)) *modelDoor {
	t.Helper()
	provider, err := model.New(model.Options{Key: providerKey, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(provider.Handler())
	t.Cleanup(upstream.Close)
	t.Cleanup(provider.Clear)
	d := &modelDoor{provider: provider, budget: &budget{}}
	d.url = serveModel(t, upstream.URL+"/v1", d.budget, change)
	return d
}

func serveModel(t *testing.T, base string, b *budget, change func(*ModelConfig)) string {
	t.Helper()
	transport := plainTransport(time.Minute)
	t.Cleanup(transport.CloseIdleConnections)
	c := ModelConfig{
		Providers: map[string]Provider{
			"openai":    {Protocol: OpenAI, BaseURL: base, Key: providerKey, Setting: "OPENAI_API_KEY"},
			"anthropic": {Protocol: Anthropic, BaseURL: base, Key: providerKey, Setting: "ANTHROPIC_API_KEY"},
		},
		Prices: NewPrices(Prices{"house-model": {Input: 1, Output: 2, CacheRead: 0.5, CacheWrite: 4}}),
		Meter:  b, Log: quiet, Transport: transport,
	}
	if change != nil {
		change(&c)
	}
	return serveDoors(t, Config{Model: NewModel(c)})
}

func chat(name string, stream bool) string {
	return fmt.Sprintf(`{"model":%q,"stream":%v,"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hello"},{"role":"assistant","content":"hi"},{"role":"user","content":"hello again"}]}`, name, stream)
}

func messages(name string, stream bool) string {
	return fmt.Sprintf(`{"model":%q,"max_tokens":100,"stream":%v,"system":[{"type":"text","text":"be brief","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"hello"}]}`, name, stream)
}

func TestUsageIsCountedExactlyInBothProtocols(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, body, answer string
	}{
		"openai stream":      {"/model/openai/chat/completions", chat("house-model", true), "data: [DONE]"},
		"openai whole":       {"/model/openai/v1/chat/completions", chat("house-model", false), `"object":"chat.completion"`},
		"anthropic stream":   {"/model/anthropic/v1/messages", messages("house-model", true), "event: message_stop"},
		"anthropic whole":    {"/model/anthropic/messages", messages("house-model", false), `"stop_reason":"end_turn"`},
		"a vendor in front":  {"/model/openai/v1/chat/completions", chat("vendor/house-model", true), "[DONE]"},
		"a release date":     {"/model/anthropic/messages", messages("house-model-20260101", true), "message_stop"},
		"an unknown model":   {"/model/openai/v1/chat/completions", chat("nobody-knows", true), "[DONE]"},
		"null stream option": {"/model/openai/v1/chat/completions", strings.Replace(chat("house-model", true), `{`, `{"stream_options":null,`, 1), "[DONE]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newModelDoor(t, nil)
			res, body := send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+c.path, c.body)
			if res.StatusCode != http.StatusOK || !strings.Contains(body, c.answer) || !strings.Contains(body, "stand-in") && !strings.Contains(body, "stand") {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
			rec := d.provider.Requests()[0]
			want := Usage{Model: rec.Model, Input: int64(rec.Usage.Input), Output: int64(rec.Usage.Output),
				CacheRead: int64(rec.Usage.CacheRead), CacheWrite: int64(rec.Usage.CacheWrite), Known: name != "an unknown model"}
			if rec.Usage.CacheRead+rec.Usage.CacheWrite == 0 {
				t.Error("the request did not touch the cache: the test shows less than it should")
			}
			if want.Known {
				want.CostUSD = (float64(want.Input) + 2*float64(want.Output) + 0.5*float64(want.CacheRead) + 4*float64(want.CacheWrite)) / 1e6
			}
			if diff := cmp.Diff([]Usage{want}, d.budget.all()); diff != "" {
				t.Errorf("usage (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheKeyIsAddedOutsideAndNothingOfTheSandboxGoesOn(t *testing.T) {
	t.Parallel()
	var seen http.Header
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("X-Echo", r.Header.Get("x-api-key"))
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"usage":{"input_tokens":1,"output_tokens":1}}`)
	}))
	defer upstream.Close()
	url := serveModel(t, upstream.URL, &budget{}, nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/model/anthropic/messages?beta=true", strings.NewReader(messages("m", false)))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Authorization": "Bearer mine", "x-api-key": "mine", "Cookie": "c=d", "X-Forwarded-For": "10.0.0.1",
		"Anthropic-Version": "2023-06-01", "Anthropic-Beta": "b1", "Content-Type": "application/json"} {
		r.Header.Set(name, value)
	}
	res, err := sandboxClient(sandboxToken).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	want := http.Header{"Anthropic-Beta": {"b1"}, "Anthropic-Version": {"2023-06-01"}, "Content-Type": {"application/json"}, "X-Api-Key": {providerKey}}
	for _, name := range []string{"User-Agent", "Content-Length"} {
		seen.Del(name)
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("the provider was sent (-want +got):\n%s", diff)
	}
	if res.Header.Get("Set-Cookie") != "" || res.Header.Get("X-Echo") != "" {
		t.Errorf("the sandbox was sent %v", res.Header)
	}
}

func TestARefusalOfTheBudgetIsAProvidersErrorWithTheSentence(t *testing.T) {
	t.Parallel()
	d := newModelDoor(t, nil)
	d.budget.refusal = fmt.Errorf("checking: %w", &Refusal{Sentence: "Alice's budget of $5 for today is used up"})
	for path, want := range map[string]string{
		"/model/openai/chat/completions": `{"error":{"code":null,"message":"Alice's budget of $5 for today is used up"`,
		"/model/anthropic/v1/messages":   `{"error":{"message":"Alice's budget of $5 for today is used up","type":"invalid_request_error"},"type":"error"}`,
	} {
		res, body := send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+path, chat("m", true))
		if res.StatusCode != http.StatusBadRequest || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	long := strings.Replace(chat("m", true), "be brief", strings.Repeat("be brief ", 1<<20), 1)
	if res, body := send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+"/model/openai/chat/completions", long); res.StatusCode != http.StatusBadRequest {
		t.Errorf("a long request: %d %s", res.StatusCode, body)
	}
	if res, body := send(t, sandboxClient("wrong"), http.MethodPost, d.url+"/model/openai/chat/completions", long); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a long request with a wrong token: %d %s", res.StatusCode, body)
	}
	d.budget.refusal = errors.New("the database is away")
	if res, body := send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+"/model/anthropic/v1/messages", messages("m", true)); res.StatusCode != 503 || strings.Contains(body, "database") {
		t.Errorf("a passing fault: %d %s", res.StatusCode, body)
	}
	if len(d.provider.Requests()) != 0 || len(d.budget.all()) != 0 {
		t.Error("a refused request reached the provider")
	}
}

func TestOnlyListedPathsAndProvidersAreForwarded(t *testing.T) {
	t.Parallel()
	d := newModelDoor(t, func(c *ModelConfig) { c.MaxRequest = 1 << 20 })
	for _, c := range []struct {
		method, path, body, want string
		status                   int
	}{
		{"GET", "/model/openai/v1/models", "", `"object":"list"`, 200},
		{"POST", "/model/anthropic/v1/messages/count_tokens", messages("m", false), `"input_tokens"`, 200},
		{"GET", "/model/openai/v1/files", "", "not among what the model door forwards", 404},
		{"POST", "/model/openai/v1/../admin", "{}", "not among", 404},
		{"DELETE", "/model/openai/v1/models", "", "not among", 404},
		{"POST", "/model/openai/v1/messages", "{}", "not among", 404},
		{"POST", "/model/nobody/v1/chat/completions", "{}", `no model provider \"nobody\"; it has: anthropic, openai`, 404},
		{"POST", "/model/openai/v1/chat/completions", "{", "the model request cannot be read", 400},
		{"POST", "/model/openai/v1/chat/completions", "{}", "it names no model", 400},
		{"POST", "/model/openai/v1/chat/completions", `{"model":"m","stream":true,"stream_options":7}`, "stream_options", 400},
		{"POST", "/model/openai/v1/chat/completions", chat(strings.Repeat("m", 1000), false), "name is too long", 400},
		{"POST", "/model/openai/v1/responses", `{"model":"m","background":true,"input":"hello"}`, "what it costs would never be known", 400},
		{"POST", "/model/openai/v1/chat/completions", strings.Repeat(" ", 2<<20), "at most 1 MB", 413},
	} {
		res, body := send(t, sandboxClient(sandboxToken), c.method, d.url+c.path, c.body)
		if res.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, res.StatusCode, body)
		}
	}
	if used := d.budget.all(); len(used) != 0 {
		t.Errorf("used %+v", used)
	}
}

func TestASandboxWithoutASessionAsksNoModel(t *testing.T) {
	t.Parallel()
	d := newModelDoor(t, nil)
	res, body := send(t, sandboxClient(waitingToken), "POST", d.url+"/model/openai/v1/chat/completions", chat("house-model", false))
	if res.StatusCode != http.StatusForbidden || !strings.Contains(body, "works for no session") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if n := len(d.provider.Requests()); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
}

func TestAProvidersRefusalIsPassedOnWithoutTheKeyAndWithAShortWait(t *testing.T) {
	t.Parallel()
	d := newModelDoor(t, nil)
	for _, c := range []struct {
		kind   model.FaultKind
		status int
		want   string
	}{
		{model.Unauthorized, 401, "the model provider refused the deployment's key: the operator has to check it (OPENAI_API_KEY)"},
		{model.RateLimited, 429, "rate_limit"},
		{model.Unavailable, 503, "overloaded"},
		{model.ContextLength, 400, "context_length_exceeded"},
	} {
		d.provider.Inject(model.Fault{Kind: c.kind, Times: 1, RetryAfter: 90 * time.Second})
		res, body := send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+"/model/openai/v1/chat/completions", chat("m", true))
		if res.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", c.kind, res.StatusCode, body)
		}
		if c.kind == model.RateLimited && res.Header.Get("Retry-After") != "30" {
			t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
		}
	}
	if used := d.budget.all(); len(used) != 0 {
		t.Errorf("refused requests were counted: %+v", used)
	}
}

func TestAnErrorThatQuotesTheKeyIsScrubbed(t *testing.T) {
	t.Parallel()
	status := http.StatusBadRequest
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no access with "+r.Header.Get("Authorization"), status)
	}))
	defer upstream.Close()
	url := serveModel(t, upstream.URL, &budget{}, nil)
	for _, status = range []int{400, 401, 403, 500, 302} {
		_, body := send(t, sandboxClient(sandboxToken), http.MethodPost, url+"/model/openai/chat/completions", chat("m", true))
		if strings.Contains(body, providerKey) {
			t.Errorf("%d: %s", status, body)
		}
	}
}

func TestTheWaitAProviderAsksForIsCapped(t *testing.T) {
	t.Parallel()
	inAnHour := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for asked, want := range map[string]string{"": "", "5": "5", "0.2": "1", "90": "30", inAnHour: "30", "Mon, 02 Jan 2006 15:04:05 GMT": "0", "soon": "30", "-4": "30"} {
		dst := http.Header{}
		capRetryAfter(dst, http.Header{"Retry-After": {asked}})
		if got := dst.Get("Retry-After"); got != want {
			t.Errorf("%q became %q, want %q", asked, got, want)
		}
	}
	dst := http.Header{}
	capRetryAfter(dst, http.Header{"Retry-After-Ms": {"90000"}})
	if got := dst.Get("Retry-After-Ms"); got != "30000" {
		t.Errorf("90000 ms became %q", got)
	}
}

func TestAStreamThatBreaksOffEndsWithAnErrorAndIsStillCounted(t *testing.T) {
	t.Parallel()
	for _, kind := range []model.FaultKind{model.Cut, model.Stall} {
		for path, want := range map[string]string{"/model/openai/chat/completions": "\n\ndata: {\"error\"", "/model/anthropic/messages": "\n\nevent: error\ndata: "} {
			t.Run(string(kind)+path, func(t *testing.T) {
				t.Parallel()
				d := newModelDoor(t, func(c *ModelConfig) { c.Idle = 300 * time.Millisecond })
				d.provider.Inject(model.Fault{Kind: kind, After: 6})
				_, body := send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+path, messages("house-model", true))
				if !strings.Contains(body, want) || !strings.Contains(body, "the model provider's answer broke off") {
					t.Errorf("the stream ends with %q", body[max(0, len(body)-300):])
				}
				used := d.budget.all()
				if len(used) != 1 || !used[0].Estimated || used[0].Input+used[0].CacheWrite == 0 || used[0].Output == 0 || used[0].CostUSD == 0 {
					t.Errorf("used %+v", used)
				}
			})
		}
	}
}

func TestAnErrorEventOfTheProviderReachesTheAgent(t *testing.T) {
	t.Parallel()
	d := newModelDoor(t, nil)
	d.provider.Inject(model.Fault{Kind: model.StreamError, After: 3})
	if _, body := send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+"/model/anthropic/messages", messages("m", true)); !strings.Contains(body, "event: error") || strings.Contains(body, "broke off") {
		t.Errorf("%s", body)
	}
}

func TestAProviderThatSaysNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	d := newModelDoor(t, func(c *ModelConfig) { c.Silence = 100 * time.Millisecond })
	d.provider.Inject(model.Fault{Kind: model.Hang})
	res, body := send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+"/model/anthropic/messages", messages("m", true))
	if res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, "did not begin to answer in time") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	gone := serveModel(t, "http://127.0.0.1:1", &budget{}, nil)
	res, body = send(t, sandboxClient(sandboxToken), http.MethodPost, gone+"/model/openai/chat/completions", chat("m", true))
	if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, "cannot be reached") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestEachChunkArrivesBeforeTheNextIsSent(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: {\"n\":%d}\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
		io.WriteString(w, "data: [DONE]") // without the newline that is due
	}))
	defer upstream.Close()
	url := serveModel(t, upstream.URL, &budget{}, nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/model/openai/chat/completions", strings.NewReader(chat("m", true)))
	if err != nil {
		t.Fatal(err)
	}
	res, err := sandboxClient(sandboxToken).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for i := range 5 {
		want := fmt.Sprintf("data: {\"n\":%d}\n\n", i)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
		next <- struct{}{}
	}
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "data: [DONE]" {
		t.Errorf("the end is %q, %v", rest, err)
	}
}

func TestAClientThatLeavesIsCountedAndEndsTheProvidersStream(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":7,\"cache_read_input_tokens\":70,\"output_tokens\":1}}}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(ended)
	}))
	defer upstream.Close()
	b := &budget{}
	used := make(chan struct{})
	url := serveModel(t, upstream.URL, b, func(c *ModelConfig) { c.Meter = signalling{b, used} })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/model/anthropic/messages", strings.NewReader(messages("house-model", true)))
	if err != nil {
		t.Fatal(err)
	}
	res, err := sandboxClient(sandboxToken).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	res.Body.Close()
	<-ended
	<-used
	want := []Usage{{Model: "house-model", Input: 7, CacheRead: 70, Output: 1, Estimated: true, Known: true, CostUSD: (7 + 35 + 2) / 1e6}}
	if diff := cmp.Diff(want, b.all()); diff != "" {
		t.Errorf("used (-want +got):\n%s", diff)
	}
}

// Otherwise a sandbox could spend what it likes, by never waiting for an answer.
func TestAClientThatLeavesBeforeTheFirstWordIsCounted(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server sees only then that a client leaves
		close(asked)
		<-r.Context().Done()
	}))
	defer upstream.Close()
	b := &budget{}
	used := make(chan struct{})
	url := serveModel(t, upstream.URL, b, func(c *ModelConfig) { c.Meter = signalling{b, used} })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	question := chat("house-model", false)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/model/openai/chat/completions", strings.NewReader(question))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		cancel()
	}()
	if res, err := sandboxClient(sandboxToken).Do(r); err == nil {
		res.Body.Close()
		t.Fatal("it was answered")
	}
	select {
	case <-used:
	case <-time.After(patience):
		t.Fatal("nothing is counted")
	}
	input := int64(len(question) / bytesPerToken)
	want := []Usage{{Model: "house-model", Input: input, Estimated: true, Known: true, CostUSD: float64(input) / 1e6}}
	if diff := cmp.Diff(want, b.all()); diff != "" {
		t.Errorf("used (-want +got):\n%s", diff)
	}
}

type signalling struct {
	*budget
	done chan struct{}
}

func (s signalling) Used(ctx context.Context, a Access, u Usage) error {
	defer close(s.done)
	return s.budget.Used(ctx, a, u)
}

func TestRequestsForRepliesAreObserved(t *testing.T) {
	t.Parallel()
	var sessions []string
	d := newModelDoor(t, func(c *ModelConfig) {
		c.Observed = func(_ context.Context, a Access) { sessions = append(sessions, a.Session) }
	})
	d.budget.failing = errors.New("the database is away") // is logged, and not the agent's trouble
	send(t, sandboxClient(sandboxToken), http.MethodGet, d.url+"/model/openai/v1/models", "")
	send(t, sandboxClient(sandboxToken), http.MethodPost, d.url+"/model/openai/v1/chat/completions", chat("m", false))
	if diff := cmp.Diff([]string{"s1"}, sessions); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
}

func TestUsageBesideFieldsOfUnknownFormsIsCounted(t *testing.T) {
	t.Parallel()
	c := &counter{protocol: OpenAI}
	c.event([]byte(`{"message":"a text","response":[1],"usage":{"prompt_tokens":10,"prompt_tokens_details":null,"completion_tokens":2},"delta":null,"choices":[]}`))
	c.event([]byte(`[DONE]`))
	c.event([]byte(`{"usage":null}`))
	if diff := cmp.Diff(Usage{Input: 10, Output: 2}, c.total(1000)); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func TestUsageOfTheResponsesProtocolIsCounted(t *testing.T) {
	t.Parallel()
	c := &counter{protocol: OpenAI}
	c.event([]byte(`{"type":"response.created","response":{"usage":null}}`))
	c.event([]byte(`{"type":"response.output_text.delta","delta":"hello"}`))
	c.event([]byte(`{"type":"response.completed","response":{"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":9}}}`))
	if diff := cmp.Diff(Usage{Input: 40, CacheRead: 60, Output: 9}, c.total(1000)); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}
