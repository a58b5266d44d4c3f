package modal

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// maxCalls bounds the record of calls: the oldest go first.
const maxCalls = 10000

// A Call is one call that came in and was answered, refused ones included.
type Call struct {
	Method        string // as SandboxCreateV2
	Time          time.Time
	Sandbox, Name string // of the sandbox that it was about, if that is known
	Code          codes.Code
	Request       any // the message of the protocol; of a stream the first
}

type recorder struct {
	mu      sync.Mutex
	calls   []Call
	changed chan struct{} // closed and replaced at every call
}

func newRecorder() recorder { return recorder{changed: make(chan struct{})} }

func (r *recorder) note(c Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
	if len(r.calls) > maxCalls {
		r.calls = slices.Delete(r.calls, 0, len(r.calls)-maxCalls)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// Calls returns the calls of a method, or all if method is "", in the order in
// which they were answered.
func (s *Server) Calls(method string) []Call {
	s.recorder.mu.Lock()
	defer s.recorder.mu.Unlock()
	var list []Call
	for _, c := range s.recorder.calls {
		if method == "" || c.Method == method {
			list = append(list, c)
		}
	}
	return list
}

// WaitCalls waits until a method was answered at least n times and returns the
// calls.
func (s *Server) WaitCalls(ctx context.Context, method string, n int) ([]Call, error) {
	for {
		s.recorder.mu.Lock()
		changed := s.recorder.changed
		s.recorder.mu.Unlock()
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
