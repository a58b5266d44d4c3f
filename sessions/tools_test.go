package sessions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// hand is a prompt whose agent does what the test says, one call after the other.
type hand struct {
	t      testing.TB
	ctx    context.Context
	box    *sessionstest.Box
	prompt sandbox.Prompt
	calls  int
	done   chan string // receives the answer
}

// hands gives each prompt that begins to the test.
func hands(t testing.TB, w *sessionstest.World) <-chan *hand {
	begun := make(chan *hand, 10)
	var ended sync.WaitGroup
	t.Cleanup(ended.Wait)
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		h := &hand{t: t, ctx: ctx, box: b, prompt: p, done: make(chan string, 1)}
		begun <- h
		select {
		case answer := <-h.done:
			b.Settle(p, sandbox.OutcomeCompleted, "", answer)
		case <-ctx.Done():
		}
	}
	return begun
}

// call calls a tool and returns what the agent reads.
func (h *hand) call(tool, args string) (text string, failed bool) {
	h.t.Helper()
	h.calls++
	return h.callAs(fmt.Sprintf("%s-%d", h.prompt.ID, h.calls), tool, args)
}

func (h *hand) callAs(id, tool, args string) (text string, failed bool) {
	h.t.Helper()
	r, err := h.box.Bridge().Call(h.ctx, sandbox.Call{ID: id, Prompt: h.prompt.ID, Tool: tool, Args: json.RawMessage(args)})
	if err != nil {
		h.t.Fatalf("calling %s: %v", tool, err)
	}
	return r.Text, r.Error
}

// must calls a tool that has to succeed and say the text.
func (h *hand) must(tool, args, says string) string {
	h.t.Helper()
	text, failed := h.call(tool, args)
	if failed || !strings.Contains(text, says) {
		h.t.Fatalf("%s(%s) says %q (failed: %v), want %q", tool, args, text, failed, says)
	}
	return text
}

// refused calls a tool that has to refuse and say the text.
func (h *hand) refused(tool, args, says string) {
	h.t.Helper()
	if text, failed := h.call(tool, args); !failed || !strings.Contains(text, says) {
		h.t.Errorf("%s(%s) says %q (failed: %v), want a refusal with %q", tool, args, text, failed, says)
	}
}

// handWorld is a running engine whose agent's hands the test has.
func handWorld(t *testing.T, changes ...func(*sessions.Config)) (*sessionstest.World, *sessions.Engine, <-chan *hand) {
	t.Helper()
	w := sessionstest.New(t)
	begun := hands(t, w)
	e := w.Engine(changes...)
	sessions.Hasten(e)
	w.Run(e)
	return w, e, begun
}

// kinds are the bodies of a session's events of one kind.
func bodies[T any](t testing.TB, e *sessions.Engine, session, kind string) (list []T) {
	t.Helper()
	for _, ev := range log(t, e, session) {
		if ev.Kind == kind {
			var b T
			if err := json.Unmarshal(ev.Body, &b); err != nil {
				t.Fatal(err)
			}
			list = append(list, b)
		}
	}
	return list
}

