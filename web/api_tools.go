package web

import (
	"net/http"

	"openinspect/sessions"
)

// mountTools adds the calls that answer what the agent's tools show.
func (s *Server) mountTools(mux *http.ServeMux) {
	mux.Handle("POST /api/prompts/{id}/answer", s.signedIn(s.postAnswer))
	mux.Handle("DELETE /api/artifacts/{id}/link", s.signedIn(s.deletePictureLink))
}

// postAnswer chooses an option of the question that a prompt asked.
func (s *Server) postAnswer(w http.ResponseWriter, r *http.Request, v viewer) error {
	var body struct {
		Option int `json:"option"`
	}
	body.Option = -1 // one that is not named is none
	if err := readBody(w, r, &body); err != nil {
		return err
	}
	key, err := dedupeKey(r, v)
	if err != nil {
		return err
	}
	got, err := s.engine.AnswerQuestion(r.Context(), key, r.PathValue("id"), body.Option, sessions.FromWeb, v.ID)
	if err != nil {
		return err
	}
	writeAccepted(w, got)
	return nil
}
