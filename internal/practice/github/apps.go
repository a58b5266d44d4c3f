package github

import (
	"fmt"
	"net/http"
	"strings"
)

// appBorn is when the App was made.
const appBorn = "2026-01-05T09:00:00Z"

func (s *Server) appJSON() object {
	return object{
		"id": appID, "node_id": fmt.Sprintf("A_%d", appID), "slug": appSlug, "name": "Inspect", "created_at": appBorn, "updated_at": appBorn, "client_id": clientID, "owner": s.login(orgLogin),
		"description": "The practice App", "external_url": s.url, "html_url": s.pageURL("apps/%s", appSlug),
		"permissions": appPermissions, "events": hookEvents, "installations_count": 1,
	}
}

func (s *Server) installationJSON() object {
	return object{
		"id": installationID, "app_id": appID, "app_slug": appSlug, "client_id": clientID, "account": s.login(orgLogin),
		"target_id": orgID, "target_type": "Organization", "repository_selection": "all", "permissions": appPermissions,
		"events": hookEvents, "suspended_at": nil, "suspended_by": nil, "html_url": s.pageURL("organizations/%s/settings/installations/%d", orgLogin, installationID),
		"access_tokens_url": s.apiURL("app/installations/%d/access_tokens", installationID),
		"repositories_url":  s.apiURL("installation/repositories"),
	}
}

func (s *Server) getApp(*call) (reply, error) { return ok(s.appJSON()), nil }

func (s *Server) listInstallations(c *call) (reply, error) {
	return ok(c.page([]object{s.installationJSON()})), nil
}

func (s *Server) getInstallation(c *call) (reply, error) {
	if c.number("id") != installationID {
		return reply{}, errNotFound
	}
	return ok(s.installationJSON()), nil
}

func (s *Server) repositoryInstallation(c *call) (reply, error) {
	if s.repos.get(strings.ToLower(c.arg("o")+"/"+c.arg("r"))) == nil {
		return reply{}, errNotFound
	}
	return ok(s.installationJSON()), nil
}

func (s *Server) orgInstallation(c *call) (reply, error) {
	if c.arg("org") != orgLogin {
		return reply{}, errNotFound
	}
	return ok(s.installationJSON()), nil
}

// visible lists the repositories that the caller covers.
func (s *Server) visible(who caller) []object {
	list := []object{}
	for _, r := range s.allRepos() {
		if who.covers(r) {
			list = append(list, s.repoJSON(r, who))
		}
	}
	return list
}

func (s *Server) installationRepositories(c *call) (reply, error) {
	all := s.visible(c.who)
	selection := "all"
	if len(all) < len(s.repos.rows) {
		selection = "selected"
	}
	return ok(object{"total_count": len(all), "repository_selection": selection, "repositories": c.page(all)}), nil
}

func (s *Server) userInstallations(c *call) (reply, error) {
	return ok(object{"total_count": 1, "installations": c.page([]object{s.installationJSON()})}), nil
}

func (s *Server) userInstallationRepositories(c *call) (reply, error) {
	if c.number("id") != installationID {
		return reply{}, errNotFound
	}
	all := s.visible(c.who)
	return ok(object{"total_count": len(all), "repositories": c.page(all)}), nil
}

func (s *Server) userRepositories(c *call) (reply, error) { return ok(c.page(s.visible(c.who))), nil }

func (s *Server) orgRepositories(c *call) (reply, error) {
	if c.arg("org") != orgLogin {
		return reply{}, errNotFound
	}
	return s.userRepositories(c)
}

func (s *Server) getUser(c *call) (reply, error) { return ok(s.profileJSON(c.who.account)), nil }

func (s *Server) getAccount(c *call) (reply, error) {
	a := s.accounts.get(strings.ToLower(c.arg("login")))
	if a == nil {
		return reply{}, errNotFound
	}
	return ok(s.profileJSON(a)), nil
}

func (s *Server) getAccountByID(c *call) (reply, error) {
	a := s.accountByID(c.number("id"))
	if a == nil {
		return reply{}, errNotFound
	}
	return ok(s.profileJSON(a)), nil
}

func (s *Server) rateLimit(c *call) (reply, error) {
	core := object{"limit": 5000, "remaining": 5000, "used": 0, "reset": s.now().Add(installationLife).Unix(), "resource": "core"}
	return ok(object{"resources": object{"core": core}, "rate": core}), nil
}

func (s *Server) meta(*call) (reply, error) {
	return ok(object{"verifiable_password_authentication": false, "installed_version": "3.19.0"}), nil
}

// client checks the App's own credentials, which the routes under
// /applications take as Basic.
func (s *Server) client(c *call) error {
	id, secret, _ := c.r.BasicAuth()
	if id != clientID || c.arg("client") != clientID || !s.isSecret(secret) {
		return errNotFound
	}
	return nil
}

// namedToken reads the user token that a request to /applications is about.
func (s *Server) namedToken(c *call) (value string, t *token, err error) {
	if err := s.client(c); err != nil {
		return "", nil, err
	}
	var ask struct {
		Token string `json:"access_token"`
	}
	if err := c.body(&ask); err != nil {
		return "", nil, err
	}
	t = s.tokens.get(ask.Token)
	if t == nil || t.Kind != userToken {
		return "", nil, errNotFound
	}
	return ask.Token, t, nil
}

func (s *Server) checkUserToken(c *call) (reply, error) {
	value, t, err := s.namedToken(c)
	if err != nil {
		return reply{}, err
	}
	return ok(object{"token": value, "user": s.login(t.User), "expires_at": date(t.Expires), "scopes": []string{},
		"app": object{"client_id": clientID, "name": "Inspect"}}), nil
}

func (s *Server) revokeUserToken(c *call) (reply, error) {
	value, _, err := s.namedToken(c)
	if err != nil {
		return reply{}, err
	}
	s.tokens.remove(value)
	return noContent, nil
}

func (s *Server) revokeGrant(c *call) (reply, error) {
	_, t, err := s.namedToken(c)
	if err != nil {
		return reply{}, err
	}
	s.revokeAll(t.User)
	return noContent, nil
}

// revokeAll ends the App's authorisation by a user, whose every token dies.
func (s *Server) revokeAll(login string) {
	for value, t := range s.tokens.rows {
		if t.User == login {
			s.tokens.remove(value)
		}
	}
	s.emit("github_app_authorization", "revoked", nil, s.accounts.get(login), object{})
}

// Revoke withdraws a person's authorisation of the App, as they do in their
// settings: all their tokens die and github_app_authorization is sent.
func (s *Server) Revoke(login string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts.get(login) == nil {
		return refuse(http.StatusNotFound, "no person "+login)
	}
	s.revokeAll(login)
	return s.journal.err
}
