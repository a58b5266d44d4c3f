package sessions

import (
	"context"
	"strings"
)

// updatePullRequest changes the words of the session's pull request, or whether
// it is a draft. What it merges into is for people to change.
func updatePullRequest(ctx context.Context, t *tx, c toolCall) (*toolResult, string, error) {
	var asked struct {
		Title *string `json:"title"`
		Body  *string `json:"body"`
		Draft *bool   `json:"draft"`
	}
	if wrong := c.read(&asked); wrong != nil {
		return wrong, "", nil
	}
	edit := PullRequestEdit{Repository: c.session.Repository, Body: asked.Body, Draft: asked.Draft}
	if asked.Title != nil {
		title := shorten(strings.TrimSpace(*asked.Title), longestTitle)
		if title == "" {
			return refusal("A pull request needs a title: leave title out to keep the one it has."), "", nil
		}
		edit.Title = &title
	}
	if edit.Body != nil {
		body, err := t.withPictures(ctx, c.session, *edit.Body)
		if err != nil {
			return nil, "", err
		}
		body = shorten(body, longestBody)
		edit.Body = &body
	}
	if edit.Title == nil && edit.Body == nil && edit.Draft == nil {
		return refusal("There is nothing to change: give a title, a body, or whether it is a draft."), "", nil
	}
	var err error
	if edit.Number, err = newestPullRequest(ctx, t, c.session.ID); err != nil {
		return nil, "", err
	}
	if edit.Number == 0 {
		return refusal(noPullRequest), "", nil
	}
	return t.askEffect(ctx, c, deliverEdit, wantedEffect{Edit: &edit})
}
