package doors

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Protocol is how a model provider is spoken to.
type Protocol string

// The protocols of the model door.
const (
	OpenAI    Protocol = "openai"    // also of every OpenAI-compatible provider
	Anthropic Protocol = "anthropic" // Anthropic's messages
)

// Provider is one model provider, which the sandbox reaches at
// /model/<name>/… and /model/<name>/v1/….
type Provider struct {
	Protocol Protocol
	// BaseURL is where the protocol's paths begin, with its version and
	// without a final slash: "https://models.example.com/v1".
	BaseURL string
	Key     string
	// Setting is the name of the operator's setting that holds the key, for
	// the sentence that asks to check it.
	Setting string
}

// Meter allows and counts what the model door forwards. Its answers decide at
// each request, so it has to be quick.
type Meter interface {
	// Allow is asked before a request that can cost money. A *Refusal is told
	// to the agent and not tried again; another error is a passing fault.
	Allow(ctx context.Context, a Access) error
	// Used is told what a request used, once it has ended.
	Used(ctx context.Context, a Access, u Usage) error
}

// Refusal is a decision against a request, with the sentence that says why.
type Refusal struct{ Sentence string }

// Error returns the sentence.
func (r *Refusal) Error() string { return r.Sentence }

// ModelConfig joins the model door to what is behind it.
type ModelConfig struct {
	Providers map[string]Provider // by the name in the path
	Prices    Prices
	// PricedOnly refuses models whose price is not known: what they cost would
	// not count against any budget.
	PricedOnly bool
	Meter      Meter
	// Observed is told of every request for a reply as it arrives; nil for
	// nobody.
	Observed func(ctx context.Context, a Access)
	Log      *slog.Logger
	// MaxRequest bounds a request, in bytes. Default: 32 MB.
	MaxRequest int64
	// Idle is how long a stream may stand still. Default: two minutes.
	Idle time.Duration
	// Silence is how long a provider may take to begin. Default: five minutes.
	Silence time.Duration
	// Total is how long one request may last. Default: 30 minutes.
	Total time.Duration
	// Transport reaches the providers; nil makes one that never compresses.
	Transport http.RoundTripper
}

// Model is the model door.
type Model struct {
	c     ModelConfig
	calls *atOnce
}

// callsAtOnce is how many requests of one session are worked on; others wait. Each is
// in memory as a whole, and what it costs is only known, and counted, when it ends: a
// budget can be passed by as many.
const callsAtOnce = 10

// NewModel returns a model door with the defaults filled in.
func NewModel(c ModelConfig) *Model {
	if c.MaxRequest == 0 {
		c.MaxRequest = 32 << 20
	}
	if c.Idle == 0 {
		c.Idle = 2 * time.Minute
	}
	if c.Silence == 0 {
		c.Silence = maxSilence
	}
	if c.Total == 0 {
		c.Total = 30 * time.Minute
	}
	if c.Transport == nil {
		c.Transport = plainTransport(0) // Silence is kept by forward
	}
	return &Model{c: c, calls: newAtOnce(callsAtOnce)}
}

// endpoint is one path of a protocol; those that reply can cost money.
type endpoint struct {
	method  string
	replies bool
}

var endpoints = map[Protocol]map[string]endpoint{
	OpenAI: {
		"chat/completions": {http.MethodPost, true},
		"responses":        {http.MethodPost, true},
		"models":           {http.MethodGet, false},
	},
	Anthropic: {
		"messages":              {http.MethodPost, true},
		"messages/count_tokens": {http.MethodPost, false},
		"models":                {http.MethodGet, false},
	},
}

// modelCall is one request on its way through the door.
type modelCall struct {
	access   Access
	provider Provider
	path     string
	endpoint endpoint
	body     []byte
	model    string
}

func (m *Model) open() bool { return m != nil }

// find resolves /model/<provider>/[v1/]<path>.
func (m *Model) find(r *http.Request) (modelCall, error) {
	name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/model/"), "/")
	provider, ok := m.c.Providers[name]
	if !ok {
		return modelCall{}, fmt.Errorf("this deployment has no model provider %q; it has: %s", name, strings.Join(m.names(), ", "))
	}
	path = strings.TrimPrefix(path, "v1/")
	e, ok := endpoints[provider.Protocol][path]
	if !ok || e.method != r.Method {
		return modelCall{}, fmt.Errorf("%s %s is not among what the model door forwards", r.Method, path)
	}
	return modelCall{provider: provider, path: path, endpoint: e}, nil
}

func (m *Model) names() []string {
	var names []string
	for name := range m.c.Providers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (m *Model) serve(w http.ResponseWriter, r *http.Request, a Access) {
	c, err := m.find(r)
	if err != nil {
		m.refuse(w, r, http.StatusNotFound, err.Error())
		return
	}
	c.access = a
	if a.Branch == "" {
		m.refuse(w, r, http.StatusForbidden, "this sandbox works for no session, so it may ask no model")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), m.c.Total)
	defer cancel()
	if c.endpoint.replies && m.c.Observed != nil {
		m.c.Observed(ctx, a)
	}
	done := m.calls.take(ctx, a.Session)
	if done == nil {
		m.refuse(w, r, http.StatusServiceUnavailable, "this session asks models too many things at once; try again")
		return
	}
	defer done()
	if !m.readBody(w, r, &c) {
		return
	}
	if c.endpoint.replies && !(m.priced(w, r, &c) && m.allowed(ctx, w, r, a)) {
		return
	}
	m.forward(ctx, w, r, &c)
}

