package slack

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	codeLife  = 10 * time.Minute
	tokenLife = time.Hour
	keyID     = "practice"
	// cookieName holds the token of the person a browser is signed in as.
	cookieName = "practice_as"
)

// authCode is an authorisation code; it is good for one use.
type authCode struct {
	user, redirect, nonce, challenge, method string
	made                                     time.Time
}

func (s *Server) routeOpenID(mux *http.ServeMux) {
	mux.HandleFunc("GET /.well-known/openid-configuration", s.serveDiscovery)
	mux.HandleFunc("GET /openid/connect/keys", s.serveKeys)
	mux.HandleFunc("GET /openid/connect/authorize", s.serveAuthorize)
	mux.HandleFunc("POST /openid/connect/authorize", s.serveAuthorize)
}

func newSigningKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making the signing key: %w", err)
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

func (s *Server) signingKey() (*rsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(s.id.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	k, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("the signing key is not RSA")
	}
	return k, nil
}

// issuer is the stand-in's own address, which takes the place of
// https://slack.com.
func (s *Server) issuer(r *http.Request) string {
	if base := s.ownURL(); base != "" {
		return base
	}
	return "http://" + r.Host
}

func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	base := s.issuer(r)
	s.writeJSON(w, object{
		"issuer": base, "authorization_endpoint": base + "/openid/connect/authorize",
		"token_endpoint": base + "/api/openid.connect.token", "userinfo_endpoint": base + "/api/openid.connect.userInfo",
		"jwks_uri": base + "/openid/connect/keys", "scopes_supported": []string{"openid", "profile", "email"},
		"response_types_supported": []string{"code"}, "response_modes_supported": []string{"query"},
		"grant_types_supported": []string{"authorization_code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"}, "claims_supported": []string{"sub", "auth_time", "iss"},
		"claims_parameter_supported": false, "request_parameter_supported": false, "request_uri_parameter_supported": true,
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
	})
}

func (s *Server) serveKeys(w http.ResponseWriter, r *http.Request) {
	key, err := s.signingKey()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.writeJSON(w, object{"keys": []object{{
		"kty": "RSA", "alg": "RS256", "use": "sig", "kid": keyID,
		"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": "AQAB",
	}}})
}

func (s *Server) writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("answering", "err", err)
	}
}

// serveAuthorize asks who one is and returns to the application with a code. A
// browser that is signed in as somebody continues at once, unless the
// application says prompt=select_account.
func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if problem := s.authorizeProblem(q); problem != "" {
		http.Error(w, problem, http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	p := s.signedIn(r)
	if q.Get("prompt") == "select_account" {
		p = nil
	}
	if r.Method == http.MethodPost {
		p = s.person(r.PostFormValue("user"))
	}
	if p != nil && s.standing(p.ID) == Deactivated {
		p = nil
	}
	s.mu.Unlock()
	if p == nil {
		s.renderPicker(w)
		return
	}
	if r.Method == http.MethodPost {
		setCookie(w, p.Token)
	}
	s.mu.Lock()
	code := secret(20)
	s.codes[code] = &authCode{
		user: p.ID, redirect: q.Get("redirect_uri"), nonce: q.Get("nonce"), challenge: q.Get("code_challenge"),
		method: q.Get("code_challenge_method"), made: time.Now(),
	}
	s.mu.Unlock()
	back, _ := url.Parse(q.Get("redirect_uri")) // authorizeProblem has parsed it
	answer := back.Query()
	answer.Set("code", code)
	if st := q.Get("state"); st != "" {
		answer.Set("state", st)
	}
	back.RawQuery = answer.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// authorizeProblem is what is wrong with an authorisation request. It is shown
// to the person: an application that is not known is not redirected to.
func (s *Server) authorizeProblem(q url.Values) string {
	switch {
	case q.Get("client_id") != s.id.ClientID:
		return "invalid_client_id: this workspace does not know the application"
	case !s.mayReturnTo(q.Get("redirect_uri")):
		return "bad_redirect_uri: the application may not be returned to at " + q.Get("redirect_uri")
	case q.Get("response_type") != "code":
		return "invalid_response_type: only code is supported"
	case !slices.Contains(strings.FieldsFunc(q.Get("scope"), func(r rune) bool { return r == ' ' || r == ',' }), "openid"):
		return "invalid_scope: openid is required"
	case q.Get("team") != "" && q.Get("team") != s.id.TeamID:
		return "invalid_team: nobody here is a member of that workspace"
	case q.Get("code_challenge") != "" && q.Get("code_challenge_method") != "S256":
		return "invalid_request: only the code challenge method S256 is supported"
	}
	return ""
}

func (s *Server) mayReturnTo(redirect string) bool {
	if len(s.opts.RedirectURLs) > 0 {
		return slices.ContainsFunc(s.opts.RedirectURLs, func(u string) bool { return redirect == u })
	}
	u, err := url.Parse(redirect)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// signedIn is the person of the browser's cookie.
func (s *Server) signedIn(r *http.Request) *person {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return nil
	}
	for i := range s.id.People {
		if sameSecret(s.id.People[i].Token, cookie.Value) {
			return &s.id.People[i]
		}
	}
	return nil
}

func setCookie(w http.ResponseWriter, token string) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: 30 * 24 * 3600,
	})
}

