package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"openinspect/sessions"
)

// handler is an http.Handler that returns what went wrong; adapt renders it.
type handler func(w http.ResponseWriter, r *http.Request) error

// failure is an error with a status and a sentence for people; err is for the log only.
type failure struct {
	status     int
	code, text string
	err        error
}

func (f *failure) Error() string {
	if f.err != nil {
		return f.text + ": " + f.err.Error()
	}
	return f.text
}

func (f *failure) Unwrap() error { return f.err }

var (
	errNoPage    = &failure{status: http.StatusNotFound, code: "no_page", text: "There is no such page."}
	errNoSession = &failure{status: http.StatusNotFound, code: "no_session", text: "There is no such session."}
	errSignedOut = &failure{status: http.StatusUnauthorized, code: "signed_out", text: "Your sign-in has ended: sign in again."}
)

// statuses of the core's problems; those not named are 422: understood, but refused.
var statuses = map[string]int{
	"empty": http.StatusBadRequest, "too_long": http.StatusRequestEntityTooLarge,
	"too_large": http.StatusRequestEntityTooLarge, "no_session": http.StatusNotFound,
	"queue_full": http.StatusTooManyRequests, "open": http.StatusConflict,
	"running": http.StatusConflict, "settled": http.StatusConflict, "not_settled": http.StatusConflict,
	"repository_settled": http.StatusConflict, "answered": http.StatusConflict, "no_option": http.StatusBadRequest,
	"not_running": http.StatusConflict, "not_admin": http.StatusForbidden, "no_images": http.StatusConflict,
	"changed_meanwhile": http.StatusConflict, "no_port": http.StatusNotFound, "asleep": http.StatusServiceUnavailable, "waking": http.StatusServiceUnavailable,
	"file_gone": http.StatusGone, "bad_variable": http.StatusBadRequest, "bad_setting": http.StatusBadRequest,
}

// explain turns any error into what people are told.
func explain(err error) *failure {
	var tooBig *http.MaxBytesError
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if p, ok := errors.AsType[*sessions.Problem](err); ok {
		status := statuses[p.Code]
		if status == 0 {
			status = http.StatusUnprocessableEntity
		}
		return &failure{status: status, code: p.Code, text: p.Text, err: p.Err}
	}
	switch {
	case errors.As(err, &tooBig):
		return &failure{status: http.StatusRequestEntityTooLarge, code: "too_long",
			text: fmt.Sprintf("That is more than the %d kB that are taken at once. Shorten it, or put it into a file of the repository.", tooBig.Limit/1000)}
	case errors.Is(err, sessions.ErrNotFound):
		return &failure{status: http.StatusNotFound, code: "not_found", text: "That does not exist (any more).", err: err}
	}
	return &failure{status: http.StatusInternalServerError, code: "internal",
		text: "Something went wrong on our side. Nothing you wrote is lost; try again in a moment.", err: err}
}

// adapt makes an http.Handler of a handler: JSON for the API, a page for people.
func (s *Server) adapt(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil || errors.Is(err, context.Canceled) && r.Context().Err() != nil {
			return
		}
		f := explain(err)
		if f.status >= 500 {
			s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		}
		if strings.HasPrefix(r.URL.Path, "/api/") {
			writeJSON(w, f.status, map[string]any{"error": map[string]string{"code": f.code, "text": f.text}})
			return
		}
		if err := s.render(w, f.status, "error", map[string]any{"Title": f.text, "Status": f.status, "Text": f.text}); err != nil {
			s.log.Error("the page of an error cannot be rendered", "err", err)
		}
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who asked may be gone
}

// render executes a page's template whole before anything is sent, so that a
// mistake in it is an error page and not half a page.
func (s *Server) render(w http.ResponseWriter, status int, page string, data any) error {
	var b bytes.Buffer
	if err := s.pages.ExecuteTemplate(&b, page, data); err != nil {
		return fmt.Errorf("rendering %s: %w", page, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // who asked may be gone
	return nil
}
