package sessions_test

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

var sessionID = regexp.MustCompile(`Session ([a-z2-7]{10}) works`)

// child begins a session through a hand and returns its id and its hand.
func (h *hand) child(begun <-chan *hand, repository, task string) (id string, child *hand) {
	h.t.Helper()
	text := h.must("start_session", `{"repository":"`+repository+`","task":"`+task+`"}`, "works on "+repository)
	return sessionID.FindStringSubmatch(text)[1], <-begun
}

// waitsFor has the agent wait for a child's answer; it returns once it does.
func (h *hand) waitsFor(w *sessionstest.World, child string) <-chan string {
	h.t.Helper()
	answer := make(chan string)
	go func() {
		text, _ := h.callAs("waiting", "get_session", `{"session":"`+child+`","wait_seconds":60}`)
		answer <- text
	}()
	sessionstest.Eventually(h.t, "the parent waits", func() bool {
		var n int
		return w.DB.Get(&n, `select count(*) from calls where id = 'waiting'`) == nil && n == 1
	})
	return answer
}

func TestAChildSessionWorksForThePersonAndItsAnswerComesBack(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	h.refused("start_session", `{"repository":"acme/nothing","task":"x"}`, "acme/billing")
	h.refused("start_session", `{"repository":"acme/billing","task":" "}`, "nothing to do")
	h.refused("start_session", `{"task":"x"}`, "no repository")
	id, child := h.child(begun, "acme/billing", "bill politely")
	x, err := e.Session(bg, id)
	if err != nil || x.Repository != "acme/billing" || x.ThreadTS != "" || x.CreatedBy != alice.ID {
		t.Errorf("the child is %+v (%v)", x, err)
	}
	if child.prompt.Text != "bill politely" || child.prompt.AuthorName != "Alice" {
		t.Errorf("the child is asked %+v", child.prompt)
	}
	if parent, err := e.Parent(bg, id); err != nil || parent != acc.Session.ID {
		t.Errorf("its parent is %s (%v)", parent, err)
	}
	h.must("get_session", `{"session":"`+id+`"}`, "is running")
	child.must("create_pull_request", `{"title":"Bill politely"}`, "is open")
	h.done <- "begun"
	ended(t, e, acc.Prompt.ID)
	child.done <- "Billed."
	report := <-begun
	for _, want := range []string{id, "is completed", "Billed.", "/acme/billing/pull/1", "https://inspect.test/sessions/" + id} {
		if !strings.Contains(report.prompt.Text, want) {
			t.Errorf("the parent is told %q, want %q", report.prompt.Text, want)
		}
	}
	p, err := e.Prompt(bg, report.prompt.ID)
	if err != nil || p.SessionID != acc.Session.ID || p.Source != sessions.FromAgent || p.Author != alice.ID {
		t.Errorf("the report is %+v (%v)", p, err)
	}
	report.done <- "all done"
	states := ""
	for _, c := range bodies[sessions.BodyChild](t, e, acc.Session.ID, sessions.KindChild) {
		states += string(c.State) + " "
	}
	if states != "queued completed " {
		t.Errorf("the parent's log says %s", states)
	}
	if list, err := e.Children(bg, acc.Session.ID); err != nil || len(list) != 1 || list[0].State != sessions.Completed {
		t.Errorf("the page lists %+v (%v)", list, err)
	}
	if made := bodies[sessions.BodyCreated](t, e, id, sessions.KindCreated); made[0].Parent != acc.Session.ID {
		t.Errorf("the child's log begins with %+v", made)
	}
}

