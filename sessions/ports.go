package sessions

import (
	"context"
	"time"
)

// Forge is the code host, as the core needs it. internal/github implements it.
// Its errors that are for people are *Problem; its retryable ones say so with
// *Retryable. Nothing of it puts a token into an error.
type Forge interface {
	// Repositories lists all repositories that the App is installed on.
	Repositories(ctx context.Context) ([]Repository, error)
	// OpenPullRequest opens one with the person's own token. If the branch has an
	// open pull request already, that one is returned.
	OpenPullRequest(ctx context.Context, token string, pr NewPullRequest) (PullRequest, error)
	// FindPullRequest finds the open pull request of a branch with the App's own
	// reading rights, or returns nil.
	FindPullRequest(ctx context.Context, repository, branch string) (*PullRequest, error)
	// CompareURL is a page where a person opens the pull request by hand, prefilled.
	CompareURL(pr NewPullRequest) string
	// RemoteURL is what a clone of the repository shows as origin.
	RemoteURL(repository string) string
	// BranchHead returns the commit that a branch is at, with the App's own reading
	// rights. last is what it returned before, if anything: code hosts that are told
	// answer cheaply when nothing has changed.
	BranchHead(ctx context.Context, repository, branch, last string) (string, error)
	// Refresh exchanges a refresh token: both old tokens are dead afterwards.
	// A *Problem means that the person has to link again.
	Refresh(ctx context.Context, refreshToken string) (GitHubTokens, error)
}

// AppForge is a Forge that can also open pull requests as the App itself. It is
// needed only where the operator allows that (Config.BotPullRequests).
type AppForge interface {
	Forge
	// OpenPullRequestAsApp is OpenPullRequest with the App's own token; the body
	// names the person who asked.
	OpenPullRequestAsApp(ctx context.Context, pr NewPullRequest) (PullRequest, error)
}

// NewPullRequest is what to open.
type NewPullRequest struct {
	Repository string `json:"repository"`
	Base       string `json:"base"`
	Head       string `json:"head"` // branch
	Title      string `json:"title"`
	Body       string `json:"body"`
	Draft      bool   `json:"draft,omitempty"`
}

// PullRequest is one that exists.
type PullRequest struct {
	Number int    `json:"number"`
	URL    string `json:"url"`
	Title  string `json:"title"`
	State  string `json:"state"`
	Draft  bool   `json:"draft"`
	Author string `json:"author"`
}

// GitHubTokens are a person's tokens. Expires is zero for tokens that do not expire.
type GitHubTokens struct {
	Access, Refresh string
	Expires         time.Time
}

// Chooser asks the small model which repository a request means. A nil Chooser
// is allowed: then people are asked. internal/model implements it.
type Chooser interface {
	// ChooseRepository returns the full name and a short reason, or "" if it is not sure.
	ChooseRepository(ctx context.Context, text string, from []Repository) (name, why string, err error)
}

// Problem is an error with a sentence for people: what is wrong and what to do.
type Problem struct {
	Code string // stable, e.g. no_repository
	Text string
	Err  error // the cause, for the log only
}

func (p *Problem) Error() string {
	if p.Err != nil {
		return p.Text + ": " + p.Err.Error()
	}
	return p.Text
}

func (p *Problem) Unwrap() error { return p.Err }

// Retryable is an error that time may mend.
type Retryable struct {
	After   time.Duration // what the remote asked for; 0 if it did not say
	Unknown bool          // the request may have had its effect
	Err     error
}

func (r *Retryable) Error() string { return r.Err.Error() }
func (r *Retryable) Unwrap() error { return r.Err }
