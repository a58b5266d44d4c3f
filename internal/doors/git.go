package doors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Upstream is the code host behind the git door.
type Upstream interface {
	// RepositoryURL returns where git finds "owner/name", without a final
	// slash; the door appends "/info/refs" and the services' names.
	RepositoryURL(repository string) string
	// Token returns a credential for this repository alone, good for longer
	// than a push may last: to read, or to write as well.
	Token(ctx context.Context, repository string, write bool) (string, error)
}

// GitConfig joins the git door to what is behind it.
type GitConfig struct {
	Upstream Upstream
	// Pushed records that the upstream moved ref ("refs/heads/…") for the
	// session. It is called after the upstream said so and before the agent
	// hears it; an error is logged and told to the agent.
	Pushed func(ctx context.Context, session, ref, oldOID, newOID string) error
	// Secrets returns how to find the values of secrets that the session's commits may
	// not hold, or nil if there are none. Without it pushes are not looked through.
	Secrets func(ctx context.Context, a Access) (FindSecret, error)
	// Refused is told of a push that was refused because of them: its commits are
	// in the sandbox alone. An error is logged. It goes with Secrets.
	Refused func(ctx context.Context, session string) error
	Log     *slog.Logger
	// MaxPush bounds a push, in bytes. Default: 500 MB.
	MaxPush int64
	// Idle is how long a transfer may stand still, and how long the upstream
	// may take to list its refs. Default: two minutes.
	Idle time.Duration
	// Total is how long one request may last. Default: 30 minutes.
	Total time.Duration
	// PerSecond and Burst limit the requests of one session, which wait for
	// their turn for a while. Defaults: 5 and 50; git makes two or three
	// requests for one fetch or push.
	PerSecond float64
	Burst     int
	// Transport reaches the upstream; nil makes one that never compresses.
	Transport http.RoundTripper
}

// Git is the git door: smart HTTP for the repository of a sandbox token at
// /git/<owner>/<name>, with or without ".git".
type Git struct {
	c      GitConfig
	limits *limits
	spools *atOnce       // pushes that are kept to be looked through
	looks  chan struct{} // one for each that is
}

// mostLooks is how many pushes are looked through at once: each may take some 300 MB.
const mostLooks = 2

// NewGit returns a git door with the defaults filled in.
func NewGit(c GitConfig) *Git {
	if c.MaxPush == 0 {
		c.MaxPush = 500 << 20
	}
	if c.Idle == 0 {
		c.Idle = 2 * time.Minute
	}
	if c.Total == 0 {
		c.Total = 30 * time.Minute
	}
	if c.PerSecond == 0 {
		c.PerSecond, c.Burst = 5, 50
	}
	if c.Transport == nil {
		c.Transport = plainTransport(maxSilence)
	}
	return &Git{c: c, limits: newLimits(c.PerSecond, c.Burst), spools: newAtOnce(1), looks: make(chan struct{}, mostLooks)}
}

// maxSilence is how long an upstream may work before its answer begins: an
// index of a large pack, the first word of a slow model.
const maxSilence = 5 * time.Minute

// plainTransport neither compresses nor, used as a RoundTripper, follows
// redirects, and waits no longer than patience, if that is not 0, for an
// answer to begin.
func plainTransport(patience time.Duration) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true
	t.ResponseHeaderTimeout = patience
	t.MaxIdleConnsPerHost = 16
	return t
}

const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

// gitRequest is a request whose path the door understands.
type gitRequest struct {
	repository string
	service    string // uploadPack or receivePack
	advertise  bool   // GET info/refs, not POST
}