func TestAParentThatWaitsGetsTheAnswerOnceAndNotAgain(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	id, child := h.child(begun, "acme/billing", "bill")
	answer := h.waitsFor(w, id)
	child.done <- "Billed."
	if text := <-answer; !strings.Contains(text, "Billed.") {
		t.Errorf("the parent reads %q", text)
	}
	h.must("get_session", `{"session":"`+id+`"}`, "Billed.") // it may look again
	// More for the same child, and its question.
	h.must("start_session", `{"session":"`+id+`","task":"and now?"}`, "has it")
	child = <-begun
	child.must("ask", `{"question":"Which bill?","options":["old","new"]}`, "asked")
	child.done <- ""
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	report := <-begun
	if !strings.Contains(report.prompt.Text, "It asks: Which bill?\nOptions: old; new") || strings.Contains(report.prompt.Text, "Billed.") {
		t.Errorf("the parent is told %q", report.prompt.Text)
	}
	report.must("start_session", `{"session":"`+id+`","task":"new"}`, "has it")
	if _, err := e.OpenQuestion(bg, id); err == nil {
		t.Error("the parent's answer did not close the question")
	}
	child = <-begun
	if child.prompt.Text != "new" {
		t.Errorf("the child got %q", child.prompt.Text)
	}
	child.done <- "ok"
	report.done <- "done"
	(<-begun).done <- "done"
}

func TestSessionsOfOthersCannotBeSteeredOrRead(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	first := <-begun
	other := w.Ask(e, alice.ID, "2.0", "acme/greeter: greet")
	second := <-begun
	id, child := first.child(begun, "acme/billing", "bill")
	for _, session := range []string{other.Session.ID, "nope"} {
		first.refused("get_session", `{"session":"`+session+`"}`, "You began no session")
		first.refused("start_session", `{"session":"`+session+`","task":"x"}`, "You began no session")
	}
	second.refused("get_session", `{"session":"`+id+`"}`, "You began no session")
	second.refused("start_session", `{"session":"`+id+`","task":"x"}`, "You began no session")
	child.done <- "done"
	first.done <- "done"
	second.done <- "done"
	(<-begun).done <- "told"
}

func TestChildrenAreBoundedInDepthAndNumber(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.MaxSandboxes = 40 })
	w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	root := <-begun
	_, child := root.child(begun, "acme/billing", "one")
	_, grandchild := child.child(begun, "acme/greeter", "two")
	grandchild.refused("start_session", `{"repository":"acme/billing","task":"three"}`, "cannot begin more")
	alive := []*hand{child, grandchild}
	for i := range 3 {
		_, c := root.child(begun, "acme/billing", fmt.Sprint("more ", i))
		alive = append(alive, c)
	}
	root.refused("start_session", `{"repository":"acme/billing","task":"six"}`, "5 sessions work at once")
	child.refused("start_session", `{"repository":"acme/billing","task":"six"}`, "5 sessions work at once") // together
	// As if ten had come and gone.
	if _, err := w.DB.Exec(`insert into sessions (id, root, parent, created_by) select 'old' || i, s.root, s.root, s.created_by
		from sessions s, generate_series(1, 10) i where s.root is not null and s.depth = 1 limit 10`); err != nil {
		t.Fatal(err)
	}
	root.refused("start_session", `{"repository":"acme/billing","task":"sixteen"}`, "15 sessions were begun")
	for _, h := range append(alive, root) {
		h.done <- "done"
	}
	w.Provider.Agent = nil
}

func TestStoppingTheParentLeavesItsChildrenAtWork(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	id, child := h.child(begun, "acme/billing", "bill")
	if _, err := e.Stop(bg, "stop", acc.Session.ID, "", alice.ID); err != nil {
		t.Fatal(err)
	}
	ended(t, e, acc.Prompt.ID)
	if list, err := e.Children(bg, acc.Session.ID); err != nil || list[0].ID != id || list[0].State != sessions.Running {
		t.Errorf("the child is %+v (%v)", list, err)
	}
	child.done <- "Billed."
	report := <-begun
	if !strings.Contains(report.prompt.Text, "Billed.") {
		t.Errorf("the parent is told %q", report.prompt.Text)
	}
	report.done <- "done"
}

func TestAnAnswerWaitsUntilTheParentsQueueHasRoomForIt(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.MaxQueue = 1 })
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	id, child := h.child(begun, "acme/billing", "bill")
	child.done <- "Billed."
	sessionstest.Eventually(t, "the child is done", func() bool {
		list, err := e.Prompts(bg, id)
		return err == nil && list[0].State == sessions.Completed
	})
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	report := <-begun
	if report.prompt.ID == acc.Prompt.ID || !strings.Contains(report.prompt.Text, "Billed.") {
		t.Errorf("the parent is told %q", report.prompt.Text)
	}
	report.done <- "done"
}

