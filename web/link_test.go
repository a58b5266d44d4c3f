package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"openinspect/sessions"
)

// codeHost is a GitHub whose codes are "challenge:login:id".
type codeHost struct{}

// AuthorizeURL implements GitHubLinker: the person comes back at once as octo.
func (codeHost) AuthorizeURL(state, redirectURL, challenge string) string {
	return redirectURL + "?" + url.Values{"state": {state}, "code": {challenge + ":octo:7"}}.Encode()
}

// Exchange implements GitHubLinker: the verifier has to be that of the challenge.
func (codeHost) Exchange(_ context.Context, code, _, verifier string) (sessions.GitHubTokens, error) {
	challenge, who, _ := strings.Cut(code, ":")
	if oauth2.S256ChallengeFromVerifier(verifier) != challenge {
		return sessions.GitHubTokens{}, errors.New("the verifier is another one")
	}
	return sessions.GitHubTokens{Access: who}, nil
}

// GetUser implements GitHubLinker.
func (codeHost) GetUser(_ context.Context, token string) (int64, string, error) {
	login, _, _ := strings.Cut(token, ":")
	return 7, login, nil
}

func withCodeHost(c *Config) { c.GitHub = codeHost{} }

func TestAPersonConnectsAndDisconnectsGitHub(t *testing.T) {
	t.Parallel()
	r := newRig(t, withCodeHost)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	resp, err := alice.Get(r.url + "/link/github?session=" + s.session)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.Request.URL.Path != sessionPath(s) {
		t.Errorf("connecting for a session ends at %s", resp.Request.URL)
	}
	if page := alice.page("/settings"); !strings.Contains(page, "@octo") || !strings.Contains(page, "Disconnect") {
		t.Error("the settings do not show the connection")
	}
	if resp, err = alice.Post(r.url+"/unlink/github", "", nil); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if page := alice.page("/settings"); strings.Contains(page, "@octo") || !strings.Contains(page, "Connect GitHub") {
		t.Error("the settings still show the connection")
	}
}

func TestAForwardedLinkBindsNobodyElsesAccount(t *testing.T) {
	t.Parallel()
	r := newRig(t, withCodeHost)
	mallory, victim := r.signIn(t, "bob"), r.signIn(t, "alice")
	var callback string
	mallory.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		callback = req.URL.String()
		return http.ErrUseLastResponse
	}
	resp, err := mallory.Get(r.url + "/link/github")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	flow := resp.Cookies()
	// Even with the attacker's cookie in the victim's browser the state is bound
	// to the attacker's sign-in.
	at, _ := url.Parse(r.url)
	for _, cookies := range [][]*http.Cookie{nil, flow} {
		victim.Jar.SetCookies(at, cookies)
		resp, err := victim.Get(callback)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("with %d cookies of the attacker the callback answers %s", len(cookies), resp.Status)
		}
	}
	if page := victim.page("/settings"); strings.Contains(page, "@octo") {
		t.Error("the victim got the attacker's account")
	}
}

func TestAGitHubAccountBelongsToOnePerson(t *testing.T) {
	t.Parallel()
	r := newRig(t, withCodeHost)
	first, err := r.signIn(t, "alice").Get(r.url + "/link/github")
	if err != nil {
		t.Fatal(err)
	}
	first.Body.Close()
	if first.StatusCode != http.StatusOK {
		t.Fatalf("Alice connects: %s", first.Status)
	}
	resp, err := r.signIn(t, "bob").Get(r.url + "/link/github")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode < 400 || resp.StatusCode >= 500 {
		t.Errorf("a second person connects the same account: %s", resp.Status)
	}
}