// priced refuses a model that no budget could count.
func (m *Model) priced(w http.ResponseWriter, r *http.Request, c *modelCall) bool {
	if _, known := m.c.Prices.Find(c.model); known || !m.c.PricedOnly {
		return true
	}
	m.refuse(w, r, http.StatusBadRequest, fmt.Sprintf(
		"budgets are set here, and the price of the model %s is not known: the operator can add it to MODEL_PRICES", oneLine(c.model)))
	return false
}

// allowed asks the meter and answers for it when it does not allow.
func (m *Model) allowed(ctx context.Context, w http.ResponseWriter, r *http.Request, a Access) bool {
	err := m.c.Meter.Allow(ctx, a)
	if err == nil {
		return true
	}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		// OpenCode tries 429 again for a minute; a 400 ends the run with the
		// sentence.
		m.refuse(w, r, http.StatusBadRequest, refusal.Sentence)
		return false
	}
	m.c.Log.Error("model budget not checked", "session", a.Session, "err", err)
	m.refuse(w, r, http.StatusServiceUnavailable, "the control plane cannot check the budget at the moment; try again")
	return false
}

func (m *Model) readBody(w http.ResponseWriter, r *http.Request, c *modelCall) bool {
	if r.Method == http.MethodGet {
		return true
	}
	if r.Header.Get("Content-Encoding") != "" {
		m.refuse(w, r, http.StatusUnsupportedMediaType, "send the request without Content-Encoding")
		return false
	}
	body := newPatientBody(w, r, m.c.Idle, m.c.Total, m.c.MaxRequest)
	var err error
	c.body, err = io.ReadAll(body)
	if errors.Is(err, errTooLarge) {
		m.refuse(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("a model request may have at most %d MB", m.c.MaxRequest>>20))
		return false
	}
	if err == nil {
		err = c.prepare()
	}
	if err != nil {
		m.refuse(w, r, http.StatusBadRequest, "the model request cannot be read: "+err.Error())
		return false
	}
	return true
}

// longestModel is how long a model's name may be, in bytes.
const longestModel = 200

// prepare learns the model's name and makes an OpenAI stream end with its
// usage, which is the only count there is. What goes on is what was read: a field
// that is there twice would be read otherwise by others.
func (c *modelCall) prepare() error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(c.body, &fields); err != nil {
		return err
	}
	if err := json.Unmarshal(fields["model"], &c.model); err != nil || c.model == "" {
		return errors.New("it names no model")
	}
	if len(c.model) > longestModel {
		return errors.New("the model's name is too long")
	}
	if c.path == "responses" && fields["background"] != nil && string(fields["background"]) != "false" && string(fields["background"]) != "null" {
		return errors.New(`what it costs would never be known: send it without "background"`)
	}
	if c.path == "chat/completions" && string(fields["stream"]) == "true" {
		if err := includeUsage(fields); err != nil {
			return err
		}
	}
	var err error
	c.body, err = json.Marshal(fields)
	return err
}

// includeUsage asks for the usage at the end of a stream.
func includeUsage(fields map[string]json.RawMessage) error {
	options := map[string]json.RawMessage{}
	if raw := fields["stream_options"]; len(raw) > 0 && string(raw) != "null" {
		if err := json.Unmarshal(raw, &options); err != nil {
			return fmt.Errorf("stream_options: %w", err)
		}
	}
	options["include_usage"] = json.RawMessage("true")
	raw, err := json.Marshal(options)
	if err != nil {
		return err
	}
	fields["stream_options"] = raw
	return nil
}

// forward sends the request with the provider's key and passes the answer on.
func (m *Model) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, c *modelCall) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, err := http.NewRequestWithContext(ctx, r.Method, c.provider.BaseURL+"/"+c.path, bytes.NewReader(c.body))
	if err != nil {
		m.c.Log.Error("model provider's address is wrong", "url", c.provider.BaseURL, "err", err)
		m.refuse(w, r, http.StatusBadGateway, "the model provider's address is wrong: the operator has to correct it")
		return
	}
	if r.URL.RawQuery != "" && r.Method == http.MethodGet {
		up.URL.RawQuery = r.URL.RawQuery
	}
	copyHeaders(up.Header, r.Header, []string{"Content-Type", "Accept", "User-Agent", "Anthropic-Version",
		"Anthropic-Beta", "Openai-Beta", "Idempotency-Key", "Http-Referer", "X-Title"})
	if c.provider.Protocol == Anthropic {
		up.Header.Set("x-api-key", c.provider.Key)
	} else {
		up.Header.Set("Authorization", "Bearer "+c.provider.Key)
	}
	var arrived atomic.Bool // the request, at the provider
	up = up.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(w httptrace.WroteRequestInfo) { arrived.Store(w.Err == nil) }}))
	silence := time.AfterFunc(m.c.Silence, cancel)
	res, err := m.c.Transport.RoundTrip(up)
	if !silence.Stop() && err == nil {
		res.Body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		if ctx.Err() != nil && arrived.Load() {
			m.settle(ctx, c, &counter{protocol: c.provider.Protocol}) // it may have read it all
		}
		m.unanswered(w, r, c, err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		m.relayError(w, r, c, res)
		return
	}
	m.relay(w, r, c, res)
}

