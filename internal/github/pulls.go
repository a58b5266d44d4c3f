package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	gh "github.com/google/go-github/v62/github"

	"openinspect/sessions"
)

// maxCompareURL keeps the address of a prefilled page under what GitHub and
// browsers take (8 kB).
const maxCompareURL = 8000

// FindPullRequest finds the open pull request of a branch of the repository
// itself (not of a fork's branch of that name), or returns nil.
func (a *App) FindPullRequest(ctx context.Context, repository, branch string) (*sessions.PullRequest, error) {
	token, err := a.repositoryToken(ctx, repository, readPulls)
	if err != nil {
		return nil, err
	}
	pr, err := find(ctx, a.client(token), repository, branch)
	if err != nil {
		return nil, a.appProblem(err, repository)
	}
	return pr, nil
}

// find lists by head and looks again itself: GitHub ignores a filter that it
// does not understand.
func find(ctx context.Context, c *gh.Client, repository, branch string) (*sessions.PullRequest, error) {
	owner, name, err := splitName(repository)
	if err != nil {
		return nil, err
	}
	o := &gh.PullRequestListOptions{State: "open", Head: owner + ":" + branch, ListOptions: gh.ListOptions{PerPage: perPage}}
	for {
		page, resp, err := c.PullRequests.List(ctx, owner, name, o)
		if err != nil {
			return nil, err
		}
		for _, pr := range page {
			if pr.GetHead().GetRef() == branch && pr.GetHead().GetRepo().GetID() == pr.GetBase().GetRepo().GetID() {
				found := toPullRequest(pr)
				return &found, nil
			}
		}
		if resp.NextPage == 0 {
			return nil, nil
		}
		o.Page = resp.NextPage
	}
}

func toPullRequest(pr *gh.PullRequest) sessions.PullRequest {
	return sessions.PullRequest{Number: pr.GetNumber(), URL: pr.GetHTMLURL(), Title: pr.GetTitle(), State: pr.GetState(),
		Draft: pr.GetDraft(), Author: pr.GetUser().GetLogin()}
}

// OpenPullRequest opens a pull request with a person's token. If the branch has
// an open one already, that is returned.
func (a *App) OpenPullRequest(ctx context.Context, token string, pr sessions.NewPullRequest) (sessions.PullRequest, error) {
	opened, err := open(ctx, a.client(token), pr)
	if err == nil {
		return opened, nil
	}
	if p := refused(err, pr); p != nil {
		return sessions.PullRequest{}, p
	}
	if r := a.retryable(err, true); r != nil {
		return sessions.PullRequest{}, r
	}
	switch status(err) {
	case http.StatusForbidden, http.StatusNotFound:
		return sessions.PullRequest{}, problem(CodeNoAccess, "Your GitHub account may not open pull requests in "+pr.Repository+
			": ask somebody there for write access, or have them open it.", err)
	}
	return sessions.PullRequest{}, a.userProblem(err)
}

// OpenPullRequestAsApp opens a pull request whose author is the App.
func (a *App) OpenPullRequestAsApp(ctx context.Context, pr sessions.NewPullRequest) (sessions.PullRequest, error) {
	token, err := a.repositoryToken(ctx, pr.Repository, writePulls)
	if err != nil {
		return sessions.PullRequest{}, err
	}
	opened, err := open(ctx, a.client(token), pr)
	if err == nil {
		return opened, nil
	}
	if p := refused(err, pr); p != nil {
		return sessions.PullRequest{}, p
	}
	if r := a.retryable(err, true); r != nil {
		return sessions.PullRequest{}, r
	}
	return sessions.PullRequest{}, a.appProblem(err, pr.Repository)
}

// open creates the pull request, or finds the one that there is.
func open(ctx context.Context, c *gh.Client, pr sessions.NewPullRequest) (sessions.PullRequest, error) {
	owner, name, err := splitName(pr.Repository)
	if err != nil {
		return sessions.PullRequest{}, problem(CodeNoRepository, "There is no repository "+pr.Repository+".", err)
	}
	made, _, err := c.PullRequests.Create(ctx, owner, name, &gh.NewPullRequest{
		Title: &pr.Title, Body: &pr.Body, Head: &pr.Head, Base: &pr.Base, Draft: &pr.Draft,
	})
	if validation(err, "", "A pull request already exists") {
		found, findErr := find(ctx, c, pr.Repository, pr.Head)
		if findErr != nil {
			return sessions.PullRequest{}, findErr
		}
		if found != nil {
			return *found, nil
		}
	}
	if err != nil {
		return sessions.PullRequest{}, err
	}
	return toPullRequest(made), nil
}

// refused is why GitHub will not have this pull request of anybody; nil if it
// is for another reason.
func refused(err error, pr sessions.NewPullRequest) error {
	if p, already := errors.AsType[*sessions.Problem](err); already {
		return p
	}
	switch {
	case validation(err, "", "No commits between"):
		return problem(CodeNoCommits, fmt.Sprintf("There is nothing to open a pull request for: %s has no commits that %s does not have.", pr.Head, pr.Base), err)
	case validation(err, "head", ""):
		return problem(CodeNoBranch, fmt.Sprintf("The branch %s is not on GitHub yet: push it first.", pr.Head), err)
	case validation(err, "base", ""):
		return problem(CodeNoBranch, fmt.Sprintf("%s has no branch %s to merge into.", pr.Repository, pr.Base), err)
	case status(err) == http.StatusUnprocessableEntity:
		return problem(CodeRefused, "GitHub did not take the pull request: "+said(err)+".", err)
	}
	return nil
}

// CompareURL is the page on which a person opens the pull request by hand, with
// title and text filled in, the text cut where the address would be too long.
func (a *App) CompareURL(pr sessions.NewPullRequest) string {
	page := a.cfg.WebURL + pr.Repository + "/compare/" + escape(pr.Base) + "..." + escape(pr.Head)
	title, body := cut(pr.Title, 250), pr.Body
	for {
		q := url.Values{"quick_pull": {"1"}, "title": {title}}
		if body != "" {
			q.Set("body", body)
		}
		full := page + "?" + q.Encode()
		excess := len(full) - maxCompareURL
		if excess <= 0 || body == "" {
			return full
		}
		// A byte takes at most three in the address. The last ellipsis goes too.
		body = cut(body, len(body)-max(excess/3, 1)-len(ellipsis))
	}
}

const ellipsis = "…"

// cut shortens a text to at most n bytes and an ellipsis.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n = max(n, 0)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	if n == 0 {
		return ""
	}
	return strings.TrimSuffix(s[:n], ellipsis) + ellipsis
}

func escape(branch string) string {
	parts := strings.Split(branch, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// RemoteURL is what a clone of the repository shows as origin.
func (a *App) RemoteURL(repository string) string { return a.cfg.WebURL + repository + ".git" }
