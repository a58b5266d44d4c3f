package github

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	practice "openinspect/internal/practice/github"
	"openinspect/sessions"
)

const pullsPath = "/api/v3/repos/acme/greeter/pulls"

func TestPullRequestIsOpenedAsThePerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.branch("inspect/s1")
	got, err := w.app.OpenPullRequest(t.Context(), w.userToken("bob"), wanted("inspect/s1"))
	if err != nil {
		t.Fatal(err)
	}
	want := sessions.PullRequest{Number: 1, URL: w.url + "/acme/greeter/pull/1", Title: "Fix it", State: "open", Author: "bob"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again, err := w.app.OpenPullRequest(t.Context(), w.userToken("alice"), wanted("inspect/s1"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("opening again did not find the first: %s", diff)
	}
	found, err := w.app.FindPullRequest(t.Context(), "acme/greeter", "inspect/s1")
	if err != nil || found == nil || *found != want {
		t.Errorf("found %+v, %v", found, err)
	}
	none, err := w.app.FindPullRequest(t.Context(), "acme/greeter", "inspect/s2")
	if err != nil || none != nil {
		t.Errorf("a branch without one has %+v, %v", none, err)
	}
}

func TestPullRequestOfTheAppIsItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.branch("inspect/s1")
	pr := wanted("inspect/s1")
	pr.Draft = true
	got, err := w.app.OpenPullRequestAsApp(t.Context(), pr)
	if err != nil || got.Author != "inspect[bot]" || !got.Draft {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestRefusedPullRequestsAreSentences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.branch("inspect/s1")
	absent, base := wanted("inspect/s2"), wanted("inspect/s1")
	base.Base = "develop"
	same := wanted("main")
	for _, test := range []struct {
		name, token, code, text string
		pr                      sessions.NewPullRequest
	}{
		{"the branch is not there", w.userToken("alice"), CodeNoBranch, "inspect/s2 is not on GitHub", absent},
		{"no such base", w.userToken("alice"), CodeNoBranch, "no branch develop", base},
		{"nothing to merge", w.userToken("alice"), CodeNoCommits, "has no commits that main does not have", same},
		{"a reader", w.userToken("carol"), CodeNoAccess, "may not open pull requests in acme/greeter", wanted("inspect/s1")},
		{"a dead token", "ghu_dead0000000000000000000000000000000000", CodeRelink, "connect your GitHub account again", wanted("inspect/s1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := w.app.OpenPullRequest(t.Context(), test.token, test.pr)
			wantProblem(t, err, test.code, test.text)
			if strings.Contains(fmt.Sprintf("%+v", err), "ghu_") {
				t.Errorf("the error holds the token: %v", err)
			}
		})
	}
	if err := w.github.SetRole("acme/greeter", "carol", "none"); err != nil {
		t.Fatal(err)
	}
	_, err := w.app.OpenPullRequest(t.Context(), w.userToken("carol"), wanted("inspect/s1"))
	wantProblem(t, err, CodeNoAccess, "ask somebody there for write access")
}

func TestUnknownOutcomeIsSaidAndTheEffectIsFound(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]practice.Fault{
		"the answer is lost": {Method: "POST", Path: pullsPath, Apply: true, Cut: true},
		"the answer is 502":  {Method: "POST", Path: pullsPath, Apply: true, Status: http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.branch("inspect/s1")
			w.github.Inject(fault)
			_, err := w.app.OpenPullRequest(t.Context(), w.userToken("alice"), wanted("inspect/s1"))
			if r, is := errors.AsType[*sessions.Retryable](err); !is || !r.Unknown {
				t.Fatalf("got %v, want a retryable error of unknown outcome", err)
			}
			found, err := w.app.FindPullRequest(t.Context(), "acme/greeter", "inspect/s1")
			if err != nil || found == nil || found.Author != "alice" {
				t.Errorf("afterwards there is %+v, %v", found, err)
			}
		})
	}
}

func TestRetryableFailuresSayWhenToTryAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.branch("inspect/s1")
	if _, err := w.app.FindPullRequest(t.Context(), "acme/greeter", "inspect/s1"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		fault   practice.Fault
		unknown bool
		atLeast time.Duration
	}{
		{"too many requests", practice.Fault{Status: 429, RetryAfter: 7 * time.Second}, false, 7 * time.Second},
		{"the rate limit", practice.Fault{Status: 403, Limited: true, RetryAfter: time.Hour}, false, 59 * time.Minute},
		{"an outage", practice.Fault{Status: 503, RetryAfter: 3 * time.Second}, true, 3 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.fault.Method, test.fault.Path = "POST", pullsPath
			w.github.Inject(test.fault)
			_, err := w.app.OpenPullRequest(t.Context(), w.userToken("alice"), wanted("inspect/s1"))
			r, is := errors.AsType[*sessions.Retryable](err)
			if !is || r.Unknown != test.unknown || r.After < test.atLeast {
				t.Errorf("got %#v (%v)", r, err)
			}
		})
	}
	if found, err := w.app.FindPullRequest(t.Context(), "acme/greeter", "inspect/s1"); err != nil || found != nil {
		t.Errorf("nothing should have been opened: %+v, %v", found, err)
	}
}

func TestGitHubThatIsNotThereIsRetryableAndKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	app, err := NewApp(AppConfig{AppID: "1", PrivateKey: []byte(w.seed.PrivateKey), APIURL: "http://127.0.0.1:1/", WebURL: "http://127.0.0.1:1/"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = app.OpenPullRequest(t.Context(), "ghu_x", wanted("inspect/s1"))
	if r, is := errors.AsType[*sessions.Retryable](err); !is || r.Unknown {
		t.Errorf("got %v", err)
	}
	if name, email := app.BotIdentity(t.Context()); name != unknownBotName || email != unknownBotEmail {
		t.Errorf("the bot is %s <%s>", name, email)
	}
}
