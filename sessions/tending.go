package sessions

import (
	"sync"
	"time"
)

// tending is what is done about boxes at their provider, and what it keeps of them:
// about each by itself, so that a call that hangs keeps neither another one waiting nor
// a deadline.
// What fails is tried again after a while that grows, because an attempt may have the
// provider copy a whole filesystem. The zero value with a report can be used.
type tending struct {
	report func(error)   // hears of what failed
	again  time.Duration // wait after a failure, doubled for each further one

	mu     sync.Mutex
	inHand map[string]bool
	failed map[string]failing
	ended  sync.WaitGroup
}

// failing is what was tried in vain.
type failing struct {
	times int
	until time.Time // not tried before
}

// tendedAtOnce bounds the calls, and with them what a provider that answers nobody
// holds up.
const tendedAtOnce = 32

// mostDoubled is how often the wait after a failure is doubled: people may wait for
// the box's end.
const mostDoubled = 3

// allBoxes names, in place of one, a look at all that the provider has.
const allBoxes = ""

// begin does f about what owner names: a session's or a spare's box, an orphan, a saved
// filesystem. It does not if something is being done about that, or about as many others
// as may be, or failed a moment ago: the next look begins again.
func (t *tending) begin(owner string, f func() error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inHand[owner] || len(t.inHand) >= tendedAtOnce || time.Now().Before(t.failed[owner].until) {
		return
	}
	if t.inHand == nil {
		t.inHand, t.failed = map[string]bool{}, map[string]failing{}
	}
	t.inHand[owner] = true
	t.ended.Go(func() {
		err := f()
		t.done(owner, err)
		if err != nil {
			t.report(err)
		}
	})
}

// done lets go of a box, for a while if err is not nil.
func (t *tending) done(owner string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.inHand, owner)
	if err == nil {
		delete(t.failed, owner)
		return
	}
	times := t.failed[owner].times
	t.failed[owner] = failing{times + 1, time.Now().Add(t.again << min(times, mostDoubled))}
}

// wait returns when all that was begun has ended.
func (t *tending) wait() { t.ended.Wait() }
