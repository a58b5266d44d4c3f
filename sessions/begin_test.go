package sessions_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestARequestToAnIdleSandboxBeginsAsItIsAccepted(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	l := &ledger{runs: map[string]int{}}
	goOn := make(chan struct{})
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		if p.Text == "wait" {
			<-goOn
		}
		l.agent(ctx, b, p)
	}
	e, far := w.Engine(), w.Engine() // only e has the bridge
	w.Run(e)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: begin")
	asked := []sessions.Accepted{first}
	if first.Prompt.State != sessions.Queued {
		t.Errorf("without a sandbox a request is %s, want queued", first.Prompt.State)
	}
	ended(t, e, first.Prompt.ID)
	// The actor may still be deciding its last step; soon it has nothing to do.
	sessionstest.Eventually(t, "a request begins at once", func() bool {
		next := w.Ask(e, alice.ID, "1.0", "next")
		asked = append(asked, next)
		ended(t, e, next.Prompt.ID)
		return next.Prompt.State == sessions.Running
	})
	elsewhere := w.Ask(far, alice.ID, "1.0", "elsewhere")
	if elsewhere.Prompt.State != sessions.Queued {
		t.Errorf("where the bridge is not, a request is %s, want queued", elsewhere.Prompt.State)
	}
	ended(t, e, elsewhere.Prompt.ID)
	waiting, behind := w.Ask(e, alice.ID, "1.0", "wait"), w.Ask(e, alice.ID, "1.0", "behind")
	if behind.Prompt.State != sessions.Queued {
		t.Errorf("behind a running request another one is %s, want queued", behind.Prompt.State)
	}
	close(goOn)
	for _, acc := range append(asked, elsewhere, waiting, behind) {
		if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	if again := l.twice(); len(again) > 0 {
		t.Errorf("%d prompts ran twice", len(again))
	}
	checkEffects(t, e, append(asked, elsewhere, waiting, behind))
}

// The bridge may be cut between the transaction in which a request begins and its
// way to the sandbox: then it is sent over the next bridge.
func TestABridgeThatIsCutAsRequestsBeginLosesNone(t *testing.T) { // I1, I2
	t.Parallel()
	w := sessionstest.New(t)
	l := &ledger{runs: map[string]int{}}
	w.Provider.Agent = l.agent
	e := w.Engine()
	w.Run(e)
	alice := w.Person(e, "Alice")
	const threads, rounds = 6, 6 // a supervisor waits longer after each cut
	var asked []sessions.Accepted
	for i := range threads {
		asked = append(asked, w.Ask(e, alice.ID, fmt.Sprint(i, ".0"), "acme/greeter: begin"))
	}
	begun := 0
	for range rounds {
		for _, acc := range asked {
			ended(t, e, acc.Prompt.ID)
		}
		next := make([]sessions.Accepted, threads)
		var all sync.WaitGroup
		for i := range threads {
			all.Go(func() {
				next[i] = w.Ask(e, alice.ID, fmt.Sprint(i, ".0"), "go on")
				w.Cut()
			})
		}
		all.Wait()
		for _, acc := range next {
			if acc.Prompt.State == sessions.Running {
				begun++
			}
		}
		asked = append(asked, next...)
	}
	for _, acc := range asked {
		if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	if again := l.twice(); len(again) > 0 {
		t.Errorf("%d prompts ran twice", len(again))
	}
	t.Logf("%d of %d requests began as they were accepted", begun, threads*rounds)
	if begun == 0 {
		t.Error("no request began as it was accepted: the test proves nothing")
	}
	checkEffects(t, e, asked)
}