// parseGit reads /git/<owner>/<name>[.git]/<what>.
func parseGit(r *http.Request) (gitRequest, error) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/git/"), "/")
	if len(parts) < 3 {
		return gitRequest{}, errors.New("this address names no repository: it has the form /git/owner/name")
	}
	q := gitRequest{repository: parts[0] + "/" + strings.TrimSuffix(parts[1], ".git")}
	switch what := strings.Join(parts[2:], "/"); {
	case what == "info/refs" && r.Method == http.MethodGet:
		q.service, q.advertise = r.URL.Query().Get("service"), true
	case r.Method == http.MethodPost:
		q.service = what
	}
	if q.service != uploadPack && q.service != receivePack {
		return q, errors.New("only git's smart HTTP protocol is spoken here: clone, fetch and push")
	}
	return q, nil
}

func (g *Git) open() bool { return g != nil }

func (g *Git) serve(w http.ResponseWriter, r *http.Request, a Access) {
	q, err := parseGit(r)
	if err != nil {
		g.refuse(w, r, http.StatusForbidden, err.Error())
		return
	}
	if !strings.EqualFold(q.repository, a.Repository) {
		sentence := fmt.Sprintf("this session works on %s and cannot reach %s", a.Repository, q.repository)
		if a.Repository == "" {
			sentence = "this session works on no repository and cannot reach " + q.repository
		}
		g.refuse(w, r, http.StatusForbidden, sentence)
		return
	}
	if !g.turn(r.Context(), a.Session) {
		g.refuse(w, r, http.StatusTooManyRequests, "this session makes too many git requests; wait a few seconds")
		return
	}
	total := g.c.Total
	if q.advertise {
		total = g.c.Idle
	}
	ctx, cancel := context.WithTimeout(r.Context(), total)
	defer cancel()
	r = r.WithContext(ctx)
	if q.service == receivePack && !q.advertise {
		g.push(w, r, a)
		return
	}
	g.pass(w, r, a, q)
}

// maxWait is how long a request over a limit waits for its turn.
const maxWait = 10 * time.Second

func (g *Git) turn(ctx context.Context, session string) bool {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	return g.limits.of(session).Wait(ctx) == nil
}

// pass hands on a request that changes nothing: advertisements and fetches.
func (g *Git) pass(w http.ResponseWriter, r *http.Request, a Access, q gitRequest) {
	path := "/" + q.service
	var body io.Reader = http.NoBody
	if q.advertise {
		path = "/info/refs?service=" + q.service
	} else {
		body = g.body(w, r)
	}
	res, err := g.ask(r, a, path, q.service == receivePack, body)
	if err != nil {
		g.c.Log.Warn("git upstream not reached", "session", a.Session, "service", q.service, "err", err)
		g.refuse(w, r, http.StatusBadGateway, unreachable(err))
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		g.refuse(w, r, http.StatusBadGateway, upstreamSentence(res, a.Repository, q.service == receivePack))
		return
	}
	copyHeaders(w.Header(), res.Header, []string{"Content-Type", "Content-Encoding", "Cache-Control", "Expires", "Pragma"})
	out := &patientWriter{w: w, rc: http.NewResponseController(w), idle: g.c.Idle}
	defer out.finish()
	answer := io.Reader(newIdleReader(res.Body, g.c.Idle))
	if q.advertise && q.service == receivePack && g.c.Secrets != nil {
		answer = askWhole(answer)
	}
	if _, err := io.Copy(out, answer); err != nil {
		g.c.Log.Info("git transfer broke off", "session", a.Session, "service", q.service, "err", err)
		panic(http.ErrAbortHandler) // a clean end would look like a whole pack
	}
}

func (g *Git) body(w http.ResponseWriter, r *http.Request) *patientBody {
	return newPatientBody(w, r, g.c.Idle, g.c.Total, g.c.MaxPush)
}

