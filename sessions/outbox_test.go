package sessions_test

import (
	"errors"
	"testing"
	"time"

	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// due returns the due delivery of a key, or nil.
func due(t *testing.T, e *sessions.Engine, key string) *sessions.Delivery {
	t.Helper()
	list, err := e.Due(bg, "slack", 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i].Key == key {
			return &list[i]
		}
	}
	return nil
}

func TestACardIsDueAgainWhenItsPromptMovedAndDoneAfterTheEnd(t *testing.T) { // I6
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	other := w.Ask(e, alice.ID, "2.0", "acme/greeter: elsewhere")
	key := "card:" + acc.Prompt.ID
	card := due(t, e, key)
	if card == nil || card.Cursor != -1 || card.Priority != 30 {
		t.Fatalf("a new card is due as %+v", card)
	}
	at := func() int64 {
		s, err := e.Session(bg, acc.Session.ID)
		if err != nil {
			t.Fatal(err)
		}
		return s.LastSeq
	}
	remote := map[string]string{"channel": "C1", "ts": "5.0"}
	if err := e.Trying(bg, card.ID); err != nil {
		t.Fatal(err)
	}
	if again := due(t, e, key); again == nil || !again.Unknown || again.Attempts != 1 {
		t.Errorf("after a process died while trying, the card is due as %+v", again)
	}
	if err := e.Delivered(bg, card.ID, remote, at(), false); err != nil {
		t.Fatal(err)
	}
	if again := due(t, e, key); again != nil {
		t.Errorf("a card that shows everything is due: %+v", again)
	}
	if due(t, e, "card:"+other.Prompt.ID) == nil {
		t.Error("another session's card is not due")
	}
	shown := at()
	if err := e.Cancel(bg, acc.Prompt.ID, alice.ID); err != nil {
		t.Fatal(err)
	}
	moved := due(t, e, key)
	if moved == nil || moved.Priority != 40 || moved.Unknown || moved.Cursor != shown || string(moved.Remote) != `{"ts": "5.0", "channel": "C1"}` {
		t.Fatalf("after its prompt ended the card is due as %+v", moved)
	}
	// Rendered before the end, delivered after it: not done whatever the surface says.
	if err := e.Delivered(bg, card.ID, remote, shown, true); err != nil {
		t.Fatal(err)
	}
	if due(t, e, key) == nil {
		t.Error("a card that does not show the end is done")
	}
	if err := e.Delivered(bg, card.ID, remote, at(), true); err != nil {
		t.Fatal(err)
	}
	var state string
	if err := w.DB.Get(&state, `select state from outbox where id = $1`, card.ID); err != nil || state != "done" {
		t.Errorf("in the end the card is %s (%v)", state, err)
	}
}

func TestDeliveriesAreOrderedPostponedAndAbandoned(t *testing.T) { // I6
	t.Parallel()
	w, e, _ := running(t)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	ended(t, e, acc.Prompt.ID)
	n := sessions.Notice{Key: "n1", Thread: thread, Text: "hello"}
	for range 2 {
		if err := e.Tell(bg, n); err != nil {
			t.Fatal(err)
		}
	}
	list, err := e.Due(bg, "slack", 10)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, d := range list {
		order = append(order, d.Kind)
	}
	if len(order) != 3 || order[0] != "answer" || order[1] != "notice" || order[2] != "card" {
		t.Fatalf("due are %v", order)
	}
	if err := e.Postponed(bg, list[0].ID, 1, time.Hour, true, errors.New("429")); err != nil {
		t.Fatal(err)
	}
	if err := e.Abandoned(bg, list[1].ID, errors.New("channel_not_found")); err != nil {
		t.Fatal(err)
	}
	if d := due(t, e, list[0].Key); d != nil {
		t.Errorf("what was put off for an hour is due: %+v", d)
	}
	if _, err := w.DB.Exec(`update outbox set next_at = now() where id = $1`, list[0].ID); err != nil { // an hour passes
		t.Fatal(err)
	}
	if d := due(t, e, list[0].Key); d == nil || !d.Unknown {
		t.Errorf("after an hour it is due as %+v", d)
	}
	if d := due(t, e, list[1].Key); d != nil {
		t.Errorf("what was given up is due: %+v", d)
	}
}

func TestASurfaceIsWokenByWhatIsDue(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	here, there := w.Engine(), w.Engine()
	sessions.Hasten(there)
	w.Run(here)
	w.Run(there)
	near, far := here.Woken(t.Context(), "slack"), there.Woken(t.Context(), "slack")
	w.Ask(here, w.Person(here, "Alice").ID, "1.0", "acme/greeter: one")
	for name, woken := range map[string]<-chan struct{}{"the same replica": near, "another replica": far} {
		select {
		case <-woken:
		case <-time.After(time.Minute):
			t.Errorf("%s was not woken", name)
		}
	}
}

func TestAMenuAnsweredWhileItIsPostedIsEditedAfterwards(t *testing.T) { // I6
	t.Parallel()
	for _, c := range []struct {
		when    string
		posting bool
	}{{"before it is tried", false}, {"while it is posted", true}} {
		w := sessionstest.New(t)
		e := w.Engine()
		alice := w.Person(e, "Alice")
		acc := w.Ask(e, alice.ID, "1.0", "make it faster")
		menu := due(t, e, "menu:"+acc.Session.ID)
		if menu == nil {
			t.Fatal("nobody is asked for the repository")
		}
		if c.posting {
			if err := e.Trying(bg, menu.ID); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.ChooseRepository(bg, "click", acc.Session.ID, "acme/greeter", alice.ID); err != nil {
			t.Fatal(err)
		}
		if !c.posting {
			if err := e.Trying(bg, menu.ID); !errors.Is(err, sessions.ErrSettled) {
				t.Errorf("%s: the question may still be posted (%v)", c.when, err)
			}
			continue
		}
		if err := e.Delivered(bg, menu.ID, map[string]string{"ts": "5.0"}, 0, true); err != nil {
			t.Fatal(err)
		}
		again := due(t, e, menu.Key)
		if again == nil || string(again.Remote) != `{"ts": "5.0"}` {
			t.Fatalf("%s: the question is due as %+v", c.when, again)
		}
		s, err := e.Session(bg, acc.Session.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Delivered(bg, menu.ID, map[string]string{"ts": "5.0"}, s.LastSeq, true); err != nil {
			t.Fatal(err)
		}
		if again := due(t, e, menu.Key); again != nil {
			t.Errorf("%s: the answered question is due as %+v", c.when, again)
		}
	}
}
