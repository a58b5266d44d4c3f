package github

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	gh "github.com/google/go-github/v62/github"

	"openinspect/sessions"
)

// ReviewComments lists the comments on lines of a pull request, oldest first.
func (a *App) ReviewComments(ctx context.Context, repository string, number int) ([]sessions.ReviewComment, error) {
	token, err := a.repositoryToken(ctx, repository, readPulls)
	if err != nil {
		return nil, err
	}
	list, err := reviewComments(ctx, a.client(token), repository, number)
	if err != nil {
		return nil, a.appProblem(err, repository)
	}
	var out []sessions.ReviewComment
	for _, c := range list {
		out = append(out, sessions.ReviewComment{ID: c.GetID(), ReplyTo: c.GetInReplyTo(), Author: c.GetUser().GetLogin(),
			Path: c.GetPath(), Line: c.GetLine(), Body: withoutMark(c.GetBody()), URL: c.GetHTMLURL()})
	}
	return out, nil
}

func reviewComments(ctx context.Context, c *gh.Client, repository string, number int) ([]*gh.PullRequestComment, error) {
	owner, name, err := splitName(repository)
	if err != nil {
		return nil, err
	}
	o := &gh.PullRequestListCommentsOptions{Sort: "created", Direction: "asc", ListOptions: gh.ListOptions{PerPage: perPage}}
	var all []*gh.PullRequestComment
	for {
		page, resp, err := c.PullRequests.ListComments(ctx, owner, name, number, o)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if resp.NextPage == 0 {
			return all, nil
		}
		o.Page = resp.NextPage
	}
}

// mark hides a reply's name in its text: GitHub does not show HTML comments.
func mark(name string) string {
	return "<!-- inspect " + strings.ReplaceAll(name, "--", "- -") + " -->"
}

func withoutMark(body string) string {
	text, _, _ := strings.Cut(body, "\n\n<!-- inspect ")
	return text
}

// ReplyToReview answers a comment of the named pull request. GitHub takes answers
// to a thread's first comment only, so that one is found first.
func (a *App) ReplyToReview(ctx context.Context, as sessions.As, r sessions.ReviewReply, again bool) (string, error) {
	url, err := a.reply(ctx, as, r, again)
	if err == nil {
		return url, nil
	}
	if status(err) == http.StatusUnprocessableEntity {
		return "", problem(CodeRefused, "GitHub did not take the reply: "+said(err)+".", err)
	}
	return "", a.actorProblem(err, as, r.Repository, "comment on pull requests")
}

func (a *App) reply(ctx context.Context, as sessions.As, r sessions.ReviewReply, again bool) (string, error) {
	owner, name, err := splitName(r.Repository)
	if err != nil {
		return "", problem(CodeNoRepository, "There is no repository "+r.Repository+".", err)
	}
	c, err := a.actor(ctx, as, r.Repository)
	if err != nil {
		return "", err
	}
	all, err := reviewComments(ctx, c, r.Repository, r.Number)
	if err != nil {
		return "", err
	}
	var top int64
	for _, other := range all {
		if again && strings.Contains(other.GetBody(), mark(r.Mark)) {
			return other.GetHTMLURL(), nil
		}
		if other.GetID() == r.Comment {
			if top = other.GetInReplyTo(); top == 0 {
				top = other.GetID()
			}
		}
	}
	if top == 0 {
		return "", problem(CodeNoComment, fmt.Sprintf("Pull request #%d has no comment %d on a line of it. get_review lists those that it has.", r.Number, r.Comment), nil)
	}
	made, _, err := c.PullRequests.CreateCommentInReplyTo(ctx, owner, name, r.Number, r.Body+"\n\n"+mark(r.Mark), top)
	if err != nil {
		return "", err
	}
	return made.GetHTMLURL(), nil
}
