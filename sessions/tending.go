package sessions

import "sync"

// tending is what the watch does about boxes at their provider: about each box by
// itself, so that a call that hangs keeps neither another box waiting nor a deadline.
// The zero value with a report can be used.
type tending struct {
	report func(error) // hears of what failed

	mu     sync.Mutex
	inHand map[string]bool
	ended  sync.WaitGroup
}

// tendedAtOnce bounds the calls, and with them what a provider that answers nobody
// holds up.
const tendedAtOnce = 32

// allBoxes names, in place of a session or a spare, a look at all boxes of the provider.
const allBoxes = ""

// begin does f about the box of a session or a spare. It does not if something is being
// done about that box, or about as many others as may be: the next look begins again.
func (t *tending) begin(owner string, f func() error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inHand[owner] || len(t.inHand) >= tendedAtOnce {
		return
	}
	if t.inHand == nil {
		t.inHand = map[string]bool{}
	}
	t.inHand[owner] = true
	t.ended.Go(func() {
		err := f()
		t.mu.Lock()
		delete(t.inHand, owner)
		t.mu.Unlock()
		if err != nil {
			t.report(err)
		}
	})
}

// wait returns when all that was begun has ended.
func (t *tending) wait() { t.ended.Wait() }
