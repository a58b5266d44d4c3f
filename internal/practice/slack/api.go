package slack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBody is the largest body of a call.
const maxBody = 4 << 20

// apiError is an answer with ok false. The code is Slack's.
type apiError struct {
	code  string
	extra object // further fields of the answer
}

func (e apiError) Error() string { return e.code }

func fail(code string) error { return apiError{code: code} }

// failWith carries the sentences that Slack's SDKs print.
func failWith(code string, messages ...string) error {
	return apiError{code, object{"response_metadata": object{"messages": messages}}}
}

// args are a call's arguments. Whatever the body's encoding, a string is itself
// and everything else its JSON.
type args map[string]string

func (a args) flag(name string) bool { return a[name] == "true" || a[name] == "1" }

func (a args) number(name string, or int) int {
	if n, err := strconv.Atoi(a[name]); err == nil && n > 0 {
		return n
	}
	return or
}

// list reads an array given as JSON or as a comma list.
func (a args) list(name string) []string {
	v := strings.TrimSpace(a[name])
	if v == "" {
		return nil
	}
	var list []string
	if strings.HasPrefix(v, "[") && json.Unmarshal([]byte(v), &list) == nil {
		return list
	}
	for part := range strings.SplitSeq(v, ",") {
		list = append(list, strings.TrimSpace(part))
	}
	return list
}

// call is one call of a method by whoever its token names.
type call struct {
	method string
	args   args
	user   string // the acting user: the bot's or a person's
	bot    bool
	app    bool // an app-level token
	r      *http.Request
}

// A method of the Web API. Its function runs with s.mu held and returns the
// fields of the answer besides ok.
type method struct {
	run    func(*Server, *call) (object, error)
	rate   rate
	scope  string   // what a bot's token needs; any one of several, by comma
	needs  []string // required arguments
	tokens tokens
}

// tokens says which kinds of token a method takes.
type tokens int

const (
	anyToken tokens = iota // a bot's or a person's
	noToken                // none needed
	appToken               // an app-level token only
	botToken               // the app's own token only
)

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	c := &call{method: r.PathValue("method"), r: r}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	var token string
	var err error
	if c.args, token, err = readArgs(r); err != nil {
		s.reply(w, nil, fail("invalid_arguments"))
		return
	}
	f := s.note(c)
	if !pause(r.Context(), f.Delay) {
		return
	}
	if f.set && !f.AfterEffect {
		s.replyFault(w, f)
		return
	}
	res, err := s.perform(w, c, token)
	if f.set {
		s.replyFault(w, f)
		return
	}
	s.reply(w, res, err)
}

// perform checks a call and runs it.
func (s *Server) perform(w http.ResponseWriter, c *call, token string) (object, error) {
	m, known := methods[c.method]
	if !known {
		return nil, apiError{"unknown_method", object{"req_method": c.method}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.authorise(w, c, m, token); err != nil {
		return nil, err
	}
	if wait := s.take(c, m.rate, time.Now()); wait > 0 {
		return nil, rateLimited{wait}
	}
	for _, name := range m.needs {
		if c.args[name] == "" {
			return nil, missing(name)
		}
	}
	res, err := m.run(s, c)
	if s.journal.err != nil {
		s.log.Error("keeping the workspace", "err", s.journal.err)
		return nil, fail("fatal_error")
	}
	if s.journal.written > compactAfter {
		if err := s.compact(); err != nil {
			s.log.Error("rewriting the journal", "err", err)
		}
	}
	return res, err
}

// missing is Slack's refusal of a call without a required argument. A few
// arguments have codes of their own.
func missing(name string) error {
	switch name {
	case "channel", "channel_id":
		return failWith("channel_not_found", "[ERROR] missing required field: "+name)
	case "view", "status", "ts", "timestamp", "filename", "length", "user", "prompts", "title", "thread_ts", "message_ts":
		return failWith("invalid_arguments", "[ERROR] missing required field: "+name)
	}
	return failWith("missing_argument", "[ERROR] missing required field: "+name)
}

// authorise finds out who calls and whether the method is theirs to call.
func (s *Server) authorise(w http.ResponseWriter, c *call, m method, token string) error {
	if m.tokens == noToken {
		return nil
	}
	switch p := s.tokenPerson(token); {
	case token == "":
		return fail("not_authed")
	case token == s.id.AppToken:
		c.app = true
	case token == s.id.BotToken:
		c.bot, c.user = true, s.id.BotUserID
		w.Header().Set("X-OAuth-Scopes", strings.Join(s.opts.Scopes, ","))
	case p != nil && s.standing(p.ID) == Deactivated:
		return fail("account_inactive")
	case p != nil:
		c.user = p.ID
	default:
		return fail("invalid_auth")
	}
	if c.app != (m.tokens == appToken) || m.tokens == botToken && !c.bot {
		return fail("not_allowed_token_type")
	}
	if m.scope == "" || !c.bot {
		return nil
	}
	w.Header().Set("X-Accepted-OAuth-Scopes", m.scope)
	for _, one := range strings.Split(m.scope, ",") {
		if slices.Contains(s.opts.Scopes, one) {
			return nil
		}
	}
	return apiError{"missing_scope", object{"needed": m.scope, "provided": strings.Join(s.opts.Scopes, ",")}}
}

// tokenPerson is the person whose token this is, nil if nobody's.
func (s *Server) tokenPerson(token string) *person {
	for i := range s.id.People {
		if sameSecret(s.id.People[i].Token, token) {
			return &s.id.People[i]
		}
	}
	return s.openIDPerson(token)
}

// reply writes an answer: HTTP 200 whatever happened, as Slack does, except
// for rate limits.
func (s *Server) reply(w http.ResponseWriter, res object, err error) {
	out := object{"ok": err == nil}
	if limit, ok := errors.AsType[rateLimited](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(limit.seconds()))
		w.WriteHeader(http.StatusTooManyRequests)
	}
	if e, ok := errors.AsType[apiError](err); ok {
		maps.Copy(out, e.extra)
	}
	if err != nil {
		out["error"] = err.Error()
	}
	maps.Copy(out, res)
	if err := json.NewEncoder(w).Encode(out); err != nil {
		s.log.Debug("answering", "err", err)
	}
}

// readArgs reads a call's arguments and takes the token out of them: from the
// Authorization header or the form, wherever the client puts it.
func readArgs(r *http.Request) (args, string, error) {
	a := args{}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		kind = ""
	}
	addForm(a, r.URL.Query())
	switch kind {
	case "application/json":
		err = readJSON(a, r.Body)
	case "multipart/form-data":
		if err = r.ParseMultipartForm(maxBody); err == nil {
			addForm(a, r.MultipartForm.Value)
		}
	default:
		r.Body = http.MaxBytesReader(nil, r.Body, maxBody)
		if err = r.ParseForm(); err == nil {
			addForm(a, r.PostForm)
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading the arguments: %w", err)
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" || strings.HasPrefix(token, "Basic ") {
		token = a["token"]
	}
	delete(a, "token")
	return a, strings.TrimSpace(token), nil
}

func addForm(a args, form url.Values) {
	for name, values := range form {
		if len(values) > 0 {
			a[name] = values[0]
		}
	}
}

func readJSON(a args, body io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(body, maxBody))
	if err != nil || len(raw) == 0 {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return err
	}
	for name, v := range fields {
		var text string
		switch {
		case json.Unmarshal(v, &text) == nil && string(v) != "null":
			a[name] = text
		case string(v) != "null":
			a[name] = string(v)
		}
	}
	return nil
}
