package supervisor

import (
	"bufio"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"openinspect/sandbox"
)

// gateway is what a box sees of the world: one loopback address that forwards
// to the control plane's doors and adds the box's own credential, so that no
// other process in the box needs it. Paths below /git/, /model/ and /mcp/ go to the
// doors of these names, proxy requests (CONNECT, and absolute addresses) to the
// egress proxy, /mcp is the supervisor's own tools for the agent, and gatePath
// where OpenCode waits until the repository is up to date. What is pushed is noted
// on the way.
type gateway struct {
	control sandbox.Control
	token   string
	tools   http.Handler // served at /mcp to who knows toolKey
	gate    http.Handler // served at gatePath
	toolKey string
	// held returns a channel while the model must not be asked: until it is closed.
	held    func() <-chan struct{}
	log     *slog.Logger
	pushes  pushes
	priming atomic.Bool // OpenCode is being primed: its requests to the model are answered here

	modelSaid atomic.Int64 // when a model said something last, in nanoseconds of Unix time

	doors     *httputil.ReverseProxy
	models    *httputil.ReverseProxy // as doors; see wholeCalls
	egress    *httputil.ReverseProxy
	splices   sync.WaitGroup
	ended     chan struct{} // closed when serve ends
	transport *http.Transport
	listener  net.Listener
}

func newGateway(control sandbox.Control, token, toolKey, addr string, log *slog.Logger) (*gateway, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening for the gateway: %w", err)
	}
	g := &gateway{control: control, token: token, toolKey: toolKey, log: log, listener: l, ended: make(chan struct{}),
		held: func() <-chan struct{} { return nil }}
	g.transport = control.Transport()
	g.transport.DialContext = g.dial
	said := slog.NewLogLogger(log.Handler(), slog.LevelInfo)
	g.doors = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(control.URL)
			g.sign(r)
		},
		Transport: g.transport, FlushInterval: -1, ErrorHandler: g.unreachable, ErrorLog: said,
	}
	models := *g.doors
	models.ModifyResponse = g.holdCalls
	g.models = &models
	through := control.Transport()
	through.DialContext = g.dial
	through.Proxy = http.ProxyURL(control.URL)
	g.egress = &httputil.ReverseProxy{
		Rewrite:   g.sign,
		Transport: through, FlushInterval: -1, ErrorHandler: g.unreachable, ErrorLog: said,
	}
	return g, nil
}

// sign puts the box's credential on a request, whatever was there before.
func (g *gateway) sign(r *httputil.ProxyRequest) { r.Out.Header.Set(sandbox.TokenHeader, g.token) }

// url is the gateway's address as processes in the box use it.
func (g *gateway) url() string { return "http://" + g.listener.Addr().String() }

// serve runs until ctx ends.
func (g *gateway) serve(ctx context.Context) error {
	server := &http.Server{
		Handler: g, ReadHeaderTimeout: 30 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := server.Serve(g.listener)
	close(g.ended)
	g.splices.Wait()
	g.transport.CloseIdleConnections()
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving the gateway: %w", err)
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Without this the server may end a request's body once the answer begins, under
	// the hands of the proxy that still reads its end, and the proxy then breaks a
	// quick answer off ("read error during body copy"). HTTP/1.1 alone has it.
	_ = http.NewResponseController(w).EnableFullDuplex()
	switch {
	case r.Method == http.MethodConnect:
		g.connect(w, r)
	case r.URL.Host != "":
		g.egress.ServeHTTP(w, r)
	case strings.HasPrefix(r.URL.Path, "/git/"):
		if err := g.notePush(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		g.doors.ServeHTTP(w, r)
	case strings.HasPrefix(r.URL.Path, "/model/") && g.priming.Load():
		answerReady(w, r)
	case strings.HasPrefix(r.URL.Path, "/model/"):
		if held := g.held(); held != nil {
			g.hold(w, r, held)
			return
		}
		g.models.ServeHTTP(w, r)
	case strings.HasPrefix(r.URL.Path, sandbox.ToolsPath):
		g.doors.ServeHTTP(w, r)
	case r.URL.Path == gatePath:
		g.gate.ServeHTTP(w, r)
	case r.URL.Path == "/mcp":
		key := []byte("Bearer " + g.toolKey)
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), key) != 1 {
			http.Error(w, "the agent's key is missing", http.StatusUnauthorized)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, mostToolRequest)
		g.tools.ServeHTTP(w, r)
	default:
		http.Error(w, "the sandbox's gateway serves /git/, /model/ and proxy requests", http.StatusNotFound)
	}
}

