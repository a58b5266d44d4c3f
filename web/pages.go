package web

import (
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"openinspect/sessions"
)

// listMost is how many sessions the list shows.
const listMost = 200

// group is a part of the list of sessions.
type group struct {
	Name     string
	Sessions []sessions.Summary
}

// serveList shows the sessions in the order in which they need people.
func (s *Server) serveList(w http.ResponseWriter, r *http.Request, v viewer) error {
	mine, search := r.URL.Query().Get("show") == "mine", strings.TrimSpace(r.URL.Query().Get("q"))
	of := uuid.Nil
	if mine {
		of = v.ID
	}
	all, err := s.engine.Sessions(r.Context(), of, listMost, 0)
	if err != nil {
		return err
	}
	groups := []group{{Name: "Needs attention"}, {Name: "Working"}, {Name: "Recent"}}
	found := 0
	for _, x := range all {
		if search != "" && !strings.Contains(strings.ToLower(x.Title+" "+x.Repository), strings.ToLower(search)) {
			continue
		}
		found++
		at := 2
		switch x.Status {
		case "waiting", "failed":
			at = 0
		case "queued", "starting", "working":
			at = 1
		}
		groups[at].Sessions = append(groups[at].Sessions, x)
	}
	return s.render(w, http.StatusOK, "list", map[string]any{
		"Title": "Sessions", "Viewer": v.Person, "Groups": groups, "Found": found, "Mine": mine, "Search": search})
}

// serveNew is the form that begins a session.
func (s *Server) serveNew(w http.ResponseWriter, r *http.Request, v viewer) error {
	repositories, err := s.engine.Repositories(r.Context())
	if err != nil {
		return err
	}
	return s.render(w, http.StatusOK, "new", map[string]any{
		"Title": "New session", "Viewer": v.Person, "Repositories": repositories,
		"Text": r.URL.Query().Get("text"), "Repository": r.URL.Query().Get("repository")})
}

// sessionPage is what the template of a session's page gets.
type sessionPage struct {
	Title      string
	Viewer     sessions.Person
	View       sessionView
	Head, Side template.HTML
	Question   template.HTML
	Sections   []section
	Parts      []sessions.RunningPart
	Last       int64
}

// serveSession is a session's page.
func (s *Server) serveSession(w http.ResponseWriter, r *http.Request, v viewer) error {
	view, err := s.view(r.Context(), r.PathValue("id"))
	if errors.Is(err, sessions.ErrNotFound) {
		return errNoSession
	}
	if err != nil {
		return err
	}
	page := sessionPage{Title: view.Session.Title, Viewer: v.Person, View: view, Last: view.Session.LastSeq}
	if page.Title == "" {
		page.Title = "Session " + view.Session.ID
	}
	if page.Head, err = s.panel("head", view); err != nil {
		return err
	}
	if page.Side, err = s.panel("side", view); err != nil {
		return err
	}
	if page.Question, err = s.panel("question", view); err != nil {
		return err
	}
	// The running parts are read before the log: one that ends in between is
	// shown twice for a moment rather than not at all.
	if page.Parts, err = s.engine.RunningParts(r.Context(), view.Session.ID); err != nil {
		return err
	}
	if page.Sections, err = s.transcript(r.Context(), view.Session.ID, page.Last, r.URL.Query().Has("all")); err != nil {
		return err
	}
	return s.render(w, http.StatusOK, "session", page)
}

// serveSection is the fragment that fills a stub.
func (s *Server) serveSection(w http.ResponseWriter, r *http.Request, _ viewer) error {
	from, err := strconv.ParseInt(r.URL.Query().Get("from"), 10, 64)
	if err != nil || from < 1 {
		return &failure{status: http.StatusBadRequest, code: "bad_section", text: "That part of the transcript does not exist."}
	}
	sec, err := s.section(r.Context(), r.PathValue("id"), sectionStart(from))
	if err != nil {
		return err
	}
	return s.render(w, http.StatusOK, "section-rows", sec)
}

// serveLog is the whole log as it is stored, one JSON object per line.
func (s *Server) serveLog(w http.ResponseWriter, r *http.Request, _ viewer) error {
	x, err := s.engine.Session(r.Context(), r.PathValue("id"))
	if errors.Is(err, sessions.ErrNotFound) {
		return errNoSession
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/jsonl; charset=utf-8")
	w.Header().Set("Content-Disposition", "attachment; filename=\"session-"+url.PathEscape(x.ID)+".jsonl\"")
	for after := int64(0); after < x.LastSeq; {
		events, err := s.engine.Events(r.Context(), x.ID, after, 500)
		if err != nil || len(events) == 0 {
			return err
		}
		for _, ev := range events {
			if err := writeLine(w, ev); err != nil {
				return nil // who asked is gone
			}
			after = ev.Seq
		}
	}
	return nil
}
