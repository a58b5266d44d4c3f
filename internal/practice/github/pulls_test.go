package github

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gh "github.com/google/go-github/v62/github"
)

func TestPullRequestIsComputedFromThePushedBranch(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	dir := filepath.Join(t.TempDir(), "work")
	mustGit(t, t.TempDir(), "clone", "-q", p.remote(p.token("bob")), dir)
	mustGit(t, dir, "checkout", "-q", "-b", "inspect/s1")
	source, err := os.ReadFile(filepath.Join(dir, "greeter.go"))
	if err != nil {
		t.Fatal(err)
	}
	fixed := strings.Replace(string(source), "hour <= 18", "hour < 18", 1)
	if err := os.WriteFile(filepath.Join(dir, "greeter.go"), []byte(fixed), 0o644); err != nil {
		t.Fatal(err)
	}
	mustGit(t, dir, "commit", "-qam", "Begin the evening at six\n\nCo-authored-by: inspect[bot] <20100+inspect[bot]@users.noreply.github.com>")
	if out := mustGit(t, dir, "push", "origin", "HEAD"); !strings.Contains(out, "/acme/greeter/pull/new/inspect/s1") {
		t.Errorf("the push does not say where to open a pull request:\n%s", out)
	}

	ctx, c := t.Context(), p.as("alice")
	pr, _, err := c.PullRequests.Create(ctx, "acme", "greeter", &gh.NewPullRequest{
		Title: gh.String("Begin the evening at six"), Head: gh.String("inspect/s1"), Base: gh.String("main"), Body: gh.String("Fixes it.")})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{pr.GetNumber(), pr.GetUser().GetLogin(), pr.GetState(), pr.GetCommits(), pr.GetChangedFiles(), pr.GetAdditions(), pr.GetDeletions(), pr.GetMergeable(), pr.GetHead().GetRepo().GetID()}
	if diff := cmp.Diff([]any{1, "alice", "open", 1, 1, 1, 1, true, int64(30001)}, got); diff != "" {
		t.Error(diff)
	}
	files, _, err := c.PullRequests.ListFiles(ctx, "acme", "greeter", 1, nil)
	if err != nil || len(files) != 1 || !strings.Contains(files[0].GetPatch(), "-\tcase hour <= 18:\n+\tcase hour < 18:") {
		t.Errorf("files are %v, %v", files, err)
	}
	commits, _, err := c.PullRequests.ListCommits(ctx, "acme", "greeter", 1, nil)
	if err != nil || len(commits) != 1 || commits[0].GetAuthor().GetLogin() != "bob" {
		t.Errorf("commits are %v, %v", commits, err)
	}

	mustGit(t, dir, "commit", "-q", "--allow-empty", "-m", "And once more")
	mustGit(t, dir, "push", "-q", "origin", "HEAD")
	again, _, err := c.PullRequests.Get(ctx, "acme", "greeter", 1)
	if err != nil || again.GetCommits() != 2 || again.GetHead().GetSHA() == pr.GetHead().GetSHA() {
		t.Errorf("after a push the pull request has %d commits, %v", again.GetCommits(), err)
	}
}

