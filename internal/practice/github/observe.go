package github

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keepCalls bounds the record of calls.
const keepCalls = 1000

// Fault makes requests go wrong. Those that match the Method and begin with
// the Path are hit, Times of them.
type Fault struct {
	Method string // "" for any
	Path   string // prefix, e.g. /api/v3/repos/acme/greeter/pulls
	Times  int    // 0 means 1

	Latency    time.Duration // first wait so long
	Apply      bool          // then let the request have its effect, but not its answer
	Status     int           // answer with this status; or
	Redirect   string        // with a redirect to this address; or
	Cut        bool          // close the connection without an answer. None: answer as usual
	Message    string        // of the error's body
	RetryAfter time.Duration // sets Retry-After, in whole seconds
	Limited    bool          // say that the rate limit is used up (with Status 403 or 429)
}

// Call is one request that was made.
type Call struct {
	At     time.Time
	Method string
	Path   string // without the query
	Caller string // a login, app, installation or anonymous
	Status int    // that was sent; 0 if the connection was cut
}

// observations are what Inject, Calls and their like work with, under the server's mutex.
type observations struct {
	faults []*Fault
	calls  []Call
}

// Inject makes the next matching requests go wrong. Several faults that match
// one request hit in the order in which they were injected, one request each.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Times = max(f.Times, 1)
	s.observed.faults = append(s.observed.faults, &f)
}

// ClearFaults ends all faults, and returns how many hits they had left.
func (s *Server) ClearFaults() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := 0
	for _, f := range s.observed.faults {
		left += f.Times
	}
	s.observed.faults = nil
	return left
}

// Calls returns the last requests, oldest first, at most a thousand.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.observed.calls)
}

// fault takes the fault that hits a request, if any.
func (s *Server) fault(r *http.Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.observed.faults {
		if (f.Method == "" || f.Method == r.Method) && strings.HasPrefix(r.URL.Path, f.Path) {
			if f.Times--; f.Times == 0 {
				s.observed.faults = slices.Delete(s.observed.faults, i, i+1)
			}
			hit := *f
			return &hit
		}
	}
	return nil
}

func (s *Server) record(c Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.observed.calls) == keepCalls {
		s.observed.calls = slices.Delete(s.observed.calls, 0, 1)
	}
	s.observed.calls = append(s.observed.calls, c)
}

type callerKey struct{}

// noteCaller tells observe who makes the request.
func noteCaller(ctx context.Context, name string) {
	if to, isSet := ctx.Value(callerKey{}).(*string); isSet {
		*to = name
	}
}

// observe records every request and lets faults hit.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "anonymous"
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, &who))
		seen := &statusWriter{ResponseWriter: w}
		began := s.now()
		defer func() {
			s.record(Call{At: began, Method: r.Method, Path: r.URL.Path, Caller: who, Status: seen.status})
		}()
		f := s.fault(r)
		if f == nil {
			next.ServeHTTP(seen, r)
			return
		}
		f.strike(seen, r, next)
	})
}

// strike answers a request as the fault wants.
func (f *Fault) strike(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if f.Latency > 0 {
		readAhead(r)
		wait := time.NewTimer(f.Latency)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.Context().Done():
			return
		}
	}
	if f.Redirect != "" {
		http.Redirect(w, r, f.Redirect, http.StatusTemporaryRedirect)
		return
	}
	if f.Status == 0 && !f.Cut {
		next.ServeHTTP(w, r)
		return
	}
	if f.Apply {
		next.ServeHTTP(unheard{http.Header{}}, r)
	}
	if f.Cut {
		panic(http.ErrAbortHandler)
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
	}
	if f.Limited {
		w.Header().Set("X-RateLimit-Limit", "5000")
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(f.RetryAfter).Unix(), 10))
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(f.Status)
	message := f.Message
	if message == "" {
		message = http.StatusText(f.Status)
	}
	w.Write([]byte(`{"message":` + strconv.Quote(message) + `,"documentation_url":"https://docs.github.com/rest"}`))
}

// readAhead reads a body of known and small size, without which the server
// does not notice that the caller hangs up.
func readAhead(r *http.Request) {
	if r.ContentLength < 0 || r.ContentLength > maxBody {
		return
	}
	data, err := io.ReadAll(r.Body)
	if err == nil {
		r.Body = io.NopCloser(bytes.NewReader(data))
	}
}

// statusWriter remembers the status that was sent.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status and passes it on.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write passes on; without a status before, it is 200.
func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// unheard takes an answer that nobody gets.
type unheard struct{ header http.Header }

// Header is for the handler alone.
func (u unheard) Header() http.Header { return u.header }

// Write forgets.
func (u unheard) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader forgets.
func (u unheard) WriteHeader(int) {}