// dueIn are the outbox rows of a kind for Slack.
func dueIn(t testing.TB, e *sessions.Engine, kind string) (list []sessions.Delivery) {
	t.Helper()
	due, err := e.Due(bg, "slack", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range due {
		if d.Kind == kind {
			list = append(list, d)
		}
	}
	return list
}

func TestNoToolDoesAnythingForAPromptThatHasEnded(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	if _, err := e.Stop(bg, "stop", acc.Session.ID, acc.Prompt.ID, alice.ID); err != nil {
		t.Fatal(err)
	}
	h.ctx = bg
	for _, tool := range sessions.ToolNames() {
		h.refused(tool, `{"title":"x","body":"x","text":"x","question":"x?","options":["a","b"],"task":"x","repository":"acme/billing","upload":"x"}`, "That request has ended")
	}
	x, err := e.Session(bg, acc.Session.ID)
	if err != nil || x.Title != "acme/greeter: greet" {
		t.Errorf("the session changed: %+v (%v)", x, err)
	}
}

func TestABoxCallsForItsOwnPromptOnly(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	first := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	other := w.Ask(e, w.Person(e, "Bob").ID, "2.0", "acme/greeter: greet")
	foreign := <-begun
	foreign.prompt.ID = first.Prompt.ID
	foreign.refused("set_title", `{"title":"Taken over"}`, "That request has ended")
	foreign.prompt.ID = other.Prompt.ID
	h.done <- "done"
	foreign.done <- "done"
	ended(t, e, first.Prompt.ID)
	for _, s := range []string{first.Session.ID, other.Session.ID} {
		if x, err := e.Session(bg, s); err != nil || x.Title == "Taken over" {
			t.Errorf("session %s is called %q (%v)", s, x.Title, err)
		}
	}
}

func TestAToolThatDoesNotExistIsNamed(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	h.refused("drop_database", `{}`, "There is no tool drop_database")
	h.done <- "done"
}

func TestTheAgentNamesTheSession(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	h.refused("set_title", `{"title":" \n "}`, "at least one word")
	h.must("set_title", `{"title":"Greet  politely\nand more"}`, "Greet politely")
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	x, err := e.Session(bg, acc.Session.ID)
	if err != nil || x.Title != "Greet politely" {
		t.Errorf("the title is %q (%v)", x.Title, err)
	}
	if got := bodies[sessions.BodyTitle](t, e, acc.Session.ID, sessions.KindTitle); len(got) != 1 || got[0].Title != "Greet politely" {
		t.Errorf("the log says %+v", got)
	}
}

func TestUpdatesReachThreadAndPageAndDoNotFloodThem(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.Scrub = []string{"hunter2hunter2"} })
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	h.refused("post_update", `{"text":"  "}`, "say something")
	h.refused("post_update", `{"text":"`+strings.Repeat("x", 2001)+`"}`, "at most 2000 characters")
	h.must("post_update", `{"text":"It is the *time zone*, hunter2hunter2."}`, "in the thread")
	for range 4 {
		h.must("post_update", `{"text":"more"}`, "Posted")
	}
	h.refused("post_update", `{"text":"too much"}`, "are enough")
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	got := bodies[sessions.BodyUpdate](t, e, acc.Session.ID, sessions.KindUpdate)
	if len(got) != 5 || got[0].Text != "It is the *time zone*, [redacted]." {
		t.Errorf("the page shows %+v", got)
	}
	due := dueIn(t, e, sessions.DeliverUpdate)
	if len(due) != 5 || strings.Contains(string(due[0].Body), "hunter2") {
		t.Errorf("the thread gets %+v", due)
	}
}

func TestAnUpdateWithoutAThreadIsOnThePageOnly(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "", "acme/greeter: greet")
	h := <-begun
	h.must("post_update", `{"text":"found it"}`, "on the session's page")
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	if due := dueIn(t, e, sessions.DeliverUpdate); len(due) != 0 {
		t.Errorf("something is due in Slack: %+v", due)
	}
}

func TestACallThatIsSentAgainPostsOnce(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	for range 2 {
		if text, failed := h.callAs("same", "post_update", `{"text":"once"}`); failed {
			t.Fatal(text)
		}
	}
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	if got := bodies[sessions.BodyUpdate](t, e, acc.Session.ID, sessions.KindUpdate); len(got) != 1 {
		t.Errorf("it was posted %d times", len(got))
	}
}

// A control plane that dies after it did what was called for, and before it said so,
// is asked the same again when it is back.
func TestWhatAgentsShowAndAskIsShownOnceThoughTheControlPlaneDiesBeforeItSaysSo(t *testing.T) { // I5, I6
	t.Parallel()
	w := sessionstest.New(t)
	begun := hands(t, w)
	start := func() (*sessions.Engine, func()) {
		e := w.Engine()
		sessions.Hasten(e)
		return e, w.Run(e)
	}
	e, stop := start()
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	file := uuid.NewString()
	if err := h.box.Upload(h.ctx, file, "a.txt", []byte("all well")); err != nil {
		t.Fatal(err)
	}
	calls := []struct{ tool, args, kind string }{
		{"post_update", `{"text":"found it"}`, sessions.KindUpdate},
		{"upload_artifact", `{"upload":"` + file + `","title":"Report"}`, sessions.KindArtifact},
		{"ask", `{"question":"Go on?","options":["Yes","No"]}`, sessions.KindQuestion},
	}
	var said []string
	for _, c := range calls {
		text, failed := h.callAs(c.tool, c.tool, c.args)
		if failed {
			t.Fatalf("%s says %q", c.tool, text)
		}
		said = append(said, text)
	}
	stop()
	e, _ = start()
	for i, c := range calls {
		if text, failed := h.callAs(c.tool, c.tool, c.args); failed || text != said[i] {
			t.Errorf("%s said %q, and now %q (failed: %v)", c.tool, said[i], text, failed)
		}
		if got := bodies[map[string]any](t, e, acc.Session.ID, c.kind); len(got) != 1 {
			t.Errorf("the log has %d events %s", len(got), c.kind)
		}
	}
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	for kind, want := range map[string]int{sessions.DeliverUpdate: 1, sessions.DeliverFile: 1, sessions.DeliverQuestion: 1} {
		var got int
		if err := w.DB.Get(&got, `select count(*) from outbox where kind = $1`, kind); err != nil || got != want {
			t.Errorf("Slack is to get %d of %s (%v)", got, kind, err)
		}
	}
}