func TestPullRequestsThatGitHubRefusesAreRefused(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	p.commit("there", "a.txt", "a\n")
	p.pullRequest("there")
	p.commit("taken", "b.txt", "b\n")
	main, _, err := p.as("alice").Git.GetRef(t.Context(), "acme", "greeter", "heads/main")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.as("alice").Git.CreateRef(t.Context(), "acme", "greeter", &gh.Reference{Ref: gh.String("refs/heads/same"), Object: main.Object}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, who, head, base, title string
		status                       int
		want                         gh.Error
	}{
		{"missing head", "alice", "absent", "main", "T", 422, gh.Error{Resource: "PullRequest", Field: "head", Code: "invalid"}},
		{"missing base", "alice", "taken", "absent", "T", 422, gh.Error{Resource: "PullRequest", Field: "base", Code: "invalid"}},
		{"another owner's head", "alice", "other:taken", "main", "T", 422, gh.Error{Resource: "PullRequest", Field: "head", Code: "invalid"}},
		{"no title", "alice", "taken", "main", " ", 422, gh.Error{Resource: "PullRequest", Field: "title", Code: "missing_field"}},
		{"nothing new", "alice", "same", "main", "T", 422, gh.Error{Resource: "PullRequest", Code: "custom", Message: "No commits between main and same"}},
		{"a second one", "bob", "acme:there", "main", "T", 422, gh.Error{Resource: "PullRequest", Code: "custom", Message: "A pull request already exists for acme:there."}},
		{"a reader", "carol", "taken", "main", "T", 403, gh.Error{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := p.as(test.who).PullRequests.Create(t.Context(), "acme", "greeter", &gh.NewPullRequest{Title: &test.title, Head: &test.head, Base: &test.base})
			refused, is := err.(*gh.ErrorResponse)
			if !is || refused.Response.StatusCode != test.status {
				t.Fatalf("got %v, want status %d", err, test.status)
			}
			if test.status == 422 {
				if diff := cmp.Diff([]gh.Error{test.want}, refused.Errors); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
	if err := p.SetRole("acme/greeter", "carol", "none"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.as("carol").PullRequests.Get(t.Context(), "acme", "greeter", 1); statusOf(err) != http.StatusNotFound {
		t.Errorf("somebody without a role got %v, want 404", err)
	}
}

func TestPullRequestsAreFoundByTheirBranch(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	for _, branch := range []string{"one", "two", "three"} {
		p.commit(branch, branch+".txt", "x\n")
		p.pullRequest(branch)
	}
	c, ctx := p.as("bob"), t.Context()
	if _, _, err := c.PullRequests.Edit(ctx, "acme", "greeter", 3, &gh.PullRequest{State: gh.String("closed")}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		o    gh.PullRequestListOptions
		want []int
	}{
		{"open ones, newest first", gh.PullRequestListOptions{}, []int{2, 1}},
		{"all", gh.PullRequestListOptions{State: "all"}, []int{3, 2, 1}},
		{"of a branch", gh.PullRequestListOptions{Head: "acme:one"}, []int{1}},
		{"of a closed one's branch", gh.PullRequestListOptions{Head: "acme:three"}, nil},
		{"a head without its owner is ignored", gh.PullRequestListOptions{Head: "one"}, []int{2, 1}},
		{"into another base", gh.PullRequestListOptions{Base: "elsewhere"}, nil},
		{"a page", gh.PullRequestListOptions{State: "all", ListOptions: gh.ListOptions{PerPage: 2, Page: 2}}, []int{1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			list, _, err := c.PullRequests.List(t.Context(), "acme", "greeter", &test.o)
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, pr := range list {
				got = append(got, pr.GetNumber())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	_, resp, err := c.PullRequests.List(ctx, "acme", "greeter", &gh.PullRequestListOptions{State: "all", ListOptions: gh.ListOptions{PerPage: 2}})
	if err != nil || resp.NextPage != 2 || resp.LastPage != 2 {
		t.Errorf("pages are %d and %d, %v", resp.NextPage, resp.LastPage, err)
	}
}

func TestMergingAPullRequest(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"merge", "squash"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			p := open(t, Options{})
			ctx := t.Context()
			p.commit("work", "a.txt", "a\n")
			pr := p.pullRequest("work")
			if _, _, err := p.as("carol").PullRequests.Merge(ctx, "acme", "greeter", 1, "", nil); statusOf(err) != http.StatusForbidden {
				t.Errorf("a reader's merge: %v, want 403", err)
			}
			if _, _, err := p.as("bob").PullRequests.Merge(ctx, "acme", "greeter", 1, "", &gh.PullRequestOptions{SHA: strings.Repeat("1", 40)}); statusOf(err) != http.StatusConflict {
				t.Errorf("merging another head: %v, want 409", err)
			}
			if _, _, err := p.as("bob").PullRequests.Merge(ctx, "acme", "greeter", 1, "", &gh.PullRequestOptions{MergeMethod: method}); err != nil {
				t.Fatal(err)
			}
			got, _, err := p.as("bob").PullRequests.Get(ctx, "acme", "greeter", 1)
			if err != nil || !got.GetMerged() || got.GetMergedBy().GetLogin() != "bob" {
				t.Errorf("merged is %v by %s, %v", got.GetMerged(), got.GetMergedBy().GetLogin(), err)
			}
			main, _, err := p.as("bob").Repositories.GetCommit(ctx, "acme", "greeter", "main", nil)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]int{"merge": 2, "squash": 1}[method]
			if main.GetSHA() != got.GetMergeCommitSHA() || len(main.Parents) != want {
				t.Errorf("main is %s with %d parents, want %s with %d", main.GetSHA(), len(main.Parents), got.GetMergeCommitSHA(), want)
			}
			if _, _, err := p.as("bob").PullRequests.Merge(ctx, "acme", "greeter", pr.GetNumber(), "", nil); statusOf(err) != http.StatusMethodNotAllowed {
				t.Errorf("merging again: %v, want 405", err)
			}
		})
	}
}

func TestConflictingPullRequestCannotBeMerged(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	ctx := t.Context()
	p.commit("one", "same.txt", "one\n")
	p.commit("two", "same.txt", "two\n")
	p.pullRequest("one")
	p.pullRequest("two")
	if _, _, err := p.as("bob").PullRequests.Merge(ctx, "acme", "greeter", 1, "", nil); err != nil {
		t.Fatal(err)
	}
	pr, _, err := p.as("bob").PullRequests.Get(ctx, "acme", "greeter", 2)
	if err != nil || pr.GetMergeable() || pr.GetMergeableState() != "dirty" {
		t.Errorf("mergeable is %v (%s), %v", pr.GetMergeable(), pr.GetMergeableState(), err)
	}
	if _, _, err := p.as("bob").PullRequests.Merge(ctx, "acme", "greeter", 2, "", nil); statusOf(err) != http.StatusMethodNotAllowed {
		t.Errorf("got %v, want 405", err)
	}
}
