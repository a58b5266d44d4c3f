package web

import (
	"context"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"openinspect/sessions"
)

// mountLife adds the calls about a session's life and what it costs.
func (s *Server) mountLife(mux *http.ServeMux) {
	mux.Handle("POST /api/sessions/{id}/archive", s.signedIn(s.moves(s.engine.Archive)))
	mux.Handle("POST /api/sessions/{id}/unarchive", s.signedIn(s.moves(s.engine.Unarchive)))
	mux.Handle("GET /api/costs", s.signedIn(s.getCosts))
}

// moves answers a request to archive a session or to open it again.
func (s *Server) moves(move func(ctx context.Context, key, session string, by uuid.UUID) error) func(http.ResponseWriter, *http.Request, viewer) error {
	return func(w http.ResponseWriter, r *http.Request, v viewer) error {
		key, err := dedupeKey(r, v)
		if err != nil {
			return err
		}
		if err := move(r.Context(), key, r.PathValue("id"), v.ID); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

// costDays is how many days of costs one request may read.
const costDays = 366

// getCosts shows what was spent, by day and person.
func (s *Server) getCosts(w http.ResponseWriter, r *http.Request, _ viewer) error {
	days := 30
	if r.URL.Query().Has("days") {
		var err error
		if days, err = strconv.Atoi(r.URL.Query().Get("days")); err != nil || days < 1 || days > costDays {
			return &failure{status: http.StatusBadRequest, code: "bad_days", text: "The parameter days has to be a number from 1 to 366."}
		}
	}
	list, err := s.engine.DayCosts(r.Context(), days)
	if err != nil {
		return err
	}
	if list == nil {
		list = []sessions.DayCost{}
	}
	writeJSON(w, http.StatusOK, map[string]any{"days": list})
	return nil
}