func TestAParentThatSomebodyPutAwayIsToldByItsLogAlone(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	_, child := h.child(begun, "acme/billing", "bill")
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	if err := e.Archive(bg, "away", acc.Session.ID, alice.ID); err != nil {
		t.Fatal(err)
	}
	child.done <- "Billed."
	sessionstest.Eventually(t, "the parent's log is told", func() bool {
		return len(bodies[sessions.BodyChild](t, e, acc.Session.ID, sessions.KindChild)) == 2
	})
	s, err := e.Session(bg, acc.Session.ID)
	if err != nil || s.State != "archived" {
		t.Errorf("the session that Alice put away is %s (%v)", s.State, err)
	}
	if list, err := e.Prompts(bg, acc.Session.ID); err != nil || len(list) != 1 {
		t.Errorf("it was asked %d things (%v)", len(list), err)
	}
}

func TestAParentHearsWhatItsChildDidAfterAPersonAnsweredItsQuestion(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	id, child := h.child(begun, "acme/billing", "bill")
	h.done <- "begun"
	ended(t, e, acc.Prompt.ID)
	child.must("ask", `{"question":"Which bill?","options":["old","new"]}`, "asked")
	child.done <- ""
	asks := <-begun
	if !strings.Contains(asks.prompt.Text, "It asks: Which bill?") {
		t.Fatalf("the parent is told %q", asks.prompt.Text)
	}
	asks.done <- "Somebody has to say."
	q, err := e.OpenQuestion(bg, id)
	if err != nil {
		t.Fatal(err)
	}
	// On the child's own page; and once more, as it asks again.
	if _, err := e.AnswerQuestion(bg, "press", q.Prompt, 1, sessions.FromWeb, alice.ID); err != nil {
		t.Fatal(err)
	}
	child = <-begun
	child.must("ask", `{"question":"Really?","options":["yes","no"]}`, "asked")
	child.done <- ""
	asks = <-begun
	if !strings.Contains(asks.prompt.Text, "It asks: Really?") {
		t.Errorf("the parent is told %q", asks.prompt.Text)
	}
	asks.done <- "ok"
	if q, err = e.OpenQuestion(bg, id); err != nil {
		t.Fatal(err)
	}
	if _, err := e.AnswerQuestion(bg, "press again", q.Prompt, 0, sessions.FromWeb, alice.ID); err != nil {
		t.Fatal(err)
	}
	(<-begun).done <- "Billed."
	told := <-begun
	if !strings.Contains(told.prompt.Text, "Billed.") {
		t.Errorf("the parent is told %q", told.prompt.Text)
	}
	told.done <- "done"
	// What else people ask of the child is between them and it.
	other, err := e.Accept(bg, sessions.Request{Key: "thanks", Source: sessions.FromWeb, Author: alice.ID, Session: id, Text: "thanks"})
	if err != nil {
		t.Fatal(err)
	}
	(<-begun).done <- "you are welcome"
	ended(t, e, other.Prompt.ID)
	var n int
	if err := w.DB.Get(&n, `select count(*) from reports`); err != nil || n != 3 {
		t.Errorf("%d reports (%v)", n, err)
	}
}

