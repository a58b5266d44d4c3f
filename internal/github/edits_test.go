package github

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	gh "github.com/google/go-github/v62/github"

	practice "openinspect/internal/practice/github"
	"openinspect/sessions"
)

// pull opens a pull request of a branch as alice.
func (w *world) pull(branch string) sessions.PullRequest {
	w.t.Helper()
	w.branch(branch)
	pr, err := w.app.OpenPullRequest(w.t.Context(), w.userToken("alice"), wanted(branch))
	if err != nil {
		w.t.Fatal(err)
	}
	return pr
}

func ptr[T any](v T) *T { return &v }

func TestAPullRequestIsEditedInTheNameOfWhoAsks(t *testing.T) { // I11
	t.Parallel()
	w := newWorld(t)
	pr := w.pull("inspect/s1")
	edit := sessions.PullRequestEdit{Repository: "acme/greeter", Number: pr.Number, Title: ptr("Better"), Body: ptr("Words."), Draft: ptr(true)}
	for name, c := range map[string]struct {
		as     sessions.As
		caller string
	}{"a person": {sessions.As{Token: w.userToken("bob")}, "bob"}, "the App": {sessions.As{App: true}, "installation"}} {
		got, err := w.app.EditPullRequest(t.Context(), c.as, edit)
		if err != nil || got.Title != "Better" || !got.Draft {
			t.Errorf("%s: %+v (%v)", name, got, err)
		}
		calls := w.github.Calls()
		if last := calls[len(calls)-1]; last.Caller != c.caller {
			t.Errorf("%s: the last call was made by %s", name, last.Caller)
		}
	}
	if got, err := w.app.EditPullRequest(t.Context(), sessions.As{Token: w.userToken("alice")},
		sessions.PullRequestEdit{Repository: "acme/greeter", Number: pr.Number, Draft: ptr(false)}); err != nil || got.Draft || got.Title != "Better" {
		t.Errorf("ready for review: %+v (%v)", got, err)
	}
}

func TestWhoMayNotEditIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pr := w.pull("inspect/s1")
	if err := w.github.SetRole("acme/greeter", "carol", "read"); err != nil {
		t.Fatal(err)
	}
	carol := sessions.As{Token: w.userToken("carol")}
	for _, edit := range []sessions.PullRequestEdit{{Title: ptr("Mine")}, {Draft: ptr(true)}} {
		edit.Repository, edit.Number = "acme/greeter", pr.Number
		_, err := w.app.EditPullRequest(t.Context(), carol, edit)
		wantProblem(t, err, CodeNoAccess, "not")
	}
	_, err := w.app.EditPullRequest(t.Context(), sessions.As{Token: "ghu_unknown"}, sessions.PullRequestEdit{Repository: "acme/greeter", Number: pr.Number, Title: ptr("x")})
	wantProblem(t, err, CodeRelink, "connect your GitHub account again")
}

// remark comments on the line that a branch of the world adds.
func (w *world) remark(pr sessions.PullRequest, branch, text string) int64 {
	w.t.Helper()
	c, _, err := w.app.client(w.userToken("bob")).PullRequests.CreateComment(w.t.Context(), "acme", "greeter", pr.Number,
		&gh.PullRequestComment{Body: &text, Path: ptr(branch + ".txt"), Line: ptr(1), Side: ptr("RIGHT")})
	if err != nil {
		w.t.Fatal(err)
	}
	return c.GetID()
}

func TestAReviewersThreadIsReadAndAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pr, other := w.pull("inspect/s1"), w.pull("inspect/s2")
	top, foreign := w.remark(pr, "inspect/s1", "Why?"), w.remark(other, "inspect/s2", "Why not?")
	alice := sessions.As{Token: w.userToken("alice")}
	reply := sessions.ReviewReply{Repository: "acme/greeter", Number: pr.Number, Comment: top, Body: "Because.", Mark: "review_reply:s1:b--1"}
	first, err := w.app.ReplyToReview(t.Context(), alice, reply, false)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.app.ReplyToReview(t.Context(), alice, reply, true); err != nil || again != first {
		t.Errorf("the same reply again is at %s (%v), want %s", again, err, first)
	}
	list, err := w.app.ReviewComments(t.Context(), "acme/greeter", pr.Number)
	if err != nil || len(list) != 2 || list[0].ID != top || list[0].Line != 1 || list[1].ReplyTo != top || list[1].Author != "alice" || list[1].Body != "Because." {
		t.Fatalf("the thread is %+v (%v)", list, err)
	}
	// An answer to the answer goes to the same thread.
	reply.Comment, reply.Mark, reply.Body = list[1].ID, "another", "And more."
	if _, err := w.app.ReplyToReview(t.Context(), alice, reply, false); err != nil {
		t.Error(err)
	}
	reply.Comment = foreign
	_, err = w.app.ReplyToReview(t.Context(), alice, reply, false)
	wantProblem(t, err, CodeNoComment, "has no comment")
	if list, err := w.app.ReviewComments(t.Context(), "acme/greeter", other.Number); err != nil || len(list) != 1 {
		t.Errorf("the other pull request's thread is %+v (%v)", list, err)
	}
}

