package model

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// DefaultPace is a pause between chunks that looks like a quick model.
const DefaultPace = 10 * time.Millisecond

const (
	maxBody        = 32 << 20
	defaultRecords = 1000
)

// Options say what a Server serves.
type Options struct {
	// Key is what callers must present. Required.
	Key string
	// Models are the names that /v1/models lists. Default: "scripted" and
	// "scripted-small".
	Models []string
	// Scripts is a folder of further scripts (*.txt), tried before the
	// embedded ones; nil for none.
	Scripts fs.FS
	// Pace is the pause between the chunks of a streamed reply; zero for none.
	Pace time.Duration
	// Records bounds how many requests are remembered. Default: 1000.
	Records int
	// Log is told of requests that no provider would have accepted. Required.
	Log *slog.Logger
}

// Server answers model requests from scripts. Make one with New; its methods
// may be called from several goroutines.
type Server struct {
	key     string
	models  []string
	pace    time.Duration
	log     *slog.Logger
	scripts []*script

	mu       sync.Mutex
	records  []Record // oldest first, at most keep
	keep     int
	faults   []*Fault
	released chan struct{} // closed by Clear: ends what hangs
	changed  chan struct{} // closed and replaced at each new record
}

// New reads the scripts and returns a Server that serves them. The error names
// the file and line of a script that cannot be read.
func New(o Options) (*Server, error) {
	if o.Key == "" {
		return nil, errors.New("the model stand-in needs a key that its callers must present")
	}
	scripts, err := loadAll(o.Scripts)
	if err != nil {
		return nil, err
	}
	s := &Server{
		key: o.Key, models: o.Models, pace: o.Pace, log: o.Log, scripts: scripts,
		keep: o.Records, released: make(chan struct{}), changed: make(chan struct{}),
	}
	if len(s.models) == 0 {
		s.models = []string{"scripted", "scripted-small"}
	}
	if s.keep <= 0 {
		s.keep = defaultRecords
	}
	return s, nil
}

// Handler serves both protocols, with the paths of the package comment.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", s.protected(openAI{}, s.complete))
	mux.HandleFunc("POST /v1/messages", s.protected(anthropic{}, s.complete))
	mux.HandleFunc("POST /v1/messages/count_tokens", s.protected(anthropic{}, s.countTokens))
	mux.HandleFunc("GET /v1/models", s.listModels)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		protocolOf(r).refuse(w, http.StatusNotFound, "not_found_error",
			fmt.Sprintf("Unknown request URL: %s %s", r.Method, r.URL.Path))
	})
	return mux
}

// A protocol reads requests and writes replies in one provider's form.
type protocol interface {
	name() string
	read(body []byte) (*request, error)
	// write sends a whole reply, or streams it through the emitter.
	write(ctx context.Context, w http.ResponseWriter, q *request, p *reply) error
	stream(ctx context.Context, e *emitter, q *request, p *reply) error
	// refuse answers with an error in the provider's form.
	refuse(w http.ResponseWriter, status int, kind, message string)
	// inStream is the event by which a provider ends a stream with an error.
	inStream(kind, message string) []byte
	// tooLong is the provider's sentence for a prompt over the model's limit.
	tooLong() string
}

// protocolOf guesses the caller's protocol for paths that both share:
// Anthropic's clients always send their version header.
func protocolOf(r *http.Request) protocol {
	if r.Header.Get("anthropic-version") != "" {
		return anthropic{}
	}
	return openAI{}
}

// served is one authenticated call with its whole body.
type served struct {
	protocol protocol
	r        *http.Request
	body     []byte
}

func (s *Server) protected(p protocol, next func(http.ResponseWriter, served)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.keyed(r) {
			s.record(Record{Protocol: p.name(), Path: r.URL.Path, Status: http.StatusUnauthorized})
			p.refuse(w, http.StatusUnauthorized, "authentication_error", "Incorrect API key provided.")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			p.refuse(w, http.StatusRequestEntityTooLarge, "request_too_large", "Request exceeds the maximum size.")
			return
		}
		next(w, served{protocol: p, r: r, body: body})
	}
}

