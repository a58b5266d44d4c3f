package sessions_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// What runs in a sandbox may have its token and call tools past the supervisor.

// epoch is raised by each new connection of the session's sandbox.
func epoch(t *testing.T, w *sessionstest.World, session string) (n int) {
	t.Helper()
	if err := w.DB.Get(&n, `select epoch from sandboxes where session_id = $1`, session); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCallsThatNoSupervisorMakesAreAnsweredAndBreakNothing(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	before := epoch(t, w, acc.Session.ID)
	id, child := h.child(begun, "acme/billing", "bill")
	long := strings.Repeat("x", 5000)
	for _, c := range []sandbox.Call{
		{ID: "a\x00b", Tool: "set_title", Args: json.RawMessage(`{"title":7}`)},
		{ID: long, Tool: "set_title", Args: json.RawMessage(`{"title":"x"}`)},
		{ID: "1", Tool: long, Args: json.RawMessage(`{}`)},
		{ID: "2", Tool: "set\x00title\x1b[31m", Args: json.RawMessage(`{}`)},
		{ID: "3", Tool: "set_title", Args: json.RawMessage(`"scalar"`)},
		{ID: "4", Tool: "get_session", Args: json.RawMessage(`[]`)},
		{ID: "5", Tool: "set_title"},
		{ID: "6", Tool: "set_title", Args: json.RawMessage(`{"title":"\u0000"}`), Prompt: "no\x00prompt"},
		{ID: "7", Tool: "start_session", Args: json.RawMessage(`{"session":"\u0000","task":"x"}`)},
		{ID: "8", Tool: "get_session", Args: json.RawMessage(`{"session":"\u0000"}`)},
		{ID: "9", Tool: "get_session", Args: json.RawMessage(`{"session":"` + id + `","wait_seconds":"soon"}`)},
		{ID: "10", Tool: "get_session", Args: json.RawMessage(`{"session":"` + id + `","wait_seconds":1e999}`)},
		{ID: "11", Tool: "post_update", Args: json.RawMessage(`{"text":"` + strings.Repeat("y", 600<<10) + `"}`)},
		{ID: "12", Tool: "start_session", Args: json.RawMessage(`{"repository":"acme/billing' or 1=1 --","task":"x"}`)},
		{ID: "13", Tool: "get_session", Args: json.RawMessage(`{"session":"` + acc.Session.ID + `"}`)}, // itself
		{ID: "14", Tool: "upload_artifact", Args: json.RawMessage(`{"upload":"` + uuid.NewString() + `","kind":"pull_request"}`)},
	} {
		if c.Prompt == "" {
			c.Prompt = h.prompt.ID
		}
		r, err := h.box.Bridge().Call(h.ctx, c)
		if err != nil || !r.Error || r.Text == "" {
			t.Errorf("%.20q %.20q is answered %+v (%v)", c.ID, c.Tool, r, err)
		}
	}
	if after := epoch(t, w, acc.Session.ID); after != before {
		t.Errorf("the sandbox had to connect again: %d, then %d", before, after)
	}
	child.done <- "Billed."
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	report := <-begun // the child's answer is delivered all the same
	report.done <- "thanks"
	ended(t, e, report.prompt.ID)
}

func TestAnIdThatIsUsedForAnotherToolKeepsItsOwnResult(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	w.Forge.Fail(false, &sessions.Retryable{After: time.Hour, Err: errors.New("GitHub is away")})
	w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	for _, tool := range []string{"create_pull_request", "get_checks", "get_review"} {
		if text, failed := h.callAs("same", tool, `{"title":"Greet politely","body":"As asked."}`); failed || !strings.Contains(text, "GitHub does not answer at the moment") {
			t.Errorf("%s is answered %q (failed: %v)", tool, text, failed)
		}
	}
	var row struct{ Tool, Key string }
	err := w.DB.Get(&row, `select tool, outbox_key as key from calls where id = 'same' and result is null`)
	if err != nil || row.Tool != "create_pull_request" || row.Key == "" {
		t.Errorf("the call that waits is %+v (%v)", row, err)
	}
	h.done <- "done"
}

// at calls tools at the same time and counts those that were done.
func (h *hand) at(calls ...sandbox.Call) (done int) {
	h.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, c := range calls {
		all.Go(func() {
			c.Prompt = h.prompt.ID
			r, err := h.box.Bridge().Call(h.ctx, c)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				h.t.Errorf("%s is not answered: %v", c.ID, err)
			} else if !r.Error {
				done++
			}
		})
	}
	all.Wait()
	return done
}

