package github

import (
	"net/http"
	"strings"
	"testing"
)

func TestABranchThatDidNotMoveIsAnsweredWithoutCountingAgainstTheRateLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, err := w.app.BranchHead(t.Context(), "acme/greeter", "main", "")
	if err != nil || len(first) != 40 {
		t.Fatalf("the branch is at %q, %v", first, err)
	}
	again, err := w.app.BranchHead(t.Context(), "acme/greeter", "main", first)
	if err != nil || again != first {
		t.Errorf("the branch is at %q, %v", again, err)
	}
	calls := w.github.Calls()
	last := calls[len(calls)-1]
	if !strings.HasSuffix(last.Path, "/commits/heads/main") || last.Status != http.StatusNotModified {
		t.Errorf("the answer to %s was %d", last.Path, last.Status)
	}
	moved, err := w.app.BranchHead(t.Context(), "acme/greeter", "main", strings.Repeat("0", 40))
	if err != nil || moved != first {
		t.Errorf("of a branch that moved it is said that it is at %q, %v", moved, err)
	}
	_, err = w.app.BranchHead(t.Context(), "acme/greeter", "gone", "")
	wantProblem(t, err, CodeNoBranch, "There is no branch gone in acme/greeter.")
	_, err = w.app.BranchHead(t.Context(), "acme/unknown", "main", "")
	wantProblem(t, err, CodeNoRepository, "not installed on acme/unknown")
}
