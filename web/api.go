package web

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/google/uuid"

	"openinspect/sessions"
)

// bodyMost is the largest request that is read, in bytes. It leaves room for
// prompts that are too long, so that the core says so with its own limit.
const bodyMost = 1_000_000

// eventsMost is how many events one request may read.
const eventsMost = 1000

// mountAPI adds the JSON API. Errors are {"error": {"code", "text"}}.
func (s *Server) mountAPI(mux *http.ServeMux) {
	mux.Handle("POST /api/sessions", s.signedIn(s.postSession))
	mux.Handle("GET /api/sessions/{id}", s.signedIn(s.getSession))
	mux.Handle("GET /api/sessions/{id}/events", s.signedIn(s.getEvents))
	mux.Handle("POST /api/sessions/{id}/prompts", s.signedIn(s.postPrompt))
	mux.Handle("POST /api/sessions/{id}/stop", s.signedIn(s.postStop))
	mux.Handle("POST /api/sessions/{id}/repository", s.signedIn(s.postRepository))
	mux.Handle("POST /api/sessions/{id}/ticket", s.signedIn(s.postTicket))
	mux.Handle("POST /api/interest", s.signedIn(s.postInterest))
	mux.Handle("DELETE /api/prompts/{id}", s.signedIn(s.deletePrompt))
	mux.Handle("POST /api/prompts/{id}/retry", s.signedIn(s.postRetry))
	mux.Handle("/api/", s.adapt(func(http.ResponseWriter, *http.Request) error {
		return &failure{status: http.StatusNotFound, code: "no_route", text: "There is no such call."}
	}))
}

// readBody reads a request's JSON.
func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyMost)).Decode(into)
	if tooBig, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooBig
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &failure{status: http.StatusRequestTimeout, code: "too_slow",
			text: "The request did not arrive in time. What you wrote is not lost; try again.", err: err}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return &failure{status: http.StatusBadRequest, code: "bad_json", text: "The request is not valid JSON.", err: err}
	}
	return nil
}

// dedupeKey is the I1 key of a request: what the client minted, within the
// person's own keys. A client that mints none gets no protection.
func dedupeKey(r *http.Request, v viewer) (string, error) {
	key := r.Header.Get("Idempotency-Key")
	if len(key) > 100 {
		return "", &failure{status: http.StatusBadRequest, code: "bad_key", text: "The Idempotency-Key may have 100 characters at most."}
	}
	if key == "" {
		key = uuid.NewString()
	}
	return "web:" + v.ID.String() + ":" + key, nil
}

type postedPrompt struct {
	Repository string `json:"repository"`
	Prompt     string `json:"prompt"`
	Text       string `json:"text"`
}

func (s *Server) postSession(w http.ResponseWriter, r *http.Request, v viewer) error {
	var body postedPrompt
	if err := readBody(w, r, &body); err != nil {
		return err
	}
	return s.accept(w, r, v, sessions.Request{Text: body.Prompt, Repository: body.Repository})
}

func (s *Server) postPrompt(w http.ResponseWriter, r *http.Request, v viewer) error {
	var body postedPrompt
	if err := readBody(w, r, &body); err != nil {
		return err
	}
	return s.accept(w, r, v, sessions.Request{Text: body.Text, Session: r.PathValue("id")})
}

func (s *Server) accept(w http.ResponseWriter, r *http.Request, v viewer, req sessions.Request) error {
	var err error
	if req.Key, err = dedupeKey(r, v); err != nil {
		return err
	}
	req.Source, req.Author = sessions.FromWeb, v.ID
	got, err := s.engine.Accept(r.Context(), req)
	if err != nil {
		return err
	}
	writeAccepted(w, got)
	return nil
}

func writeAccepted(w http.ResponseWriter, got sessions.Accepted) {
	status := http.StatusCreated
	if got.Duplicate {
		status = http.StatusOK
	}
	writeJSON(w, status, map[string]any{
		"session": got.Session.ID, "prompt": got.Prompt.ID, "state": got.Prompt.State,
		"url": "/sessions/" + got.Session.ID, "duplicate": got.Duplicate})
}

