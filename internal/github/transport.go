package github

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// requestTimeout bounds every request, with reading its answer.
const requestTimeout = 20 * time.Second

var errSlow = errors.New("GitHub did not answer in time")

// newHTTPClient follows redirects (of renamed repositories) on one host only:
// go-github would send the token along to any.
func newHTTPClient() *http.Client {
	return &http.Client{
		Transport: &timed{http.DefaultTransport.(*http.Transport).Clone(), requestTimeout},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme || len(via) > 5 {
				return errors.New("not following a redirect to another host")
			}
			return nil
		},
	}
}

// timed bounds requests in time. http.Client's own Timeout would leave a timer
// and a goroutine behind for each refusal, since go-github reads the bodies of
// refusals to their end but does not close them.
type timed struct {
	next  *http.Transport
	limit time.Duration
}

// RoundTrip sends a request; a deadline of its own is errSlow, not the caller's.
func (t *timed) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), t.limit, errSlow)
	resp, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		err = ownDeadline(ctx, err)
		cancel()
		return nil, err
	}
	resp.Body = &timedBody{resp.Body, ctx, cancel}
	return resp, nil
}

// CloseIdleConnections lets the client's method of that name reach the transport.
func (t *timed) CloseIdleConnections() { t.next.CloseIdleConnections() }

func ownDeadline(ctx context.Context, err error) error {
	if context.Cause(ctx) == errSlow {
		return errSlow
	}
	return err
}

// timedBody ends the deadline with the body. Its context is that of one
// request, whose answer it is.
type timedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelFunc
}

// Read reads, and ends the deadline at the end.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = ownDeadline(b.ctx, err)
	}
	if err != nil {
		b.cancel()
	}
	return n, err
}

// Close closes and ends the deadline.
func (b *timedBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}
