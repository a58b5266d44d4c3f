package model

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// FaultKind names a way in which a provider fails.
type FaultKind string

// The faults, as real providers show them.
const (
	Unauthorized  FaultKind = "unauthorized"   // 401
	RateLimited   FaultKind = "rate-limited"   // 429 with Retry-After
	Unavailable   FaultKind = "unavailable"    // 503
	ContextLength FaultKind = "context-length" // 400: the prompt is too long for the model
	Hang          FaultKind = "hang"           // no byte is answered
	Stall         FaultKind = "stall"          // the stream stops and stays open
	Cut           FaultKind = "cut"            // the connection ends within the stream
	StreamError   FaultKind = "stream-error"   // the stream ends with an error event
)

// early faults take the place of the reply, the others interrupt its stream.
func (k FaultKind) early() bool {
	return k == Unauthorized || k == RateLimited || k == Unavailable || k == ContextLength || k == Hang
}

func (k FaultKind) known() bool {
	return k.early() || k == Stall || k == Cut || k == StreamError
}

// Fault makes requests fail.
type Fault struct {
	Kind FaultKind
	// Match restricts it to prompts that contain this text; "" is every request.
	Match string
	// Times is how many requests fail; 0 means until Clear.
	Times int
	// RetryAfter is what a RateLimited answer asks for.
	RetryAfter time.Duration
	// After is how many chunks are streamed before Stall, Cut or StreamError.
	After int
}

// Inject adds a fault; of several that apply to a request the oldest is used.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Clear removes all faults and ends the requests that hang or stall.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
	close(s.released)
	s.released = make(chan struct{})
}

func (s *Server) release() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.released
}

func (s *Server) takeFault(prompt string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if !strings.Contains(prompt, f.Match) {
			continue
		}
		taken := *f
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			}
		}
		return &taken
	}
	return nil
}

// status is what a fault's answer carries, 200 for faults within the stream
// and 0 for no answer at all.
func (k FaultKind) status() int {
	switch k {
	case Unauthorized:
		return http.StatusUnauthorized
	case RateLimited:
		return http.StatusTooManyRequests
	case Unavailable:
		return http.StatusServiceUnavailable
	case ContextLength:
		return http.StatusBadRequest
	case Hang:
		return 0
	}
	return http.StatusOK
}

// fail answers with an early fault.
func (s *Server) fail(w http.ResponseWriter, c served, f *Fault) {
	status := f.Kind.status()
	switch f.Kind {
	case Unauthorized:
		c.protocol.refuse(w, status, "authentication_error", "Incorrect API key provided.")
	case RateLimited:
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
		c.protocol.refuse(w, status, "rate_limit_error", "Rate limit reached for requests.")
	case Unavailable:
		c.protocol.refuse(w, status, "overloaded_error", "The server is overloaded or not ready yet.")
	case ContextLength:
		c.protocol.refuse(w, status, "context_length_exceeded", c.protocol.tooLong())
	case Hang:
		select {
		case <-c.r.Context().Done():
		case <-s.release():
		}
		panic(http.ErrAbortHandler)
	}
}

var (
	errCut   = errors.New("the connection is cut by a fault")
	errEnded = errors.New("the stream is ended by a fault")
)

// emitter writes the chunks of one stream, in their pace, until its fault.
type emitter struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	pace     time.Duration
	fault    *Fault
	protocol protocol
	released <-chan struct{}
	sent     int
}

// send writes one chunk and flushes it. Its error ends the stream.
func (e *emitter) send(ctx context.Context, chunk []byte) error {
	if e.fault != nil && e.sent >= e.fault.After {
		return e.interrupt(ctx)
	}
	if e.pace > 0 && e.sent > 0 {
		select {
		case <-time.After(e.pace):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if _, err := e.w.Write(chunk); err != nil {
		return fmt.Errorf("writing a chunk: %w", err)
	}
	e.sent++
	return e.rc.Flush()
}

func (e *emitter) interrupt(ctx context.Context) error {
	switch e.fault.Kind {
	case Stall:
		if err := e.rc.Flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-e.released:
		}
	case StreamError:
		if _, err := e.w.Write(e.protocol.inStream("overloaded_error", "Overloaded")); err != nil {
			return err
		}
		return errEnded
	}
	return errCut
}