// mostToolRequest bounds one request of the agent to the supervisor's tools, in bytes.
// Files are named in it, not contained.
const mostToolRequest = 4 << 20

// hold keeps a request to the model from being made. Whoever made it is about to
// be interrupted, and better waits for that than fails.
func (g *gateway) hold(w http.ResponseWriter, r *http.Request, until <-chan struct{}) {
	select {
	case <-until:
	case <-r.Context().Done():
	case <-g.ended:
	}
	http.Error(w, "the turn has ended", http.StatusServiceUnavailable)
}

func (g *gateway) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		g.log.Warn("the control plane did not answer the gateway", "path", r.URL.Path, "err", err)
	}
	http.Error(w, "the control plane cannot be reached from the sandbox at the moment", http.StatusBadGateway)
}

// connect asks the egress proxy for a tunnel and joins both ends.
func (g *gateway) connect(w http.ResponseWriter, r *http.Request) {
	up, err := g.dialControl(r.Context())
	if err != nil {
		g.unreachable(w, r, err)
		return
	}
	defer up.Close()
	ask := &http.Request{
		Method: http.MethodConnect, Host: r.Host,
		URL:    &url.URL{Opaque: r.Host},
		Header: http.Header{sandbox.TokenHeader: {g.token}},
	}
	_ = up.SetDeadline(time.Now().Add(30 * time.Second))
	if err := ask.Write(up); err != nil {
		g.unreachable(w, r, err)
		return
	}
	fromUp := bufio.NewReader(up)
	resp, err := http.ReadResponse(fromUp, ask)
	if err != nil {
		g.unreachable(w, r, err)
		return
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, io.LimitReader(resp.Body, 64<<10))
		return
	}
	_ = up.SetDeadline(time.Time{})
	g.splice(w, up, fromUp)
}

// A control plane that is being started again is waited for: nothing was said
// to it yet, so nobody has to notice. What it was in the middle of is broken.
const (
	controlPatience = 45 * time.Second
	controlPause    = 100 * time.Millisecond
)

// dial reaches the control plane's listener, if need be when it is back.
func (g *gateway) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	for {
		conn, err := g.dialOnce(ctx, network, addr)
		if err == nil || !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT) {
			return conn, err
		}
		select {
		case <-g.ended:
			return nil, err
		case <-ctx.Done():
			return nil, err
		case <-time.After(controlPause):
		}
	}
}

func (g *gateway) dialOnce(ctx context.Context, network, addr string) (net.Conn, error) {
	if g.control.Dial != nil {
		return g.control.Dial(ctx, network, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// dialControl opens a connection that speaks HTTP/1.1 to the control plane.
func (g *gateway) dialControl(ctx context.Context) (net.Conn, error) {
	u := g.control.URL
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	conn, err := g.dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil || u.Scheme != "https" {
		return conn, err
	}
	secured := tls.Client(conn, &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}})
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

// splice copies in both directions until both ends are done or the gateway ends.
func (g *gateway) splice(w http.ResponseWriter, up net.Conn, fromUp io.Reader) {
	down, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "tunnels need HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	g.splices.Add(1)
	defer g.splices.Done()
	defer down.Close()
	if _, err := io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(up, buf); closeWrite(up) })
	both.Go(func() { _, _ = io.Copy(down, fromUp); closeWrite(down) })
	copied := make(chan struct{})
	g.splices.Go(func() { both.Wait(); close(copied) })
	// Not the request's context: that ends when the client has said its last
	// word, and the answer to it is still to come.
	select {
	case <-copied:
	case <-g.ended:
		down.Close()
		up.Close()
		<-copied
	}
}

// closeWrite tells the peer that nothing more comes, if the connection can.
func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	c.Close()
}