func TestAnAnswerThatComesWhileTheParentLooksIsNotGivenTwice(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	id, child := h.child(begun, "acme/billing", "bill")
	answer := h.waitsFor(w, id)
	// The child ends after the parent has begun to look.
	tx, err := w.DB.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`lock table sessions`); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the parent looks", func() bool {
		var n int
		err := w.DB.Get(&n, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query ~ 'sessions'`)
		return err == nil && n > 0
	})
	if _, err := tx.Exec(`update prompts set state = 'completed', answer = 'Billed.', ended_at = now() where id = $1`, child.prompt.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`insert into reports (prompt_id, parent) values ($1, $2)`, child.prompt.ID, acc.Session.ID); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if text := <-answer; !strings.Contains(text, "Billed.") {
		t.Errorf("the parent reads %q", text)
	}
	var open int
	if err := w.DB.Get(&open, `select count(*) from reports where delivered_at is null`); err != nil || open != 0 {
		t.Errorf("the answer is there to be told once more (%v)", err)
	}
	if list, err := e.Prompts(bg, acc.Session.ID); err != nil || len(list) != 1 {
		t.Errorf("the parent was told %d times more (%v)", len(list)-1, err)
	}
	child.done <- ""
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
}

func TestTryingAReportAgainAnswersNoQuestion(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	_, child := h.child(begun, "acme/billing", "bill")
	h.must("ask", `{"question":"Which zone?","options":["UTC","Berlin"]}`, "asked")
	h.done <- ""
	ended(t, e, acc.Prompt.ID)
	child.done <- "Billed."
	report := <-begun
	if _, err := e.Stop(bg, "stop", acc.Session.ID, report.prompt.ID, alice.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Retry(bg, "again", report.prompt.ID, alice.ID); err != nil {
		t.Fatal(err)
	}
	again := <-begun
	if again.prompt.Text != report.prompt.Text {
		t.Errorf("it is asked %q", again.prompt.Text)
	}
	again.done <- "done"
	if q, err := e.OpenQuestion(bg, acc.Session.ID); err != nil || q.Prompt != acc.Prompt.ID {
		t.Errorf("the question is %+v (%v)", q, err)
	}
}

func TestAnAnswerDoesNotGoToARequestThatWasStopped(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	// Somebody else delivers reports, and hangs.
	if _, err := w.DB.Exec(`insert into leases (name, holder, until) values ('reports', 'another', 'infinity')`); err != nil {
		t.Fatal(err)
	}
	begun := hands(t, w)
	e := w.Engine()
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	id, child := h.child(begun, "acme/billing", "bill")
	var asked sync.WaitGroup
	asked.Go(func() { // its context ends with the request
		_, _ = h.box.Bridge().Call(h.ctx, sandbox.Call{ID: "waiting", Prompt: h.prompt.ID, Tool: "get_session",
			Args: []byte(`{"session":"` + id + `","wait_seconds":60}`)})
	})
	sessionstest.Eventually(t, "the parent waits", func() bool {
		var n int
		return w.DB.Get(&n, `select count(*) from calls where tool = 'get_session'`) == nil && n == 1
	})
	// Somebody stops it in the moment before the child's end is known.
	tx, err := w.DB.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`select from sessions where id = $1 for no key update`, acc.Session.ID); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() {
		_, err := e.Stop(bg, "stop", acc.Session.ID, "", alice.ID)
		stopped <- err
	}()
	waits := func(n int) func() bool {
		return func() bool {
			var got int
			return w.DB.Get(&got, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == nil && got >= n
		}
	}
	sessionstest.Eventually(t, "the stop waits for its turn", waits(1))
	child.done <- "Billed."
	sessionstest.Eventually(t, "the answer waits behind it", waits(2))
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	asked.Wait()
	if _, err := w.DB.Exec(`delete from leases where name = 'reports' and holder = 'another'`); err != nil {
		t.Fatal(err)
	}
	report := <-begun
	if !strings.Contains(report.prompt.Text, "Billed.") {
		t.Errorf("the parent is told %q", report.prompt.Text)
	}
	report.done <- "done"
}

func TestChildrenSpendFromTheBudgetOfTheirRoot(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.SessionBudgetUSD = 1 })
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	id, child := h.child(begun, "acme/billing", "bill")
	other := w.Ask(e, alice.ID, "2.0", "acme/greeter: greet")
	for _, s := range []string{acc.Session.ID, id} {
		if err := e.Allow(bg, s); err != nil {
			t.Fatal(err)
		}
		if err := e.Used(bg, s, sessions.Usage{Model: "m", CostUSD: 0.6, Known: true}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{acc.Session.ID, id} {
		if err := e.Allow(bg, s); !strings.Contains(problem(err), "The budget of this session is used up: $1.20 of $1.00") {
			t.Errorf("session %s may spend more: %v", s, err)
		}
	}
	if err := e.Allow(bg, other.Session.ID); err != nil {
		t.Errorf("a session of its own: %v", err)
	}
	child.done <- "done"
	h.done <- "done"
	(<-begun).done <- "done"
	(<-begun).done <- "done"
}
