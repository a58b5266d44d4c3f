package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// opener is an agent that opens a pull request and answers with what it was told.
func opener(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
	r, err := b.Bridge().Call(ctx, sandbox.Call{ID: "call-" + p.ID, Prompt: p.ID, Tool: "create_pull_request",
		Args: json.RawMessage(`{"title":"Greet politely","body":"As asked."}`)})
	if err != nil {
		return
	}
	b.Settle(p, sandbox.OutcomeCompleted, "", r.Text)
}

func pullWorld(t *testing.T, changes ...func(*sessions.Config)) (*sessionstest.World, *sessions.Engine) {
	t.Helper()
	w := sessionstest.New(t)
	w.Provider.Agent = opener
	e := w.Engine(changes...)
	sessions.Hasten(e)
	w.Run(e)
	return w, e
}

func TestAPullRequestIsOpenedAsThePersonWhoAsked(t *testing.T) { // I11
	t.Parallel()
	w, e := pullWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	p := ended(t, e, acc.Prompt.ID)
	if !strings.Contains(p.Answer, "Pull request #1 is open: https://github.test/acme/greeter/pull/1") {
		t.Errorf("the agent was told %q", p.Answer)
	}
	prs := w.Forge.PullRequests()
	if len(prs) != 1 || prs[0].Author != "alice" {
		t.Errorf("pull requests: %+v", prs)
	}
	made, err := e.Artifacts(bg, acc.Session.ID)
	if err != nil || len(made) != 1 || made[0].Kind != "pull_request" || made[0].URL != prs[0].URL {
		t.Errorf("artifacts: %+v (%v)", made, err)
	}
	list, err := e.Sessions(bg, uuid.Nil, 10, 0)
	if err != nil || len(list) != 1 || list[0].PR != prs[0].URL {
		t.Errorf("the list shows %+v (%v)", list, err)
	}
}

func TestWithoutALinkNoPullRequestIsOpenedUntilThePersonConnects(t *testing.T) { // I11
	t.Parallel()
	w, e := pullWorld(t)
	carol := w.Person(e, "Carol")
	acc := w.Ask(e, carol.ID, "1.0", "acme/greeter: greet")
	p := ended(t, e, acc.Prompt.ID)
	compare := "https://github.test/acme/greeter/compare/main..." + acc.Session.Branch()
	if !strings.Contains(p.Answer, "Carol has not connected a GitHub account") || !strings.Contains(p.Answer, compare) {
		t.Errorf("the agent was told %q", p.Answer)
	}
	if prs := w.Forge.PullRequests(); len(prs) != 0 {
		t.Errorf("pull requests were opened: %+v", prs)
	}
	var told sessions.Notice
	due, err := e.Due(bg, "slack", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range due {
		if d.Kind == sessions.DeliverEphemeral {
			if err := json.Unmarshal(d.Body, &told); err != nil {
				t.Fatal(err)
			}
		}
	}
	if told.User != carol.SlackUser || !strings.Contains(told.Text, "https://inspect.test/link/github?session="+acc.Session.ID) || !strings.Contains(told.Text, compare) {
		t.Errorf("Carol was told %+v", told)
	}
	if err := e.LinkGitHub(bg, carol.ID, 77, "carol", w.Forge.Grant("carol", time.Time{})); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the pull request that waited is opened", func() bool {
		prs := w.Forge.PullRequests()
		return len(prs) == 1 && prs[0].Author == "carol"
	})
}

