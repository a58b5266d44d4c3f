package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"openinspect/sessions"
)

// What runs in a sandbox and serves on a port is not ours, and what it serves may
// attack who looks at it. So each port has an origin of its own. A person is sent
// there from the pages with a ticket that is good once, which is exchanged for a
// cookie of that host alone. The program gets neither our cookie nor any header of
// ours, requests that other origins cause are refused, and it cannot set cookies for
// other hosts. A script of its can, for the domain above: our cookies are bound to their
// hosts by name (__Host-), and README advises a domain that serves nothing else.

// Paths on a port's origin that are ours.
const (
	portPaths = "/.openinspect/"
	enterPath = portPaths + "enter"   // takes a ticket
	stayPath  = portPaths + "entered" // sees that the browser kept the cookie
)

// addressLife is for how long the address of a port is used without asking for it.
const addressLife = time.Minute

// portProxy passes requests on to ports of sandboxes.
type portProxy struct {
	proxy     *httputil.ReverseProxy
	transport *http.Transport

	mu        sync.Mutex
	addresses map[portKey]portAddress
}

type portKey struct {
	session string
	port    int
}

// portAddress is where a port is reached, as long as the box lives.
type portAddress struct {
	url    *url.URL
	header http.Header
	box    string
	until  time.Time
}

// visitKey is the context's key for the visit that a request is part of.
type visitKey struct{}

// visit is one person's use of one port.
type visit struct {
	portKey
	person  sessions.Person
	secret  string
	address portAddress
}

func (s *Server) newPortProxy() *portProxy {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	p := &portProxy{transport: transport, addresses: make(map[portKey]portAddress)}
	p.proxy = &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Rewrite: s.rewriteForPort, ModifyResponse: s.rewriteFromPort, ErrorHandler: s.portDoesNotAnswer,
	}
	return p
}

// openPort sends the viewer to a port of a session, with a ticket.
func (s *Server) openPort(w http.ResponseWriter, r *http.Request, v viewer) error {
	port, err := strconv.Atoi(r.PathValue("port"))
	if err != nil || s.ports == nil {
		return errNoPage
	}
	session := r.PathValue("id")
	ticket, err := s.engine.PortTicket(r.Context(), v.secret, session, port)
	if errors.Is(err, sessions.ErrNotFound) {
		return errNoSession
	}
	if err != nil {
		return err
	}
	to := url.Values{"ticket": {ticket}, "to": {localPath(r.URL.Query().Get("to"))}}
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, s.ports.origin(session, port)+enterPath+"?"+to.Encode(), http.StatusSeeOther)
	return nil
}

// servePorts serves the hosts of ports.
func (s *Server) servePorts(w http.ResponseWriter, r *http.Request) {
	session, port, ok := s.ports.parse(r.Host)
	if !ok {
		http.NotFound(w, r)
		return
	}
	key := portKey{session, port}
	if err := s.servePort(w, r, key); err != nil && r.Context().Err() == nil {
		f := explain(err)
		if f.code == "internal" {
			s.log.Error("a port could not be served", "session", session, "port", port, "err", err)
		}
		s.refusePort(w, r, key, f)
	}
}

func (s *Server) servePort(w http.ResponseWriter, r *http.Request, key portKey) error {
	switch r.URL.Path {
	case enterPath:
		return s.enterPort(w, r, key)
	case stayPath:
		return s.stayAtPort(w, r, key)
	}
	if !causedHere(r) {
		return &failure{status: http.StatusForbidden, code: "cross_origin", text: "Another site may not use this one."}
	}
	v, err := s.visitor(r, key)
	if errors.Is(err, errSignedOut) && navigates(r) {
		s.sendToSignIn(w, r, key)
		return nil
	}
	if err != nil {
		return err
	}
	if v.address, err = s.addressOf(r.Context(), key); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), visitKey{}, &v))
	defer cancel()
	stop := s.keepVisit(ctx, v, cancel)
	defer stop()
	s.portProxy.proxy.ServeHTTP(w, r.WithContext(ctx))
	return nil
}

// navigates says whether the browser goes to a page, so that it can be sent elsewhere.
func navigates(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Upgrade") == "" &&
		(r.Header.Get("Sec-Fetch-Mode") == "navigate" || r.Header.Get("Sec-Fetch-Mode") == "")
}

