package sessions

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// uploadArtifact shows people a file that the supervisor has sent before the call.
func uploadArtifact(ctx context.Context, t *tx, c toolCall) (*toolResult, string, error) {
	var asked struct {
		Upload uuid.UUID `json:"upload"`
		Title  string    `json:"title"`
		Kind   string    `json:"kind"` // screenshot, or empty: what the file is
	}
	if wrong := c.read(&asked); wrong != nil {
		return wrong, "", nil
	}
	if asked.Kind != "" && asked.Kind != "screenshot" {
		return refusal("There is no such kind of artifact."), "", nil
	}
	if refused, err := t.tooManyFiles(ctx, c.session.ID); err != nil || refused != nil {
		return refused, "", err
	}
	a, err := t.madeFile(ctx, c, asked.Upload, asked.Kind, asked.Title)
	if errors.Is(err, ErrNotFound) {
		return refusal("The file did not arrive: try again."), "", nil
	}
	if err != nil {
		return nil, "", err
	}
	where := "in the thread and on the session's page"
	if c.session.ThreadTS == "" {
		where = "on the session's page"
	}
	text := fmt.Sprintf("“%s” is shown %s: %s", a.Title, where, a.URL)
	if pictureTypes[a.MIME] {
		text += fmt.Sprintf("\nTo show it in a pull request, write ![%s](%s%s) into its description.", a.Title, pictureScheme, a.ID)
	}
	return &toolResult{text: text}, "", nil
}
