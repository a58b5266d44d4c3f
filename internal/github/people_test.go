package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	practice "openinspect/internal/practice/github"
	"openinspect/sessions"
)

const callback = "http://127.0.0.1:8080/link/github/callback"

// authorize goes a person's way through GitHub and returns the code.
func (w *world) authorize(login, verifier string) string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.app.AuthorizeURL("the-state", callback, oauth2.S256ChallengeFromVerifier(verifier)), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.AddCookie(&http.Cookie{Name: "person", Value: login})
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: w.app.http.Transport}
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || back.Query().Get("state") != "the-state" || !strings.HasPrefix(back.String(), callback) {
		w.t.Fatalf("GitHub sent the browser to %s (%s)", back, resp.Status)
	}
	return back.Query().Get("code")
}

// link connects a person's account.
func (w *world) link(login string) sessions.GitHubTokens {
	w.t.Helper()
	verifier := oauth2.GenerateVerifier()
	tokens, err := w.app.Exchange(w.t.Context(), w.authorize(login, verifier), callback, verifier)
	if err != nil {
		w.t.Fatal(err)
	}
	return tokens
}

func TestPersonConnectsTheirAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tokens := w.link("carol")
	if left := time.Until(tokens.Expires); left < 7*time.Hour || left > 8*time.Hour || tokens.Refresh == "" {
		t.Errorf("the token lives %s", left)
	}
	id, login, err := w.app.GetUser(t.Context(), tokens.Access)
	if err != nil || id != 20003 || login != "carol" {
		t.Errorf("it is %d %s, %v", id, login, err)
	}
	w.clock.advance(8 * time.Hour)
	_, _, err = w.app.GetUser(t.Context(), tokens.Access)
	wantProblem(t, err, CodeRelink, "connect")
}

func TestCodeIsGoodOnceAndWithItsVerifierOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	verifier := oauth2.GenerateVerifier()
	_, err := w.app.Exchange(t.Context(), w.authorize("alice", verifier), callback, oauth2.GenerateVerifier())
	wantProblem(t, err, CodeRelink, "connect")
	code := w.authorize("alice", verifier)
	if _, err := w.app.Exchange(t.Context(), code, callback, verifier); err != nil {
		t.Fatal(err)
	}
	_, err = w.app.Exchange(t.Context(), code, callback, verifier)
	wantProblem(t, err, CodeRelink, "connect")
}

func TestRefreshingKillsBothOldTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.link("alice")
	fresh, err := w.app.Refresh(t.Context(), old.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	if _, login, err := w.app.GetUser(t.Context(), fresh.Access); err != nil || login != "alice" {
		t.Errorf("the new token is %s's, %v", login, err)
	}
	_, _, err = w.app.GetUser(t.Context(), old.Access)
	wantProblem(t, err, CodeRelink, "connect")
	_, err = w.app.Refresh(t.Context(), old.Refresh)
	wantProblem(t, err, CodeRelink, "connect")
	if strings.Contains(err.Error(), old.Refresh) {
		t.Errorf("the error holds the token: %v", err)
	}
}

func TestLostAnswerToARefreshIsUnknownAndThenAProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.link("alice")
	w.github.Inject(practice.Fault{Path: "/login/oauth/access_token", Apply: true, Cut: true})
	_, err := w.app.Refresh(t.Context(), old.Refresh)
	if r, is := errors.AsType[*sessions.Retryable](err); !is || !r.Unknown {
		t.Fatalf("got %v, want a retryable error of unknown outcome", err)
	}
	if strings.Contains(err.Error(), old.Refresh) {
		t.Errorf("the error holds the token: %v", err)
	}
	_, err = w.app.Refresh(t.Context(), old.Refresh)
	wantProblem(t, err, CodeRelink, "connect")
}

func TestOutageWhileRefreshingIsRetryable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.link("alice")
	w.github.Inject(practice.Fault{Path: "/login/oauth/access_token", Status: 503, RetryAfter: 2 * time.Second})
	_, err := w.app.Refresh(t.Context(), old.Refresh)
	if r, is := errors.AsType[*sessions.Retryable](err); !is || r.After != 2*time.Second {
		t.Fatalf("got %v", err)
	}
	if _, err := w.app.Refresh(t.Context(), old.Refresh); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestErrorsHoldNoTokens(t *testing.T) {
	t.Parallel()
	long := "ghs_310001_" + strings.Repeat("Ab9-_.", 80)
	for _, secret := range []string{long, "ghu_" + strings.Repeat("x", 36), "eyJhbGciOi.eyJpc3MiOi.c2ln-bmF0_dXJl"} {
		text := plain(fmt.Errorf("the remote said %s: %w", secret, context.Canceled)).Error()
		if strings.Contains(text, secret[len(secret)-10:]) || !strings.Contains(text, "the remote said [redacted]") {
			t.Errorf("%q became %q", secret, text)
		}
	}
}

func TestRedirectsToOtherHostsGetNoToken(t *testing.T) {
	t.Parallel()
	w, thief := newWorld(t), newWorld(t)
	w.github.Inject(practice.Fault{Path: "/api/v3/user", Redirect: thief.url + "/api/v3/user"})
	if _, _, err := w.app.GetUser(t.Context(), w.userToken("alice")); err == nil {
		t.Error("the redirect was followed")
	}
	if calls := thief.github.Calls(); len(calls) != 0 {
		t.Errorf("another host was asked: %+v", calls)
	}
}
