package sessions_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

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
	answer := make(chan string)
	go func() {
		text, _ := h.callAs("waiting", "get_session", `{"session":"`+id+`","wait_seconds":60}`)
		answer <- text
	}()
	sessionstest.Eventually(t, "the parent waits", func() bool {
		var n int
		return w.DB.Get(&n, `select count(*) from calls where id = 'waiting'`) == nil && n == 1
	})
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

func TestAParentThatTakesNoMoreIsToldByItsLog(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.MaxQueue = 1 })
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	_, child := h.child(begun, "acme/billing", "bill")
	child.done <- "Billed."
	sessionstest.Eventually(t, "the report is settled", func() bool {
		var open int
		err := w.DB.Get(&open, `select count(*) from reports where delivered_at is null`)
		return err == nil && open == 0 && len(bodies[sessions.BodyChild](t, e, acc.Session.ID, sessions.KindChild)) == 2
	})
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	if list, err := e.Sessions(bg, uuid.Nil, 10, 0); err != nil || len(list) != 2 {
		t.Errorf("sessions: %d (%v)", len(list), err)
	}
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
