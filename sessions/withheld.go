package sessions

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"openinspect/sandbox"
)

// Commits with a secret's value in them are not pushed (I7): the git door refuses
// them. The work is then in the sandbox alone, whose files may not be saved either
// as long as the value is in them. So people are told, and the sandbox waits longer
// than others for somebody to have it mended.

// withheldFor is how long a sandbox may be idle whose work was refused.
const withheldFor = 12 * time.Hour

// CommitSecrets finds the values that commits of the session may not hold: of the
// secrets of its repository, and what these were before. nil: there are none.
func (e *Engine) CommitSecrets(ctx context.Context, session string) (*sandbox.Matcher, error) {
	s, err := readSession(ctx, e.db, session)
	if err != nil {
		return nil, err
	}
	around, err := e.surroundings(ctx, s.Repository)
	if err = unlessProblem(err); err != nil || len(around.secrets) == 0 {
		return nil, err
	}
	return sandbox.NewMatcher(func(yield func(name, value string) bool) {
		for _, secret := range around.secrets {
			if !yield(secret.name, secret.value) {
				return
			}
		}
	}), nil
}

// Withheld records that commits of a session were refused.
func (e *Engine) Withheld(ctx context.Context, session string) error {
	_, err := e.db.ExecContext(ctx, `update sandboxes set withheld_at = clock_timestamp() where session_id = $1`, session)
	if err != nil {
		return fmt.Errorf("recording that commits of %s were refused: %w", session, err)
	}
	return nil
}

// notePush tells people of a push that failed because commits were refused, once
// the request is over whose work it is: until then its agent can mend it, and
// the page shows it anyway. The session's row is locked.
func (t *tx) notePush(ctx context.Context, s Session, prompt string, raw json.RawMessage) error {
	var body sandbox.BodyPush
	if err := json.Unmarshal(raw, &body); err != nil || body.Error == "" || s.ThreadTS == "" {
		return nil // it stays in the log
	}
	var held bool
	err := t.GetContext(ctx, &held, `select exists (select from prompts p join sandboxes b on b.session_id = p.session_id
		where p.id = $1 and p.session_id = $2 and p.state not in ('queued', 'running') and b.withheld_at > b.claimed_at)`, prompt, s.ID)
	if err != nil {
		return fmt.Errorf("reading whether commits of %s were refused: %w", s.ID, err)
	}
	if !held {
		return nil
	}
	return t.tell(ctx, Notice{Key: "withheld:" + prompt, Session: s.ID, Thread: Thread{Team: s.Team, Channel: s.Channel, TS: s.ThreadTS},
		Text: fmt.Sprintf("%s\nUntil that is done the work is in the sandbox alone, which waits %d hours for it. Reply to have it done: %s",
			body.Error, int(withheldFor.Hours()), t.e.pageURL(s.ID))})
}

// isWithheld says whether the last thing heard of a session's commits is that they
// were refused, in the box that it has.
func (e *Engine) isWithheld(ctx context.Context, session string) (is bool, err error) {
	err = e.db.GetContext(ctx, &is, `select coalesce(withheld_at > claimed_at, false) from sandboxes where session_id = $1`, session)
	if err != nil {
		return false, fmt.Errorf("reading whether commits of %s were refused: %w", session, err)
	}
	return is, nil
}
