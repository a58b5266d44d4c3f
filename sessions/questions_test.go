package sessions_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

const whichZone = `{"question":"Which time zone?","options":["UTC","The  reader's"]}`

// asked is a session whose agent has asked which time zone is meant.
func asked(t *testing.T, w *sessionstest.World, e *sessions.Engine, begun <-chan *hand, ts string) sessions.Accepted {
	t.Helper()
	acc := w.Ask(e, w.Person(e, "Alice").ID, ts, "acme/greeter: greet")
	h := <-begun
	h.must("ask", whichZone, "Your turn ends here")
	h.done <- ""
	ended(t, e, acc.Prompt.ID)
	return acc
}

func status(t *testing.T, e *sessions.Engine, session string) string {
	t.Helper()
	list, err := e.Sessions(bg, [16]byte{}, 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		if x.ID == session {
			return x.Status
		}
	}
	t.Fatalf("session %s is not listed", session)
	return ""
}

func problem(err error) string {
	if p, ok := errors.AsType[*sessions.Problem](err); ok {
		return p.Text
	}
	return ""
}

func TestAnAnswerIsTheNextPromptOfWhoAnswers(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := asked(t, w, e, begun, "1.0")
	if got := status(t, e, acc.Session.ID); got != "waiting" {
		t.Errorf("the session is %s", got)
	}
	if due := dueIn(t, e, sessions.DeliverAnswer); len(due) != 0 {
		t.Errorf("an empty answer is due beside the question: %+v", due)
	}
	if due := dueIn(t, e, sessions.DeliverQuestion); len(due) != 1 || due[0].Prompt != acc.Prompt.ID {
		t.Errorf("the thread gets %+v", due)
	}
	bob, carol := w.Person(e, "Bob"), w.Person(e, "Carol")
	if _, err := e.AnswerQuestion(bg, "press", acc.Prompt.ID, 2, sessions.FromSlack, bob.ID); !strings.Contains(problem(err), "no such option") {
		t.Errorf("an option that is not there: %v", err)
	}
	got, err := e.AnswerQuestion(bg, "press", acc.Prompt.ID, 1, sessions.FromSlack, bob.ID)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := e.AnswerQuestion(bg, "press", acc.Prompt.ID, 1, sessions.FromSlack, bob.ID); err != nil || !again.Duplicate || again.Prompt.ID != got.Prompt.ID { // I1
		t.Errorf("the same press again became %+v (%v)", again, err)
	}
	if _, err := e.AnswerQuestion(bg, "press2", acc.Prompt.ID, 0, sessions.FromWeb, carol.ID); !strings.Contains(problem(err), "Bob has answered that already: “The reader's”") {
		t.Errorf("the second answer: %v", err)
	}
	h := <-begun
	if h.prompt.Text != "The reader's" || h.prompt.AuthorName != "Bob" {
		t.Errorf("the agent got %+v", h.prompt)
	}
	h.done <- "done"
	ended(t, e, got.Prompt.ID)
	if got := status(t, e, acc.Session.ID); got != "idle" {
		t.Errorf("afterwards the session is %s", got)
	}
	if all := bodies[sessions.BodyAnswered](t, e, acc.Session.ID, sessions.KindAnswered); len(all) != 1 || all[0].By != "Bob" || all[0].Answer != "The reader's" || all[0].Text != "Which time zone?" {
		t.Errorf("the log says %+v", all)
	}
}

func TestAReplyInOnesOwnWordsAnswers(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := asked(t, w, e, begun, "1.0")
	w.AskAt(e, w.Person(e, "Bob").ID, "1.0", "2.0", "Berlin's, please")
	h := <-begun
	h.done <- "done"
	q, err := e.Question(bg, acc.Prompt.ID)
	if err != nil || q.Open() || q.By != "Bob" || q.Answer != "Berlin's, please" {
		t.Errorf("the question is %+v (%v)", q, err)
	}
}

func TestOfTwoAnswersAtOnceOneCounts(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := asked(t, w, e, begun, "1.0")
	var both sync.WaitGroup
	var won sync.Map
	for i, name := range []string{"Bob", "Carol"} {
		by := w.Person(e, name)
		both.Go(func() {
			if _, err := e.AnswerQuestion(bg, "press:"+name, acc.Prompt.ID, i, sessions.FromSlack, by.ID); err == nil {
				won.Store(name, true)
			} else if problem(err) == "" {
				t.Error(err)
			}
		})
	}
	both.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d answers counted", n)
	}
	h := <-begun
	h.done <- "done"
}

