package github

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Lifetimes, as GitHub's.
const (
	installationLife = time.Hour
	userLife         = 8 * time.Hour
	refreshLife      = 15897600 * time.Second // 6 months
	codeLife         = 10 * time.Minute
	jwtLife          = 10 * time.Minute
)

// authenticate finds out who makes a request. A credential that is given but
// wrong is an error, never anonymous.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	value := credential(r)
	if value == "" {
		return caller{}, nil
	}
	if strings.Count(value, ".") == 2 && !strings.HasPrefix(value, "ghs_") {
		if message := s.checkJWT(value); message != "" {
			return caller{}, refuse(http.StatusUnauthorized, message)
		}
		return caller{kind: byJWT, account: s.bot()}, nil
	}
	t := s.tokens.get(value)
	if t == nil || t.Kind == refreshToken || !t.Expires.IsZero() && !s.now().Before(t.Expires) {
		return caller{}, refuse(http.StatusUnauthorized, "Bad credentials")
	}
	if t.Kind == installationToken {
		return caller{kind: byInstallation, account: s.bot(), token: t}, nil
	}
	return caller{kind: byUser, account: s.accounts.get(t.User), token: t}, nil
}

// credential is the token of a request: of the scheme Bearer or token, or the
// password of Basic (git), where a token as the user's name works too.
func credential(r *http.Request) string {
	if user, password, ok := r.BasicAuth(); ok {
		if password == "" || password == "x-oauth-basic" {
			return user
		}
		return password
	}
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch strings.ToLower(scheme) {
	case "bearer", "token":
		return strings.TrimSpace(value)
	}
	return scheme // an unknown scheme is a wrong credential, none is ""
}

func (s *Server) bot() *account { return s.accounts.get(appSlug + "[bot]") }

// checkJWT returns what is wrong with an App's JWT in GitHub's words, or "".
func (s *Server) checkJWT(value string) string {
	const undecodable = "A JSON web token could not be decoded"
	head, claims, signature := splitJWT(value)
	var header struct{ Alg string }
	if json.Unmarshal(head, &header) != nil || header.Alg != "RS256" || len(signature) == 0 {
		return undecodable
	}
	sum := sha256.Sum256([]byte(value[:strings.LastIndexByte(value, '.')]))
	if rsa.VerifyPKCS1v15(&s.key.PublicKey, crypto.SHA256, sum[:], signature) != nil {
		return undecodable
	}
	var c struct {
		Iss      any
		Iat, Exp *float64
	}
	if json.Unmarshal(claims, &c) != nil {
		return undecodable
	}
	now := float64(s.now().Unix())
	switch {
	case !isIssuer(c.Iss):
		return "'Issuer' claim ('iss') must be an Integer"
	case c.Iat == nil || *c.Iat > now+5: // a little leeway, for clocks
		return "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
	case c.Exp == nil || *c.Exp <= now || *c.Exp != math.Trunc(*c.Exp):
		return "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires"
	case *c.Exp > now+jwtLife.Seconds():
		return "'Expiration time' claim ('exp') is too far in the future"
	}
	return ""
}

func splitJWT(value string) (header, claims, signature []byte) {
	var parts [3][]byte
	for i, part := range strings.SplitN(value, ".", 3) {
		parts[i], _ = base64.RawURLEncoding.DecodeString(part) // what is wrong stays empty
	}
	return parts[0], parts[1], parts[2]
}

func isIssuer(iss any) bool {
	switch iss := iss.(type) {
	case string:
		return iss == strconv.Itoa(appID) || iss == clientID
	case float64:
		return iss == appID
	}
	return false
}

// newInstallationToken returns a value in the classic or the stateless form.
func newInstallationToken(stateless bool) string {
	if !stateless {
		return "ghs_" + randomText(36)
	}
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"ES256"}`))
	body := base64.RawURLEncoding.EncodeToString([]byte(randomText(282)))
	return fmt.Sprintf("ghs_%d_%s.%s.%s", appID, head, body, randomText(86))
}

// createToken answers POST /app/installations/{id}/access_tokens.
func (s *Server) createToken(c *call) (reply, error) {
	if c.number("id") != installationID {
		return reply{}, errNotFound
	}
	var ask struct {
		Repositories  []string
		RepositoryIDs []int64 `json:"repository_ids"`
		Permissions   map[string]string
	}
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	t := &token{Kind: installationToken, Expires: s.now().Add(installationLife).UTC().Truncate(time.Second)}
	var err error
	if t.Permissions, err = narrow(ask.Permissions); err != nil {
		return reply{}, err
	}
	repos := s.allRepos()
	if len(ask.Repositories)+len(ask.RepositoryIDs) > 0 {
		if repos, err = s.chosen(ask.Repositories, ask.RepositoryIDs); err != nil {
			return reply{}, err
		}
	}
	var list []object
	for _, r := range repos {
		t.Repositories = append(t.Repositories, r.ID)
		list = append(list, s.repoJSON(r, c.who))
	}
	value := newInstallationToken(c.r.Header.Get("X-GitHub-Stateless-S2S-Token") == "enabled")
	s.dropExpired()
	s.tokens.put(value, t)
	body := object{"token": value, "expires_at": t.Expires, "permissions": t.Permissions, "repository_selection": "all"}
	if len(ask.Repositories)+len(ask.RepositoryIDs) > 0 {
		body["repository_selection"], body["repositories"] = "selected", list
	}
	return created(body), nil
}

// narrow returns the permissions of a token: those asked for, or all of the App's.
func narrow(ask map[string]string) (permission, error) {
	if len(ask) == 0 {
		return appPermissions, nil
	}
	got := permission{"metadata": reading}
	for name, want := range ask {
		l := parseLevel(want)
		if l == nothing || l > appPermissions[name] {
			return nil, refuse(http.StatusUnprocessableEntity, "The permissions requested are not granted to this installation.")
		}
		got[name] = l
	}
	return got, nil
}

// chosen finds the repositories of a token request, by name without owner or by id.
func (s *Server) chosen(names []string, ids []int64) (repos []*repository, err error) {
	missing := refuse(http.StatusUnprocessableEntity,
		"There is at least one repository that does not exist or is not accessible to the parent installation.")
	for _, name := range names {
		r := s.repos.get(orgLogin + "/" + strings.ToLower(name))
		if r == nil {
			return nil, missing
		}
		repos = append(repos, r)
	}
	for _, id := range ids {
		r := s.repoByID(id)
		if r == nil {
			return nil, missing
		}
		repos = append(repos, r)
	}
	return repos, nil
}

func (s *Server) repoByID(id int64) *repository {
	for _, r := range s.repos.rows {
		if r.ID == id {
			return r
		}
	}
	return nil
}

// dropExpired forgets tokens and codes that nobody can use any more.
func (s *Server) dropExpired() {
	now := s.now()
	for value, t := range s.tokens.rows {
		if !t.Expires.IsZero() && now.After(t.Expires) {
			s.tokens.remove(value)
		}
	}
	for value, c := range s.codes.rows {
		if now.After(c.Expires) {
			s.codes.remove(value)
		}
	}
}

// revokeToken answers DELETE /installation/token.
func (s *Server) revokeToken(c *call) (reply, error) {
	s.tokens.remove(credential(c.r))
	return noContent, nil
}
