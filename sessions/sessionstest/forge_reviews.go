package sessionstest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"openinspect/sessions"
)

// fault is the next one, or nil.
func (f *Forge) fault() error {
	if len(f.faults) == 0 {
		return nil
	}
	next := f.faults[0]
	f.faults = f.faults[1:]
	return next
}

// who is in whose name something is done, or why nobody's.
func (f *Forge) who(as sessions.As) (string, error) {
	if as.App {
		return "inspect[bot]", nil
	}
	if login, ok := f.users[as.Token]; ok {
		return login, nil
	}
	return "", &sessions.Problem{Code: "github_relink", Text: "GitHub does not accept your connection any more."}
}

// Body is the text of a pull request.
func (f *Forge) Body(url string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bodies[url]
}

// EditPullRequest implements sessions.Forge.
func (f *Forge) EditPullRequest(_ context.Context, as sessions.As, edit sessions.PullRequestEdit) (sessions.PullRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.who(as); err != nil {
		return sessions.PullRequest{}, err
	}
	fault := f.fault()
	if fault != nil && !f.answered {
		return sessions.PullRequest{}, fault
	}
	for i := range f.pulls {
		pr := &f.pulls[i]
		if pr.Number != edit.Number || f.heads[pr.URL].Repository != edit.Repository {
			continue
		}
		if edit.Title != nil {
			pr.Title = *edit.Title
		}
		if edit.Body != nil {
			f.bodies[pr.URL] = *edit.Body
		}
		if edit.Draft != nil {
			pr.Draft = *edit.Draft
		}
		return *pr, fault
	}
	return sessions.PullRequest{}, &sessions.Problem{Code: "github_refused", Text: "There is no such pull request."}
}

// SetChecks says what the checks of a commit are.
func (f *Forge) SetChecks(sha string, checks ...sessions.Check) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checks[sha] = checks
}

// Checks implements sessions.Forge.
func (f *Forge) Checks(_ context.Context, _, sha string) ([]sessions.Check, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]sessions.Check(nil), f.checks[sha]...), nil
}

// Comment is a reviewer's comment on a line of a pull request; it returns its number.
func (f *Forge) Comment(author string, pr sessions.PullRequest, path string, line int, body string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.comment(pr.URL, sessions.ReviewComment{Author: author, Path: path, Line: line, Body: body})
}

func (f *Forge) comment(pull string, c sessions.ReviewComment) int64 {
	c.ID = int64(1000 + len(f.comments))
	c.URL = fmt.Sprintf("%s#discussion_r%d", pull, c.ID)
	f.comments = append(f.comments, c)
	f.commented[c.ID] = pull
	return c.ID
}

// ReviewComments implements sessions.Forge.
func (f *Forge) ReviewComments(_ context.Context, repository string, number int) ([]sessions.ReviewComment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.commentsOf(repository, number), nil
}

func (f *Forge) commentsOf(repository string, number int) (list []sessions.ReviewComment) {
	for _, c := range f.comments {
		if strings.HasSuffix(f.commented[c.ID], fmt.Sprintf("/%s/pull/%d", repository, number)) {
			list = append(list, c)
		}
	}
	return list
}

// ReplyToReview implements sessions.Forge.
func (f *Forge) ReplyToReview(_ context.Context, as sessions.As, r sessions.ReviewReply, again bool) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	login, err := f.who(as)
	if err != nil {
		return "", err
	}
	fault := f.fault()
	if fault != nil && !f.answered {
		return "", fault
	}
	all := f.commentsOf(r.Repository, r.Number)
	if i := slices.IndexFunc(all, func(c sessions.ReviewComment) bool { return strings.HasSuffix(c.Body, r.Mark) }); again && i >= 0 {
		return all[i].URL, fault
	}
	for _, c := range all {
		if c.ID == r.Comment {
			id := f.comment(f.commented[c.ID], sessions.ReviewComment{ReplyTo: topOf(c), Author: login, Path: c.Path, Body: r.Body + r.Mark})
			return fmt.Sprintf("%s#discussion_r%d", f.commented[id], id), fault
		}
	}
	return "", &sessions.Problem{Code: "no_comment", Text: fmt.Sprintf("Pull request #%d has no comment %d.", r.Number, r.Comment)}
}

// topOf is the first comment of a comment's thread.
func topOf(c sessions.ReviewComment) int64 {
	if c.ReplyTo != 0 {
		return c.ReplyTo
	}
	return c.ID
}
