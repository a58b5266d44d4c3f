package sessions_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// opened is a hand whose session has a pull request.
func opened(t *testing.T, w *sessionstest.World, e *sessions.Engine, begun <-chan *hand, by sessions.Person, ts string) (*hand, sessions.PullRequest) {
	t.Helper()
	w.Ask(e, by.ID, ts, "acme/greeter: greet")
	h := <-begun
	h.must("create_pull_request", `{"title":"Greet politely","body":"As asked.","draft":true}`, "is open")
	prs := w.Forge.PullRequests()
	return h, prs[len(prs)-1]
}

func TestThePullRequestIsChangedAsThePersonWhoAsks(t *testing.T) { // I11
	t.Parallel()
	w, e, begun := handWorld(t)
	h, pr := opened(t, w, e, begun, w.Linked(e, "Alice"), "1.0")
	h.refused("update_pull_request", `{}`, "nothing to change")
	h.refused("update_pull_request", `{"title":" "}`, "needs a title")
	h.must("update_pull_request", `{"title":"Greet everybody","body":"More.","draft":false}`, "Pull request #1 is changed; it is open")
	h.done <- "done"
	p := ended(t, e, h.prompt.ID)
	if got := w.Forge.PullRequests()[0]; got.Title != "Greet everybody" || got.Draft || w.Forge.Body(pr.URL) != "More." {
		t.Errorf("the pull request is %+v with %q", got, w.Forge.Body(pr.URL))
	}
	made, err := e.Artifacts(bg, p.SessionID)
	if err != nil || len(made) != 1 || made[0].Title != "Greet everybody" {
		t.Errorf("the page shows %+v (%v)", made, err)
	}
	// Bob, who is not connected, steers the same session.
	w.Ask(e, w.Person(e, "Bob").ID, "1.0", "rename it")
	h = <-begun
	h.refused("update_pull_request", `{"title":"Bob's"}`, "Bob has not connected a GitHub account")
	h.done <- "done"
	ended(t, e, h.prompt.ID)
	if got := w.Forge.PullRequests()[0].Title; got != "Greet everybody" {
		t.Errorf("it was changed in somebody else's name to %q", got)
	}
}

func TestToolsOfAPullRequestSayThatThereIsNone(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	h.refused("update_pull_request", `{"title":"x"}`, "no pull request yet")
	h.refused("get_review", `{}`, "no pull request yet")
	h.refused("reply_to_review", `{"comment":5,"body":"x"}`, "no pull request yet")
	h.refused("get_checks", `{}`, "Nothing of this session is pushed yet")
	h.done <- "done"
	ended(t, e, h.prompt.ID)
}

func TestTheAppChangesPullRequestsOnlyWhereTheOperatorAllowsIt(t *testing.T) { // I11
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.BotPullRequests = true })
	h, pr := opened(t, w, e, begun, w.Person(e, "Carol"), "1.0")
	comment := w.Forge.Comment("bob", pr, "greet.go", 3, "Why?")
	h.must("reply_to_review", `{"comment":1000,"body":"Because."}`, "The reply is posted")
	h.done <- "done"
	ended(t, e, h.prompt.ID)
	list, err := w.Forge.ReviewComments(bg, "acme/greeter", pr.Number)
	if err != nil || len(list) != 2 || list[1].Author != "inspect[bot]" || list[1].ReplyTo != comment || !strings.Contains(list[1].Body, "For Carol.") {
		t.Errorf("the thread is %+v (%v)", list, err)
	}
}

func TestReviewersAreAnsweredOnTheSessionsOwnPullRequestOnly(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	first, pr := opened(t, w, e, begun, alice, "1.0")
	second, other := opened(t, w, e, begun, alice, "2.0")
	mine := w.Forge.Comment("bob", pr, "greet.go", 3, "Why?")
	foreign := w.Forge.Comment("bob", other, "greet.go", 3, "Why not?")
	text := first.must("get_review", `{}`, "Comment 1000 by bob on greet.go:3\nWhy?")
	if strings.Contains(text, "Why not?") {
		t.Errorf("another pull request's comment is shown: %s", text)
	}
	first.refused("reply_to_review", `{"comment":1001,"body":"Hello."}`, "Pull request #1 has no comment 1001")
	first.refused("reply_to_review", `{"comment":1000,"body":" "}`, "needs words")
	first.refused("reply_to_review", `{"body":"x"}`, "which comment")
	first.must("reply_to_review", `{"comment":1000,"body":"Because."}`, "#discussion_r1002")
	first.done <- "done"
	second.done <- "done"
	list, err := w.Forge.ReviewComments(bg, "acme/greeter", pr.Number)
	if err != nil || len(list) != 2 || list[1].Author != "alice" || list[1].ReplyTo != mine {
		t.Errorf("the thread of %d is %+v (%v)", mine, list, err)
	}
	if list, err := w.Forge.ReviewComments(bg, "acme/greeter", other.Number); err != nil || len(list) != 1 {
		t.Errorf("the thread of %d is %+v (%v)", foreign, list, err)
	}
}