// causedHere says whether a request was caused by the port's own origin or by a
// person. Browsers count all subdomains as one site and send cookies along, so that
// what serves on another port could otherwise use this one.
func causedHere(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return true
	case "same-site", "cross-site":
		return navigates(r) && r.Header.Get("Sec-Fetch-Dest") == "document" // a link
	}
	origin := r.Header.Get("Origin") // of a WebSocket, for instance
	if origin == "" {
		return r.Header.Get("Upgrade") == ""
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// portCookie is the name of the cookie that opens a port.
func (s *Server) portCookie() string {
	if s.ports.scheme == "https" {
		return "__Host-openinspect-port"
	}
	return "openinspect-port"
}

// sendToSignIn sends the person to the pages and from there back, with a ticket.
func (s *Server) sendToSignIn(w http.ResponseWriter, r *http.Request, key portKey) {
	to := fmt.Sprintf("%s/sessions/%s/ports/%d?to=%s", s.cfg.PublicURL, key.session, key.port, url.QueryEscape(localPath(r.URL.RequestURI())))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// enterPort exchanges the ticket for a cookie.
func (s *Server) enterPort(w http.ResponseWriter, r *http.Request, key portKey) error {
	secret, err := s.engine.EnterPort(r.Context(), r.URL.Query().Get("ticket"), key.session, key.port)
	if errors.Is(err, sessions.ErrNotFound) {
		return &failure{status: http.StatusForbidden, code: "stale_ticket", text: "This link was used before or is too old. Open the port from the session's page."}
	}
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{Name: s.portCookie(), Value: secret, Path: "/", HttpOnly: true,
		Secure: s.ports.scheme == "https", SameSite: http.SameSiteLaxMode, MaxAge: int(sessions.LoginIdle / time.Second)})
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, stayPath+"?to="+url.QueryEscape(localPath(r.URL.Query().Get("to"))), http.StatusSeeOther)
	return nil
}

// stayAtPort goes on to the program if the browser kept the cookie. Otherwise the
// person would be sent around in a circle.
func (s *Server) stayAtPort(w http.ResponseWriter, r *http.Request, key portKey) error {
	if _, err := s.visitor(r, key); errors.Is(err, errSignedOut) {
		return &failure{status: http.StatusForbidden, code: "no_cookie", text: "Your browser did not keep the cookie that opens this port. Allow cookies for this address and open it again."}
	} else if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, localPath(r.URL.Query().Get("to")), http.StatusSeeOther)
	return nil
}

// visitor finds out who asks; errSignedOut if nobody does who may.
func (s *Server) visitor(r *http.Request, key portKey) (visit, error) {
	c, err := r.Cookie(s.portCookie())
	if err != nil || c.Value == "" {
		return visit{}, errSignedOut
	}
	v := visit{portKey: key, secret: c.Value}
	v.person, err = s.engine.PortVisitor(r.Context(), c.Value, key.session, key.port)
	if errors.Is(err, sessions.ErrNotFound) {
		return v, errSignedOut
	}
	if err != nil {
		return v, err
	}
	return v, s.stillMember(r.Context(), v.person)
}

// keepVisit ends long requests, WebSockets above all, once the person may not see
// the port any more. stop ends the watch.
func (s *Server) keepVisit(ctx context.Context, v visit, end context.CancelFunc) (stop func() bool) {
	var timer *time.Timer
	var mu sync.Mutex // the first look may come before timer is set
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(s.timing.authorise, func() {
		if ctx.Err() != nil {
			return
		}
		_, err := s.engine.PortVisitor(ctx, v.secret, v.session, v.port)
		if errors.Is(err, sessions.ErrNotFound) {
			end()
			return
		}
		mu.Lock()
		defer mu.Unlock()
		timer.Reset(s.timing.authorise)
	})
	return timer.Stop
}

// addressOf finds where a port is reached, asking the provider once in a while.
func (s *Server) addressOf(ctx context.Context, key portKey) (portAddress, error) {
	box, err := s.engine.LiveBox(ctx, key.session)
	if err != nil {
		return portAddress{}, err
	}
	p := s.portProxy
	p.mu.Lock()
	a, known := p.addresses[key]
	p.mu.Unlock()
	if known && a.box == box && time.Now().Before(a.until) {
		return a, nil
	}
	address, header, box, err := s.engine.PortAddress(ctx, key.session, key.port)
	if err != nil {
		return a, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return a, fmt.Errorf("reading the address of a port: %w", err)
	}
	a = portAddress{url: u, header: header, box: box, until: time.Now().Add(addressLife)}
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, old := range p.addresses {
		if old.until.Before(time.Now()) {
			delete(p.addresses, other)
		}
	}
	p.addresses[key] = a
	return a, nil
}

