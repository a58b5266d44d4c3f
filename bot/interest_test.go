package bot

import (
	"encoding/json"
	"testing"
	"time"

	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// withSpares lets the engine make sandboxes ready.
var withSpares = option{engine: func(c *sessions.Config) { c.MaxSpares = 4 }}

// spares counts the sandboxes that were started without a session.
func (tw *town) spares(repository string) int {
	tw.T.Helper()
	var n int
	if err := tw.DB.Get(&n, `select count(*) from spares where repository = $1`, repository); err != nil {
		tw.T.Fatal(err)
	}
	return n
}

func TestASandboxIsMadeReadyWhileSlackIsAskedWhatWasSaidBefore(t *testing.T) {
	t.Parallel()
	tw := newTown(t, withSpares)
	tw.slack.SetLatency(methodReplies, time.Second) // of which the sandbox makes use
	root := tw.say(tw.bob, "", "The greeting is wrong.")
	tw.say(tw.alice, root, tw.mention("mend it in acme/greeter"))
	tw.see(root, "done: ")
	if n := tw.spares("acme/greeter"); n != 1 {
		t.Errorf("%d sandboxes were made ready", n)
	}
	if n := len(tw.Provider.Specs()); n != 1 {
		t.Errorf("%d sandboxes were started for one request", n)
	}
}

func TestAChoiceThatIsBeingTypedIsExpected(t *testing.T) {
	t.Parallel()
	tw := newTown(t, withSpares)
	b, err := New(tw.Log, tw.engine, tw.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for typed, want := range map[string]int{"acme": 0, "bill": 1} {
		answer, err := b.suggest(t.Context(), &press{Type: "block_suggestion", ActionID: actionChoose, Value: typed})
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(answer)
		if err != nil || len(data) == 0 {
			t.Fatalf("%s, %v", data, err)
		}
		if typed == "bill" {
			sessionstest.Eventually(t, "a sandbox of the one that is left", func() bool { return tw.spares("acme/billing") == want })
		}
	}
	if n := tw.spares("acme/greeter"); n != 0 {
		t.Errorf("%d sandboxes of a repository that nobody meant", n)
	}
}