func TestChecksAndStatusesOfACommitAreReadWithWhyTheyFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.branch("inspect/s1")
	ctx := t.Context()
	token, err := w.app.repositoryToken(ctx, "acme/greeter", "checks:write")
	if err != nil {
		t.Fatal(err)
	}
	c := w.app.client(token)
	ref, _, err := w.app.client(w.userToken("alice")).Git.GetRef(ctx, "acme", "greeter", "heads/inspect/s1")
	if err != nil {
		t.Fatal(err)
	}
	sha := ref.GetObject().GetSHA()
	_, _, err = c.Checks.CreateCheckRun(ctx, "acme", "greeter", gh.CreateCheckRunOptions{Name: "lint", HeadSHA: sha, Conclusion: ptr("failure"),
		Output: &gh.CheckRunOutput{Title: ptr("1 problem"), Summary: ptr("See below."), Annotations: []*gh.CheckRunAnnotation{
			{Path: ptr("greet.go"), StartLine: ptr(3), EndLine: ptr(3), AnnotationLevel: ptr("failure"), Message: ptr("unused"), Title: ptr("U1000")}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.github.RunJob("acme/greeter", sha, "test", "failure", strings.Repeat("noise\n", 50_000)+"--- FAIL: TestGreet\n"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.app.client(w.userToken("alice")).Repositories.CreateStatus(ctx, "acme", "greeter", sha,
		&gh.RepoStatus{State: ptr("pending"), Context: ptr("deploy"), Description: ptr("waiting")}); err != nil {
		t.Fatal(err)
	}
	got, err := w.app.Checks(ctx, "acme/greeter", sha)
	if err != nil || len(got) != 3 {
		t.Fatalf("checks are %+v (%v)", got, err)
	}
	by := map[string]sessions.Check{}
	for _, check := range got {
		by[check.Name] = check
	}
	if l := by["lint"]; !l.Failed() || l.Title != "1 problem" || l.Detail != "See below.\n\ngreet.go:3: failure: U1000 unused" {
		t.Errorf("lint: %+v", l)
	}
	if d := by["test"].Detail; !strings.HasSuffix(d, "--- FAIL: TestGreet") || len(d) > maxJobLog+100 {
		t.Errorf("the job's log has %d bytes and ends with %q", len(d), d[max(0, len(d)-60):])
	}
	if d := by["deploy"]; d.State != "in_progress" || d.Conclusion != "" || d.Title != "waiting" {
		t.Errorf("deploy: %+v", d)
	}
	for i := range perPage {
		if _, _, err := w.app.client(w.userToken("alice")).Repositories.CreateStatus(ctx, "acme", "greeter", sha,
			&gh.RepoStatus{State: ptr("success"), Context: ptr(fmt.Sprint("matrix ", i))}); err != nil {
			t.Fatal(err)
		}
	}
	all := len(got) + perPage
	if got, err := w.app.Checks(ctx, "acme/greeter", sha); err != nil || len(got) != all {
		t.Errorf("of %d checks %d are read (%v)", all, len(got), err)
	}
	// Without the permission to read logs, the check itself is still told.
	w.github.Inject(practice.Fault{Method: "GET", Path: "/api/v3/repos/acme/greeter/actions/jobs/", Status: http.StatusForbidden})
	if got, err := w.app.Checks(ctx, "acme/greeter", sha); err != nil || len(got) != all {
		t.Errorf("without logs: %+v (%v)", got, err)
	}
}
