package github

import (
	"context"
	"net/http"
	"strings"
	"time"

	gh "github.com/google/go-github/v62/github"
)

// spare is how long a token that is given out stays good at least.
const spare = 10 * time.Minute

// permission is what a token of the installation may do.
type permission string

const (
	readContents  permission = "contents:read"
	writeContents permission = "contents:write"
	readPulls     permission = "pull_requests:read"
	writePulls    permission = "pull_requests:write"
	readMetadata  permission = "metadata:read"
	readChecks    permission = "checks:read" // and statuses, the older form of the same
	readActions   permission = "actions:read"
)

// grants are the permissions in the API's form.
func (p permission) grants() *gh.InstallationPermissions {
	name, level, _ := strings.Cut(string(p), ":")
	g := &gh.InstallationPermissions{Metadata: gh.String("read")}
	switch name {
	case "contents":
		g.Contents = &level
	case "pull_requests":
		g.PullRequests = &level
		g.Contents = gh.String("read") // to see the branches
	case "checks":
		g.Checks, g.Statuses = &level, &level
	case "actions":
		g.Actions = &level
	}
	return g
}

// scope is what a token is for.
type scope struct {
	installation int64
	repository   string // name without owner; empty: all of the installation
	permission   permission
}

// slot holds the token of one scope. Its lock is a channel so that waiting for
// it ends with the context.
type slot struct {
	lock    chan struct{}
	token   string
	expires time.Time
}

// Token returns a token that can read, or read and write, the contents of one
// repository (owner/name) and do nothing else. It is good for at least ten
// minutes. Errors: see the package comment.
func (a *App) Token(ctx context.Context, repository string, write bool) (string, error) {
	if write {
		return a.repositoryToken(ctx, repository, writeContents)
	}
	return a.repositoryToken(ctx, repository, readContents)
}

// repositoryToken finds the repository's installation and asks it for a token.
func (a *App) repositoryToken(ctx context.Context, repository string, p permission) (string, error) {
	owner, name, err := splitName(repository)
	if err != nil {
		return "", problem(CodeNoRepository, "There is no repository "+repository+".", err)
	}
	installation, known := a.knownInstallation(repository)
	if known {
		token, err := a.installationToken(ctx, scope{installation, name, p})
		if s := status(err); s != http.StatusNotFound && s != http.StatusUnprocessableEntity {
			return token, a.tokenProblem(err, repository)
		}
		// The App was installed anew, or the repository taken away: look again.
	}
	installation, err = a.findInstallation(ctx, owner, name)
	if err != nil {
		return "", a.appProblem(err, repository)
	}
	token, err := a.installationToken(ctx, scope{installation, name, p})
	return token, a.tokenProblem(err, repository)
}

// tokenProblem is nil for nil.
func (a *App) tokenProblem(err error, repository string) error {
	if err == nil {
		return nil
	}
	return a.appProblem(err, repository)
}

func (a *App) knownInstallation(repository string) (int64, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, known := a.installations[strings.ToLower(repository)]
	return id, known
}

func (a *App) findInstallation(ctx context.Context, owner, name string) (int64, error) {
	c, err := a.asApp()
	if err != nil {
		return 0, err
	}
	found, _, err := c.Apps.FindRepositoryInstallation(ctx, owner, name)
	if err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.installations[strings.ToLower(owner+"/"+name)] = found.GetID()
	return found.GetID(), nil
}

// installationToken returns the scope's token, a new one if the old has less
// than spare left. Callers for one scope wait for each other.
func (a *App) installationToken(ctx context.Context, s scope) (string, error) {
	a.mu.Lock()
	kept := a.tokens[s]
	if kept == nil {
		kept = &slot{lock: make(chan struct{}, 1)}
		a.tokens[s] = kept
	}
	a.mu.Unlock()
	select {
	case kept.lock <- struct{}{}:
		defer func() { <-kept.lock }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if kept.token != "" && kept.expires.Sub(a.now()) >= spare {
		return kept.token, nil
	}
	c, err := a.asApp()
	if err != nil {
		return "", err
	}
	ask := &gh.InstallationTokenOptions{Permissions: s.permission.grants()}
	if s.repository != "" {
		ask.Repositories = []string{s.repository}
	}
	got, _, err := c.Apps.CreateInstallationToken(ctx, s.installation, ask)
	if err != nil {
		return "", err
	}
	kept.token, kept.expires = got.GetToken(), got.GetExpiresAt().Time
	return kept.token, nil
}
