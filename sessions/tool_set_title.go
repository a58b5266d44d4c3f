package sessions

import "context"

// setTitle names the session by what it turned out to be about.
func setTitle(ctx context.Context, t *tx, c toolCall) (*toolResult, string, error) {
	var asked struct {
		Title string `json:"title"`
	}
	if wrong := c.read(&asked); wrong != nil {
		return wrong, "", nil
	}
	to := title(asked.Title)
	if to == "" {
		return refusal("A title needs at least one word."), "", nil
	}
	if err := t.retitle(ctx, c.session, to); err != nil {
		return nil, "", err
	}
	return &toolResult{text: "The session is called “" + to + "” now."}, "", nil
}
