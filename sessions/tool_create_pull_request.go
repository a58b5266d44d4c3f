package sessions

import (
	"context"
	"strings"
)

// GitHub's own limits for a pull request's title and body, in characters.
const (
	longestTitle = 256
	longestBody  = 65_536
)

// createPullRequest opens a pull request of the session's branch.
func createPullRequest(ctx context.Context, t *tx, c toolCall) (*toolResult, string, error) {
	var asked struct {
		Title string `json:"title"`
		Body  string `json:"body"`
		Draft bool   `json:"draft"`
	}
	if wrong := c.read(&asked); wrong != nil {
		return wrong, "", nil
	}
	asked.Title = strings.TrimSpace(asked.Title)
	if asked.Title == "" {
		return refusal("A pull request needs a title."), "", nil
	}
	s := c.session
	body, err := t.withPictures(ctx, s, asked.Body)
	if err != nil {
		return nil, "", err
	}
	pr := NewPullRequest{Repository: s.Repository, Base: s.BaseBranch, Head: s.Branch(),
		Title: shorten(asked.Title, longestTitle), Body: shorten(body, longestBody), Draft: asked.Draft}
	return t.askPullRequest(ctx, s, c.prompt, c.key("pr"), c.author, pr)
}
