package slack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Options says how a stand-in differs from the defaults, which are Slack's own
// behaviour as far as it is known. The zero value is a faithful workspace.
type Options struct {
	// URL is the stand-in's own public base, without a trailing slash. It may
	// be set later with SetURL, when the port is known.
	URL string
	// TeamName is the workspace's name; "Acme" if empty.
	TeamName string
	// BotName is the bot's handle, "inspect" if empty, and AppName what people
	// see, "Inspect" if empty.
	BotName, AppName string
	// Channels are created at the first start; general, greeter and random if
	// nil. The bot and everybody is a member.
	Channels []string
	// Scopes are the bot token's; those of DefaultScopes if nil.
	Scopes []string
	// Events are the app's event subscriptions ("app_mention",
	// "message.channels", …); every event that the stand-in knows if nil.
	Events []string
	// Commands and Shortcuts are what people can invoke by name.
	Commands  []Command
	Shortcuts []Shortcut
	// RedirectURLs are where signing in may return to. If empty, any loopback
	// address may be, since ports of a practice are not known in advance.
	RedirectURLs []string
	// RateScale multiplies every rate limit: 1 if zero, none if negative.
	RateScale float64
	// Retries are the pauses before each redelivery of an event that was not
	// acknowledged; at once, a minute and five minutes if nil.
	Retries []time.Duration
	// AckTimeout is how long an envelope may stay unacknowledged; 3 s if zero.
	AckTimeout time.Duration
	// PingEvery is the pause between the server's pings; 10 s if zero.
	PingEvery time.Duration
	// StreamLife ends a streamed message; 5 minutes if zero. SessionLife ends
	// an agent's "processing"; an hour if zero.
	StreamLife, SessionLife time.Duration
	// Log receives what goes wrong inside; nothing is logged if nil.
	Log *slog.Logger
}

// A Command is a slash command that the app registered.
type Command struct {
	Name        string `json:"name"` // with its slash
	Description string `json:"description"`
	Usage       string `json:"usage"`
}

// A Shortcut is a shortcut that the app registered, of type "global" or
// "message".
type Shortcut struct {
	Name       string `json:"name"`
	CallbackID string `json:"callback_id"`
	Type       string `json:"type"`
}

// Server is one workspace with one app installed. Its methods may be called
// from any goroutine. Events, pings and expiries need Run to be running.
type Server struct {
	opts Options
	dir  string
	log  *slog.Logger
	lock *os.File
	mux  http.Handler

	wake chan struct{} // tells Run that something became due; capacity 1

	mu         sync.Mutex
	expired    time.Time // when what has a deadline was last looked at
	ended      bool      // Run returned: no new sockets or pages
	base       string
	journal    *journal
	id         identity
	standings  map[string]*Standing // by person; who is not in it is a full member
	rooms      map[string]*room
	files      map[string]*file
	sessions   map[string]*agentSession
	views      map[string]*view
	homes      map[string]*view // by person
	deliveries []*delivery
	sockets    []*socket
	open       sync.WaitGroup // sockets being served
	nextSocket int
	tickets    map[string]time.Time
	triggers   map[string]*trigger
	hooks      map[string]*hook
	codes      map[string]*authCode
	buckets    map[string]*bucket
	faults     faults
	pages      map[*subscriber]struct{}
	changed    chan struct{} // closed and replaced at every change of a message
	lastTS     int64         // microseconds of the newest timestamp given out
}

// Open reads the workspace kept in dir, or founds it, and holds the directory
// until Close: a second Open of it is refused. The directory holds tokens and is
// made readable by its owner alone.
func Open(dir string, o Options) (*Server, error) {
	if err := os.MkdirAll(filepath.Join(dir, "files"), 0o700); err != nil {
		return nil, fmt.Errorf("making the workspace's folder: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := newServer(dir, o)
	s.lock = lock
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the workspace in %s: %w", dir, err), s.Close())
	}
	s.mux = s.routes()
	return s, nil
}

func newServer(dir string, o Options) *Server {
	o = withDefaults(o)
	return &Server{
		opts: o, dir: dir, log: o.Log, base: strings.TrimSuffix(o.URL, "/"),
		wake:      make(chan struct{}, 1),
		standings: map[string]*Standing{},
		rooms:     map[string]*room{},
		files:     map[string]*file{},
		sessions:  map[string]*agentSession{},
		views:     map[string]*view{},
		homes:     map[string]*view{},
		tickets:   map[string]time.Time{},
		triggers:  map[string]*trigger{},
		hooks:     map[string]*hook{},
		codes:     map[string]*authCode{},
		buckets:   map[string]*bucket{},
		faults:    newFaults(),
		pages:     map[*subscriber]struct{}{},
		changed:   make(chan struct{}),
	}
}

func withDefaults(o Options) Options {
	text := func(v *string, or string) {
		if *v == "" {
			*v = or
		}
	}
	span := func(v *time.Duration, or time.Duration) {
		if *v == 0 {
			*v = or
		}
	}
	text(&o.TeamName, "Acme")
	text(&o.BotName, "inspect")
	text(&o.AppName, "Inspect")
	span(&o.AckTimeout, 3*time.Second)
	span(&o.PingEvery, 10*time.Second)
	span(&o.StreamLife, 5*time.Minute)
	span(&o.SessionLife, time.Hour)
	if o.Channels == nil {
		o.Channels = []string{"general", "greeter", "random"}
	}
	if o.Scopes == nil {
		o.Scopes = DefaultScopes()
	}
	if o.Retries == nil {
		o.Retries = []time.Duration{0, time.Minute, 5 * time.Minute}
	}
	if o.RateScale == 0 {
		o.RateScale = 1
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Close gives the directory back. Call it after Run has returned.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.journal != nil {
		err = s.journal.close()
	}
	return errors.Join(err, s.lock.Close())
}

// SetURL tells the stand-in its own public base, such as
// http://127.0.0.1:8065. Every address it gives out is below it.
func (s *Server) SetURL(base string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = strings.TrimSuffix(base, "/")
}

// ownURL is what SetURL or Options said last; empty if nothing.
func (s *Server) ownURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// Handler is the whole stand-in: Web API, Socket Mode, OpenID Connect, files
// and the page for people.
func (s *Server) Handler() http.Handler { return s }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/api/{method}", s.serveAPI)
	mux.HandleFunc("GET /link/{$}", s.serveLink)
	mux.HandleFunc("POST /actions/{id}", s.serveHook)
	mux.HandleFunc("POST /files/upload/{id}", s.serveUpload)
	mux.HandleFunc("GET /files/{id}/{name}", s.serveFile)
	s.routeOpenID(mux)
	s.routePage(mux)
	return mux
}

// Run delivers events, keeps sockets alive and expires what has a deadline,
// until ctx ends; then it closes every socket and page and waits for them.
func (s *Server) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			s.shutdown()
			return nil
		case <-timer.C:
		case <-s.wake:
		}
		timer.Reset(s.step(time.Now()))
	}
}

// expireEvery bounds the work of looking for what is out of time.
const expireEvery = 100 * time.Millisecond

// step does everything that is due and returns how long nothing else will be.
func (s *Server) step(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.expired) >= expireEvery {
		s.expired = now
		s.expire(now)
	}
	next := s.deliver(now)
	return max(0, min(next.Sub(now), time.Second))
}

func (s *Server) shutdown() {
	s.mu.Lock()
	s.ended = true
	for _, c := range s.sockets {
		c.cut()
	}
	for p := range s.pages {
		s.dropPage(p)
	}
	s.mu.Unlock()
	s.open.Wait()
}

// stir wakes Run. It never blocks.
func (s *Server) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
