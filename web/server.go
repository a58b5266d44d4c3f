package web

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"openinspect/sessions"
)

// Config is what a Server needs.
type Config struct {
	PublicURL string // of the people's listener, without a trailing slash

	SlackClientID, SlackClientSecret string
	OIDCIssuer                       string // https://slack.com, or a stand-in
	TeamID                           string // the only workspace whose members may sign in
	SlackWorkspaceURL                string // where links to threads lead

	PortsURL string // where ports of sandboxes are, e.g. https://*.ports.example.com; see CheckPortsURL

	Members Members      // required
	GitHub  GitHubLinker // nil: GitHub accounts cannot be connected
}

// GitHubLinker connects a person's GitHub account (OAuth web flow with PKCE).
// internal/github implements it.
type GitHubLinker interface {
	// AuthorizeURL is where the person is sent. challenge is the S256 form of
	// the verifier that Exchange will be given.
	AuthorizeURL(state, redirectURL, challenge string) string
	// Exchange trades the code that came back for the person's tokens.
	Exchange(ctx context.Context, code, redirectURL, verifier string) (sessions.GitHubTokens, error)
	// GetUser says whose token it is.
	GetUser(ctx context.Context, token string) (id int64, login string, err error)
}

// Server serves people. It is safe for concurrent use.
type Server struct {
	log        *slog.Logger
	engine     *sessions.Engine
	cfg        Config
	public     *url.URL
	pages      *template.Template
	static     *assets
	rows       *rowRenderer
	outline    *outline
	hub        *hub
	issuer     *issuer
	spent      *spentTickets
	unanswered *unanswered
	ports      *portHosts // nil: ports cannot be opened
	portProxy  *portProxy
	timing     timing
}

// timing holds deadlines and intervals, so that tests can shorten them.
type timing struct {
	ping      time.Duration // between two pings to a browser
	silence   time.Duration // a browser that sent nothing for this long is gone
	write     time.Duration // for one frame
	greet     time.Duration // for the first frame
	authorise time.Duration // between two looks whether the sign-in still holds
	panels    time.Duration // between two looks at what has no events (memory, disk, cost)
	look      time.Duration // between two looks for entries that nobody told us of
	ticket    time.Duration // a ticket is valid so long
	member    time.Duration // what Slack said of a person who is signed in is good for so long
	ask       time.Duration // how long that question may hold up a person
	askAgain  time.Duration // between two such questions that Slack does not answer
	body      time.Duration // for the whole body of a request
}

var defaultTiming = timing{
	ping: 15 * time.Second, silence: 40 * time.Second, write: 10 * time.Second, greet: 10 * time.Second,
	authorise: 2 * time.Minute, panels: 5 * time.Second, look: 2 * time.Second, ticket: time.Minute,
	member: 10 * time.Minute, ask: 2 * time.Second, askAgain: time.Minute,
	body: 5 * time.Minute, // bodyMost at 27 kbit/s
}

// New makes a Server. Run has to be running for pages to be live.
func New(log *slog.Logger, engine *sessions.Engine, cfg Config) (*Server, error) {
	public, err := url.Parse(cfg.PublicURL)
	if err != nil || public.Host == "" {
		return nil, fmt.Errorf("public URL %q is not one", cfg.PublicURL)
	}
	if cfg.OIDCIssuer == "" || cfg.SlackClientID == "" || cfg.TeamID == "" {
		return nil, errors.New("signing in needs Slack's issuer, the app's client id and the team")
	}
	cfg.PublicURL = strings.TrimSuffix(cfg.PublicURL, "/")
	if cfg.Members == nil {
		return nil, errors.New("signing in needs to know who is a member of the workspace")
	}
	static, err := newAssets()
	if err != nil {
		return nil, err
	}
	pages, err := parseTemplates(static)
	if err != nil {
		return nil, err
	}
	s := &Server{
		log: log, engine: engine, cfg: cfg, public: public, pages: pages, static: static,
		rows: newRowRenderer(engine, pages), outline: newOutline(engine),
		issuer: newIssuer(cfg), spent: newSpentTickets(), unanswered: newUnanswered(), timing: defaultTiming,
	}
	if s.ports, err = newPortHosts(cfg.PortsURL, cfg.PublicURL); err != nil {
		return nil, fmt.Errorf("the URL for ports %w", err)
	}
	s.portProxy = s.newPortProxy()
	s.hub = newHub(s)
	return s, nil
}

