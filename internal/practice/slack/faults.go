package slack

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// maxCalls bounds the record of calls: the oldest go first.
const maxCalls = 10000

// A Fault is how a call goes wrong. With several fields set it is all of them.
type Fault struct {
	Status      int           // HTTP status; 200 if zero
	Error       string        // the answer's error code; "internal_error" if empty
	RetryAfter  int           // seconds, sent as the header; with Status 429 as Slack does
	Drop        bool          // the connection is cut instead of an answer
	AfterEffect bool          // the call has its effect first: the caller cannot know
	Delay       time.Duration // before anything else
}

// A Call is one call of the Web API as it came in, refused ones included. Args
// are without tokens and secrets.
type Call struct {
	Method string
	Time   time.Time
	Args   map[string]string
}

type faults struct {
	mu      sync.Mutex
	next    map[string][]Fault
	latency map[string]time.Duration
	calls   []Call
	changed chan struct{} // closed and replaced at every call
	repeat  int           // of the next events, this many are repeated
	copies  int
}

func newFaults() faults {
	return faults{next: map[string][]Fault{}, latency: map[string]time.Duration{}, changed: make(chan struct{})}
}

// activeFault is what a call meets; set is false if only latency.
type activeFault struct {
	Fault
	set bool
}

// FailNext makes the next n calls of a method ("chat.update") fail.
func (s *Server) FailNext(method string, n int, f Fault) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	for range n {
		s.faults.next[method] = append(s.faults.next[method], f)
	}
}

// SetLatency delays every call of a method; of all methods if method is "".
func (s *Server) SetLatency(method string, d time.Duration) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.latency[method] = d
}

// ClearFaults forgets every fault, latency and repetition asked for.
func (s *Server) ClearFaults() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	clear(s.faults.next)
	clear(s.faults.latency)
	s.faults.repeat = 0
}

// RepeatEvents makes each of the next n deliveries of events go out copies
// times at once, over all connections in turn, each in an envelope of its own.
func (s *Server) RepeatEvents(n, copies int) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.repeat, s.faults.copies = n, copies
}

// Calls returns the calls of a method, or all if method is "", oldest first.
func (s *Server) Calls(method string) []Call {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	var list []Call
	for _, c := range s.faults.calls {
		if method == "" || c.Method == method {
			list = append(list, c)
		}
	}
	return list
}

// WaitCalls waits until a method was called at least n times and returns the
// calls.
func (s *Server) WaitCalls(ctx context.Context, method string, n int) ([]Call, error) {
	for {
		s.faults.mu.Lock()
		changed := s.faults.changed
		s.faults.mu.Unlock()
		if list := s.Calls(method); len(list) >= n {
			return list, nil
		}
		select {
		case <-ctx.Done():
			return s.Calls(method), context.Cause(ctx)
		case <-changed:
		}
	}
}

// note records a call and takes the fault that waits for it.
func (s *Server) note(c *call) activeFault {
	f := &s.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	shown := maps.Clone(map[string]string(c.args))
	for _, name := range []string{"client_secret", "code", "code_verifier", "refresh_token"} {
		delete(shown, name)
	}
	f.calls = append(f.calls, Call{c.method, time.Now(), shown})
	if len(f.calls) > maxCalls {
		f.calls = slices.Delete(f.calls, 0, len(f.calls)-maxCalls)
	}
	close(f.changed)
	f.changed = make(chan struct{})
	delay := f.latency[""] + f.latency[c.method]
	waiting := f.next[c.method]
	if len(waiting) == 0 {
		return activeFault{Fault: Fault{Delay: delay}}
	}
	f.next[c.method] = waiting[1:]
	first := waiting[0]
	first.Delay += delay
	return activeFault{first, true}
}

// copiesOfNext says how often the next delivery of an event goes out.
func (f *faults) copiesOfNext() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.repeat == 0 {
		return 1
	}
	f.repeat--
	return f.copies
}

// pause waits for latency that was asked for; it is false if the caller left.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (s *Server) replyFault(w http.ResponseWriter, f activeFault) {
	if f.Drop {
		panic(http.ErrAbortHandler) // net/http cuts the connection
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
	}
	if f.Status != 0 {
		w.WriteHeader(f.Status)
	}
	code := f.Error
	switch {
	case code != "":
	case f.Status == http.StatusTooManyRequests:
		code = "ratelimited"
	default:
		code = "internal_error"
	}
	if err := json.NewEncoder(w).Encode(object{"ok": false, "error": code}); err != nil {
		s.log.Debug("answering", "err", err)
	}
}

// errNoSuchSocket is returned when a fault for sockets finds none.
var errNoSuchSocket = errors.New("no socket is connected")

// DropSockets cuts every connection without a word, as a network does.
func (s *Server) DropSockets() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sockets {
		c.cut()
	}
}

// StallSockets makes every present connection a black hole: what is sent into
// it vanishes and what comes out of it is not read, pings included, but it stays
// registered and gets its share of envelopes. DropSockets ends that.
func (s *Server) StallSockets() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sockets {
		c.stalled.Store(true)
	}
}

// Disconnect sends every connection a disconnect of that reason ("warning",
// "refresh_requested", "link_disabled") and closes it soon after, as Slack does.
func (s *Server) Disconnect(reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sockets) == 0 {
		return errNoSuchSocket
	}
	for _, c := range s.sockets {
		s.retire(c, reason)
	}
	return nil
}

// Sockets is how many connections are registered.
func (s *Server) Sockets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sockets)
}
