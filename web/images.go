package web

import (
	"errors"
	"io"
	"net/http"
	"time"

	"openinspect/sessions"
)

// mountImages adds the page of a repository's image, and its calls.
func (s *Server) mountImages(mux *http.ServeMux) {
	mux.Handle("GET /repositories/{owner}/{name}/image", s.signedIn(s.serveImage))
	mux.Handle("POST /repositories/{owner}/{name}/image", s.signedIn(s.rebuildImage))
	mux.Handle("GET /repositories/{owner}/{name}/image/{build}/log", s.signedIn(s.serveBuildLog))
	mux.Handle("GET /api/repositories/{owner}/{name}/image", s.signedIn(s.getImage))
	mux.Handle("POST /api/repositories/{owner}/{name}/image", s.signedIn(s.postImage))
}

// imageReload is how often the page of an image that is being built is drawn anew.
const imageReload = "3"

func repositoryOf(r *http.Request) string { return r.PathValue("owner") + "/" + r.PathValue("name") }

// imagePage is what the template of an image's page gets.
type imagePage struct {
	Title      string
	Viewer     sessions.Person
	Head       repositoryHead
	Repository string
	Path       string // of the page
	Admin      bool
	Current    *sessions.Build // what sessions start from
	Open       *sessions.Build // what is being built
	Failing    *sessions.Build // the newest build, if it failed
	Builds     []sessions.Build
	Shown      *sessions.Build // whose log is shown: what is being built, else the newest
	Log        string
}

func (s *Server) imagePage(r *http.Request, v viewer) (imagePage, error) {
	repository := repositoryOf(r)
	p := imagePage{Title: "Image of " + repository, Viewer: v.Person, Repository: repository, Path: "/repositories/" + repository + "/image"}
	var err error
	if p.Builds, err = s.engine.Builds(r.Context(), repository); errors.Is(err, sessions.ErrNotFound) {
		return p, errNoRepository
	}
	if err != nil {
		return p, err
	}
	p.Admin = v.Admin
	p.Head = repositoryHead{Name: repository, Image: true}
	for i := range p.Builds {
		b := &p.Builds[i]
		if b.Usable {
			p.Current = b
		}
		if b.Open() && p.Open == nil {
			p.Open = b
		}
	}
	if len(p.Builds) == 0 {
		return p, nil
	}
	p.Shown = &p.Builds[0]
	if p.Open == nil && p.Shown.State == sessions.BuildFailed {
		p.Failing, p.Head.Failing = p.Shown, true
	}
	p.Log, err = s.engine.BuildLog(r.Context(), repository, p.Shown.ID)
	return p, err
}

// serveImage shows a repository's image and its builds. While one is being built
// the page is drawn anew every few seconds.
func (s *Server) serveImage(w http.ResponseWriter, r *http.Request, v viewer) error {
	p, err := s.imagePage(r, v)
	if err != nil {
		return err
	}
	if p.Open != nil {
		w.Header().Set("Refresh", imageReload)
	}
	return s.render(w, http.StatusOK, "image", p)
}

// rebuildImage is the administrators' button.
func (s *Server) rebuildImage(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := s.rebuild(r, v); err != nil {
		return err
	}
	http.Redirect(w, r, "/repositories/"+repositoryOf(r)+"/image", http.StatusSeeOther)
	return nil
}

func (s *Server) rebuild(r *http.Request, v viewer) error {
	_, err := s.engine.RebuildImage(r.Context(), repositoryOf(r), v.ID)
	if errors.Is(err, sessions.ErrNotFound) {
		return errNoRepository
	}
	return err
}

// serveBuildLog is what a build printed, as text.
func (s *Server) serveBuildLog(w http.ResponseWriter, r *http.Request, _ viewer) error {
	log, err := s.engine.BuildLog(r.Context(), repositoryOf(r), r.PathValue("build"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, log) // who asked may be gone
	return nil
}

// buildJSON is a build as the API shows it.
type buildJSON struct {
	ID      string              `json:"id"`
	Why     string              `json:"why"`
	State   sessions.BuildState `json:"state"`
	Reason  string              `json:"reason,omitempty"`
	Warning string              `json:"warning,omitempty"`
	Commit  string              `json:"commit,omitempty"`
	Image   string              `json:"image"`
	Usable  bool                `json:"usable"`
	Queued  time.Time           `json:"queued_at"`
	Started *time.Time          `json:"started_at,omitempty"`
	Ended   *time.Time          `json:"ended_at,omitempty"`
}

func (s *Server) getImage(w http.ResponseWriter, r *http.Request, v viewer) error {
	p, err := s.imagePage(r, v)
	if err != nil {
		return err
	}
	builds := make([]buildJSON, 0, len(p.Builds))
	for _, b := range p.Builds {
		builds = append(builds, buildJSON{b.ID, b.Why, b.State, b.Reason, b.Warning, b.Commit, b.Image, b.Usable, b.QueuedAt, b.StartedAt, b.EndedAt})
	}
	writeJSON(w, http.StatusOK, map[string]any{"repository": p.Repository, "builds": builds, "log": p.Log})
	return nil
}

func (s *Server) postImage(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := s.rebuild(r, v); err != nil {
		return err
	}
	writeJSON(w, http.StatusAccepted, map[string]string{"url": "/repositories/" + repositoryOf(r) + "/image"})
	return nil
}
