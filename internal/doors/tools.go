package doors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// ToolServer is a server of tools (MCP over HTTP) that the operator set up for a
// repository.
type ToolServer struct {
	URL    string
	Header http.Header // what a request to it needs
	Secret []string    // what of Header no answer may hold; longest first
}

// ToolServers knows the servers of tools by their names. A *Refusal is told to the
// agent; another error is a passing fault.
type ToolServers interface {
	ToolServer(ctx context.Context, a Access, name string) (ToolServer, error)
}

// ToolsConfig joins the tools door to what is behind it.
type ToolsConfig struct {
	Servers ToolServers
	Log     *slog.Logger
	// MaxRequest bounds a request, in bytes. Default: 8 MB.
	MaxRequest int64
	// Idle is how long an answer may stand still. Default: five minutes.
	Idle time.Duration
	// Total is how long one request may last. Default: an hour.
	Total time.Duration
	// Transport reaches the servers; nil makes one that never compresses.
	Transport http.RoundTripper
}

// Tools is the tools door: /mcp/<name> is the server's one address, whatever path
// or query the sandbox adds.
type Tools struct{ c ToolsConfig }

// NewTools returns a tools door with the defaults filled in.
func NewTools(c ToolsConfig) *Tools {
	if c.MaxRequest == 0 {
		c.MaxRequest = 8 << 20
	}
	if c.Idle == 0 {
		c.Idle = 5 * time.Minute
	}
	if c.Total == 0 {
		c.Total = time.Hour
	}
	if c.Transport == nil {
		c.Transport = plainTransport(maxSilence)
	}
	return &Tools{c: c}
}

const toolsPath = "/mcp/"

// headers of the protocol that pass, and no others (modelcontextprotocol.io,
// "Transports", 2025-06-18).
var (
	toolRequestHeaders = []string{"Accept", "Content-Type", "Last-Event-Id", "Mcp-Session-Id", "Mcp-Protocol-Version"}
	toolAnswerHeaders  = []string{"Content-Type", "Cache-Control", "Mcp-Session-Id", "Mcp-Protocol-Version"}
)

func (t *Tools) open() bool { return t != nil }

func (t *Tools) serve(w http.ResponseWriter, r *http.Request, a Access) {
	name := strings.TrimPrefix(r.URL.Path, toolsPath)
	if a.Branch == "" {
		t.refuse(w, r, http.StatusForbidden, "this sandbox works for no session, and has no tools")
		return
	}
	if r.Method != http.MethodPost && r.Method != http.MethodGet && r.Method != http.MethodDelete {
		t.refuse(w, r, http.StatusMethodNotAllowed, "servers of tools are asked with POST, GET and DELETE")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), t.c.Total)
	defer cancel()
	server, err := t.c.Servers.ToolServer(ctx, a, name)
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		t.refuse(w, r, http.StatusNotFound, refusal.Sentence)
		return
	}
	if err != nil {
		t.c.Log.Error("a server of tools cannot be looked up", "session", a.Session, "server", name, "err", err)
		t.refuse(w, r, http.StatusServiceUnavailable, "the control plane cannot look up the server of tools at the moment; try again")
		return
	}
	t.forward(ctx, w, r, a, name, server)
}

// forward sends the request with the server's own headers and passes the answer on.
func (t *Tools) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, a Access, name string, server ToolServer) {
	rc := http.NewResponseController(w)
	var body *patientBody
	if r.Method == http.MethodPost {
		body = newPatientBody(w, r, t.c.Idle, t.c.Total, t.c.MaxRequest)
	}
	up, err := newToolRequest(ctx, r, server, body)
	if err != nil {
		t.refuse(w, r, http.StatusBadGateway, fmt.Sprintf("the address of the server of tools %s is wrong: an administrator has to correct it", name))
		return
	}
	res, err := t.c.Transport.RoundTrip(up)
	if err != nil {
		if r.Context().Err() == nil {
			t.c.Log.Warn("a server of tools was not reached", "session", a.Session, "server", name, "err", err)
			t.refuse(w, r, http.StatusBadGateway, fmt.Sprintf("the server of tools %s cannot be reached at the moment", name))
		}
		return
	}
	answer := newIdleReader(res.Body, t.c.Idle)
	defer answer.Close()
	switch status := res.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden: // servers quote parts of what they refuse
		t.refuse(w, r, http.StatusBadGateway, fmt.Sprintf("the server of tools %s refused the headers that are set for it: an administrator has to check them", name))
		return
	case status >= 300 && status < 400:
		t.refuse(w, r, http.StatusBadGateway, fmt.Sprintf("the server of tools %s has moved: an administrator has to correct its address", name))
		return
	}
	copyHeaders(w.Header(), res.Header, toolAnswerHeaders)
	w.WriteHeader(res.StatusCode)
	out := &patientWriter{w: w, rc: rc, idle: t.c.Idle}
	defer out.finish()
	if err := copyWithout(out, answer, server.Secret); err != nil && r.Context().Err() == nil {
		t.c.Log.Warn("an answer of a server of tools broke off", "session", a.Session, "server", name, "err", err)
		panic(http.ErrAbortHandler) // so that the client does not take it for the whole
	}
}

func newToolRequest(ctx context.Context, r *http.Request, server ToolServer, body *patientBody) (*http.Request, error) {
	var up *http.Request
	var err error
	if body == nil {
		up, err = http.NewRequestWithContext(ctx, r.Method, server.URL, nil)
	} else {
		up, err = http.NewRequestWithContext(ctx, r.Method, server.URL, body)
	}
	if err != nil {
		return nil, err
	}
	if body != nil {
		up.ContentLength = r.ContentLength
	}
	copyHeaders(up.Header, r.Header, toolRequestHeaders)
	for name, values := range server.Header {
		up.Header[name] = values
	}
	return up, nil
}

// refuse answers with the sentence, which MCP clients show.
func (t *Tools) refuse(w http.ResponseWriter, _ *http.Request, status int, sentence string) {
	http.Error(w, sentence, status)
}
