package github

import (
	"context"
	"embed"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// maxPush bounds a push, as GitHub does.
const maxPush = 2 << 30

// gitPath is what git asks for, with and without .git.
var gitPath = regexp.MustCompile(`^/([^/]+)/([^/]+?)(?:\.git)?/(info/refs|git-upload-pack|git-receive-pack)$`)

// hookFiles refuse what GitHub refuses and say what it says.
//
//go:embed hooks
var hookFiles embed.FS

func writeHooks(dir string) error {
	hooks := filepath.Join(dir, "hooks")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"update", "post-receive"} {
		text, err := hookFiles.ReadFile("hooks/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(hooks, name), text, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// gitOr serves git's own paths and leaves the rest to the pages.
func (s *Server) gitOr(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := gitPath.FindStringSubmatch(r.URL.Path)
		if m == nil {
			pages.ServeHTTP(w, r)
			return
		}
		s.serveGit(w, r, m[1]+"/"+m[2], m[3])
	})
}

// serveGit checks the caller's right and hands over to git http-backend.
func (s *Server) serveGit(w http.ResponseWriter, r *http.Request, name, what string) {
	pushing := what == "git-receive-pack" || r.URL.Query().Get("service") == "git-receive-pack"
	s.mu.Lock()
	repo, who, refused := s.admit(r, name, pushing)
	var env []string
	if refused == nil {
		env = s.gitServiceEnv(repo, who)
	}
	s.mu.Unlock()
	noteCaller(r.Context(), who.name())
	if refused != nil {
		if refused.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="GitHub"`)
		}
		http.Error(w, refused.message, refused.status)
		return
	}
	body, err := spool(w, r)
	if err != nil {
		http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
		return
	}
	if body != nil {
		defer os.Remove(body.Name())
		defer body.Close()
	}
	r.Header.Del("Authorization") // CGI would put it into the environment
	r.URL.Path = "/" + repo.fullName() + ".git/" + what
	backend := &cgi.Handler{Path: gitProgram(), Args: []string{"http-backend"}, Dir: s.dir, Env: env, Stderr: io.Discard}
	backend.ServeHTTP(w, r)
	if what == "git-receive-pack" {
		s.afterPush(r, repo, who)
	}
}

// gitProgram is the path of git, which CGI wants in full.
func gitProgram() string {
	path, err := exec.LookPath("git")
	if err != nil {
		return "git"
	}
	return path
}

// admit finds the repository and says why the caller may not do what it wants.
func (s *Server) admit(r *http.Request, name string, pushing bool) (*repository, caller, *refusal) {
	who, err := s.authenticate(r)
	if err != nil {
		return nil, who, refuse(http.StatusUnauthorized, "Invalid username or token. Password authentication is not supported for Git operations.")
	}
	repo := s.repos.get(strings.ToLower(name))
	switch {
	case who.kind == anonymous && (repo == nil || repo.Private || pushing):
		return nil, who, refuse(http.StatusUnauthorized, "No anonymous access.")
	case repo == nil || !who.covers(repo) || !who.may(repo, "contents", reading, reading):
		return nil, who, refuse(http.StatusNotFound, "Repository not found.")
	case pushing && !who.may(repo, "contents", writing, writing):
		return nil, who, refuse(http.StatusForbidden, fmt.Sprintf("Permission to %s.git denied to %s.", repo.fullName(), who.account.Login))
	}
	return repo, who, nil
}

func (s *Server) gitServiceEnv(r *repository, who caller) []string {
	var protected []string
	for _, branch := range r.Protected {
		protected = append(protected, "refs/heads/"+branch)
	}
	user := "anonymous"
	if who.account != nil {
		user = who.account.Login
	}
	return append(gitEnv(),
		"GIT_PROJECT_ROOT="+filepath.Join(s.dir, "repos"), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER="+user,
		"PRACTICE_PROTECTED="+strings.Join(protected, " "), "PRACTICE_PAGE="+s.pageURL("%s", r.fullName()))
}

// spool puts a chunked body into a file: git sends large pushes in chunks,
// which GitHub takes and CGI cannot.
func spool(w http.ResponseWriter, r *http.Request) (*os.File, error) {
	if r.ContentLength >= 0 {
		return nil, nil
	}
	f, err := os.CreateTemp("", "push-")
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, http.MaxBytesReader(w, r.Body, maxPush))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	r.Body, r.ContentLength, r.TransferEncoding = f, n, nil
	return f, nil
}

// afterPush tells the world what was pushed. It does so even when the pusher
// has hung up.
func (s *Server) afterPush(r *http.Request, repo *repository, who caller) {
	ctx := context.WithoutCancel(r.Context())
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.noticeRefs(ctx, repo, who.account); err != nil {
		s.log.Error("looking at what was pushed", "repository", repo.fullName(), "err", err)
	}
}
