package sessions

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"openinspect/sandbox"
)

// equip gives a box what is set for its repository.
func (e *Engine) equip(ctx context.Context, repository string, spec *sandbox.Spec) error {
	env, _, err := e.secretsOf(ctx, repository)
	if err != nil {
		return err
	}
	set, err := e.SettingsFor(ctx, repository)
	if err != nil {
		return err
	}
	set.put(spec, e.cfg.Provider.Caps().MaxLifetime)
	maps.Copy(env, spec.Env) // what the box needs itself comes last
	spec.Env = env
	return nil
}

// learnSecrets has the actor scrub what the session's sandbox was given, before
// anything of it is stored or shown (I10).
func (a *actor) learnSecrets(ctx context.Context, repository string) error {
	_, scrub, err := a.e.secretsOf(ctx, repository)
	if err = unlessProblem(err); err != nil {
		return err
	}
	a.secrets = len(scrub) > 0
	a.scrub = a.scrub.with(scrub...)
	a.parts = newParts(a.scrub)
	return nil
}

// addSettings tells a supervisor what is set for its repository.
func (e *Engine) addSettings(ctx context.Context, repository string, w *sandbox.Welcome) (Settings, error) {
	set, err := e.SettingsFor(ctx, repository)
	if err != nil {
		return set, err
	}
	w.Instructions = strings.TrimSpace(w.Instructions + "\n\n" + set.Instructions)
	w.Project = set.Project == Yes
	for _, m := range set.Tools {
		w.Tools = append(w.Tools, sandbox.ToolServer{Name: m.Name, Command: m.Command})
	}
	for _, k := range set.Skills {
		w.Skills = append(w.Skills, sandbox.Skill(k))
	}
	if set.PromptMinutes > 0 {
		w.PromptTimeout = time.Duration(set.PromptMinutes) * time.Minute
	}
	if set.SetupMinutes > 0 {
		w.SetupTimeout = time.Duration(set.SetupMinutes) * time.Minute
	}
	return set, nil
}

// addGiven adds the settings to a session's welcome. For how long what runs in the box
// may take is recorded when its supervisor says hello for the first time, and holds
// for the box's life.
func (a *actor) addGiven(ctx context.Context, s Session, w *sandbox.Welcome) error {
	if _, err := a.e.addSettings(ctx, s.Repository, w); err != nil {
		return err
	}
	_, err := a.e.db.ExecContext(ctx, `
		update sandboxes set given = generation, prompt_seconds = $2, setup_seconds = $3
		where session_id = $1 and given is distinct from generation`,
		s.ID, w.PromptTimeout.Seconds(), w.SetupTimeout.Seconds())
	if err != nil {
		return fmt.Errorf("recording what the box of %s is given: %w", s.ID, err)
	}
	var given struct {
		Prompt float64 `db:"prompt_seconds"`
		Setup  float64 `db:"setup_seconds"`
	}
	if err := a.e.db.GetContext(ctx, &given, `select prompt_seconds, setup_seconds from sandboxes where session_id = $1`, s.ID); err != nil {
		return fmt.Errorf("reading what the box of %s was given: %w", s.ID, err)
	}
	w.PromptTimeout, w.SetupTimeout = inSeconds(given.Prompt), inSeconds(given.Setup)
	return nil
}
