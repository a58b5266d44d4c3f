package github

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// maxBody bounds the bodies of API requests; a pull request's text has at most 64 kB.
const maxBody = 4 << 20

// object is a JSON object of the API.
type object = map[string]any

// call is one request to the API, made by somebody who was found to be allowed to.
type call struct {
	s    *Server
	r    *http.Request
	head http.Header // of the reply
	who  caller
	repo *repository // on routes of a repository
}

// ctx does not end when the caller hangs up: GitHub finishes what it has begun.
func (c *call) ctx() context.Context { return context.WithoutCancel(c.r.Context()) }

func (c *call) bare() bare { return c.s.bare(c.repo) }

// arg is a wildcard of the route.
func (c *call) arg(name string) string { return c.r.PathValue(name) }

// number is a numeric wildcard; -1, which nothing has, if it is not one.
func (c *call) number(name string) int64 {
	n, err := strconv.ParseInt(c.arg(name), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// body reads the JSON body; an empty one changes nothing.
func (c *call) body(v any) error {
	data, err := io.ReadAll(http.MaxBytesReader(nil, c.r.Body, maxBody))
	if err != nil {
		return refuse(http.StatusRequestEntityTooLarge, "Request body is too large")
	}
	if len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return refuse(http.StatusBadRequest, "Problems parsing JSON")
	}
	return nil
}

// page cuts the page asked for out of a list and links its neighbours.
func (c *call) page(all []object) []object {
	q := c.r.URL.Query()
	size, _ := strconv.Atoi(q.Get("per_page"))
	if size <= 0 {
		size = 30
	}
	size = min(size, 100)
	n, _ := strconv.Atoi(q.Get("page"))
	n = max(n, 1)
	last := max(1, (len(all)+size-1)/size)
	var links []string
	link := func(page int, rel string) {
		q.Set("page", strconv.Itoa(page))
		links = append(links, fmt.Sprintf(`<%s/api/v3%s?%s>; rel="%s"`, c.s.url, c.r.URL.Path, q.Encode(), rel))
	}
	if n > 1 {
		link(min(n-1, last), "prev")
	}
	if n < last {
		link(n+1, "next")
		link(last, "last")
	}
	if n > 1 {
		link(1, "first")
	}
	if len(links) > 0 {
		c.head.Set("Link", strings.Join(links, ", "))
	}
	if n > last {
		return []object{}
	}
	return append([]object{}, all[min((n-1)*size, len(all)):min(n*size, len(all))]...)
}

// reply is what a handler answers.
type reply struct {
	status int
	body   any // nil: none; []byte: as it is
}

var noContent = reply{status: http.StatusNoContent}

func ok(body any) reply      { return reply{http.StatusOK, body} }
func created(body any) reply { return reply{http.StatusCreated, body} }

// refusal is an error that the API answers in GitHub's form.
type refusal struct {
	status    int
	message   string
	errors    []object
	sentences []string // instead of errors, on some routes
}

func (e *refusal) Error() string { return fmt.Sprintf("%d %s", e.status, e.message) }

func refuse(status int, message string) *refusal { return &refusal{status: status, message: message} }

// invalid is a 422 with one error: resource, field and code (missing_field, invalid, …).
func invalid(resource, field, code string) *refusal {
	return unprocessable("Validation Failed", object{"resource": resource, "field": field, "code": code})
}

// invalidBecause is a 422 with one error that is a sentence.
func invalidBecause(resource, message string) *refusal {
	return unprocessable("Validation Failed", object{"resource": resource, "code": "custom", "message": message})
}

// invalidField is a 422 with one error that is a sentence about a field.
func invalidField(resource, field, message string) *refusal {
	return unprocessable("Validation Failed", object{"resource": resource, "field": field, "code": "custom", "message": field + " " + message})
}

// unreviewable is the 422 of the routes of reviews, whose errors are sentences.
func unreviewable(sentence string) *refusal {
	e := unprocessable("Unprocessable Entity")
	e.sentences = []string{sentence}
	return e
}

// maxText is how many characters the text of a pull request, review or comment may have.
const maxText = 65536

// checkComment refuses a comment's text as the routes of issues do.
func checkComment(body *string) error {
	problem := func(message string) error {
		return unprocessable("Validation Failed", object{"resource": "IssueComment", "field": "data", "code": "unprocessable", "message": message})
	}
	switch {
	case body == nil:
		return refuse(http.StatusUnprocessableEntity, "Invalid request.\n\n\"body\" wasn't supplied.")
	case strings.TrimSpace(*body) == "":
		return problem("Body cannot be blank")
	case utf8.RuneCountInString(*body) > maxText:
		return problem(fmt.Sprintf("Body is too long (maximum is %d characters)", maxText))
	}
	return nil
}

// tooLong refuses a text as all other routes do; nil if it is not.
func tooLong(resource, body string) error {
	if utf8.RuneCountInString(body) <= maxText {
		return nil
	}
	return invalidField(resource, "body", fmt.Sprintf("is too long (maximum is %d characters)", maxText))
}

func unprocessable(message string, errors ...object) *refusal {
	return &refusal{status: http.StatusUnprocessableEntity, message: message, errors: errors}
}

var (
	errNotFound  = refuse(http.StatusNotFound, "Not Found")
	errForbidden = refuse(http.StatusForbidden, "Resource not accessible by integration")
)

// handler answers one route.
type handler func(c *call) (reply, error)

// answer runs one API request from beginning to end under the mutex.
func (s *Server) answer(n need, h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		c := &call{s: s, r: r, head: w.Header()}
		got, err := s.serve(c, n, h)
		if err == nil {
			err = s.journal.err
		}
		data, status := s.encode(c, got, err)
		s.mu.Unlock()
		noteCaller(r.Context(), c.who.name())
		writeReply(w, r, status, data)
	}
}

