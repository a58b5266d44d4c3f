package github

import (
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	gh "github.com/google/go-github/v62/github"
)

// browser is a person who looks at pages.
type browser struct {
	p      *practice
	client *http.Client
}

// browse is a browser that is a person; "" is nobody yet.
func (p *practice) browse(login string) *browser {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	b := &browser{p, &http.Client{Jar: jar, Transport: p.http.Client().Transport}}
	if login != "" {
		b.post("/session", url.Values{"login": {login}})
	}
	return b
}

func (b *browser) do(method, path string, form url.Values) (status int, page, at string) {
	b.p.t.Helper()
	req, err := http.NewRequestWithContext(b.p.t.Context(), method, b.p.http.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.p.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.p.t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Request.URL.RequestURI()
}

func (b *browser) post(path string, form url.Values) (int, string, string) {
	b.p.t.Helper()
	return b.do(http.MethodPost, path, form)
}

// see opens a page that has to show some texts.
func (b *browser) see(path string, texts ...string) string {
	b.p.t.Helper()
	status, page, _ := b.do(http.MethodGet, path, nil)
	if status != http.StatusOK {
		b.p.t.Errorf("%s: status %d\n%s", path, status, page)
	}
	for _, text := range texts {
		if !strings.Contains(page, text) {
			b.p.t.Errorf("%s does not show %q:\n%s", path, text, page)
		}
	}
	return page
}

func TestPagesShowARepository(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	p.commit("inspect/s1", "docs/a & b.txt", "one < two\n")
	if status, page, _ := p.browse("").do(http.MethodGet, "/acme/greeter", nil); status != http.StatusUnauthorized || !strings.Contains(page, "Who are you?") {
		t.Errorf("nobody sees %d %s", status, page)
	}
	b := p.browse("carol")
	b.see("/", "acme/greeter", "acme/website")
	b.see("/acme/greeter", "greeter.go", "AGENTS.md", "Test the greeter", "<table>", "Good afternoon", "inspect/s1")
	b.see("/acme/greeter/tree/inspect/s1/docs", "a &amp; b.txt")
	b.see("/acme/greeter/blob/inspect/s1/docs/a%20&%20b.txt", "one &lt; two")
	b.see("/acme/greeter/commits/main", "Reviewed-by: Bob Baker", "20003&#43;carol@users.noreply.github.com")
	b.see("/acme/greeter/commit/70c9e82", "greeter_test.go", "+27")
	b.see("/acme/greeter/branches", "1 ahead")
	b.see("/style.css", "body {")
	b.see("/avatars/20001", "<svg", ">A<")
	for _, path := range []string{"/acme/absent", "/acme/greeter/pull/9", "/acme/greeter/tree/absent", "/acme/greeter/blob/main/absent", "/absent"} {
		if status, _, _ := b.do(http.MethodGet, path, nil); status != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, status)
		}
	}
}

