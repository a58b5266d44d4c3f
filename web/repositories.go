package web

import (
	"context"
	"net/http"
	"slices"

	"openinspect/sessions"
)

var errNoRepository = &failure{status: http.StatusNotFound, code: "no_repository",
	text: "There is no such repository here: the GitHub App has to be installed on it."}

// settingsPage is what the templates of settings get: of one repository, or of all.
type settingsPage struct {
	Title      string
	Viewer     sessions.Person
	Head       repositoryHead       // of one repository's
	CanLink    bool                 // GitHub accounts can be connected
	Repository *sessions.Repository // nil: all
	API        string               // where changes go
	Version    int64
	Own, All   sessions.Settings // Own is All on the page of all
	Placement  bool              // cores and regions have an effect
	Variables  []sessions.Variable
	Inherited  []sessions.Variable // those for all that the repository does not have itself
	Changes    []sessions.SettingChange
}

// repositoryHead is what each page of a repository begins with.
type repositoryHead struct {
	Name    string
	Image   bool // this is the page of its image
	Failing bool // its image cannot be built
}

// failingImages are the repositories whose images cannot be built.
func (s *Server) failingImages(ctx context.Context) (map[string]bool, error) {
	builds, err := s.engine.FailingBuilds(ctx)
	failing := make(map[string]bool, len(builds))
	for _, b := range builds {
		failing[b.Repository] = true
	}
	return failing, err
}

// changesShown is how many changes of settings a page lists.
const changesShown = 30

// settingsOf reads what the page of a repository, or of all, shows.
func (s *Server) settingsOf(ctx context.Context, v viewer, repository string) (settingsPage, error) {
	p := settingsPage{Title: "Settings", Viewer: v.Person, CanLink: s.cfg.GitHub != nil, API: "/api/settings", Placement: s.engine.Placement()}
	var err error
	if repository != sessions.ForAll {
		if p.Repository, err = s.repository(ctx, repository); err != nil {
			return p, err
		}
		p.Title, p.API = repository, "/api/repositories/"+repository
	}
	if p.Own, p.Version, err = s.engine.ReadSettings(ctx, repository); err != nil {
		return p, err
	}
	if p.Variables, err = s.engine.Variables(ctx, repository); err != nil {
		return p, err
	}
	if p.Changes, err = s.engine.SettingChanges(ctx, repository, changesShown); err != nil {
		return p, err
	}
	if p.Repository == nil {
		return p, nil
	}
	if p.All, _, err = s.engine.ReadSettings(ctx, sessions.ForAll); err != nil {
		return p, err
	}
	p.Inherited, err = s.engine.Variables(ctx, sessions.ForAll)
	p.Inherited = slices.DeleteFunc(p.Inherited, func(one sessions.Variable) bool {
		return slices.ContainsFunc(p.Variables, func(own sessions.Variable) bool { return own.Name == one.Name })
	})
	return p, err
}

// repository finds a repository by its full name.
func (s *Server) repository(ctx context.Context, name string) (*sessions.Repository, error) {
	all, err := s.engine.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, errNoRepository
}

// named is the repository that a request's path names, or ForAll.
func named(r *http.Request) string {
	if r.PathValue("owner") == "" {
		return sessions.ForAll
	}
	return r.PathValue("owner") + "/" + r.PathValue("name")
}

// serveSettings shows what is connected, and what is set for all repositories.
func (s *Server) serveSettings(w http.ResponseWriter, r *http.Request, v viewer) error {
	page, err := s.settingsOf(r.Context(), v, sessions.ForAll)
	if err != nil {
		return err
	}
	return s.render(w, http.StatusOK, "settings", page)
}

// serveRepository shows what is set for one repository.
func (s *Server) serveRepository(w http.ResponseWriter, r *http.Request, v viewer) error {
	page, err := s.settingsOf(r.Context(), v, named(r))
	if err != nil {
		return err
	}
	failing, err := s.failingImages(r.Context())
	if err != nil {
		return err
	}
	page.Head = repositoryHead{Name: page.Repository.Name, Failing: failing[page.Repository.Name]}
	return s.render(w, http.StatusOK, "repository", page)
}