// serve authenticates, finds the repository and checks the right before the handler.
func (s *Server) serve(c *call, n need, h handler) (reply, error) {
	var err error
	if c.who, err = s.authenticate(c.r); err != nil {
		return reply{}, err
	}
	s.limit(c)
	if c.who.kind == byJWT && !slices.Contains(n.kinds, byJWT) {
		return reply{}, refuse(http.StatusUnauthorized, "Bad credentials") // it is good for the App's own routes only
	}
	if n.kinds != nil && !slices.Contains(n.kinds, c.who.kind) {
		return reply{}, n.wrongKind(c.who.kind)
	}
	if c.arg("owner") == "" {
		return h(c)
	}
	c.repo = s.repos.get(strings.ToLower(c.arg("owner") + "/" + c.arg("repo")))
	if c.repo == nil || !c.who.covers(c.repo) {
		return reply{}, errNotFound
	}
	if !slices.ContainsFunc(n.any, func(name string) bool { return c.who.may(c.repo, name, n.level, n.role) }) {
		return reply{}, errForbidden
	}
	return h(c)
}

// limit sets the rate limit's headers. Nothing is limited, unless by Inject.
func (s *Server) limit(c *call) {
	limit := 5000
	if c.who.kind == anonymous {
		limit = 60
	}
	h := c.head
	h.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(limit-1))
	h.Set("X-RateLimit-Used", "1")
	h.Set("X-RateLimit-Reset", strconv.FormatInt(s.now().Add(installationLife).Unix(), 10))
	h.Set("X-RateLimit-Resource", "core")
}

// encode renders a handler's result, under the mutex because it may refer to rows.
func (s *Server) encode(c *call, got reply, err error) ([]byte, int) {
	if err != nil {
		var e *refusal
		if !errors.As(err, &e) {
			s.log.Error("answering an API request", "method", c.r.Method, "path", c.r.URL.Path, "err", err)
			e = refuse(http.StatusInternalServerError, "Server Error")
		}
		got = reply{e.status, refusalJSON(e)}
	}
	if raw, isRaw := got.body.([]byte); isRaw || got.body == nil {
		return raw, got.status
	}
	c.head.Set("Content-Type", "application/json; charset=utf-8")
	data, err := json.Marshal(got.body)
	if err != nil {
		s.log.Error("encoding an API reply", "path", c.r.URL.Path, "err", err)
		return nil, http.StatusInternalServerError
	}
	return data, got.status
}

func refusalJSON(e *refusal) object {
	body := object{"message": e.message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(e.status)}
	if e.errors != nil {
		body["errors"] = e.errors
	}
	if e.sentences != nil {
		body["errors"] = e.sentences
	}
	return body
}

// writeReply sends a reply with the headers that all of GitHub's have.
func writeReply(w http.ResponseWriter, r *http.Request, status int, data []byte) {
	h := w.Header()
	h.Set("X-GitHub-Request-Id", strings.ToUpper(uuid.NewString()[:18]))
	h.Set("X-GitHub-Media-Type", "github.v3; format=json")
	h.Set("X-GitHub-Api-Version-Selected", "2022-11-28")
	if r.Method == http.MethodGet && status == http.StatusOK {
		tag := h.Get("ETag")
		if tag == "" {
			tag = fmt.Sprintf(`W/"%x"`, sha256.Sum256(data))
			h.Set("ETag", tag)
		}
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.WriteHeader(status)
	w.Write(data)
}

// pageURL is an address of the pages for people.
func (s *Server) pageURL(format string, args ...any) string {
	return s.url + "/" + fmt.Sprintf(format, args...)
}

// apiURL is an address of the API.
func (s *Server) apiURL(format string, args ...any) string {
	return s.url + "/api/v3/" + fmt.Sprintf(format, args...)
}

// escapePath escapes a branch or file name for a URL, keeping its slashes.
func escapePath(name string) string { return (&url.URL{Path: name}).EscapedPath() }
