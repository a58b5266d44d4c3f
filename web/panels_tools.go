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
		v.Question, v.QuestionHTML = &q, s.rows.markdown.html(q.Text)
	case !errors.Is(err, sessions.ErrNotFound):
		return err
	}
	if v.Children, err = s.engine.Children(ctx, v.Session.ID); err != nil {
		return err
	}
	if v.Parent, err = s.engine.Parent(ctx, v.Session.ID); err != nil {
		return err
	}
	v.Linked, err = s.engine.LinkedPictures(ctx, v.Session.ID)
	return err
}
