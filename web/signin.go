package web

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"openinspect/sessions"
)

// loginLife is how long a sign-in lasts at most. Unused it ends earlier: the
// engine refuses it after sessions.LoginIdle, and each page gives the cookie as
// long again.
const loginLife = 7 * 24 * time.Hour

// flowLife is how long a person may take to sign in or to connect GitHub.
const flowLife = 10 * time.Minute

// viewer is who asked, and with which sign-in.
type viewer struct {
	sessions.Person
	secret string
}

// issuer finds out lazily how Slack's OpenID Connect is reached: it may not be
// up when we start, and a failed look is repeated by the next person.
type issuer struct {
	cfg Config

	mu       sync.Mutex
	provider *oidc.Provider
}

func newIssuer(cfg Config) *issuer { return &issuer{cfg: cfg} }

// find returns the provider, asking it once.
func (i *issuer) find(ctx context.Context) (*oidc.Provider, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.provider != nil {
		return i.provider, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	client := &http.Client{Timeout: 10 * time.Second}
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, client), i.cfg.OIDCIssuer)
	if err != nil {
		return nil, &failure{status: http.StatusBadGateway, code: "slack_unreachable",
			text: "Slack does not answer. Try again in a moment.", err: err}
	}
	i.provider = p
	return p, nil
}

// oauth describes our client at the issuer.
func (i *issuer) oauth(p *oidc.Provider) *oauth2.Config {
	return &oauth2.Config{
		ClientID: i.cfg.SlackClientID, ClientSecret: i.cfg.SlackClientSecret,
		Endpoint:    p.Endpoint(),
		RedirectURL: i.cfg.PublicURL + "/signin/slack/callback",
		Scopes:      []string{oidc.ScopeOpenID, "profile", "email"},
	}
}

// flow is a sign-in or a link under way. It is kept in the browser that began
// it, so that a link sent to somebody else leads nowhere.
type flow struct {
	State    string `json:"state"`
	Nonce    string `json:"nonce,omitempty"`
	Verifier string `json:"verifier,omitempty"`
	Return   string `json:"return"`
}

// cookieName uses the prefix that ties a cookie to this very host, where browsers allow it.
func (s *Server) cookieName(name string) string {
	if s.secure() {
		return "__Host-openinspect-" + name
	}
	return "openinspect-" + name
}

func (s *Server) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(name), Value: value, Path: "/", MaxAge: int(life / time.Second),
		Secure: s.secure(), HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

func (s *Server) dropCookie(w http.ResponseWriter, name string) {
	s.setCookie(w, name, "", -time.Second)
}

// setFlow remembers a flow in the browser.
func (s *Server) setFlow(w http.ResponseWriter, name string, f flow) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	s.setCookie(w, name, base64.RawURLEncoding.EncodeToString(data), flowLife)
	return nil
}

// takeFlow returns the browser's flow if the request answers it, and forgets it.
func (s *Server) takeFlow(w http.ResponseWriter, r *http.Request, name string) (flow, error) {
	var f flow
	stale := &failure{status: http.StatusBadRequest, code: "stale_flow",
		text: "This was begun in another browser or too long ago. Begin again."}
	c, err := r.Cookie(s.cookieName(name))
	if err != nil {
		return f, stale
	}
	s.dropCookie(w, name)
	data, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || json.Unmarshal(data, &f) != nil || f.State == "" ||
		subtle.ConstantTimeCompare([]byte(f.State), []byte(r.URL.Query().Get("state"))) != 1 {
		return f, stale
	}
	return f, nil
}

// localPath returns p if it is a path of ours, and "/" otherwise: nobody is sent
// to another site by a link to our sign-in.
func localPath(p string) string {
	u, err := url.Parse(p)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || strings.Contains(p, "\\") ||
		!strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") {
		return "/"
	}
	return p
}

// signedIn serves viewers only. Others are sent to sign in and come back.
func (s *Server) signedIn(h func(w http.ResponseWriter, r *http.Request, v viewer) error) http.Handler {
	return s.adapt(func(w http.ResponseWriter, r *http.Request) error {
		v, err := s.viewer(r)
		if errors.Is(err, errSignedOut) && !strings.HasPrefix(r.URL.Path, "/api/") &&
			r.Method == http.MethodGet && r.Header.Get("Upgrade") == "" {
			http.Redirect(w, r, "/signin?return="+url.QueryEscape(localPath(r.URL.RequestURI())), http.StatusSeeOther)
			return nil
		}
		if err != nil {
			return err
		}
		if r.Header.Get("Sec-Fetch-Mode") == "navigate" {
			s.setCookie(w, "login", v.secret, sessions.LoginIdle)
		}
		return h(w, r, v)
	})
}

