package doors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Resolver looks up the addresses of a host; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// EgressConfig joins the egress proxy to the network.
type EgressConfig struct {
	// Allow lists the hosts; an entry that is not well formed is logged and
	// allows nothing.
	Allow AllowList
	Log   *slog.Logger
	// Transferred is told how many bytes a connection or request carried from
	// and to the sandbox, once it has ended; nil for nobody.
	Transferred func(ctx context.Context, a Access, host string, sent, received int64)
	// Resolver and Dial reach the network; nil for the machine's own. Dial is
	// only called with addresses that were checked.
	Resolver Resolver
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	// Idle is how long a tunnel may stand still. Default: five minutes.
	Idle time.Duration
	// Total is how long one request or tunnel may last. Default: two hours.
	Total time.Duration
}

// Egress is the proxy through which a sandbox reaches the internet: CONNECT
// and absolute-form requests of HTTP/1.1, to listed hosts only (I13).
type Egress struct {
	c         EgressConfig
	allow     []allowEntry
	transport *http.Transport
}

const (
	lookupTime = 10 * time.Second
	dialTime   = 15 * time.Second
)

// NewEgress returns an egress proxy with the defaults filled in.
func NewEgress(c EgressConfig) *Egress {
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: dialTime}).DialContext
	}
	if c.Idle == 0 {
		c.Idle = 5 * time.Minute
	}
	if c.Total == 0 {
		c.Total = 2 * time.Hour
	}
	e := &Egress{c: c}
	for _, text := range c.Allow {
		entry, err := parseAllowed(text)
		if err != nil {
			c.Log.Warn("egress entry ignored", "err", err)
			continue
		}
		e.allow = append(e.allow, entry)
	}
	// Connections are not kept: a kept one would skip the check of the next.
	e.transport = &http.Transport{DialContext: e.dialChecked, DisableKeepAlives: true, DisableCompression: true,
		ResponseHeaderTimeout: c.Idle}
	return e
}

// blocked is a refusal because of the destination.
type blocked struct{ sentence string }

func (b *blocked) Error() string { return b.sentence }

func (e *Egress) open() bool { return e != nil }

func (e *Egress) serve(w http.ResponseWriter, r *http.Request, a Access) {
	ctx, cancel := context.WithTimeout(r.Context(), e.c.Total)
	defer cancel()
	r = r.WithContext(ctx)
	if r.Method == http.MethodConnect {
		e.connect(w, r, a)
		return
	}
	e.request(w, r, a)
}

// refuse answers with a plain sentence, which curl, npm and git show.
func (e *Egress) refuse(w http.ResponseWriter, _ *http.Request, status int, sentence string) {
	http.Error(w, sentence, status)
}

// destination checks host and port against the allow list.
func (e *Egress) destination(hostport, defaultPort string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(hostport)
	if err != nil {
		host, port = (&url.URL{Host: hostport}).Hostname(), defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", "", &blocked{fmt.Sprintf("egress refused: %q names no host and port", hostport)}
	}
	host = canonicalHost(host)
	if !slices.ContainsFunc(e.allow, func(entry allowEntry) bool { return entry.allows(host, uint16(n)) }) {
		return "", "", &blocked{fmt.Sprintf("egress refused: %s is not on the allow list of this deployment; "+
			"the operator can add it to EGRESS_ALLOW", net.JoinHostPort(host, port))}
	}
	return host, port, nil
}

// resolve returns the addresses of a host, all of which are public.
func (e *Egress) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	addrs := []netip.Addr{}
	if literal, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, literal)
	} else if addrs, err = e.c.Resolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, fmt.Errorf("looking up %s: %w", host, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("looking up %s: it has no address", host)
	}
	for i, a := range addrs {
		// Resolvers of the standard library return IPv4 in IPv6 clothing.
		if literal, err := netip.ParseAddr(host); err != nil || literal != a {
			addrs[i] = a.Unmap()
		}
		if !isPublic(addrs[i]) {
			return nil, &blocked{fmt.Sprintf("egress refused: %s has an address (%s) that is not of the public internet; "+
				"EGRESS_ALLOW cannot allow those", host, a)}
		}
	}
	return addrs, nil
}

// dialChecked resolves, checks and dials exactly what was checked.
func (e *Egress) dialChecked(ctx context.Context, network, hostport string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("reading the address %q: %w", hostport, err)
	}
	addrs, err := e.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, a := range addrs {
		dialCtx, cancel := context.WithTimeout(ctx, dialTime)
		conn, err := e.c.Dial(dialCtx, network, net.JoinHostPort(a.String(), port))
		cancel()
		if err == nil {
			return conn, nil
		}
		failures = append(failures, err)
	}
	return nil, fmt.Errorf("dialling %s: %w", hostport, errors.Join(failures...))
}

