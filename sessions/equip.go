package sessions

import (
	"context"
	"errors"

	"openinspect/sandbox"
)

// equip gives the box of a session what is set for its repository.
func (e *Engine) equip(ctx context.Context, session string, spec *sandbox.Spec) error {
	s, err := readSession(ctx, e.db, session)
	if err != nil {
		return err
	}
	env, _, err := e.secretsOf(ctx, s.Repository)
	spec.Env = env
	return err
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
