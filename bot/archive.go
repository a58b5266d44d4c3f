package bot

import (
	"context"
	"fmt"

	"github.com/slack-go/slack"

	"openinspect/sessions"
)

// actionArchive is of the menu of a card whose request has ended. Its option's value
// names the session.
const actionArchive = "archive_session"

// archiveMenu puts a session away, once the person has confirmed it.
func archiveMenu(session string) *slack.OverflowBlockElement {
	menu := slack.NewOverflowBlockElement(actionArchive, slack.NewOptionBlockObject(session, plain("Archive the session"), nil))
	menu.Confirm = slack.NewConfirmationBlockObject(plain("Archive this session?"),
		plain("Its sandbox ends, and is deleted after a while. Its branch stays, and a reply in the thread opens the session again."),
		plain("Archive"), plain("Keep it"))
	return menu
}

// pressArchive archives a session and says so to everybody in the thread.
func (b *Bot) pressArchive(ctx context.Context, key string, t sessions.Thread, session string, by sessions.Person) error {
	s, err := b.engine.Session(ctx, session)
	if err != nil {
		return err
	}
	if s.State == "archived" {
		return &sessions.Problem{Code: "archived", Text: "This session is archived already. A reply in the thread opens it again."}
	}
	if err := b.engine.Archive(ctx, key, session, by.ID); err != nil {
		return err
	}
	return b.tell(ctx, key+":said", t, "", fmt.Sprintf("%s archived this session. A reply opens it again.", by.Name))
}