// postInterest says that somebody writes something: what the request will need is
// made ready meanwhile.
func (s *Server) postInterest(w http.ResponseWriter, r *http.Request, _ viewer) error {
	var body struct {
		Session    string `json:"session"`
		Repository string `json:"repository"`
		Text       string `json:"text"`
	}
	if err := readBody(w, r, &body); err != nil {
		return err
	}
	err := s.engine.Interest(r.Context(), sessions.Interest{Session: body.Session, Repository: body.Repository, Text: body.Text})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) postRetry(w http.ResponseWriter, r *http.Request, v viewer) error {
	key, err := dedupeKey(r, v)
	if err != nil {
		return err
	}
	got, err := s.engine.Retry(r.Context(), key, r.PathValue("id"), v.ID)
	if err != nil {
		return err
	}
	writeAccepted(w, got)
	return nil
}

// postStop stops what runs, or only the prompt that is named: a person who saw
// the page a second ago must not stop the next one.
func (s *Server) postStop(w http.ResponseWriter, r *http.Request, v viewer) error {
	var body struct {
		Prompt string `json:"prompt"`
	}
	if err := readBody(w, r, &body); err != nil {
		return err
	}
	key, err := dedupeKey(r, v)
	if err != nil {
		return err
	}
	stopped, err := s.engine.Stop(r.Context(), key, r.PathValue("id"), body.Prompt, v.ID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"stopped": stopped})
	return nil
}

func (s *Server) deletePrompt(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := s.engine.Cancel(r.Context(), r.PathValue("id"), v.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) postRepository(w http.ResponseWriter, r *http.Request, v viewer) error {
	var body postedPrompt
	if err := readBody(w, r, &body); err != nil {
		return err
	}
	key, err := dedupeKey(r, v)
	if err != nil {
		return err
	}
	if err := s.engine.ChooseRepository(r.Context(), key, r.PathValue("id"), body.Repository, v.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// promptJSON is a prompt as the API shows it.
type promptJSON struct {
	ID     string               `json:"id"`
	Author string               `json:"author"`
	Source sessions.Source      `json:"source"`
	Text   string               `json:"text"`
	State  sessions.PromptState `json:"state"`
	Reason string               `json:"reason,omitempty"`
	Answer string               `json:"answer,omitempty"`
}

func (s *Server) getSession(w http.ResponseWriter, r *http.Request, _ viewer) error {
	v, err := s.view(r.Context(), r.PathValue("id"))
	if errors.Is(err, sessions.ErrNotFound) {
		return errNoSession
	}
	if err != nil {
		return err
	}
	prompts, err := s.engine.Prompts(r.Context(), v.Session.ID)
	if err != nil {
		return err
	}
	list := make([]promptJSON, 0, len(prompts))
	for _, p := range prompts {
		list = append(list, promptJSON{p.ID, p.AuthorName, p.Source, p.Text, p.State, p.Reason, p.Answer})
	}
	out := map[string]any{
		"id": v.Session.ID, "title": v.Session.Title, "repository": v.Session.Repository, "branch": v.Session.Branch(),
		"status": v.Status, "last_seq": v.Session.LastSeq, "cost_usd": v.Session.CostUSD,
		"sandbox": v.Sandbox.State, "prompts": list}
	if v.PR != nil {
		out["pull_request"] = v.PR.URL
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) getEvents(w http.ResponseWriter, r *http.Request, _ viewer) error {
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	if err != nil && r.URL.Query().Has("after") || after < 0 {
		return &failure{status: http.StatusBadRequest, code: "bad_after", text: "The parameter after has to be a sequence number."}
	}
	if _, err := s.engine.Session(r.Context(), r.PathValue("id")); errors.Is(err, sessions.ErrNotFound) {
		return errNoSession
	}
	events, err := s.engine.Events(r.Context(), r.PathValue("id"), after, eventsMost)
	if err != nil {
		return err
	}
	if events == nil {
		events = []sessions.Event{}
	}
	writeJSON(w, http.StatusOK, map[string]any{"events": events})
	return nil
}

// postTicket gives the page what opens its live connection.
func (s *Server) postTicket(w http.ResponseWriter, r *http.Request, v viewer) error {
	if _, err := s.engine.Session(r.Context(), r.PathValue("id")); errors.Is(err, sessions.ErrNotFound) {
		return errNoSession
	}
	writeJSON(w, http.StatusOK, map[string]string{"ticket": s.mintTicket(v, r.PathValue("id"))})
	return nil
}

func writeLine(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}
