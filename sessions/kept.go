package sessions

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"openinspect/sandbox"
)

// Files in which a secret of the repository is are not saved (I7). A supervisor looks
// for those that it was given when nothing runs, and says what it found: at the end,
// and before a snapshot, for which the actor asks it (askVet). That is recorded here,
// and counts until the next prompt begins; whoever is about to save the files of a box
// asks first: maySave, or the same conditions in SQL.

// lookedAt is the condition that it is known what is in the files of the sandbox b.
// Beginnings of prompts and reports are recorded under the session's lock.
const lookedAt = `coalesce(b.kept_at > b.claimed_at and b.kept_at > (
	select coalesce(max(p.started_at), '-infinity') from prompts p where p.session_id = b.session_id), false)`

// hasSecrets is the condition that the sandbox b of the session s may have secrets. The
// end of one bears the time at which its transaction began, hence the minute.
const hasSecrets = `(exists (select from variables v where v.secret and not v.outside and v.repository in ('', s.repository))
	or exists (select from old_secrets o where o.repository in ('', s.repository) and o.ended_at > b.claimed_at - interval '1 minute'))`

// noteKept records what the supervisor found. What it says of the files as they were
// after a prompt is nothing worth if another one has begun since.
func (t *tx) noteKept(ctx context.Context, s Session, prompt string, raw json.RawMessage) error {
	var body sandbox.BodyKept
	if err := json.Unmarshal(raw, &body); err != nil {
		body.Unchecked = "The sandbox's report of secrets could not be read."
	}
	kept := keptSentences(body)
	res, err := t.ExecContext(ctx, `update sandboxes b set kept = $2, kept_at = clock_timestamp() where b.session_id = $1
		and ($3 = '' or b.quiet_prompt = $3 and `+stillQuiet+`)`, s.ID, kept, prompt)
	if err != nil {
		return fmt.Errorf("recording which secrets the files of %s hold: %w", s.ID, err)
	}
	noted, err := affected(res)
	if err != nil || !noted || prompt == "" || kept == "" || s.ThreadTS == "" {
		return err // a box that ends unsaved says so itself
	}
	var box string
	if err := t.GetContext(ctx, &box, `select box from sandboxes where session_id = $1`, s.ID); err != nil {
		return fmt.Errorf("reading the box of %s: %w", s.ID, err)
	}
	return t.tell(ctx, Notice{Key: "kept:" + box, Session: s.ID, Thread: Thread{Team: s.Team, Channel: s.Channel, TS: s.ThreadTS},
		Text: "The files of this session's sandbox cannot be saved as they are. " + kept +
			" When the sandbox ends, only what was committed goes on: " + t.e.pageURL(s.ID)})
}

// askVet has the supervisor look for secrets when its box is to be saved, once after
// each prompt. One that does not answer is saved when it parks, or not at all.
func (a *actor) askVet(ctx context.Context) error {
	quiet := a.quietAfter()
	if quiet == "" || quiet == a.vetted || a.e.cfg.SnapshotAfter < 0 {
		return nil
	}
	var needed bool
	err := a.e.db.GetContext(ctx, &needed, `select not `+lookedAt+` and `+hasSecrets+`
		from sandboxes b join sessions s on s.id = b.session_id
		where b.session_id = $2 and b.epoch = $3 and b.quiet_prompt = $4 and `+toBeSaved,
		seconds(a.e.cfg.SnapshotAfter), a.session, a.epoch, quiet)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it is too early
	}
	if err != nil {
		return fmt.Errorf("reading whether %s is to be looked through: %w", a.session, err)
	}
	a.vetted = quiet
	if !needed {
		return nil
	}
	return a.link.Send(ctx, sandbox.Message{Vet: &sandbox.Vet{Prompt: quiet}})
}

// quietAfter is the prompt since which the box says that it is quiet.
func (a *actor) quietAfter() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.quiet
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
func (e *Engine) maySave(ctx context.Context, session string) (why string, err error) {
	var b struct {
		Kept    string `db:"kept"`
		Looked  bool   `db:"looked"`
		Secrets bool   `db:"secrets"`
	}
	err = e.db.GetContext(ctx, &b, `
		select b.kept, `+lookedAt+` as looked, `+hasSecrets+` as secrets
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

// endUnsaved ends a box whose files may not be saved, and tells people first what is
// lost: what is done cannot be undone.
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
		next, err := t.goesOnFrom(ctx, s.ID)
		if err != nil {
			return err
		}
		return t.tell(ctx, Notice{Key: "unsaved:" + box.ID(), Session: s.ID,
			Thread: Thread{Team: s.Team, Channel: s.Channel, TS: s.ThreadTS},
			Text: "The files of this session's sandbox were not saved. " + why +
				" " + left + ", and the next request goes on from " + next + ": " + e.pageURL(s.ID)})
	})
	if err != nil {
		return fmt.Errorf("telling that the box of %s is not saved: %w", session, err)
	}
	if err := box.Kill(ctx); err != nil && !errors.Is(err, sandbox.ErrGone) {
		return fmt.Errorf("ending the box of %s: %w", session, err)
	}
	return nil
}

// goesOnFrom says what a session continues from whose box ends unsaved.
func (t *tx) goesOnFrom(ctx context.Context, session string) (string, error) {
	var text string
	err := t.GetContext(ctx, &text, `select p.text from sandboxes b
		join saved v on v.session_id = b.session_id and v.ref = b.ref and v.state = 'kept' and v.kind = 'snapshot'
		join prompts p on p.id = v.prompt_id
		where b.session_id = $1 and b.ref <> ''`, session)
	if errors.Is(err, sql.ErrNoRows) {
		return "there", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading what %s goes on from: %w", session, err)
	}
	return "there, with the files and the conversation as they were after the request “" + title(text) +
		"”; what came later and was not committed is lost", nil
}
