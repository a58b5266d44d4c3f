package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"golang.org/x/oauth2"
)

// linkState binds a link under way to the sign-in that began it: the answer is
// good for nobody else, and for the same person only while signed in.
func linkState(secret, nonce string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("link github " + nonce))
	return nonce + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (s *Server) linkCallback() string { return s.cfg.PublicURL + "/link/github/callback" }

var errNoGitHub = &failure{status: http.StatusNotFound, code: "no_github", text: "GitHub accounts cannot be connected here."}

// beginLink sends the viewer to GitHub.
func (s *Server) beginLink(w http.ResponseWriter, r *http.Request, v viewer) error {
	if s.cfg.GitHub == nil {
		return errNoGitHub
	}
	f := flow{State: linkState(v.secret, rand.Text()), Verifier: oauth2.GenerateVerifier(), Return: "/settings"}
	if id := r.URL.Query().Get("session"); id != "" {
		if _, err := s.engine.Session(r.Context(), id); err == nil {
			f.Return = "/sessions/" + id
		}
	}
	if err := s.setFlow(w, "link", f); err != nil {
		return err
	}
	http.Redirect(w, r, s.cfg.GitHub.AuthorizeURL(f.State, s.linkCallback(), oauth2.S256ChallengeFromVerifier(f.Verifier)), http.StatusSeeOther)
	return nil
}

// finishLink is where GitHub sends the viewer back to.
func (s *Server) finishLink(w http.ResponseWriter, r *http.Request, v viewer) error {
	if s.cfg.GitHub == nil {
		return errNoGitHub
	}
	f, err := s.takeFlow(w, r, "link")
	if err != nil {
		return err
	}
	nonce, _, _ := strings.Cut(f.State, ".")
	if !hmac.Equal([]byte(f.State), []byte(linkState(v.secret, nonce))) {
		return &failure{status: http.StatusBadRequest, code: "stale_flow",
			text: "This was begun by another person or before you signed in. Begin again."}
	}
	if refusal := r.URL.Query().Get("error"); refusal != "" {
		return &failure{status: http.StatusForbidden, code: "refused",
			text: "GitHub did not connect your account. You can try again in the settings.", err: errors.New(refusal)}
	}
	tokens, err := s.cfg.GitHub.Exchange(r.Context(), r.URL.Query().Get("code"), s.linkCallback(), f.Verifier)
	if err != nil {
		return &failure{status: http.StatusBadGateway, code: "github_refused",
			text: "GitHub did not confirm the connection. Begin again.", err: err}
	}
	id, login, err := s.cfg.GitHub.GetUser(r.Context(), tokens.Access)
	if err != nil {
		return &failure{status: http.StatusBadGateway, code: "github_refused",
			text: "GitHub did not say whose account it is. Begin again.", err: err}
	}
	if err := s.engine.LinkGitHub(r.Context(), v.ID, id, login, tokens); err != nil {
		return err
	}
	http.Redirect(w, r, f.Return, http.StatusSeeOther)
	return nil
}

// unlink forgets the viewer's GitHub account.
func (s *Server) unlink(w http.ResponseWriter, r *http.Request, v viewer) error {
	if err := s.engine.UnlinkGitHub(r.Context(), v.ID); err != nil {
		return err
	}
	http.Redirect(w, r, "/settings", http.StatusSeeOther)
	return nil
}