// ask sends one request to the upstream with a fresh credential.
func (g *Git) ask(r *http.Request, a Access, path string, write bool, body io.Reader) (*http.Response, error) {
	token, err := g.c.Upstream.Token(r.Context(), a.Repository, write)
	if err != nil {
		closeBody(body)
		return nil, fmt.Errorf("%w %s: %w", errNoCredential, a.Repository, err)
	}
	up, err := http.NewRequestWithContext(r.Context(), r.Method, g.c.Upstream.RepositoryURL(a.Repository)+path, body)
	if err != nil {
		closeBody(body)
		return nil, fmt.Errorf("addressing the git server: %w", err)
	}
	copyHeaders(up.Header, r.Header, []string{"Content-Type", "Content-Encoding", "Accept", "Accept-Language", "Git-Protocol", "User-Agent"})
	up.SetBasicAuth("x-access-token", token)
	if body != http.NoBody {
		up.ContentLength = r.ContentLength
	}
	return g.c.Transport.RoundTrip(up)
}

// closeBody does for a body what a transport would have done.
func closeBody(body io.Reader) {
	if c, ok := body.(io.Closer); ok {
		_ = c.Close() // of a request: nothing is buffered that could be lost
	}
}

// errNoCredential begins the error of a request that the door could not make.
var errNoCredential = errors.New("getting a credential for")

func unreachable(err error) string {
	if errors.Is(err, errNoCredential) {
		return "the control plane gets no credential for this repository at the moment; if that lasts, the operator has to check the GitHub App"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "the git server did not answer in time; try again in a minute"
	}
	if errors.Is(err, errTooLarge) {
		return errTooLarge.Error()
	}
	return "the git server cannot be reached at the moment; try again in a minute"
}

// upstreamSentence says what an answer other than 200 means for the session.
func upstreamSentence(res *http.Response, repository string, write bool) string {
	doing := "read"
	if write {
		doing = "write to"
	}
	switch code := res.StatusCode; {
	case code == http.StatusUnauthorized:
		return "the git server refused the deployment's credential: the operator has to check the GitHub App"
	case code == http.StatusForbidden:
		return fmt.Sprintf("the GitHub App may not %s %s: the operator has to check its permissions%s", doing, repository, quoted(res))
	case code == http.StatusNotFound:
		return fmt.Sprintf("the git server does not show %s to the GitHub App: is it still there, and is the App installed on it?", repository)
	case code >= 300 && code < 400:
		return fmt.Sprintf("%s was renamed or moved: start a new session under its new name", repository)
	case code == http.StatusTooManyRequests || code >= 500:
		return fmt.Sprintf("the git server answers %d at the moment; try again in a minute", code)
	}
	return fmt.Sprintf("the git server answered %d%s", res.StatusCode, quoted(res))
}

// quoted returns what the upstream itself says, if it is a short plain text.
func quoted(res *http.Response) string {
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, 300))
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		return ""
	}
	return " (it says: " + oneLine(string(bytes.TrimSpace(text))) + ")"
}

// refuse speaks git's protocol where git listens for it, so that the sentence
// is printed instead of a bare HTTP status.
func (g *Git) refuse(w http.ResponseWriter, r *http.Request, status int, sentence string) {
	q, err := parseGit(r)
	switch {
	case err != nil:
		http.Error(w, sentence, status)
	case q.advertise:
		w.Header().Set("Content-Type", "application/x-"+q.service+"-advertisement")
		w.Header().Set("Cache-Control", "no-cache")
		fmt.Fprint(w, packet("# service="+q.service+"\n"), flush, packet("ERR "+oneLine(sentence)+"\n"))
	case q.service == uploadPack:
		w.Header().Set("Content-Type", "application/x-"+q.service+"-result")
		fmt.Fprint(w, packet("ERR "+oneLine(sentence)+"\n"))
	case !g.open():
		http.Error(w, sentence, status)
	default:
		g.refusePush(w, r, status, sentence)
	}
}

// refusePush reads a push that is refused as a whole, so that it can be
// answered with a report.
func (g *Git) refusePush(w http.ResponseWriter, r *http.Request, status int, sentence string) {
	body := g.body(w, r)
	p, err := readPush(body)
	if err != nil || r.Header.Get("Content-Encoding") != "" {
		http.Error(w, sentence, status)
		return
	}
	p.answer(w, body, status, sentence)
}
