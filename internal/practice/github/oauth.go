package github

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// authorize is GET /login/oauth/authorize: it lets a person choose who they
// are, or goes on at once when the browser knows and nobody asked to choose.
func (s *Server) authorize(p *visit) error {
	q := p.r.URL.Query()
	if err := checkAuthorize(q); err != nil {
		return err
	}
	if p.who != nil && q.Get("prompt") != "select_account" {
		http.Redirect(p.w, p.r, s.grant(p.who, q), http.StatusFound)
		return nil
	}
	return p.show("authorize.html", struct {
		visitView
		Here  string // the form posts to this very address; a query alone would be escaped once more
		Login string
	}{p.view("Authorize Inspect"), p.r.URL.RequestURI(), q.Get("login")})
}

// chooseGrant is the choice made on that page.
func (s *Server) chooseGrant(p *visit) error {
	q := p.r.URL.Query()
	if err := checkAuthorize(q); err != nil {
		return err
	}
	if p.r.PostFormValue("cancel") != "" {
		back, _ := url.Parse(q.Get("redirect_uri"))
		back.RawQuery = url.Values{"error": {"access_denied"}, "error_description": {"The user has denied your application access."},
			"state": {q.Get("state")}}.Encode()
		http.Redirect(p.w, p.r, back.String(), http.StatusSeeOther)
		return nil
	}
	who := s.person(p.r.PostFormValue("login"))
	if who == nil {
		return refuse(http.StatusUnprocessableEntity, "Choose who you are.")
	}
	p.remember(who)
	http.Redirect(p.w, p.r, s.grant(who, q), http.StatusSeeOther)
	return nil
}

// checkAuthorize refuses what GitHub refuses before it asks anybody. Of
// callbacks, the App has registered those of this machine and its network.
func checkAuthorize(q url.Values) error {
	if q.Get("client_id") != clientID {
		return refuse(http.StatusNotFound, "There is no App with this client_id.")
	}
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || back.Scheme != "http" && back.Scheme != "https" || !isNear(back.Hostname()) {
		return refuse(http.StatusBadRequest, "The redirect_uri is not associated with this application.")
	}
	if m := q.Get("code_challenge_method"); q.Get("code_challenge") != "" && m != "S256" {
		return refuse(http.StatusBadRequest, "The code_challenge_method must be S256.")
	}
	return nil
}

func isNear(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified() || ip.IsPrivate())
}

// grant makes a code and returns where to go with it.
func (s *Server) grant(who *account, q url.Values) string {
	s.dropExpired()
	code := randomText(20)
	s.codes.put(code, &grantCode{User: who.Login, RedirectURI: q.Get("redirect_uri"), Challenge: q.Get("code_challenge"), Expires: s.now().Add(codeLife)})
	back, _ := url.Parse(q.Get("redirect_uri")) // checkAuthorize has read it
	values := back.Query()
	values.Set("code", code)
	if state := q.Get("state"); state != "" {
		values.Set("state", state)
	}
	back.RawQuery = values.Encode()
	return back.String()
}

// oauthError is a refusal of the token endpoint. It is sent with status 200.
type oauthError struct{ code, description string }

var (
	errClient  = &oauthError{"incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect."}
	errCode    = &oauthError{"bad_verification_code", "The code passed is incorrect or expired."}
	errBack    = &oauthError{"redirect_uri_mismatch", "The redirect_uri MUST match the registered callback URL for this application."}
	errRefresh = &oauthError{"bad_refresh_token", "The refresh token passed is incorrect or expired."}
	errGrant   = &oauthError{"unsupported_grant_type", "The grant_type parameter is not supported."}
)

// accessToken is POST /login/oauth/access_token.
func (s *Server) accessToken(w http.ResponseWriter, r *http.Request) {
	form := tokenForm(w, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	values, refused := s.exchange(form)
	if s.journal.err != nil {
		http.Error(w, "the journal cannot be written", http.StatusInternalServerError)
		return
	}
	if refused != nil {
		values = map[string]any{"error": refused.code, "error_description": refused.description,
			"error_uri": "https://docs.github.com/apps/troubleshooting-authorization-request-errors"}
	}
	if strings.Contains(r.Header.Get("Accept"), "json") {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		data, _ := json.Marshal(values) // texts and numbers
		w.Write(data)
		return
	}
	w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	encoded := url.Values{}
	for k, v := range values {
		text, isText := v.(string)
		if !isText {
			data, _ := json.Marshal(v)
			text = string(data)
		}
		encoded.Set(k, text)
	}
	w.Write([]byte(encoded.Encode()))
}

// tokenForm reads the parameters: a form, JSON or Basic credentials.
func tokenForm(w http.ResponseWriter, r *http.Request) url.Values {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	form := url.Values{}
	if strings.Contains(r.Header.Get("Content-Type"), "json") {
		var body map[string]string
		if json.NewDecoder(r.Body).Decode(&body) == nil {
			for k, v := range body {
				form.Set(k, v)
			}
		}
	} else if r.ParseForm() == nil {
		form = r.Form
	}
	if id, secret, basic := r.BasicAuth(); basic {
		form.Set("client_id", id)
		form.Set("client_secret", secret)
	}
	return form
}

func (s *Server) isSecret(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(secret), []byte(s.settings.get("client_secret").Value)) == 1
}

// exchange gives a pair of tokens for a code or a refresh token, each good once.
func (s *Server) exchange(form url.Values) (object, *oauthError) {
	if form.Get("client_id") != clientID || !s.isSecret(form.Get("client_secret")) {
		return nil, errClient
	}
	switch form.Get("grant_type") {
	case "", "authorization_code":
		return s.exchangeCode(form)
	case "refresh_token":
		return s.refresh(form.Get("refresh_token"))
	}
	return nil, errGrant
}

func (s *Server) exchangeCode(form url.Values) (object, *oauthError) {
	code := form.Get("code")
	c := s.codes.get(code)
	if c == nil || s.now().After(c.Expires) {
		return nil, errCode
	}
	if back := form.Get("redirect_uri"); back != "" && back != c.RedirectURI {
		return nil, errBack
	}
	s.codes.remove(code)
	if c.Challenge != "" {
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != strings.TrimRight(c.Challenge, "=") {
			return nil, errCode
		}
	}
	return s.pair(c.User), nil
}

// refresh exchanges a refresh token. It and its access token are dead afterwards.
func (s *Server) refresh(value string) (object, *oauthError) {
	t := s.tokens.get(value)
	if t == nil || t.Kind != refreshToken || s.now().After(t.Expires) {
		return nil, errRefresh
	}
	s.tokens.remove(value)
	s.tokens.remove(t.Access)
	return s.pair(t.User), nil
}

// pair makes a user token and its refresh token.
func (s *Server) pair(login string) object {
	now := s.now().UTC()
	access, refresh := "ghu_"+randomText(36), "ghr_"+randomText(76)
	s.tokens.put(access, &token{Kind: userToken, User: login, Expires: now.Add(userLife)})
	s.tokens.put(refresh, &token{Kind: refreshToken, User: login, Expires: now.Add(refreshLife), Access: access})
	return object{"access_token": access, "expires_in": int(userLife.Seconds()), "refresh_token": refresh,
		"refresh_token_expires_in": int(refreshLife.Seconds()), "scope": "", "token_type": "bearer"}
}