// Run keeps pages live until ctx ends. It returns when all its goroutines have.
func (s *Server) Run(ctx context.Context) error {
	defer s.portProxy.transport.CloseIdleConnections()
	return s.hub.run(ctx)
}

// secure says whether people reach us over TLS.
func (s *Server) secure() bool { return s.public.Scheme == "https" }

// Handler serves everything of the people's listener.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /static/", s.static)
	mux.HandleFunc("GET /healthz", s.serveHealth)
	mux.Handle("GET /readyz", s.adapt(s.serveReady))

	mux.Handle("GET /signin", s.adapt(s.serveSignIn))
	mux.Handle("GET /signin/slack", s.adapt(s.beginSignIn))
	mux.Handle("GET /signin/slack/callback", s.adapt(s.finishSignIn))
	mux.Handle("POST /signout", s.adapt(s.signOut))

	mux.Handle("GET /{$}", s.signedIn(s.serveList))
	mux.Handle("GET /new", s.signedIn(s.serveNew))
	mux.Handle("GET /link/github", s.signedIn(s.beginLink))
	mux.Handle("GET /link/github/callback", s.signedIn(s.finishLink))
	mux.Handle("POST /unlink/github", s.signedIn(s.unlink))
	mux.Handle("GET /sessions/{id}", s.signedIn(s.serveSession))
	mux.Handle("GET /sessions/{id}/section", s.signedIn(s.serveSection))
	mux.Handle("GET /sessions/{id}/log.jsonl", s.signedIn(s.serveLog))
	mux.Handle("GET /sessions/{id}/ports/{port}", s.signedIn(s.openPort))
	mux.Handle("GET /sessions/{id}/live", s.signedIn(s.serveLive))
	s.mountImages(mux)
	mux.Handle("GET /artifacts/{id}/{name...}", s.signedIn(s.serveArtifact))
	mux.Handle("GET /pictures/{token}", s.adapt(s.servePicture))
	s.mountSettings(mux)
	s.mountAPI(mux)
	mux.Handle("/", s.adapt(func(http.ResponseWriter, *http.Request) error { return errNoPage }))
	pages := s.guard(http.NewCrossOriginProtection().Handler(mux))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.ports.covers(r.Host) {
			s.servePorts(w, r)
			return
		}
		pages.ServeHTTP(w, r)
	})
}

// guard sets the headers that every answer carries, and a deadline for the body
// if there is one. It covers bodies that nobody reads: the server reads these to
// their end before it answers. Requests without a body have none, as it would end
// long answers; and a WebSocket takes its connection over without deadlines.
func (s *Server) guard(next http.Handler) http.Handler {
	const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
		"font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; " +
		"require-trusted-types-for 'script'; trusted-types openinspect"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), clipboard-write=(self)")
		if s.secure() {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !strings.HasPrefix(r.URL.Path, "/static/") {
			h.Set("Cache-Control", "no-store")
		}
		if strings.ContainsRune(r.URL.Path, 0) {
			http.NotFound(w, r) // no name has it, and Postgres takes no text with it
			return
		}
		if r.ContentLength != 0 {
			if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.timing.body)); err != nil {
				s.log.Debug("a body gets no deadline", "err", err) // its connection is gone
			}
		}
		next.ServeHTTP(w, r)
	})
}

// serveHealth says that the process answers.
func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("alive\n")) // who asked may be gone
}

// serveReady says that requests can be served: the database answers.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if _, err := s.engine.Repositories(ctx); err != nil {
		return &failure{status: http.StatusServiceUnavailable, code: "not_ready",
			text: "The database does not answer.", err: err}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write([]byte("ready\n"))
	return err
}
