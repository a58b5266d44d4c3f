package modal

import (
	"context"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

// tokenName is the query parameter and the cookie of connect tokens.
const tokenName = "_modal_connect_token"

// userHeader carries the caller's data of a token to the sandbox; a request
// cannot set it itself.
const userHeader = "X-Verified-User-Data"

// defaultConnectPort is where a token leads if its maker does not say.
const defaultConnectPort = 8080

// SandboxCreateConnectTokenV2 makes a token for HTTP to one port of a sandbox.
func (c *control) SandboxCreateConnectTokenV2(_ context.Context, r *pb.SandboxCreateConnectTokenRequest) (*pb.SandboxCreateConnectTokenResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	if b.live() == nil {
		return nil, notFound("Sandbox %s has already finished", r.GetSandboxId())
	}
	port := int(r.GetPort())
	if port == 0 {
		port = defaultConnectPort
	}
	if port > 65535 {
		return nil, invalid("Port must be in [1, 65535], got %d.", port)
	}
	token, err := c.s.sign(claims{Purpose: forConnect, Sandbox: b.id, Port: port, Data: r.GetUserMetadata()}, connectTokenTime)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "signing a token: %v", err)
	}
	return pb.SandboxCreateConnectTokenResponse_builder{Url: "http://" + c.s.front.Addr().String(), Token: token}.Build(), nil
}

// frontHandler is Modal's proxy in front of sandboxes. The token says which
// sandbox and which port: at Modal each sandbox has a host name of its own.
func (s *Server) frontHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, fromQuery := connectToken(r)
		c, err := s.verify(token, forConnect)
		if err != nil {
			http.Error(w, "modal-http: invalid or missing connect token", http.StatusUnauthorized)
			return
		}
		target, err := s.portAddress(r.Context(), c.Sandbox, c.Port)
		if err != nil {
			http.Error(w, "modal-http: the sandbox is not running", http.StatusNotFound)
			return
		}
		if fromQuery {
			http.SetCookie(w, &http.Cookie{Name: tokenName, Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
		}
		defer s.boxByID(c.Sandbox).work()()
		forwardTo(target, c.Data).ServeHTTP(w, r)
	})
}

// connectToken finds the token of a request.
func connectToken(r *http.Request) (token string, fromQuery bool) {
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return bearer, false
	}
	if token := r.URL.Query().Get(tokenName); token != "" {
		return token, true
	}
	if c, err := r.Cookie(tokenName); err == nil {
		return c.Value, false
	}
	return "", false
}

// forwardTo passes requests on without their token. WebSockets work: a
// ReverseProxy passes upgrades on.
func forwardTo(target *url.URL, data string) http.Handler {
	return &httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
			p.SetXForwarded()
			if strings.HasPrefix(p.In.Header.Get("Authorization"), "Bearer ") {
				p.Out.Header.Del("Authorization")
			}
			query := p.Out.URL.Query()
			if query.Has(tokenName) {
				query.Del(tokenName)
				p.Out.URL.RawQuery = query.Encode()
			}
			p.Out.Header.Del("Cookie")
			for _, c := range p.In.Cookies() {
				if c.Name != tokenName {
					p.Out.AddCookie(c)
				}
			}
			p.Out.Header.Del(userHeader)
			if data != "" {
				p.Out.Header.Set(userHeader, data)
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "modal-http: bad gateway: nothing listens on the port", http.StatusBadGateway)
		},
	}
}

// portAddress is where a port of a sandbox is reached on the host.
func (s *Server) portAddress(ctx context.Context, id string, port int) (*url.URL, error) {
	b := s.boxByID(id)
	if b == nil {
		return nil, sandbox.ErrGone
	}
	in := b.live()
	if in == nil {
		return nil, sandbox.ErrGone
	}
	address, _, err := in.URL(ctx, port)
	if err != nil {
		return nil, err
	}
	return url.Parse(address)
}
