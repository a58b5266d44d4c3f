package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"openinspect/sessions"
)

// maxTokenAnswer bounds the answer of the token endpoint; it has a few hundred bytes.
const maxTokenAnswer = 64 << 10

// AuthorizeURL is where a person is sent to connect their account. challenge is
// the S256 form of the verifier that Exchange will be given.
func (a *App) AuthorizeURL(state, redirectURL, challenge string) string {
	return a.cfg.WebURL + "login/oauth/authorize?" + url.Values{
		"client_id": {a.cfg.ClientID}, "redirect_uri": {redirectURL}, "state": {state},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}.Encode()
}

// Exchange trades the code that came back for the person's tokens. A
// *sessions.Problem means that the person has to begin again.
func (a *App) Exchange(ctx context.Context, code, redirectURL, verifier string) (sessions.GitHubTokens, error) {
	return a.askTokens(ctx, url.Values{"code": {code}, "redirect_uri": {redirectURL}, "code_verifier": {verifier}})
}

// Refresh exchanges a refresh token: both old tokens are dead afterwards, so
// the caller keeps others from using them meanwhile and stores the new ones
// before it uses them. A *sessions.Problem means that the person has to connect
// again. After a Retryable whose outcome is Unknown, trying once more gives
// either new tokens or that problem.
func (a *App) Refresh(ctx context.Context, refreshToken string) (sessions.GitHubTokens, error) {
	return a.askTokens(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}})
}

// tokenAnswer is what the token endpoint says; errors come with status 200 too.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    int64  `json:"expires_in"` // seconds; 0: it does not expire
	Error        string `json:"error"`
	Description  string `json:"error_description"`
}

func (a *App) askTokens(ctx context.Context, form url.Values) (sessions.GitHubTokens, error) {
	form.Set("client_id", a.cfg.ClientID)
	form.Set("client_secret", a.cfg.ClientSecret)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.cfg.WebURL+"login/oauth/access_token", strings.NewReader(form.Encode()))
	if err != nil {
		return sessions.GitHubTokens{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	asked := a.now()
	resp, err := a.http.Do(req)
	if err != nil {
		return sessions.GitHubTokens{}, &sessions.Retryable{Unknown: !neverSent(err), Err: fmt.Errorf("asking GitHub for tokens: %w", plain(err))}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("asking GitHub for tokens: it answered %s", resp.Status)
		if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
			return sessions.GitHubTokens{}, &sessions.Retryable{After: retryAfter(resp), Unknown: resp.StatusCode >= 500, Err: err}
		}
		return sessions.GitHubTokens{}, err
	}
	var answer tokenAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxTokenAnswer)).Decode(&answer); err != nil {
		return sessions.GitHubTokens{}, &sessions.Retryable{Unknown: true, Err: errors.New("asking GitHub for tokens: its answer was cut short or is not JSON")}
	}
	return answer.tokens(asked)
}

// tokens is the pair, whose life counts from when it was asked for, or why there is none.
func (t tokenAnswer) tokens(asked time.Time) (sessions.GitHubTokens, error) {
	if t.Error != "" {
		err := fmt.Errorf("GitHub says %s: %s", t.Error, t.Description)
		switch t.Error {
		case "bad_refresh_token", "bad_verification_code":
			return sessions.GitHubTokens{}, problem(CodeRelink, relinkText, err)
		}
		return sessions.GitHubTokens{}, plain(err)
	}
	if t.AccessToken == "" {
		return sessions.GitHubTokens{}, errors.New("GitHub gave no token")
	}
	got := sessions.GitHubTokens{Access: t.AccessToken, Refresh: t.RefreshToken}
	if t.ExpiresIn > 0 {
		got.Expires = asked.Add(time.Duration(t.ExpiresIn) * time.Second)
	}
	return got, nil
}

// GetUser says whose token it is: the numeric id, which never changes, and the
// login as it is now.
func (a *App) GetUser(ctx context.Context, token string) (id int64, login string, err error) {
	u, _, err := a.client(token).Users.Get(ctx, "")
	if err == nil {
		return u.GetID(), u.GetLogin(), nil
	}
	if r := a.retryable(err, false); r != nil {
		return 0, "", r
	}
	return 0, "", a.userProblem(err)
}