func TestAReplyOfUnknownOutcomeIsPostedOnce(t *testing.T) { // I6
	t.Parallel()
	for name, answered := range map[string]bool{"it was posted": true, "it was not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e, begun := handWorld(t)
			h, pr := opened(t, w, e, begun, w.Linked(e, "Alice"), "1.0")
			w.Forge.Comment("bob", pr, "greet.go", 3, "Why?")
			w.Forge.Fail(answered, &sessions.Retryable{Unknown: true, Err: errors.New("the connection was reset")})
			h.must("reply_to_review", `{"comment":1000,"body":"Because."}`, "The reply is posted")
			h.done <- "done"
			if list, err := w.Forge.ReviewComments(bg, "acme/greeter", pr.Number); err != nil || len(list) != 2 {
				t.Errorf("the thread is %+v (%v)", list, err)
			}
		})
	}
}

func TestADeadConnectionIsSaidToTheAgentThatWantsToChangeSomething(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	h, _ := opened(t, w, e, begun, alice, "1.0")
	w.Forge.Revoke("alice")
	h.refused("update_pull_request", `{"title":"x"}`, "/link/github?session=")
	h.done <- "done"
	ended(t, e, h.prompt.ID)
	if got, err := e.Person(bg, alice.ID); err != nil || got.Linked() {
		t.Errorf("the link still counts as good: %+v (%v)", got, err)
	}
}

func TestNobodyWaitsForTheChecksOfARequestThatWasStopped(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	const head = "1234567890123456789012345678901234567890"
	if err := e.Pushed(bg, acc.Session.ID, "refs/heads/"+acc.Session.Branch(), "", head); err != nil {
		t.Fatal(err)
	}
	w.Forge.SetChecks(head, sessions.Check{Name: "test", State: "in_progress"})
	var asked sync.WaitGroup
	asked.Go(func() { // its context ends with the request
		_, _ = h.box.Bridge().Call(h.ctx, sandbox.Call{ID: "waiting", Prompt: h.prompt.ID, Tool: "get_checks", Args: []byte(`{"wait_seconds":300}`)})
	})
	waiting := func(want int) func() bool {
		return func() bool {
			var n int
			return w.DB.Get(&n, `select count(*) from calls where id = 'waiting' and result is null`) == nil && n == want
		}
	}
	sessionstest.Eventually(t, "the call waits", waiting(1))
	if _, err := e.Stop(bg, "stop", acc.Session.ID, "", alice.ID); err != nil {
		t.Fatal(err)
	}
	asked.Wait()
	w.Ask(e, alice.ID, "1.0", "look at the checks")
	next := <-begun
	sessionstest.Eventually(t, "the call has ended", waiting(0))
	// As if it had not looked yet: it is not in the way of the next request's.
	if _, err := w.DB.Exec(`update calls set result = null where id = 'waiting'`); err != nil {
		t.Fatal(err)
	}
	next.must("get_checks", `{}`, "1 checks, 0 failed, 1 not finished")
	next.done <- "done"
	ended(t, e, next.prompt.ID)
}

func TestChecksAreReadWithWhyTheyFailedAndAreWaitedFor(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	const head = "1234567890123456789012345678901234567890"
	if err := e.Pushed(bg, acc.Session.ID, "refs/heads/"+acc.Session.Branch(), "", head); err != nil {
		t.Fatal(err)
	}
	h.must("get_checks", `{}`, "No check has reported on commit 12345678")
	w.Forge.SetChecks(head, sessions.Check{Name: "test", State: "in_progress"})
	h.must("get_checks", `{}`, "1 checks, 0 failed, 1 not finished")
	waited := make(chan string)
	go func() {
		text, _ := h.callAs("waiting", "get_checks", `{"wait_seconds":60}`)
		waited <- text
	}()
	sessionstest.Eventually(t, "the waiting call is there", func() bool {
		var n int
		return w.DB.Get(&n, `select count(*) from calls where id = 'waiting'`) == nil && n == 1
	})
	w.Cut() // the call is sent again
	w.Forge.SetChecks(head, sessions.Check{Name: "test", State: "completed", Conclusion: "failure", Title: "1 test failed", Detail: "greet_test.go:7: evening"},
		sessions.Check{Name: "lint", State: "completed", Conclusion: "success", Detail: "not shown"})
	text := <-waited
	for _, want := range []string{"2 checks, 1 failed, 0 not finished", "- test: failure (1 test failed)", "- lint: success", "## test\n\ngreet_test.go:7: evening"} {
		if !strings.Contains(text, want) {
			t.Errorf("the agent reads %q, want %q", text, want)
		}
	}
	if strings.Contains(text, "not shown") {
		t.Errorf("the details of a good check are shown: %s", text)
	}
	h.done <- "done"
	ended(t, e, h.prompt.ID)
}
