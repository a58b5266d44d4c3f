package doors

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// errTooLarge ends a request body that is over its limit.
var errTooLarge = errors.New("the request body is over its limit")

// patientBody reads a request body that may be large and slow but must move:
// each read has until idle, all of them together until end, and at most limit bytes.
type patientBody struct {
	body  io.Reader
	rc    *http.ResponseController
	idle  time.Duration
	end   time.Time
	limit int64
}

// newPatientBody is the body of a request that has to arrive within total.
func newPatientBody(w http.ResponseWriter, r *http.Request, idle, total time.Duration, limit int64) *patientBody {
	return &patientBody{body: r.Body, rc: http.NewResponseController(w), idle: idle, end: time.Now().Add(total), limit: limit}
}

func (b *patientBody) Read(p []byte) (int, error) {
	if b.limit <= 0 {
		// One more byte tells a body that ends at the limit from a larger one.
		if n, err := b.body.Read(p[:min(1, len(p))]); n == 0 {
			return 0, err
		}
		return 0, errTooLarge
	}
	if int64(len(p)) > b.limit {
		p = p[:b.limit]
	}
	deadline := time.Now().Add(b.idle)
	if deadline.After(b.end) {
		deadline = b.end
	}
	_ = b.rc.SetReadDeadline(deadline) // not every writer has deadlines
	n, err := b.body.Read(p)
	b.limit -= int64(n)
	if err != nil && time.Now().Before(b.end) {
		// The server goes on reading in the background to notice a client that
		// leaves; a deadline left behind would look like one.
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// patientWriter writes a response that must move and flushes every write.
type patientWriter struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	idle time.Duration
}

func (p *patientWriter) Write(data []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(p.idle))
	n, err := p.w.Write(data)
	if err != nil {
		return n, err
	}
	return n, p.rc.Flush()
}

// finish removes the deadline, which would outlive the request on a kept
// connection.
func (p *patientWriter) finish() { _ = p.rc.SetWriteDeadline(time.Time{}) }

// idleReader closes an upstream's body when it sends nothing for idle.
type idleReader struct {
	body  io.ReadCloser
	idle  time.Duration
	timer *time.Timer
}

func newIdleReader(body io.ReadCloser, idle time.Duration) *idleReader {
	return &idleReader{body: body, idle: idle, timer: time.AfterFunc(idle, func() { body.Close() })}
}

func (r *idleReader) Read(p []byte) (int, error) {
	r.timer.Reset(r.idle)
	defer r.timer.Stop() // a slow reader of ours is not a silent upstream
	return r.body.Read(p)
}

// Close ends the watch and the body.
func (r *idleReader) Close() error {
	r.timer.Stop()
	return r.body.Close()
}

// atOnce lets each session do a few things at a time; the rest wait.
type atOnce struct {
	most int

	mu       sync.Mutex
	sessions map[string]*turns
}

type turns struct {
	taken chan struct{}
	users int // that have a turn, or wait for one
}

func newAtOnce(most int) *atOnce { return &atOnce{most: most, sessions: map[string]*turns{}} }

// take waits for a turn, which done ends. It returns nil if the context ended before.
func (a *atOnce) take(ctx context.Context, session string) (done func()) {
	a.mu.Lock()
	t := a.sessions[session]
	if t == nil {
		t = &turns{taken: make(chan struct{}, a.most)}
		a.sessions[session] = t
	}
	t.users++
	a.mu.Unlock()
	leave := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(a.sessions, session)
		}
	}
	select {
	case t.taken <- struct{}{}:
		return sync.OnceFunc(func() { <-t.taken; leave() })
	case <-ctx.Done():
		leave()
		return nil
	}
}

// limits holds one rate limiter for each session.
type limits struct {
	every rate.Limit
	burst int

	mu       sync.Mutex
	sessions map[string]*rate.Limiter
}

// maxIdleLimiters is how many limiters are kept before the rested ones go.
const maxIdleLimiters = 1024

func newLimits(perSecond float64, burst int) *limits {
	return &limits{every: rate.Limit(perSecond), burst: burst, sessions: map[string]*rate.Limiter{}}
}

func (l *limits) of(session string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) >= maxIdleLimiters {
		for id, rested := range l.sessions {
			if rested.Tokens() >= float64(l.burst) {
				delete(l.sessions, id)
			}
		}
	}
	limiter := l.sessions[session]
	if limiter == nil {
		limiter = rate.NewLimiter(l.every, l.burst)
		l.sessions[session] = limiter
	}
	return limiter
}

// copyHeaders copies the listed headers and no others.
func copyHeaders(dst, src http.Header, names []string) {
	for _, name := range names {
		if values := src.Values(name); len(values) > 0 {
			dst[http.CanonicalHeaderKey(name)] = values
		}
	}
}
