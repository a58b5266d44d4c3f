package web

import (
	"mime"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"openinspect/sessions"
)

// What the agent uploaded is untrusted (I10): its type is what its bytes say,
// nothing of it runs, and only pictures and plain text are shown in the browser.

// serveArtifact gives a file to who is signed in.
func (s *Server) serveArtifact(w http.ResponseWriter, r *http.Request, _ viewer) error {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return errNoPage
	}
	f, err := s.engine.ArtifactFile(r.Context(), id)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "private, max-age=86400, immutable") // it never changes
	return writeFile(w, f)
}

// servePicture gives a picture to whoever has its link: GitHub fetches it for the
// readers of a pull request. That copy is not to be kept, as the link may be revoked.
func (s *Server) servePicture(w http.ResponseWriter, r *http.Request) error {
	f, err := s.engine.LinkedPicture(r.Context(), r.PathValue("token"))
	if err != nil || !f.Picture() {
		return &failure{status: http.StatusNotFound, code: "no_picture", text: "There is no such picture, or not any more.", err: err}
	}
	w.Header().Set("Cross-Origin-Resource-Policy", "cross-origin")
	w.Header().Set("X-Robots-Tag", "noindex")
	return writeFile(w, f)
}

// writeFile writes a file with the headers that keep it from doing anything.
func writeFile(w http.ResponseWriter, f sessions.File) error {
	h := w.Header()
	kind, shown := f.MIME, "attachment"
	switch {
	case f.Picture():
		shown = "inline"
	case strings.HasPrefix(kind, "text/plain"):
		kind, shown = "text/plain; charset=utf-8", "inline"
	default:
		kind = "application/octet-stream"
	}
	h.Set("Content-Type", kind)
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox; frame-ancestors 'none'")
	h.Set("Content-Disposition", mime.FormatMediaType(shown, map[string]string{"filename": f.Name}))
	_, _ = w.Write(f.Data) // who asked may be gone
	return nil
}

// deletePictureLink ends a picture's link.
func (s *Server) deletePictureLink(w http.ResponseWriter, r *http.Request, v viewer) error {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return errNoPage
	}
	if err := s.engine.RevokePicture(r.Context(), id, v.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