// unanswered says that the provider gave no answer at all.
func (m *Model) unanswered(w http.ResponseWriter, r *http.Request, c *modelCall, err error) {
	if r.Context().Err() != nil {
		return // the client left
	}
	m.c.Log.Warn("model provider not reached", "session", c.access.Session, "model", c.model, "err", err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		m.refuse(w, r, http.StatusGatewayTimeout, "the model provider did not begin to answer in time")
		return
	}
	m.refuse(w, r, http.StatusBadGateway, "the model provider cannot be reached at the moment")
}

// maxRetryAfter caps what a provider may ask its caller to wait; OpenCode
// would obey any time.
const maxRetryAfter = 30 * time.Second

// maxErrorBody bounds how much of a provider's error is passed on, in bytes.
const maxErrorBody = 64 << 10

// relayError passes a provider's refusal on. Errors about the key are told in
// words of our own, since providers quote parts of it.
func (m *Model) relayError(w http.ResponseWriter, r *http.Request, c *modelCall, res *http.Response) {
	body, err := io.ReadAll(io.LimitReader(newIdleReader(res.Body, m.c.Idle), maxErrorBody))
	m.c.Log.Warn("model provider refused", "session", c.access.Session, "model", c.model, "status", res.StatusCode, "err", err)
	switch status := res.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		setting := ""
		if c.provider.Setting != "" {
			setting = " (" + c.provider.Setting + ")"
		}
		m.refuse(w, r, status, "the model provider refused the deployment's key: the operator has to check it"+setting)
		return
	case status < 400:
		m.refuse(w, r, http.StatusBadGateway, fmt.Sprintf("the model provider answered %d, which is no answer to a request: the operator has to check its address", status))
		return
	}
	copyHeaders(w.Header(), res.Header, []string{"Content-Type", "Request-Id", "X-Request-Id"})
	capRetryAfter(w.Header(), res.Header)
	w.WriteHeader(res.StatusCode)
	_, _ = w.Write(scrub(body, c.provider.Key)) // nobody is left to tell
}

// capRetryAfter copies the wait that a provider asks for, in seconds, in
// milliseconds or as a date, but no more than maxRetryAfter.
func capRetryAfter(dst, src http.Header) {
	if ms, err := strconv.ParseFloat(src.Get("Retry-After-Ms"), 64); err == nil && ms >= 0 {
		dst.Set("Retry-After-Ms", strconv.FormatFloat(min(ms, float64(maxRetryAfter.Milliseconds())), 'f', -1, 64))
	}
	asked := src.Get("Retry-After")
	if asked == "" {
		return
	}
	wait := maxRetryAfter
	if seconds, err := strconv.ParseFloat(asked, 64); err == nil && seconds >= 0 {
		wait = time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
	} else if at, err := http.ParseTime(asked); err == nil {
		wait = max(0, min(time.Until(at), maxRetryAfter))
	}
	dst.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
}

func scrub(body []byte, key string) []byte {
	if key == "" {
		return body
	}
	return bytes.ReplaceAll(body, []byte(key), []byte("[key]"))
}

// refuse answers in the form of the provider's errors, so that SDKs show the
// sentence. What the client still sends is read first: it would take a
// connection that closes under its writing for a fault of the network.
func (m *Model) refuse(w http.ResponseWriter, r *http.Request, status int, sentence string) {
	if m.open() {
		rest := newPatientBody(w, r, m.c.Idle, m.c.Total, m.c.MaxRequest)
		_, _ = io.Copy(io.Discard, rest) // a client that is gone reads no answer
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(errorJSON(protocolOf(r), status, sentence)) // nobody is left to tell
}

// protocolOf tells the caller's protocol by its path, known provider or not.
func protocolOf(r *http.Request) Protocol {
	if strings.Contains(r.URL.Path, "/messages") || r.Header.Get("Anthropic-Version") != "" {
		return Anthropic
	}
	return OpenAI
}

func errorJSON(p Protocol, status int, sentence string) []byte {
	kind := "invalid_request_error"
	switch {
	case status == http.StatusUnauthorized:
		kind = "authentication_error"
	case status >= 500:
		kind = "api_error"
	}
	var v any = map[string]any{"error": map[string]any{"message": sentence, "type": kind, "param": nil, "code": nil}}
	if p == Anthropic {
		v = map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": sentence}}
	}
	data, _ := json.Marshal(v) // strings only: it cannot fail
	return data
}
