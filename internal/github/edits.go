package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	gh "github.com/google/go-github/v62/github"

	"openinspect/sessions"
)

// actor is the API as the one in whose name something is done.
func (a *App) actor(ctx context.Context, as sessions.As, repository string) (*gh.Client, error) {
	if !as.App {
		return a.client(as.Token), nil
	}
	token, err := a.repositoryToken(ctx, repository, writePulls)
	if err != nil {
		return nil, err
	}
	return a.client(token), nil
}

// actorProblem is why something was refused to the one who did it. what is the
// rest of "Your GitHub account may not".
func (a *App) actorProblem(err error, as sessions.As, repository, what string) error {
	if p, already := errors.AsType[*sessions.Problem](err); already {
		return p
	}
	if r := a.retryable(err, true); r != nil {
		return r
	}
	if as.App {
		return a.appProblem(err, repository)
	}
	switch status(err) {
	case http.StatusForbidden, http.StatusNotFound:
		return problem(CodeNoAccess, "Your GitHub account may not "+what+" in "+repository+": ask somebody there for write access.", err)
	}
	return a.userProblem(err)
}

// EditPullRequest changes title, body and whether it is a draft. GitHub's REST
// API has no way to change the last, so that is asked of its GraphQL API
// (docs.github.com/graphql/reference/mutations).
func (a *App) EditPullRequest(ctx context.Context, as sessions.As, edit sessions.PullRequestEdit) (sessions.PullRequest, error) {
	done, err := a.edit(ctx, as, edit)
	if err == nil {
		return done, nil
	}
	if status(err) == http.StatusUnprocessableEntity {
		return done, problem(CodeRefused, "GitHub did not take the change: "+said(err)+".", err)
	}
	return done, a.actorProblem(err, as, edit.Repository, "change pull requests")
}

func (a *App) edit(ctx context.Context, as sessions.As, edit sessions.PullRequestEdit) (sessions.PullRequest, error) {
	owner, name, err := splitName(edit.Repository)
	if err != nil {
		return sessions.PullRequest{}, problem(CodeNoRepository, "There is no repository "+edit.Repository+".", err)
	}
	c, err := a.actor(ctx, as, edit.Repository)
	if err != nil {
		return sessions.PullRequest{}, err
	}
	var pr *gh.PullRequest
	if edit.Title != nil || edit.Body != nil {
		pr, _, err = c.PullRequests.Edit(ctx, owner, name, edit.Number, &gh.PullRequest{Title: edit.Title, Body: edit.Body})
	} else {
		pr, _, err = c.PullRequests.Get(ctx, owner, name, edit.Number)
	}
	if err != nil {
		return sessions.PullRequest{}, err
	}
	if edit.Draft != nil && *edit.Draft != pr.GetDraft() {
		if err := a.setDraft(ctx, c, pr.GetNodeID(), *edit.Draft); err != nil {
			return sessions.PullRequest{}, err
		}
		pr.Draft = edit.Draft
	}
	return toPullRequest(pr), nil
}

// setDraft makes a pull request a draft, or ready for review.
func (a *App) setDraft(ctx context.Context, c *gh.Client, node string, draft bool) error {
	mutation := "markPullRequestReadyForReview"
	if draft {
		mutation = "convertPullRequestToDraft"
	}
	req, err := c.NewRequest(http.MethodPost, a.graphqlURL(), map[string]any{
		"query":     fmt.Sprintf("mutation($id: ID!) { %s(input: {pullRequestId: $id}) { pullRequest { isDraft } } }", mutation),
		"variables": map[string]string{"id": node},
	})
	if err != nil {
		return err
	}
	var answer struct {
		Errors []struct{ Type, Message string }
	}
	if _, err := c.Do(ctx, req, &answer); err != nil {
		return err
	}
	if len(answer.Errors) > 0 { // GraphQL refuses with status 200
		e := answer.Errors[0]
		code, text := CodeRefused, "GitHub refused: "+strings.TrimRight(e.Message, ".")+"."
		if e.Type == "FORBIDDEN" || e.Type == "NOT_FOUND" {
			code, text = CodeNoAccess, "Changing whether the pull request is a draft is not allowed to this GitHub account."
		}
		return problem(code, text, errors.New(e.Type+": "+e.Message))
	}
	return nil
}

// graphqlURL is beside the REST API: /graphql on api.github.com, /api/graphql on
// a server of one's own, whose REST API is at /api/v3
// (docs.github.com/graphql/guides/forming-calls-with-graphql).
func (a *App) graphqlURL() string {
	base := strings.TrimSuffix(a.api.String(), "/")
	if server, is := strings.CutSuffix(base, "/api/v3"); is {
		return server + "/api/graphql"
	}
	return base + "/graphql"
}