func TestPersonOpensAndMergesAPullRequestInTheBrowser(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	p.commit("inspect/s1", "a.txt", "a\n")
	bob := p.browse("bob")
	bob.see("/acme/greeter/compare/main...inspect/s1?quick_pull=1&title=Fix+%3Cit%3E&body=It+was+wrong", `value="Fix &lt;it&gt;"`, "It was wrong", "Create pull request", "<details class=\"box\" open>")
	if page := p.browse("carol").see("/acme/greeter/compare/main...inspect/s1?quick_pull=1"); strings.Contains(page, "Create pull request") {
		t.Error("a reader is offered to open it")
	}
	form := url.Values{"title": {"Fix it"}, "body": {"It was **wrong** <script>alert(1)</script>"}}
	if status, _, _ := p.browse("carol").post("/acme/greeter/compare/main...inspect/s1", form); status != http.StatusForbidden {
		t.Errorf("a reader's form: %d, want 403", status)
	}
	_, page, at := bob.post("/acme/greeter/compare/main...inspect/s1", form)
	if at != "/acme/greeter/pull/1" || !strings.Contains(page, "<strong>wrong</strong>") || strings.Contains(page, "<script") || !strings.Contains(page, "<td>&#43;</td><td>a") {
		t.Errorf("it leads to %s\n%s", at, page)
	}
	if status, page, _ := bob.post("/acme/greeter/compare/main...inspect/s1", form); status != 422 || !strings.Contains(page, "A pull request already exists for acme:inspect/s1.") {
		t.Errorf("opening again: %d\n%s", status, page)
	}
	if _, page, _ := p.browse("carol").post("/acme/greeter/pull/1/comment", url.Values{"body": {"Nice"}}); !strings.Contains(page, "Nice") {
		t.Errorf("the comment is missing:\n%s", page)
	}
	if status, _, _ := p.browse("carol").post("/acme/greeter/pull/1/merge", nil); status != http.StatusForbidden {
		t.Errorf("a reader merges: %d, want 403", status)
	}
	if _, page, _ := bob.post("/acme/greeter/pull/1/close", nil); !strings.Contains(page, "Reopen") {
		t.Error("it is not closed")
	}
	bob.post("/acme/greeter/pull/1/reopen", nil)
	bob.post("/acme/greeter/pull/1/merge", url.Values{"method": {"squash"}})
	bob.see("/acme/greeter/pulls", "Merged")
	pr, _, err := p.as("alice").PullRequests.Get(t.Context(), "acme", "greeter", 1)
	if err != nil || pr.GetUser().GetLogin() != "bob" || !pr.GetMerged() {
		t.Errorf("it is %s's, merged %v, %v", pr.GetUser().GetLogin(), pr.GetMerged(), err)
	}
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.http.URL+"/session", strings.NewReader("login=bob"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := p.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("got %s, want 403", resp.Status)
	}
}

func TestAuthorizePageLetsOneChoose(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	query := "?client_id=" + clientID + "&state=s&redirect_uri=" + url.QueryEscape(p.http.URL+"/style.css")
	b := p.browse("")
	page := b.see("/login/oauth/authorize"+query, "Authorize Inspect", "carol")
	form := regexp.MustCompile(`<form method="post" action="(/login/oauth/authorize[^"]*)"`).FindStringSubmatch(page)
	if form == nil {
		t.Fatalf("the page has no form to choose a person with:\n%s", page)
	}
	if _, _, at := b.post(html.UnescapeString(form[1]), url.Values{"login": {"carol"}}); !strings.Contains(at, "code=") || !strings.Contains(at, "state=s") {
		t.Errorf("it leads to %s", at)
	}
	if _, _, at := b.do(http.MethodGet, "/login/oauth/authorize"+query, nil); !strings.Contains(at, "code=") {
		t.Errorf("a known browser is led to %s", at)
	}
	if page := b.see("/login/oauth/authorize" + query + "&prompt=select_account"); !strings.Contains(page, "Go on as") {
		t.Error("nobody is asked although the client wants it")
	}
	if _, _, at := b.post("/login/oauth/authorize"+query, url.Values{"cancel": {"1"}}); !strings.Contains(at, "error=access_denied") {
		t.Errorf("cancelling leads to %s", at)
	}
	for _, bad := range []string{"?client_id=other", "?client_id=" + clientID + "&redirect_uri=https%3A%2F%2Fexample.com", query + "&code_challenge=x&code_challenge_method=plain"} {
		if status, _, _ := b.do(http.MethodGet, "/login/oauth/authorize"+bad, nil); status < 400 {
			t.Errorf("%s: status %d", bad, status)
		}
	}
}