func TestManyCallsAreAnsweredUpToABoundAndTheSandboxStaysAlive(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	before := epoch(t, w, acc.Session.ID)
	var calls []sandbox.Call
	for i := range 400 {
		calls = append(calls, sandbox.Call{ID: fmt.Sprint("t", i), Tool: "set_title", Args: json.RawMessage(fmt.Sprintf(`{"title":"T%d"}`, i))})
	}
	if done := h.at(calls...); done == 0 || done > 120 {
		t.Errorf("%d of 400 calls in a minute were done", done)
	}
	var rows int
	if err := w.DB.Get(&rows, `select count(*) from calls`); err != nil || rows > 120 {
		t.Errorf("%d calls were recorded (%v)", rows, err)
	}
	// A call that was done is answered again, whatever came after it.
	if _, err := w.DB.Exec(`update calls set created_at = created_at - interval '2 minutes'`); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		h.call("get_checks", `{}`)
	}
	h.refused("get_checks", `{}`, "GitHub was asked 30 times")
	h.must("set_title", `{"title":"Still here"}`, "Still here")
	if after := epoch(t, w, acc.Session.ID); after != before {
		t.Errorf("the sandbox had to connect again: %d, then %d", before, after)
	}
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
}

func TestTheBoundsOfChildSessionsHoldWhenManyAreBegunAtOnce(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.MaxSandboxes = 50 })
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	root := <-begun
	id, middle := root.child(begun, "acme/billing", "divide")
	wave := 0
	race := func() (done int) { // both its own and its child's calls, at the same time
		wave++
		var own, below []sandbox.Call
		for i := range 8 {
			c := sandbox.Call{ID: fmt.Sprintf("w%d-%d", wave, i), Tool: "start_session", Args: json.RawMessage(`{"repository":"acme/billing","task":"work"}`)}
			own, below = append(own, c), append(below, c)
		}
		var theirs int
		var both sync.WaitGroup
		both.Go(func() { theirs = middle.at(below...) })
		done = root.at(own...)
		both.Wait()
		return done + theirs
	}
	var grandchildren []*hand
	for _, want := range []int{4, 4, 4, 2, 0} { // with the one in the middle: 5 at once, 15 in all
		if done := race(); done != want {
			t.Fatalf("in wave %d %d sessions were begun, want %d", wave, done, want)
		}
		for range want {
			h := <-begun
			if parent, err := e.Parent(bg, session(t, e, h)); err == nil && parent == id {
				h.refused("start_session", `{"repository":"acme/greeter","task":"deeper"}`, "cannot begin more")
				grandchildren = append(grandchildren, h)
			}
			h.done <- "done"
			ended(t, e, h.prompt.ID)
		}
	}
	if len(grandchildren) == 0 {
		t.Error("the child began none: the test proves less than it should")
	}
	// Giving children more to do does not make more of them work at once either.
	var again []sandbox.Call
	list, err := e.Children(bg, acc.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range list {
		if c.ID != id {
			again = append(again, sandbox.Call{ID: fmt.Sprint("again", i), Tool: "start_session", Args: json.RawMessage(`{"session":"` + c.ID + `","task":"more"}`)})
		}
	}
	if len(again) < 5 {
		t.Fatalf("the root began %d: the test proves nothing", len(again))
	}
	if done := root.at(again...); done != 4 {
		t.Errorf("%d of %d children work again beside one that works", done, len(again))
	}
}

// session is whose prompt a hand works on.
func session(t *testing.T, e *sessions.Engine, h *hand) string {
	t.Helper()
	p, err := e.Prompt(bg, h.prompt.ID)
	if err != nil {
		t.Fatal(err)
	}
	return p.SessionID
}