// serveRepositories lists the repositories.
func (s *Server) serveRepositories(w http.ResponseWriter, r *http.Request, v viewer) error {
	all, err := s.engine.Repositories(r.Context())
	if err != nil {
		return err
	}
	failing, err := s.failingImages(r.Context())
	if err != nil {
		return err
	}
	return s.render(w, http.StatusOK, "repositories", map[string]any{"Title": "Repositories", "Viewer": v.Person, "Repositories": all, "Failing": failing})
}

// mountSettings adds the pages of settings and what they call. Changes are for
// administrators, which the engine checks; everybody may read.
func (s *Server) mountSettings(mux *http.ServeMux) {
	mux.Handle("GET /settings", s.signedIn(s.serveSettings))
	mux.Handle("GET /repositories", s.signedIn(s.serveRepositories))
	mux.Handle("GET /repositories/{owner}/{name}", s.signedIn(s.serveRepository))
	for _, at := range []string{"/api/settings", "/api/repositories/{owner}/{name}"} {
		mux.Handle("GET "+at, s.signedIn(s.getSettings))
		mux.Handle("PUT "+at, s.signedIn(s.putSettings))
		mux.Handle("PUT "+at+"/variables/{variable}", s.signedIn(s.putVariable))
		mux.Handle("DELETE "+at+"/variables/{variable}", s.signedIn(s.deleteVariable))
	}
}

// settingsJSON is what is set, with the version that a change has to name.
type settingsJSON struct {
	Version   int64             `json:"version"`
	Settings  sessions.Settings `json:"settings"`
	Variables []variableJSON    `json:"variables"`
}

// variableJSON is a variable; a secret without its value.
type variableJSON struct {
	Name  string                `json:"name"`
	Kind  sessions.VariableKind `json:"kind"`
	Value string                `json:"value,omitempty"`
	By    string                `json:"by"`
}

func (s *Server) getSettings(w http.ResponseWriter, r *http.Request, v viewer) error {
	page, err := s.settingsOf(r.Context(), v, named(r))
	if err != nil {
		return err
	}
	out := settingsJSON{Version: page.Version, Settings: page.Own, Variables: []variableJSON{}}
	for _, one := range page.Variables {
		out.Variables = append(out.Variables, variableJSON{one.Name, one.Kind, one.Value, one.By})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) putSettings(w http.ResponseWriter, r *http.Request, v viewer) error {
	var body settingsJSON
	if err := readBody(w, r, &body); err != nil {
		return err
	}
	if err := s.engine.ChangeSettings(r.Context(), v.ID, named(r), body.Version, body.Settings); err != nil {
		return err
	}
	return s.answerChange(w, r, v)
}

func (s *Server) putVariable(w http.ResponseWriter, r *http.Request, v viewer) error {
	var body struct {
		Value string                `json:"value"`
		Kind  sessions.VariableKind `json:"kind"`
	}
	if err := readBody(w, r, &body); err != nil {
		return err
	}
	if err := s.engine.SetVariable(r.Context(), v.ID, named(r), r.PathValue("variable"), body.Value, body.Kind); err != nil {
		return err
	}
	return s.answerChange(w, r, v)
}

func (s *Server) deleteVariable(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := s.engine.RemoveVariable(r.Context(), v.ID, named(r), r.PathValue("variable")); err != nil {
		return err
	}
	return s.answerChange(w, r, v)
}

// answerChange returns the parts of the page that a change changed, so that what is
// being written elsewhere on it stays.
func (s *Server) answerChange(w http.ResponseWriter, r *http.Request, v viewer) error {
	page, err := s.settingsOf(r.Context(), v, named(r))
	if err != nil {
		return err
	}
	out := map[string]any{"version": page.Version}
	for _, part := range []string{"variables", "changes"} {
		html, err := s.panel(part, page)
		if err != nil {
			return err
		}
		out[part] = html
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}
