package sessions

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"openinspect/sandbox"
)

// equip gives the box of a session what is set for its repository, and records for
// how long it and what runs in it may take.
func (e *Engine) equip(ctx context.Context, session string, generation int64, spec *sandbox.Spec) error {
	s, err := readSession(ctx, e.db, session)
	if err != nil {
		return err
	}
	if spec.Env, _, err = e.secretsOf(ctx, s.Repository); err != nil {
		return err
	}
	set, err := e.SettingsFor(ctx, s.Repository)
	if err != nil {
		return err
	}
	set.put(spec, e.cfg.Provider.Caps().MaxLifetime)
	_, err = e.db.ExecContext(ctx, `
		update sandboxes set prompt_seconds = nullif($3::float8, 0), setup_seconds = nullif($4::float8, 0), lifetime_seconds = nullif($5::float8, 0)
		where session_id = $1 and generation = $2`,
		session, generation, float64(60*set.PromptMinutes), float64(60*set.SetupMinutes), spec.Lifetime.Seconds())
	if err != nil {
		return fmt.Errorf("recording what the box of %s is given: %w", session, err)
	}
	return nil
}

// learnSecrets has the actor scrub what the session's sandbox was given, before
// anything of it is stored or shown (I10).
func (a *actor) learnSecrets(ctx context.Context, repository string) error {
	_, scrub, err := a.e.secretsOf(ctx, repository)
	if _, told := errors.AsType[*Problem](err); told {
		err = nil // those that can be read are scrubbed; no new sandbox gets the others
	}
	if err != nil {
		return err
	}
	a.secrets = len(scrub) > 0
	a.scrub = a.scrub.with(scrub...)
	a.parts = newParts(a.scrub)
	return nil
}

// addSettings tells the supervisor what is set for the session's repository.
func (a *actor) addSettings(ctx context.Context, s Session, w *sandbox.Welcome) error {
	set, err := a.e.SettingsFor(ctx, s.Repository)
	if err != nil {
		return err
	}
	w.Instructions = strings.TrimSpace(w.Instructions + "\n\n" + set.Instructions)
	var given struct {
		Prompt float64 `db:"prompt"`
		Setup  float64 `db:"setup"`
	}
	err = a.e.db.GetContext(ctx, &given, `select coalesce(prompt_seconds, $2) as prompt, coalesce(setup_seconds, $3) as setup
		from sandboxes where session_id = $1`, s.ID, w.PromptTimeout.Seconds(), w.SetupTimeout.Seconds())
	if err != nil {
		return fmt.Errorf("reading what the box of %s was given: %w", s.ID, err)
	}
	w.PromptTimeout, w.SetupTimeout = inSeconds(given.Prompt), inSeconds(given.Setup)
	return nil
}