// forget has the provider asked again.
func (p *portProxy) forget(key portKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.addresses, key)
}

// inside is how the program is called within the sandbox. Programs that refuse
// strange hosts and origins, as development servers do, know themselves by it.
func (k portKey) inside() string { return "localhost:" + strconv.Itoa(k.port) }

// rewriteForPort makes the request that the program gets.
func (s *Server) rewriteForPort(r *httputil.ProxyRequest) {
	v := r.In.Context().Value(visitKey{}).(*visit)
	r.SetURL(v.address.url)
	r.Out.Host = v.inside()
	h := r.Out.Header
	keepCookies(h, s.portCookie())
	for name := range h {
		if strings.HasPrefix(name, "Openinspect-") {
			h.Del(name)
		}
	}
	own := s.ports.origin(v.session, v.port)
	if h.Get("Origin") == own {
		h.Set("Origin", "http://"+v.inside())
	}
	if rest, ok := strings.CutPrefix(h.Get("Referer"), own); ok {
		h.Set("Referer", "http://"+v.inside()+rest)
	} else {
		h.Del("Referer") // it would tell of the pages
	}
	for name, values := range v.address.header { // last: it is what the way needs
		h[name] = values
		if name == "Host" {
			r.Out.Host = values[0]
		}
	}
}

// keepCookies removes the cookie that is ours from those of a request.
func keepCookies(h http.Header, ours string) {
	var rest []string
	for _, line := range h.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.TrimSpace(pair)
			if name, _, _ := strings.Cut(pair, "="); pair != "" && name != ours {
				rest = append(rest, pair)
			}
		}
	}
	h.Del("Cookie")
	if len(rest) > 0 {
		h.Set("Cookie", strings.Join(rest, "; "))
	}
}

// errGateway: a provider's own gateway stands before the program and could not
// reach it. What it says of that is its own wording, in its own format.
var errGateway = errors.New("the provider's gateway does not reach it")

// rewriteFromPort makes the answer that the browser gets: cookies of this host only,
// and redirections that stay here.
func (s *Server) rewriteFromPort(resp *http.Response) error {
	v := resp.Request.Context().Value(visitKey{}).(*visit)
	if resp.StatusCode == http.StatusBadGateway && len(v.address.header) > 0 {
		return errGateway
	}
	cookies := resp.Cookies()
	resp.Header.Del("Set-Cookie")
	for _, c := range cookies {
		if c.Name == s.portCookie() {
			continue
		}
		c.Domain = ""
		if line := c.String(); line != "" {
			resp.Header.Add("Set-Cookie", line)
		}
	}
	if u, err := url.Parse(resp.Header.Get("Location")); err == nil && (u.Host == v.inside() || u.Host == v.address.url.Host) {
		u.Scheme, u.Host = "", ""
		resp.Header.Set("Location", localPath(u.String()))
	}
	return nil
}

// portDoesNotAnswer says that the program does not answer.
func (s *Server) portDoesNotAnswer(w http.ResponseWriter, r *http.Request, err error) {
	v := r.Context().Value(visitKey{}).(*visit)
	if r.Context().Err() != nil {
		return // who asked is gone
	}
	s.portProxy.forget(v.portKey)
	s.log.Info("a port does not answer", "session", v.session, "port", v.port, "err", err)
	s.refusePort(w, r, v.portKey, &failure{status: http.StatusBadGateway, code: "silent",
		text: fmt.Sprintf("Nothing answers on port %d in the sandbox. The program that serves there may not be running.", v.port)})
}

// refusePort answers in our own words on a port's origin: a page for people, a
// sentence for programs.
func (s *Server) refusePort(w http.ResponseWriter, r *http.Request, key portKey, f *failure) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if !navigates(r) || !strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.Error(w, f.text, f.status)
		return
	}
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	if err := s.render(w, f.status, "port", map[string]any{"Text": f.text, "Page": s.cfg.PublicURL + "/sessions/" + key.session, "Port": key.port}); err != nil {
		s.log.Error("the page of a port's error cannot be rendered", "err", err)
	}
}
