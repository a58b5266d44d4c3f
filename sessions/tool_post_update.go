package sessions

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// KindUpdate is a message of the agent that people shall see while it works.
const KindUpdate = "update" // BodyUpdate

// BodyUpdate is such a message, in Markdown.
type BodyUpdate struct {
	Text string `json:"text"`
}

// DeliverUpdate is the outbox row of a BodyUpdate: a message of its own in the thread.
const DeliverUpdate = "update"

// What keeps an agent from flooding a thread.
const (
	longestUpdate = 2000 // characters
	updatesAtOnce = 5
	updatesWithin = 5 * time.Minute
)

// postUpdate tells the thread and the page something before the answer.
func postUpdate(ctx context.Context, t *tx, c toolCall) (*toolResult, string, error) {
	var asked struct {
		Text string `json:"text"`
	}
	if wrong := c.read(&asked); wrong != nil {
		return wrong, "", nil
	}
	asked.Text = strings.TrimSpace(asked.Text)
	switch n := utf8.RuneCountInString(asked.Text); {
	case n == 0:
		return refusal("There is nothing to post: say something."), "", nil
	case n > longestUpdate:
		return refusal(fmt.Sprintf("An update has at most %d characters, this one has %d: say it shorter, or keep it for your answer.", longestUpdate, n)), "", nil
	}
	s := c.session
	var lately int
	err := t.GetContext(ctx, &lately, `select count(*) from events where session_id = $1 and kind = $2 and at > now() - make_interval(secs => $3)
		and seq > (select last_seq - 5000 from sessions where id = $1)`, s.ID, KindUpdate, seconds(updatesWithin))
	if err != nil {
		return nil, "", fmt.Errorf("counting updates of %s: %w", s.ID, err)
	}
	if lately >= updatesAtOnce {
		return refusal(fmt.Sprintf("%d updates within %s are enough: people see your progress anyway. Keep the rest for your answer.",
			updatesAtOnce, updatesWithin)), "", nil
	}
	body := BodyUpdate{Text: asked.Text}
	if _, err := t.append(ctx, s.ID, entry{prompt: c.prompt, kind: KindUpdate, body: body}); err != nil {
		return nil, "", err
	}
	if s.ThreadTS == "" {
		return &toolResult{text: "Posted on the session's page."}, "", nil
	}
	err = t.enqueue(ctx, outboxRow{surface: surfaceSlack, kind: DeliverUpdate, key: c.key("update"), session: s.ID, prompt: c.prompt,
		priority: priorityNotice, body: body})
	return &toolResult{text: "Posted in the thread and on the session's page."}, "", err
}
