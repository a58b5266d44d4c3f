package sessionstest

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"openinspect/sessions"
)

// Forge is a code host in memory. Tokens that people may use are those of Grant;
// refresh tokens work once.
type Forge struct {
	mu        sync.Mutex
	repos     []sessions.Repository
	users     map[string]string // access token -> login
	refreshes map[string]string // refresh token -> login
	pulls     []sessions.PullRequest
	heads     map[string]sessions.NewPullRequest // by URL
	faults    []error
	answered  bool // whether the next fault comes after the effect
	minted    int
	branches  map[string]string // commits that default branches are at, by repository
	asked     int               // how often one was asked for
}

// NewForge returns a code host with repositories owner/name, whose default branch is main.
func NewForge(names ...string) *Forge {
	f := &Forge{users: map[string]string{}, refreshes: map[string]string{}, heads: map[string]sessions.NewPullRequest{},
		branches: map[string]string{}}
	f.SetRepositories(names...)
	return f
}

// SetRepositories replaces what the App is installed on.
func (f *Forge) SetRepositories(names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repos = nil
	for i, name := range names {
		f.repos = append(f.repos, sessions.Repository{Name: name, GitHubID: int64(100 + i), DefaultBranch: "main", Private: true})
	}
}

// Grant mints tokens of a person that expire at the given time (zero: never).
func (f *Forge) Grant(login string, expires time.Time) sessions.GitHubTokens {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mint(login, expires)
}

func (f *Forge) mint(login string, expires time.Time) sessions.GitHubTokens {
	f.minted++
	t := sessions.GitHubTokens{Access: fmt.Sprintf("ghu_access%024d", f.minted),
		Refresh: fmt.Sprintf("ghr_refresh%024d", f.minted), Expires: expires}
	f.users[t.Access] = login
	f.refreshes[t.Refresh] = login
	return t
}

// Revoke makes all tokens of a person worthless.
func (f *Forge) Revoke(login string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, tokens := range []map[string]string{f.users, f.refreshes} {
		for t, l := range tokens {
			if l == login {
				delete(tokens, t)
			}
		}
	}
}

// Fail makes the next attempts to open a pull request fail with these errors;
// with answered, only after the pull request was opened.
func (f *Forge) Fail(answered bool, errs ...error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults, f.answered = errs, answered
}

// PullRequests returns all that were opened.
func (f *Forge) PullRequests() []sessions.PullRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]sessions.PullRequest(nil), f.pulls...)
}

// Repositories implements sessions.Forge.
func (f *Forge) Repositories(context.Context) ([]sessions.Repository, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]sessions.Repository(nil), f.repos...), nil
}

// OpenPullRequest implements sessions.Forge.
func (f *Forge) OpenPullRequest(_ context.Context, token string, pr sessions.NewPullRequest) (sessions.PullRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	login, ok := f.users[token]
	if !ok {
		return sessions.PullRequest{}, &sessions.Problem{Code: "github_relink", Text: "GitHub does not accept your connection any more."}
	}
	return f.open(login, pr)
}

// OpenPullRequestAsApp implements sessions.AppForge.
func (f *Forge) OpenPullRequestAsApp(_ context.Context, pr sessions.NewPullRequest) (sessions.PullRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open("inspect[bot]", pr)
}

func (f *Forge) open(login string, pr sessions.NewPullRequest) (sessions.PullRequest, error) {
	var fault error
	if len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
		if !f.answered {
			return sessions.PullRequest{}, fault
		}
	}
	if found := f.find(pr.Repository, pr.Head); found != nil {
		return *found, fault
	}
	n := len(f.pulls) + 1
	opened := sessions.PullRequest{Number: n, URL: fmt.Sprintf("https://github.test/%s/pull/%d", pr.Repository, n),
		Title: pr.Title, State: "open", Draft: pr.Draft, Author: login}
	f.pulls = append(f.pulls, opened)
	f.heads[opened.URL] = pr
	return opened, fault
}

func (f *Forge) find(repository, branch string) *sessions.PullRequest {
	for i := range f.pulls {
		pr := f.heads[f.pulls[i].URL]
		if pr.Repository == repository && pr.Head == branch && f.pulls[i].State == "open" {
			found := f.pulls[i]
			return &found
		}
	}
	return nil
}

// FindPullRequest implements sessions.Forge.
func (f *Forge) FindPullRequest(_ context.Context, repository, branch string) (*sessions.PullRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(repository, branch), nil
}

// CompareURL implements sessions.Forge.
func (f *Forge) CompareURL(pr sessions.NewPullRequest) string {
	return "https://github.test/" + pr.Repository + "/compare/" + pr.Base + "..." + pr.Head +
		"?quick_pull=1&title=" + url.QueryEscape(pr.Title)
}

// RemoteURL implements sessions.Forge.
func (f *Forge) RemoteURL(repository string) string {
	return "https://github.test/" + strings.TrimSuffix(repository, ".git") + ".git"
}

// Commit moves a repository's default branch.
func (f *Forge) Commit(repository, sha string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.branches[repository] = sha
}

// HeadsAsked is how often somebody asked where a default branch is.
func (f *Forge) HeadsAsked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// FirstCommit is where default branches are before the first Commit.
const FirstCommit = "1111111111111111111111111111111111111111"

// BranchHead implements sessions.Forge.
func (f *Forge) BranchHead(_ context.Context, repository, _, _ string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return cmp.Or(f.branches[repository], FirstCommit), nil
}

// Refresh implements sessions.Forge.
func (f *Forge) Refresh(_ context.Context, refreshToken string) (sessions.GitHubTokens, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	login, ok := f.refreshes[refreshToken]
	if !ok {
		return sessions.GitHubTokens{}, &sessions.Problem{Code: "github_relink", Text: "The connection to GitHub has ended."}
	}
	delete(f.refreshes, refreshToken)
	for t, l := range f.users {
		if l == login {
			delete(f.users, t)
		}
	}
	return f.mint(login, time.Now().Add(8*time.Hour)), nil
}
