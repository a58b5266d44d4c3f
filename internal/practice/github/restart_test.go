package github

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	gh "github.com/google/go-github/v62/github"
)

func TestEverythingSurvivesARestart(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	ctx := t.Context()
	p.commit("work", "a.txt", "a\n")
	p.pullRequest("work")
	if _, _, err := p.as("bob").Issues.CreateComment(ctx, "acme", "greeter", 1, &gh.IssueComment{Body: gh.String("Good.")}); err != nil {
		t.Fatal(err)
	}
	seed, token := p.Seed(), p.installation(nil)
	before, _, err := p.as("alice").PullRequests.Get(ctx, "acme", "greeter", 1)
	if err != nil {
		t.Fatal(err)
	}
	address := p.http.URL
	p.stop()
	p.start(Options{})
	if diff := cmp.Diff(seed, p.Seed()); diff != "" {
		t.Error(diff)
	}
	p.SetURL(address) // addresses are in what is compared
	after, _, err := p.client(token).PullRequests.Get(ctx, "acme", "greeter", 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
	p.commit("more", "b.txt", "b\n")
	if n := p.pullRequest("more").GetNumber(); n != 2 {
		t.Errorf("the next pull request is %d", n)
	}
}

func TestKillInTheMiddleOfAWriteLosesOnlyThatWrite(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	p.commit("work", "a.txt", "a\n")
	p.pullRequest("work")
	p.stop()
	f, err := os.OpenFile(filepath.Join(p.dir, "journal"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"t":"pulls","k":"acme/greeter#1","v":{"Tit`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p.start(Options{})
		if pr, _, err := p.as("alice").PullRequests.Get(t.Context(), "acme", "greeter", 1); err != nil || pr.GetTitle() != "Try work" {
			t.Errorf("afterwards: %v, %v", pr, err)
		}
		p.stop()
	}
}

func TestPushThatNobodyLivedToReportIsReportedByTheNextProcess(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	p.commit("work", "a.txt", "a\n")
	sha := p.pullRequest("work").GetHead().GetSHA()
	p.stop()
	// What http-backend does last, without what the server does afterwards.
	bareDir := filepath.Join(p.dir, "repos/acme/greeter.git")
	mustGit(t, bareDir, "update-ref", "refs/heads/work", "main")
	mustGit(t, bareDir, "update-ref", "refs/heads/other", sha)
	url, hooks := receiver(t, func() string { return p.Seed().WebhookSecret }, http.StatusOK)
	p.start(Options{WebhookURL: url})
	p.deliver()
	if event := next(t, hooks, "push").event.(*gh.PushEvent); event.GetRef() != "refs/heads/other" || !event.GetCreated() {
		t.Errorf("the push is %v", event)
	}
	if event := next(t, hooks, "pull_request").event.(*gh.PullRequestEvent); event.GetAction() != "synchronize" || event.GetPullRequest().GetCommits() != 0 {
		t.Errorf("got %s with %d commits", event.GetAction(), event.GetPullRequest().GetCommits())
	}
}

func TestSeededRepositoriesAreTheSameEverywhere(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	for name, want := range map[string]string{
		"greeter": "70c9e82de462f48759b8ef2c140d1a3f9eb9ac25",
		"website": "120a58f72f582567f91379871925d8a456fefce6",
	} {
		b, _, err := p.as("carol").Repositories.GetBranch(t.Context(), "acme", name, "main", 0)
		if err != nil || b.GetCommit().GetSHA() != want {
			t.Errorf("%s is at %s, %v", name, b.GetCommit().GetSHA(), err)
		}
	}
	dir := filepath.Join(t.TempDir(), "greeter")
	mustGit(t, t.TempDir(), "clone", "-q", p.remote(p.token("alice")), dir)
	if out := goTest(t, dir); !strings.Contains(out, "--- FAIL: TestGreet/at_six") || strings.Count(out, "--- FAIL") != 2 {
		t.Errorf("greeter's tests say:\n%s", out)
	}
	source, err := os.ReadFile(filepath.Join(dir, "greeter.go"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "greeter.go"), strings.Replace(string(source), "hour <= 18", "hour < 18", 1))
	if out := goTest(t, dir); !strings.Contains(out, "ok  \texample.com/acme/greeter") {
		t.Errorf("with the bug fixed they say:\n%s", out)
	}
}

func goTest(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "test", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, _ := cmd.CombinedOutput() // that they fail is in the text
	return string(out)
}

// call waits for the record of a call, which may come a moment after its answer.
func (p *practice) call(method, path string) Call {
	p.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		calls := p.Calls()
		if i := slices.IndexFunc(calls, func(c Call) bool { return c.Method == method && c.Path == path }); i >= 0 {
			return calls[i]
		}
		select {
		case <-tick.C:
		case <-deadline:
			p.t.Fatalf("%s %s is not recorded", method, path)
		}
	}
}

func TestFaultsHitAsManyRequestsAsTheyShould(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	p.commit("work", "a.txt", "a\n")
	ctx, c := t.Context(), p.as("alice")
	p.Inject(Fault{Method: "GET", Path: "/api/v3/user", Status: 500, Times: 2})
	p.Inject(Fault{Method: "POST", Path: "/api/v3/repos/acme/greeter/pulls", Status: 502, Apply: true})
	for i, want := range []int{500, 500, 0} {
		if _, _, err := c.Users.Get(ctx, ""); statusOf(err) != want {
			t.Errorf("request %d: %v, want status %d", i, err, want)
		}
	}
	pr := &gh.NewPullRequest{Title: gh.String("T"), Head: gh.String("work"), Base: gh.String("main")}
	if _, _, err := c.PullRequests.Create(ctx, "acme", "greeter", pr); statusOf(err) != http.StatusBadGateway {
		t.Errorf("got %v, want 502", err)
	}
	if _, _, err := c.PullRequests.Get(ctx, "acme", "greeter", 1); err != nil {
		t.Errorf("the lost request had no effect: %v", err)
	}
	if got := p.call("GET", "/api/v3/repos/acme/greeter/pulls/1"); got.Caller != "alice" || got.Status != 200 {
		t.Errorf("the last call is recorded as %+v", got)
	}
	// net/http asks once more when a connection that it used before is cut.
	p.Inject(Fault{Path: "/api/v3/user", Cut: true, Times: 2, Latency: time.Millisecond})
	if _, _, err := c.Users.Get(ctx, ""); err == nil || statusOf(err) != 0 {
		t.Errorf("got %v, want a cut connection", err)
	}
	p.ClearFaults()
	p.Inject(Fault{Path: "/", Status: 500, Times: 7})
	if n := p.ClearFaults(); n != 7 {
		t.Errorf("%d faults were left", n)
	}
}