func TestAnAnswerThatIsWithdrawnOpensTheQuestionAgain(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice, bob := w.Person(e, "Alice"), w.Person(e, "Bob")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	w.AskAt(e, alice.ID, "1.0", "1.5", "and this") // runs next, so the answer has to wait
	h.must("ask", whichZone, "asked")
	h.done <- ""
	next := <-begun
	got, err := e.AnswerQuestion(bg, "press", acc.Prompt.ID, 0, sessions.FromSlack, bob.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Cancel(bg, got.Prompt.ID, bob.ID); err != nil {
		t.Fatal(err)
	}
	if q, err := e.OpenQuestion(bg, acc.Session.ID); err != nil || q.Prompt != acc.Prompt.ID || q.Answer != "" {
		t.Errorf("the open question is %+v (%v)", q, err)
	}
	if all := bodies[sessions.BodyQuestion](t, e, acc.Session.ID, sessions.KindQuestion); len(all) != 2 {
		t.Errorf("the page shows %+v", all)
	}
	next.done <- "done"
}

func TestAQuestionThatPeopleCannotAnswerIsRefused(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	for args, says := range map[string]string{
		`{"question":" ","options":["a","b"]}`:                                 "needs words",
		`{"question":"?","options":["a"]}`:                                     "2 to 5 options",
		`{"question":"?","options":["1","2","3","4","5","6"]}`:                 "2 to 5 options",
		`{"question":"?","options":["a"," a "]}`:                               "have to differ",
		`{"question":"?","options":["a"," "]}`:                                 "label of a button",
		`{"question":"?","options":["a","` + strings.Repeat("b", 76) + `"]}`:   "label of a button",
		`{"question":"` + strings.Repeat("q", 1501) + `","options":["a","b"]}`: "at most 1500",
		`{"question":["no"],"options":["a","b"]}`:                              "cannot be read",
	} {
		h.refused("ask", args, says)
	}
	h.must("ask", whichZone, "asked")
	h.refused("ask", `{"question":"And?","options":["a","b"]}`, "asked a question already")
	h.done <- "I looked around first."
	ended(t, e, acc.Prompt.ID)
	// The answer leads to the question: it is delivered first.
	if due := dueIn(t, e, sessions.DeliverAnswer); len(due) != 1 {
		t.Fatalf("answers due: %+v", due)
	} else if q := dueIn(t, e, sessions.DeliverQuestion); len(q) != 0 {
		t.Errorf("the question is due before its answer: %+v", q)
	} else if err := e.Delivered(bg, due[0].ID, map[string]string{"ts": "3.0"}, 1, true); err != nil {
		t.Fatal(err)
	}
	if q := dueIn(t, e, sessions.DeliverQuestion); len(q) != 1 {
		t.Errorf("questions due: %+v", q)
	}
}

func TestTheQuestionOfStoppedWorkIsDropped(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	h.must("ask", whichZone, "asked")
	if _, err := e.Stop(bg, "stop", acc.Session.ID, "", alice.ID); err != nil {
		t.Fatal(err)
	}
	ended(t, e, acc.Prompt.ID)
	if q, err := e.OpenQuestion(bg, acc.Session.ID); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("the question %+v waits for an answer (%v)", q, err)
	}
	if _, err := e.AnswerQuestion(bg, "press", acc.Prompt.ID, 0, sessions.FromSlack, alice.ID); !strings.Contains(problem(err), "not open any more") {
		t.Errorf("an old button answers %v", err)
	}
	if q := dueIn(t, e, sessions.DeliverQuestion); len(q) != 0 {
		t.Errorf("the thread gets %+v", q)
	}
}

func TestANewerQuestionTakesTheOlderOnesPlace(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	next := w.AskAt(e, alice.ID, "1.0", "1.5", "and this") // said before the question, so not its answer
	h.must("ask", whichZone, "asked")
	h.done <- ""
	h = <-begun
	if q, err := e.OpenQuestion(bg, acc.Session.ID); err != nil || q.Prompt != acc.Prompt.ID {
		t.Errorf("what was said before the question answered it: %+v (%v)", q, err)
	}
	h.must("ask", `{"question":"Which greeting?","options":["Hi","Hello"]}`, "asked")
	h.done <- ""
	ended(t, e, next.Prompt.ID)
	if q, err := e.OpenQuestion(bg, acc.Session.ID); err != nil || q.Prompt != next.Prompt.ID {
		t.Errorf("the open question is %+v (%v)", q, err)
	}
	if _, err := e.AnswerQuestion(bg, "press", acc.Prompt.ID, 0, sessions.FromSlack, alice.ID); !strings.Contains(problem(err), "not open any more") {
		t.Errorf("an old button answers %v", err)
	}
}
