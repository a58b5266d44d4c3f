package doors

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
)

// TokenHeader carries the sandbox token, on CONNECT requests as well.
const TokenHeader = "Openinspect-Sandbox-Token"

// Access is what one sandbox token stands for. A sandbox that has no session yet,
// because it prepares an image or waits for one, has no Branch: it may read its
// repository and use the egress proxy, and neither push nor ask a model.
type Access struct {
	Session       string // the session's id; without one, the sandbox's own name
	Repository    string // "owner/name", as the code host spells it
	Branch        string // short name of the only branch the session may push; may be empty
	DefaultBranch string // short name of the branch it may never push
}

// Authenticator knows the sandbox tokens. It compares in constant time (or
// looks up a hash) and answers ErrUnknownToken for tokens that are not, or are
// no longer, good; any other error means that it could not tell.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (Access, error)
}

// ErrUnknownToken says that a sandbox token is not, or is no longer, good.
var ErrUnknownToken = errors.New("unknown sandbox token")

// Config joins the doors. A door that is nil refuses with a sentence.
type Config struct {
	Auth   Authenticator
	Git    *Git
	Model  *Model
	Egress *Egress
	Tools  *Tools
	// Next serves what is for no door, token and all; nil answers 404.
	Next http.Handler
	Log  *slog.Logger
}

// New returns the handler of the machine listener; see "Mounting" in the
// package comment.
func New(c Config) http.Handler {
	h := &handler{auth: c.Auth, next: c.Next, log: c.Log, git: c.Git, model: c.Model, egress: c.Egress, tools: c.Tools,
		requests: newAtOnce(requestsAtOnce)}
	if h.next == nil {
		h.next = http.NotFoundHandler()
	}
	return h
}

// requestsAtOnce is how many requests and tunnels one session may have open. A sandbox
// needs some dozens; each takes some 100 kB and two connections.
const requestsAtOnce = 512

type handler struct {
	auth     Authenticator
	next     http.Handler
	log      *slog.Logger
	git      *Git
	model    *Model
	egress   *Egress
	tools    *Tools
	requests *atOnce
}

// door is one of the entrances. Both methods may be called on a nil door.
type door interface {
	open() bool
	serve(w http.ResponseWriter, r *http.Request, a Access)
	// refuse answers with a sentence in the protocol of the door.
	refuse(w http.ResponseWriter, r *http.Request, status int, sentence string)
}

func (h *handler) doorOf(r *http.Request) door {
	switch {
	case r.Method == http.MethodConnect || r.URL.IsAbs():
		return h.egress
	case strings.HasPrefix(r.URL.Path, "/git/"):
		return h.git
	case strings.HasPrefix(r.URL.Path, "/model/"):
		return h.model
	case strings.HasPrefix(r.URL.Path, toolsPath):
		return h.tools
	}
	return nil
}

// ServeHTTP finds the door, strips the credential and passes on what it
// stands for.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := h.doorOf(r)
	if d == nil {
		h.next.ServeHTTP(w, r)
		return
	}
	token := r.Header.Get(TokenHeader)
	r.Header.Del(TokenHeader)
	r.Header.Del("Cookie")
	if !d.open() {
		d.refuse(w, r, http.StatusNotFound, "this deployment has not set up what you are asking for; the operator can")
		return
	}
	access, err := h.auth.Authenticate(r.Context(), token)
	switch {
	case errors.Is(err, ErrUnknownToken):
		d.refuse(w, r, http.StatusUnauthorized, "this sandbox's credential is not known, or no longer: its session has ended or moved to another sandbox")
	case err != nil:
		h.log.Error("sandbox token not checked", "path", r.URL.Path, "err", err)
		d.refuse(w, r, http.StatusServiceUnavailable, "the control plane cannot check this sandbox's credential at the moment; try again")
	default:
		h.serve(w, r, access, d)
	}
}

// serve has the door serve a request in its turn.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, a Access, d door) {
	ctx, cancel := context.WithTimeout(r.Context(), maxWait)
	done := h.requests.take(ctx, a.Session)
	cancel()
	if done == nil {
		h.log.Warn("a sandbox has too many requests open", "session", a.Session)
		d.refuse(w, r, http.StatusTooManyRequests, "this sandbox has too many requests open at once; wait until some have ended")
		return
	}
	defer done()
	d.serve(w, r, a)
}
