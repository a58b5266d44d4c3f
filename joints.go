package main

import (
	"context"
	"errors"
	"net/http"
	"os"

	"openinspect/internal/doors"
	"openinspect/internal/github"
	"openinspect/sandbox/image"
	"openinspect/sessions"
)

// The doors know nothing of sessions and sessions nothing of doors: these
// adapters join them.

// doorAuth lets a sandbox's token through the doors.
type doorAuth struct{ engine *sessions.Engine }

func (a doorAuth) Authenticate(ctx context.Context, token string) (doors.Access, error) {
	g, err := a.engine.Authenticate(ctx, token)
	if errors.Is(err, sessions.ErrNotFound) {
		return doors.Access{}, doors.ErrUnknownToken
	}
	if err != nil {
		return doors.Access{}, err
	}
	return doors.Access{Session: g.Session, Repository: g.Repository, Branch: g.Branch, DefaultBranch: g.DefaultBranch}, nil
}

// gitUpstream is the code host as the git door sees it.
type gitUpstream struct{ app *github.App }

func (u gitUpstream) RepositoryURL(repository string) string { return u.app.RemoteURL(repository) }

func (u gitUpstream) Token(ctx context.Context, repository string, write bool) (string, error) {
	return u.app.Token(ctx, repository, write)
}

// doorMeter counts what models cost, and refuses when a budget is used up.
type doorMeter struct{ engine *sessions.Engine }

func (m doorMeter) Allow(ctx context.Context, a doors.Access) error {
	err := m.engine.Allow(ctx, a.Session)
	var problem *sessions.Problem
	if errors.As(err, &problem) {
		return &doors.Refusal{Sentence: problem.Text}
	}
	return err
}

func (m doorMeter) Used(ctx context.Context, a doors.Access, u doors.Usage) error {
	return m.engine.Used(ctx, a.Session, sessions.Usage{
		Model: u.Model, Input: u.Input, Output: u.Output, CacheRead: u.CacheRead, CacheWrite: u.CacheWrite,
		CostUSD: u.CostUSD, Known: u.Known,
	})
}

// ensureOpenCode finds the pinned OpenCode in the cache folder, or installs it there once from npm.
func ensureOpenCode(ctx context.Context) (string, error) {
	dir, err := image.CacheDir(os.Getenv("OPENINSPECT_CACHE"))
	if err != nil {
		return "", err
	}
	return image.EnsureOpenCode(ctx, dir)
}

// selfPath is this program's file.
func selfPath() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// doorTools finds the servers of tools that are set for a session's repository.
type doorTools struct{ engine *sessions.Engine }

func (t doorTools) ToolServer(ctx context.Context, a doors.Access, name string) (doors.ToolServer, error) {
	found, err := t.engine.ToolServer(ctx, a.Session, name)
	var problem *sessions.Problem
	if errors.As(err, &problem) {
		return doors.ToolServer{}, &doors.Refusal{Sentence: problem.Text}
	}
	if err != nil {
		return doors.ToolServer{}, err
	}
	server := doors.ToolServer{URL: found.URL, Header: http.Header{}, Secret: found.Secrets}
	for name, value := range found.Headers {
		server.Header.Set(name, value)
	}
	return server, nil
}

// doorSecrets finds the secrets that a session may not push.
type doorSecrets struct{ engine *sessions.Engine }

func (s doorSecrets) find(ctx context.Context, a doors.Access) (doors.FindSecret, error) {
	if a.Branch == "" {
		return nil, nil // it pushes nothing
	}
	m, err := s.engine.CommitSecrets(ctx, a.Session)
	if err != nil || m == nil {
		return nil, err
	}
	return m.Named, nil
}
