package github

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	gh "github.com/google/go-github/v62/github"
)

// hook is one webhook as it came.
type hook struct {
	header http.Header
	event  any
}

// receiver takes webhooks, checks them as go-github does, and answers with a status.
func receiver(t *testing.T, secret func() string, status int) (url string, hooks chan hook) {
	hooks = make(chan hook, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := gh.ValidatePayload(r, []byte(secret()))
		if err != nil {
			t.Errorf("the signature is wrong: %v", err)
		}
		event, err := gh.ParseWebHook(gh.WebHookType(r), body)
		if err != nil {
			t.Errorf("%s does not parse: %v", gh.WebHookType(r), err)
		}
		w.WriteHeader(status)
		io.WriteString(w, "taken")
		hooks <- hook{r.Header.Clone(), event}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, hooks
}

// deliver runs the delivery of webhooks until the test ends.
func (p *practice) deliver() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
	})
}

// next waits for webhooks until one of the kind comes.
func next(t *testing.T, hooks chan hook, kind string) hook {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case h := <-hooks:
			if h.header.Get("X-GitHub-Event") == kind {
				return h
			}
		case <-deadline:
			t.Fatalf("no %s came", kind)
		}
	}
}

func TestWebhooksTellWhatHappened(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	url, hooks := receiver(t, func() string { return p.Seed().WebhookSecret }, http.StatusAccepted)
	p.SetWebhookURL(url)
	p.deliver()
	sha := p.commit("work", "a.txt", "a\n")
	push := next(t, hooks, "push") // the branch made
	if event := push.event.(*gh.PushEvent); !event.GetCreated() || event.GetRef() != "refs/heads/work" {
		t.Errorf("the first push is %v", event)
	}
	event := next(t, hooks, "push").event.(*gh.PushEvent)
	if event.GetAfter() != sha || event.GetSender().GetLogin() != "alice" || event.GetInstallation().GetID() != installationID || len(event.Commits) != 1 {
		t.Errorf("the push is %v", event)
	}
	p.pullRequest("work")
	opened := next(t, hooks, "pull_request")
	if pr := opened.event.(*gh.PullRequestEvent); pr.GetAction() != "opened" || pr.GetPullRequest().GetHead().GetSHA() != sha {
		t.Errorf("got %s", pr.GetAction())
	}
	if h := opened.header; h.Get("X-GitHub-Hook-Installation-Target-Type") != "integration" || len(h.Get("X-GitHub-Delivery")) != 36 {
		t.Errorf("headers are %v", h)
	}
	p.commit("work", "b.txt", "b\n")
	if pr := next(t, hooks, "pull_request").event.(*gh.PullRequestEvent); pr.GetAction() != "synchronize" || pr.GetBefore() != sha {
		t.Errorf("got %s after %s", pr.GetAction(), pr.GetBefore())
	}
	if _, _, err := p.as("bob").Issues.CreateComment(t.Context(), "acme", "greeter", 1, &gh.IssueComment{Body: gh.String("@inspect and a test")}); err != nil {
		t.Fatal(err)
	}
	if c := next(t, hooks, "issue_comment").event.(*gh.IssueCommentEvent); c.GetComment().GetBody() != "@inspect and a test" || !c.GetIssue().IsPullRequest() {
		t.Errorf("the comment is %v", c)
	}
	if _, _, err := p.as("bob").PullRequests.Merge(t.Context(), "acme", "greeter", 1, "", nil); err != nil {
		t.Fatal(err)
	}
	if pr := next(t, hooks, "pull_request").event.(*gh.PullRequestEvent); pr.GetAction() != "closed" || !pr.GetPullRequest().GetMerged() {
		t.Errorf("got %s, merged %v", pr.GetAction(), pr.GetPullRequest().GetMerged())
	}
	if err := p.Revoke("bob"); err != nil {
		t.Fatal(err)
	}
	next(t, hooks, "github_app_authorization")
	if _, _, err := p.as("bob").Users.Get(t.Context(), ""); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("a revoked token: %v, want 401", err)
	}
}

func TestFailedDeliveryIsListedAndSentAgainUnderItsGUID(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	url, hooks := receiver(t, func() string { return p.Seed().WebhookSecret }, http.StatusInternalServerError)
	p.commit("work", "a.txt", "a\n")
	p.SetWebhookURL(url)
	p.pullRequest("work")
	p.deliver()
	first := next(t, hooks, "pull_request")
	guid := first.header.Get("X-GitHub-Delivery")
	listed := func(n int) []*gh.HookDelivery {
		t.Helper()
		for {
			list, _, err := p.app().Apps.ListHookDeliveries(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == n {
				return list
			}
			if len(list) > n {
				t.Fatalf("%d deliveries, want %d", len(list), n)
			}
		}
	}
	failed := listed(1)[0]
	if failed.GetGUID() != guid || failed.GetStatusCode() != 500 || failed.GetRedelivery() {
		t.Errorf("listed is %v", failed)
	}
	if _, _, err := p.app().Apps.RedeliverHookDelivery(t.Context(), failed.GetID()); err != nil && !strings.Contains(err.Error(), "job scheduled") {
		t.Fatal(err)
	}
	again := next(t, hooks, "pull_request")
	if diff := cmp.Diff(guid, again.header.Get("X-GitHub-Delivery")); diff != "" {
		t.Error(diff)
	}
	if list := listed(2); !list[0].GetRedelivery() || list[0].GetID() == list[1].GetID() {
		t.Errorf("listed are %v", list)
	}
}