// viewer finds out who asks; errSignedOut if nobody does. Somebody who is not a
// full member any more is refused.
func (s *Server) viewer(r *http.Request) (viewer, error) {
	c, err := r.Cookie(s.cookieName("login"))
	if err != nil || c.Value == "" {
		return viewer{}, errSignedOut
	}
	p, err := s.engine.WhoIs(r.Context(), c.Value)
	if errors.Is(err, sessions.ErrNotFound) {
		return viewer{}, errSignedOut
	}
	if err != nil {
		return viewer{}, fmt.Errorf("reading a sign-in: %w", err)
	}
	if err := s.stillMember(r.Context(), p); err != nil {
		return viewer{}, err
	}
	return viewer{p, c.Value}, nil
}

// serveSignIn is the page that a person sees who is not signed in.
func (s *Server) serveSignIn(w http.ResponseWriter, r *http.Request) error {
	back := localPath(r.URL.Query().Get("return"))
	if _, err := s.viewer(r); err == nil {
		http.Redirect(w, r, back, http.StatusSeeOther)
		return nil
	}
	return s.render(w, http.StatusOK, "signin", map[string]any{"Title": "Sign in", "Return": back})
}

// beginSignIn sends the person to Slack.
func (s *Server) beginSignIn(w http.ResponseWriter, r *http.Request) error {
	p, err := s.issuer.find(r.Context())
	if err != nil {
		return err
	}
	f := flow{State: rand.Text(), Nonce: rand.Text(), Return: localPath(r.URL.Query().Get("return"))}
	if err := s.setFlow(w, "signin", f); err != nil {
		return err
	}
	to := s.issuer.oauth(p).AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.SetAuthURLParam("team", s.cfg.TeamID))
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// identity is what Slack says in its signed token.
type identity struct {
	Team    string `json:"https://slack.com/team_id"`
	User    string `json:"https://slack.com/user_id"`
	Name    string `json:"name"`
	Email   string `json:"email"`
	Picture string `json:"picture"`
}

// finishSignIn is where Slack sends the person back to.
func (s *Server) finishSignIn(w http.ResponseWriter, r *http.Request) error {
	f, err := s.takeFlow(w, r, "signin")
	if err != nil {
		return err
	}
	if refusal := r.URL.Query().Get("error"); refusal != "" {
		return &failure{status: http.StatusForbidden, code: "refused",
			text: "Slack did not let you sign in. Try again, or ask who runs your workspace.", err: errors.New(refusal)}
	}
	id, err := s.identify(r.Context(), r.URL.Query().Get("code"), f.Nonce)
	if err != nil {
		return err
	}
	if err := s.admit(r.Context(), id.User); err != nil {
		return err
	}
	person, err := s.engine.SlackPerson(r.Context(), id.Team, id.User, id.Name, id.Email, id.Picture)
	if err != nil {
		return err
	}
	secret, err := s.engine.Login(r.Context(), person.ID, loginLife)
	if err != nil {
		return err
	}
	s.setCookie(w, "login", secret, sessions.LoginIdle)
	http.Redirect(w, r, f.Return, http.StatusSeeOther)
	return nil
}

// identify exchanges Slack's code for an identity and checks its signature,
// issuer, audience, nonce and team.
func (s *Server) identify(ctx context.Context, code, nonce string) (identity, error) {
	var id identity
	p, err := s.issuer.find(ctx)
	if err != nil {
		return id, err
	}
	refused := func(err error) error {
		return &failure{status: http.StatusForbidden, code: "not_verified",
			text: "Slack's answer could not be verified. Begin again.", err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	token, err := s.issuer.oauth(p).Exchange(ctx, code)
	if err != nil {
		return id, refused(err)
	}
	raw, _ := token.Extra("id_token").(string)
	verified, err := p.Verifier(&oidc.Config{ClientID: s.cfg.SlackClientID}).Verify(ctx, raw)
	if err != nil {
		return id, refused(err)
	}
	if subtle.ConstantTimeCompare([]byte(verified.Nonce), []byte(nonce)) != 1 {
		return id, refused(errors.New("the nonce is another one"))
	}
	if err := verified.Claims(&id); err != nil {
		return id, refused(err)
	}
	if id.Team != s.cfg.TeamID || id.User == "" {
		return id, &failure{status: http.StatusForbidden, code: "wrong_team",
			text: "That Slack account is of another workspace. Sign in with an account of the workspace that runs this."}
	}
	return id, nil
}

// signOut ends the sign-in everywhere it is used.
func (s *Server) signOut(w http.ResponseWriter, r *http.Request) error {
	if c, err := r.Cookie(s.cookieName("login")); err == nil {
		if err := s.engine.Logout(r.Context(), c.Value); err != nil && !errors.Is(err, sessions.ErrNotFound) {
			return err
		}
	}
	s.dropCookie(w, "login")
	http.Redirect(w, r, "/signin", http.StatusSeeOther)
	return nil
}