func (s *Server) keyed(r *http.Request) bool {
	key := r.Header.Get("x-api-key")
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		key = bearer
	}
	return subtle.ConstantTimeCompare([]byte(key), []byte(s.key)) == 1
}

// complete answers a request for a reply, streamed if it asks for that.
func (s *Server) complete(w http.ResponseWriter, c served) {
	q, err := c.protocol.read(c.body)
	if err != nil {
		s.log.Warn("model request refused", "protocol", c.protocol.name(), "err", err)
		c.protocol.refuse(w, http.StatusBadRequest, "invalid_request_error", err.Error())
		return
	}
	x := newExchange(q)
	chosen := s.choose(q, x)
	p, fault, err := chosen.reply(q, x)
	if err != nil {
		s.log.Error("model script failed", "script", chosen.name, "err", err)
		c.protocol.refuse(w, http.StatusInternalServerError, "api_error", err.Error())
		return
	}
	p.usage = q.usage(p)
	if injected := s.takeFault(x.Prompt); injected != nil {
		fault = injected
	}
	s.record(newRecord(c, q, x, chosen, p, fault))
	if fault != nil && fault.Kind.early() {
		s.fail(w, c, fault)
		return
	}
	s.answer(w, c, q, p, fault)
}

func (s *Server) answer(w http.ResponseWriter, c served, q *request, p *reply, fault *Fault) {
	ctx := c.r.Context()
	if !q.stream {
		if err := c.protocol.write(ctx, w, q, p); err != nil {
			s.log.Debug("model reply not delivered", "err", err)
		}
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	e := &emitter{w: w, rc: http.NewResponseController(w), pace: s.pace, fault: fault,
		protocol: c.protocol, released: s.release()}
	err := c.protocol.stream(ctx, e, q, p)
	if errors.Is(err, errCut) {
		panic(http.ErrAbortHandler)
	}
	if err != nil && !errors.Is(err, errEnded) {
		s.log.Debug("model stream not finished", "err", err)
	}
}

// choose returns the first script that matches; the embedded scripts end with
// one that matches everything.
func (s *Server) choose(q *request, x *exchange) *script {
	for _, c := range s.scripts {
		if c.matches(q, x) {
			return c
		}
	}
	return s.scripts[len(s.scripts)-1]
}

func (s *Server) countTokens(w http.ResponseWriter, c served) {
	q, err := c.protocol.read(c.body)
	if err != nil {
		c.protocol.refuse(w, http.StatusBadRequest, "invalid_request_error", err.Error())
		return
	}
	u := q.usage(&reply{})
	writeJSON(w, http.StatusOK, map[string]int{"input_tokens": u.Input + u.CacheRead + u.CacheWrite})
}

func (s *Server) listModels(w http.ResponseWriter, r *http.Request) {
	p := protocolOf(r)
	if !s.keyed(r) {
		p.refuse(w, http.StatusUnauthorized, "authentication_error", "Incorrect API key provided.")
		return
	}
	if p.name() == "anthropic" {
		data := []map[string]any{}
		for _, m := range s.models {
			data = append(data, map[string]any{"type": "model", "id": m, "display_name": m, "created_at": "2026-01-01T00:00:00Z"})
		}
		writeJSON(w, http.StatusOK, map[string]any{"data": data, "has_more": false,
			"first_id": s.models[0], "last_id": s.models[len(s.models)-1]})
		return
	}
	data := []map[string]any{}
	for _, m := range s.models {
		data = append(data, map[string]any{"id": m, "object": "model", "created": 1767225600, "owned_by": "practice"})
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": data})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that is gone cannot be told anything more.
	_ = json.NewEncoder(w).Encode(v)
}