func TestAPullRequestIsOpenedForAPersonWhoConnectsInThatMoment(t *testing.T) {
	t.Parallel()
	w, e := pullWorld(t)
	alice := w.Linked(e, "Alice")
	if _, err := w.DB.Exec(`update people set github_broken = 'gone' where id = $1`, alice.ID); err != nil {
		t.Fatal(err)
	}
	link, err := w.DB.Beginx() // as LinkGitHub does it
	if err != nil {
		t.Fatal(err)
	}
	defer link.Rollback()
	if _, err := link.Exec(`update people set github_broken = null where id = $1`, alice.ID); err != nil {
		t.Fatal(err)
	}
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	sessionstest.Eventually(t, "the agent has called, or waits for its turn", func() bool {
		var called, waits bool
		err := w.DB.QueryRow(`select exists (select from calls where result is not null),
			exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&called, &waits)
		return err == nil && (called || waits)
	})
	_, err = link.Exec(`update outbox set next_at = now() where state = 'pending' and next_at = 'infinity' and body->>'person' = $1`, alice.ID.String())
	if err == nil {
		err = link.Commit()
	}
	if err != nil {
		t.Fatal(err)
	}
	if p := ended(t, e, acc.Prompt.ID); !strings.Contains(p.Answer, "Pull request #1 is open") {
		t.Errorf("the agent was told %q", p.Answer)
	}
}

func TestTheAppOpensPullRequestsWhereTheOperatorAllowsIt(t *testing.T) { // I11
	t.Parallel()
	w, e := pullWorld(t, func(c *sessions.Config) { c.BotPullRequests = true })
	ended(t, e, w.Ask(e, w.Person(e, "Carol").ID, "1.0", "acme/greeter: greet").Prompt.ID)
	if prs := w.Forge.PullRequests(); len(prs) != 1 || prs[0].Author != "inspect[bot]" {
		t.Errorf("pull requests: %+v", prs)
	}
}

func TestAPullRequestOfUnknownOutcomeIsOpenedOnce(t *testing.T) { // I6
	t.Parallel()
	for name, answered := range map[string]bool{"it was opened": true, "it was not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e := pullWorld(t)
			w.Forge.Fail(answered, &sessions.Retryable{Unknown: true, Err: errors.New("the connection was reset")})
			p := ended(t, e, w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet").Prompt.ID)
			if prs := w.Forge.PullRequests(); len(prs) != 1 || !strings.Contains(p.Answer, prs[0].URL) {
				t.Errorf("pull requests %+v; the agent was told %q", prs, p.Answer)
			}
		})
	}
}

func TestARefusalOfTheCodeHostReachesTheAgent(t *testing.T) {
	t.Parallel()
	w, e := pullWorld(t)
	w.Forge.Fail(false, &sessions.Problem{Code: "no_commits", Text: "The branch has no commits that main does not have."})
	p := ended(t, e, w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet").Prompt.ID)
	if !strings.Contains(p.Answer, "has no commits that main does not have") {
		t.Errorf("the agent was told %q", p.Answer)
	}
}

func TestACallThatIsSentAgainIsDoneOnce(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	var e *sessions.Engine
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		var both sync.WaitGroup
		for range 2 { // one after the other, with the same id
			both.Wait()
			both.Go(func() { opener(ctx, b, sandbox.Prompt{ID: p.ID}) })
		}
		both.Wait()
	}
	e = w.Engine()
	sessions.Hasten(e)
	w.Run(e)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	ended(t, e, acc.Prompt.ID)
	var rows int
	if err := w.DB.Get(&rows, `select count(*) from outbox where surface = 'forge'`); err != nil || rows != 1 {
		t.Errorf("%d pull requests were asked for (%v)", rows, err)
	}
}

func TestAnOldTokenIsExchangedOnceByAllWhoNeedIt(t *testing.T) {
	t.Parallel()
	w, e := pullWorld(t)
	alice := w.Person(e, "Alice")
	// It ends within the next ten minutes, and its refresh token works once.
	if err := e.LinkGitHub(bg, alice.ID, 7, "alice", w.Forge.Grant("alice", time.Now().Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	var asked []sessions.Accepted
	for _, ts := range []string{"1.0", "2.0", "3.0"} {
		asked = append(asked, w.Ask(e, alice.ID, ts, "acme/greeter: greet"))
	}
	for _, acc := range asked {
		if p := ended(t, e, acc.Prompt.ID); !strings.Contains(p.Answer, "is open") {
			t.Errorf("the agent was told %q", p.Answer)
		}
	}
	if p, err := e.Person(bg, alice.ID); err != nil || !p.Linked() {
		t.Errorf("the link is broken: %+v (%v)", p, err)
	}
}

func TestADeadConnectionIsSaidAndMended(t *testing.T) {
	t.Parallel()
	w, e := pullWorld(t)
	alice := w.Person(e, "Alice")
	if err := e.LinkGitHub(bg, alice.ID, 7, "alice", w.Forge.Grant("alice", time.Now().Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	w.Forge.Revoke("alice")
	p := ended(t, e, w.Ask(e, alice.ID, "1.0", "acme/greeter: greet").Prompt.ID)
	if !strings.Contains(p.Answer, "Connect the GitHub account again") {
		t.Errorf("the agent was told %q", p.Answer)
	}
	if got, err := e.Person(bg, alice.ID); err != nil || got.Linked() || got.GitHubBroken == "" {
		t.Errorf("the link still counts as good: %+v (%v)", got, err)
	}
	if err := e.LinkGitHub(bg, alice.ID, 7, "alice", w.Forge.Grant("alice", time.Time{})); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the pull request that waited is opened", func() bool { return len(w.Forge.PullRequests()) == 1 })
}

func TestAGitHubAccountBelongsToOnePerson(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	w.Linked(e, "Alice")
	alice, mallory := w.Linked(e, "Bob"), w.Person(e, "Mallory")
	err := e.LinkGitHub(bg, mallory.ID, alice.GitHubID, "bob", w.Forge.Grant("bob", time.Time{}))
	if p, ok := errors.AsType[*sessions.Problem](err); !ok || p.Code != "github_taken" {
		t.Errorf("linking somebody else's account: %v", err)
	}
	var stored string
	if err := w.DB.Get(&stored, `select encode(github_access, 'escape') from people where id = $1`, alice.ID); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(stored, "ghu_") {
		t.Error("a person's token is stored as it is")
	}
	if err := e.UnlinkGitHub(bg, alice.ID); err != nil {
		t.Fatal(err)
	}
	if err := e.LinkGitHub(bg, mallory.ID, alice.GitHubID, "bob", w.Forge.Grant("bob", time.Time{})); err != nil {
		t.Errorf("after it was disconnected: %v", err)
	}
}
