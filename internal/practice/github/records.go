package github

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// account is a user, a bot or an organisation.
type account struct {
	ID    int64
	Login string
	Name  string
	Type  string // User, Bot or Organization
}

// noreply is the address that credits a commit to the account: its id comes
// first, so it survives a rename.
func (a *account) noreply() string {
	return fmt.Sprintf("%d+%s@users.noreply.github.com", a.ID, a.Login)
}

// repository is one on disk, with what git does not know of it.
type repository struct {
	ID            int64
	Owner, Name   string
	Description   string
	DefaultBranch string
	Private       bool
	Roles         map[string]level  // by login
	Protected     []string          // branches that nobody may push
	Refs          map[string]string // as last seen: full name to commit
	NextNumber    int               // of the next pull request
	CreatedAt     time.Time
	PushedAt      time.Time
}

func (r *repository) fullName() string { return r.Owner + "/" + r.Name }
func (r *repository) key() string      { return strings.ToLower(r.fullName()) }

// pull is a pull request from a branch of the same repository.
type pull struct {
	ID         int64
	Repository string // owner/name
	Number     int
	Title      string
	Body       string
	Draft      bool
	Author     string // login
	Base, Head string // branches
	BaseSHA    string
	HeadSHA    string
	ClosedAt   *time.Time
	MergedAt   *time.Time
	MergedBy   string
	MergeSHA   string
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Labels     []label
	Assignees  []string
	Reviewers  []string // logins asked for a review
	Mergeable  bool

	Commits, Files, Additions, Deletions int
}

func (p *pull) key() string { return pullKey(p.Repository, p.Number) }

func pullKey(repository string, number int) string {
	return fmt.Sprintf("%s#%d", strings.ToLower(repository), number)
}

func (p *pull) state() string {
	if p.ClosedAt != nil {
		return "closed"
	}
	return "open"
}

type label struct {
	ID                       int64
	Repository               string
	Name, Color, Description string
}

// comment is one in the conversation of a pull request.
type comment struct {
	ID        int64
	Pull      string // key
	Author    string
	Body      string
	Reactions []reaction
	CreatedAt time.Time
	UpdatedAt time.Time
}

type reaction struct {
	ID      int64
	Author  string
	Content string
	At      time.Time
}

// review is a verdict, with comments on lines.
type review struct {
	ID          int64
	Pull        string
	Author      string
	Body        string
	State       string // APPROVED, CHANGES_REQUESTED, COMMENTED
	CommitSHA   string
	SubmittedAt time.Time
}

// reviewComment is one on a line of the diff, or a reply to such a one.
type reviewComment struct {
	ID        int64
	Pull      string
	Review    int64
	ReplyTo   int64 // the thread's first comment; 0: this is it
	Author    string
	Body      string
	Path      string
	Line      int // 0: outdated, the line was changed
	Side      string
	Position  int    // of the line in the file's diff, from 1
	CommitSHA string // to which Line and Position belong
	Original  placed // where it was made
	DiffHunk  string // of the diff then, to the line
	Resolved  bool   // of the thread, kept at its first comment
	Reactions []reaction
	CreatedAt time.Time
	UpdatedAt time.Time
}

// placed is a line of a diff.
type placed struct {
	Line, Position int
	CommitSHA      string
}

type checkRun struct {
	ID          int64
	Repository  string
	SHA         string
	Name        string
	Status      string // queued, in_progress, completed
	Conclusion  string
	DetailsURL  string
	ExternalID  string
	Title       string
	Summary     string
	Text        string
	StartedAt   time.Time
	CompletedAt *time.Time
	Annotations []annotation
	Job         bool   // of GitHub Actions
	Run         int64  // of a job: the run of the workflow
	Branch      string // of a job
	Log         string // of a job
}

type commitStatus struct {
	ID          int64
	Repository  string
	SHA         string
	State       string // error, failure, pending, success
	Context     string
	Description string
	TargetURL   string
	Creator     string
	At          time.Time
}

// token is a credential that was given out. Its key is its value.
type token struct {
	Kind         tokenKind
	User         string     // of user and refresh tokens
	Repositories []int64    // of installation tokens
	Permissions  permission // of installation tokens
	Expires      time.Time  // zero: never
	Access       string     // of a refresh token: the access token that dies with it
}

type tokenKind string

const (
	installationToken tokenKind = "installation"
	userToken         tokenKind = "user"
	refreshToken      tokenKind = "refresh"
)

// grantCode is a code of the web flow. Its key is its value.
type grantCode struct {
	User        string
	RedirectURI string
	Challenge   string // PKCE, S256; empty: none was sent
	Expires     time.Time
}

// setting is a value that there is one of, by name.
type setting struct{ Value string }

// sorted returns the rows that are wanted, in the order that less gives.
func sorted[T any, K cmp.Ordered](t *table[T], want func(*T) bool, by func(*T) K) []*T {
	var out []*T
	for _, row := range t.rows {
		if want(row) {
			out = append(out, row)
		}
	}
	slices.SortFunc(out, func(a, b *T) int { return cmp.Compare(by(a), by(b)) })
	return out
}