func (s *Server) openIDToken(c *call) (object, error) {
	id, given := c.args["client_id"], c.args["client_secret"]
	if user, password, ok := c.r.BasicAuth(); ok {
		id, _ = url.QueryUnescape(user)
		given, _ = url.QueryUnescape(password)
	}
	switch {
	case id != s.id.ClientID:
		return nil, fail("invalid_client_id")
	case !sameSecret(s.id.ClientSecret, given):
		return nil, fail("bad_client_secret")
	case c.args["grant_type"] != "" && c.args["grant_type"] != "authorization_code":
		return nil, fail("unsupported_grant_type")
	}
	a := s.codes[c.args["code"]]
	delete(s.codes, c.args["code"])
	switch {
	case a == nil || time.Since(a.made) > codeLife:
		return nil, fail("invalid_code")
	case c.args["redirect_uri"] != a.redirect:
		return nil, fail("bad_redirect_uri")
	case a.challenge != "" && challengeOf(c.args["code_verifier"]) != a.challenge:
		return nil, fail("invalid_grant")
	}
	base := s.base
	if base == "" {
		base = "http://" + c.r.Host
	}
	idToken, err := s.idToken(base, a, time.Now())
	if err != nil {
		s.log.Error("signing an id token", "err", err)
		return nil, fail("internal_error")
	}
	return object{"access_token": s.openIDAccess(a.user), "token_type": "Bearer", "id_token": idToken}, nil
}

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// idToken signs who somebody is, RS256 as Slack does.
func (s *Server) idToken(issuer string, a *authCode, now time.Time) (string, error) {
	claims := s.claims(a.user)
	claims["iss"], claims["aud"], claims["iat"], claims["exp"] = issuer, s.id.ClientID, now.Unix(), now.Add(tokenLife).Unix()
	claims["auth_time"] = a.made.Unix()
	if a.nonce != "" {
		claims["nonce"] = a.nonce
	}
	key, err := s.signingKey()
	if err != nil {
		return "", err
	}
	head, err := json.Marshal(object{"alg": "RS256", "typ": "JWT", "kid": keyID})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", err
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

// claims say who a person is, under Slack's names.
func (s *Server) claims(user string) object {
	p := s.person(user)
	first, last, _ := strings.Cut(p.RealName, " ")
	return object{
		"sub": p.ID, "https://slack.com/user_id": p.ID, "https://slack.com/team_id": s.id.TeamID,
		"email": p.Email, "email_verified": true, "date_email_verified": 1700000000, "name": p.RealName,
		"given_name": first, "family_name": last, "locale": "en-US", "picture": s.profileJSON(p)["image_512"],
		"https://slack.com/team_name": s.opts.TeamName, "https://slack.com/team_domain": strings.ToLower(s.opts.TeamName),
		"https://slack.com/user_image_512": s.profileJSON(p)["image_512"],
	}
}

func (s *Server) openIDUserInfo(c *call) (object, error) {
	if c.bot {
		return nil, fail("not_allowed_token_type")
	}
	return s.claims(c.user), nil
}

// openIDAccess is the access token that signing in yields: it names the person
// and is signed, so nothing is kept.
func (s *Server) openIDAccess(user string) string {
	mac := hmac.New(sha256.New, s.id.Secret)
	mac.Write([]byte(user))
	return "xoxp-openid-" + user + "-" + hex.EncodeToString(mac.Sum(nil))
}

func (s *Server) openIDPerson(token string) *person {
	rest, ok := strings.CutPrefix(token, "xoxp-openid-")
	user, _, _ := strings.Cut(rest, "-")
	if p := s.person(user); ok && p != nil && sameSecret(s.openIDAccess(user), token) {
		return p
	}
	return nil
}

func sameSecret(want, got string) bool {
	return subtle.ConstantTimeCompare([]byte(want), []byte(got)) == 1
}
