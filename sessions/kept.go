package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"openinspect/sandbox"
)

// Files in which a secret of the repository is are not saved (I7). A supervisor that
// was given secrets looks for them when nothing runs and says what it found, which
// is recorded here; whoever is about to save the files of a box asks maySave first.

// noteKept records what the supervisor found.
func (t *tx) noteKept(ctx context.Context, s Session, raw json.RawMessage) error {
	var body sandbox.BodyKept
	if err := json.Unmarshal(raw, &body); err != nil {
		body.Unchecked = "The sandbox's report of secrets could not be read."
	}
	_, err := t.ExecContext(ctx, `update sandboxes set kept = $2, kept_at = clock_timestamp() where session_id = $1`,
		s.ID, keptSentences(body))
	if err != nil {
		return fmt.Errorf("recording which secrets the files of %s hold: %w", s.ID, err)
	}
	return nil
}

// keptSentences tells people where secrets are and what to do; empty if there are none.
func keptSentences(b sandbox.BodyKept) string {
	var all []string
	if len(b.Places) > 0 {
		var places []string
		for _, k := range b.Places {
			place := k.Secret + " in " + k.Path
			if k.Commit != "" {
				place += " (added to git)"
			}
			places = append(places, place)
		}
		if b.Omitted > 0 {
			places = append(places, fmt.Sprintf("and %d more places", b.Omitted))
		}
		all = append(all, "Values of secrets are in its files: "+strings.Join(places, ", ")+".",
			"Have them read from the environment instead, where every command finds them.")
	}
	if b.Unchecked != "" {
		all = append(all, "Not everything could be looked at: "+b.Unchecked)
	}
	return strings.Join(all, " ")
}

// unlookedAt is why files are not saved of which nobody said what is in them.
const unlookedAt = "It has secrets, and could not say whether they are in its files."

// maySave says why the files of a session's box may not be saved; empty if they may.
// What the supervisor found counts until the next prompt begins.
func (e *Engine) maySave(ctx context.Context, session string) (why string, err error) {
	var b struct {
		Kept    string `db:"kept"`
		Looked  bool   `db:"looked"`
		Secrets bool   `db:"secrets"`
	}
	err = e.db.GetContext(ctx, &b, `
		select b.kept, coalesce(b.kept_at > b.claimed_at and b.kept_at > (
				select coalesce(max(p.started_at), '-infinity') from prompts p where p.session_id = b.session_id), false) as looked,
			exists (select from variables v where v.secret and not v.outside and v.repository in ('', s.repository))
				or exists (select from old_secrets o where o.repository in ('', s.repository) and o.ended_at > b.claimed_at) as secrets
		from sandboxes b join sessions s on s.id = b.session_id where b.session_id = $1`, session)
	switch {
	case err != nil:
		return "", fmt.Errorf("reading whether the files of %s may be saved: %w", session, notFound(err))
	case b.Looked:
		return b.Kept, nil
	case b.Secrets:
		return unlookedAt, nil
	}
	return "", nil
}

// unsavedReason is how the log says why a box was ended unsaved.
func unsavedReason(why string) string {
	if why == unlookedAt {
		return "Its files were not saved. " + why // which the log does not say yet
	}
	return "Its files were not saved, because of what was found in them."
}

// endUnsaved ends a box whose files may not be saved, and tells people first: what
// is done cannot be undone.
func (e *Engine) endUnsaved(ctx context.Context, session string, box sandbox.Box, why string) error {
	withheld, err := e.isWithheld(ctx, session)
	if err != nil {
		return err
	}
	left := "What was committed is on the branch"
	if withheld {
		left = "What was committed last is lost with them, because of a secret in it; what was pushed before is on the branch"
	}
	err = e.transact(ctx, func(t *tx) error {
		s, err := t.lockSession(ctx, session)
		if err != nil || s.ThreadTS == "" {
			return err // without a thread the page alone shows it
		}
		return t.tell(ctx, Notice{Key: "unsaved:" + box.ID(), Session: s.ID,
			Thread: Thread{Team: s.Team, Channel: s.Channel, TS: s.ThreadTS},
			Text: "The files of this session's sandbox were not saved. " + why +
				" " + left + ", and the next request goes on from there: " + e.pageURL(s.ID)})
	})
	if err != nil {
		return fmt.Errorf("telling that the box of %s is not saved: %w", session, err)
	}
	if err := box.Kill(ctx); err != nil && !errors.Is(err, sandbox.ErrGone) {
		return fmt.Errorf("ending the box of %s: %w", session, err)
	}
	return nil
}
