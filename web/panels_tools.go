package web

import (
	"context"
	"errors"

	"openinspect/sessions"
)

// readTools reads what the agent's tools made of the session.
func (s *Server) readTools(ctx context.Context, v *sessionView) error {
	q, err := s.engine.OpenQuestion(ctx, v.Session.ID)
	switch {
	case err == nil:
		v.Question = &q
	case !errors.Is(err, sessions.ErrNotFound):
		return err
	}
	return nil
}