func TestReviewsChecksAndLabels(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	sha := p.commit("work", "a.txt", "a\nb\n")
	p.pullRequest("work")
	ctx, alice, bob := t.Context(), p.as("alice"), p.as("bob")
	if _, _, err := alice.PullRequests.CreateReview(ctx, "acme", "greeter", 1, &gh.PullRequestReviewRequest{Event: gh.String("APPROVE")}); statusOf(err) != 422 {
		t.Errorf("approving one's own: %v, want 422", err)
	}
	line := func(path string, n int) *gh.PullRequestReviewRequest {
		return &gh.PullRequestReviewRequest{Event: gh.String("COMMENT"), Body: gh.String("See below"),
			Comments: []*gh.DraftReviewComment{{Path: &path, Line: &n, Side: gh.String("RIGHT"), Body: gh.String("Why?")}}}
	}
	for _, bad := range []*gh.PullRequestReviewRequest{line("a.txt", 3), line("absent", 1)} {
		if _, _, err := bob.PullRequests.CreateReview(ctx, "acme", "greeter", 1, bad); statusOf(err) != 422 {
			t.Errorf("a comment outside the diff: %v, want 422", err)
		}
	}
	if _, _, err := bob.PullRequests.CreateReview(ctx, "acme", "greeter", 1, line("a.txt", 2)); err != nil {
		t.Fatal(err)
	}
	comments, _, err := bob.PullRequests.ListComments(ctx, "acme", "greeter", 1, nil)
	if err != nil || len(comments) != 1 || comments[0].GetLine() != 2 {
		t.Fatalf("comments are %v, %v", comments, err)
	}
	reply, _, err := alice.PullRequests.CreateCommentInReplyTo(ctx, "acme", "greeter", 1, "Because.", comments[0].GetID())
	if err != nil || reply.GetInReplyTo() != comments[0].GetID() {
		t.Errorf("the reply is %v, %v", reply, err)
	}
	if _, _, err := alice.PullRequests.CreateCommentInReplyTo(ctx, "acme", "greeter", 1, "Further.", reply.GetID()); statusOf(err) != 404 {
		t.Errorf("replying to a reply: %v, want 404", err)
	}
	p.checkChecks(sha)
	if labels, _, err := alice.Issues.AddLabelsToIssue(ctx, "acme", "greeter", 1, []string{"inspect"}); err != nil || len(labels) != 1 {
		t.Errorf("labels are %v, %v", labels, err)
	}
	p.browse("alice").see("/acme/greeter/pull/1", "Why?", "Because.", "a.txt:2", "inspect")
}

// checkChecks makes a check run and two statuses and looks at what they add up to.
func (p *practice) checkChecks(sha string) {
	t, ctx := p.t, p.t.Context()
	t.Helper()
	o := gh.CreateCheckRunOptions{Name: "test", HeadSHA: sha, Conclusion: gh.String("failure")}
	if _, _, err := p.as("alice").Checks.CreateCheckRun(ctx, "acme", "greeter", o); statusOf(err) != http.StatusForbidden {
		t.Errorf("a person's check run: %v, want 403", err)
	}
	app := p.client(p.installation(nil))
	if _, _, err := app.Checks.CreateCheckRun(ctx, "acme", "greeter", o); err != nil {
		t.Fatal(err)
	}
	runs, _, err := app.Checks.ListCheckRunsForRef(ctx, "acme", "greeter", "work", nil)
	if err != nil || runs.GetTotal() != 1 || runs.CheckRuns[0].GetConclusion() != "failure" {
		t.Errorf("check runs are %v, %v", runs, err)
	}
	for _, state := range []string{"failure", "success"} {
		if _, _, err := app.Repositories.CreateStatus(ctx, "acme", "greeter", sha, &gh.RepoStatus{State: &state, Context: gh.String("ci")}); err != nil {
			t.Fatal(err)
		}
	}
	if all, _, err := app.Repositories.GetCombinedStatus(ctx, "acme", "greeter", "work", nil); err != nil || all.GetState() != "success" || all.GetTotalCount() != 1 {
		t.Errorf("the combined status is %v, %v", all, err)
	}
}