// failed answers for a destination that was refused or not reached.
func (e *Egress) failed(w http.ResponseWriter, r *http.Request, a Access, hostport string, err error) {
	if b, ok := errors.AsType[*blocked](err); ok {
		e.c.Log.Info("egress refused", "session", a.Session, "to", hostport, "reason", b.sentence)
		e.refuse(w, r, http.StatusForbidden, b.sentence)
		return
	}
	e.c.Log.Info("egress failed", "session", a.Session, "to", hostport, "err", err)
	e.refuse(w, r, http.StatusBadGateway, fmt.Sprintf("egress: %s cannot be reached at the moment", hostport))
}

// connect makes a tunnel.
func (e *Egress) connect(w http.ResponseWriter, r *http.Request, a Access) {
	host, port, err := e.destination(r.Host, "")
	if err != nil {
		e.failed(w, r, a, r.Host, err)
		return
	}
	up, err := e.dialChecked(r.Context(), "tcp", net.JoinHostPort(host, port))
	if err != nil {
		e.failed(w, r, a, r.Host, err)
		return
	}
	defer up.Close()
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		e.c.Log.Error("egress tunnel not opened", "session", a.Session, "err", err)
		e.refuse(w, r, http.StatusInternalServerError, "egress: this connection cannot become a tunnel")
		return
	}
	defer down.Close()
	if err := down.SetDeadline(time.Now().Add(e.c.Idle)); err != nil {
		return
	}
	if _, err := io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	early, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		return
	}
	// What follows is read from the connection itself: the server's reader
	// would take the end of one direction for the end of the request.
	sent, received := e.tunnel(r.Context(), up, down, io.MultiReader(bytes.NewReader(early), down))
	e.transferred(r.Context(), a, host, sent, received)
}

// tunnel copies both ways until both sides have ended, one has failed or been
// idle too long, or the context ends.
func (e *Egress) tunnel(ctx context.Context, up, down net.Conn, fromDown io.Reader) (sent, received int64) {
	stop := context.AfterFunc(ctx, func() { up.Close(); down.Close() })
	defer stop()
	moved := func() { // traffic in one direction keeps both alive
		deadline := time.Now().Add(e.c.Idle)
		_ = up.SetDeadline(deadline)
		_ = down.SetDeadline(deadline)
	}
	moved()
	var both sync.WaitGroup
	both.Go(func() { sent = carry(up, fromDown, moved, down) })
	both.Go(func() { received = carry(down, up, moved, up) })
	both.Wait()
	return sent, received
}

// carry copies until src ends, then closes dst for writing, so that a half
// closed connection stays one; on failure it closes both.
func carry(dst net.Conn, src io.Reader, moved func(), srcConn net.Conn) int64 {
	var total int64
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			moved()
			written, err := dst.Write(buf[:n])
			total += int64(written)
			if err != nil {
				break
			}
		}
		if errors.Is(err, io.EOF) {
			if half, ok := dst.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				return total
			}
			break
		}
		if err != nil {
			break
		}
	}
	dst.Close()
	srcConn.Close()
	return total
}

func (e *Egress) transferred(ctx context.Context, a Access, host string, sent, received int64) {
	if e.c.Transferred != nil {
		e.c.Transferred(context.WithoutCancel(ctx), a, host, sent, received)
	}
}

// request forwards one absolute-form request over plain HTTP.
func (e *Egress) request(w http.ResponseWriter, r *http.Request, a Access) {
	if r.URL.Scheme != "http" {
		e.refuse(w, r, http.StatusBadRequest, "egress: use CONNECT for "+r.URL.Scheme)
		return
	}
	host, port, err := e.destination(r.URL.Host, "80")
	if err != nil {
		e.failed(w, r, a, r.URL.Host, err)
		return
	}
	body := &countingReader{r: newPatientBody(w, r, e.c.Idle, e.c.Total, maxEgressBody)}
	up := r.Clone(r.Context())
	up.RequestURI, up.Host = "", r.URL.Host
	up.URL.Host, up.URL.User = net.JoinHostPort(host, port), nil
	up.Body = io.NopCloser(body)
	if r.ContentLength == 0 {
		up.Body = http.NoBody
	}
	dropHopByHop(up.Header)
	res, err := e.transport.RoundTrip(up)
	if err != nil {
		e.failed(w, r, a, r.URL.Host, err)
		return
	}
	defer res.Body.Close()
	dropHopByHop(res.Header)
	for name, values := range res.Header {
		w.Header()[name] = values
	}
	out := &patientWriter{w: w, rc: http.NewResponseController(w), idle: e.c.Idle}
	defer out.finish()
	w.WriteHeader(res.StatusCode)
	received, err := io.Copy(out, newIdleReader(res.Body, e.c.Idle))
	e.transferred(r.Context(), a, host, body.n.Load(), received)
	if err != nil {
		panic(http.ErrAbortHandler) // a clean end would look like a whole answer
	}
}
