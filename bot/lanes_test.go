package bot

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	practice "openinspect/internal/practice/slack"
	"openinspect/sessions/sessionstest"
)

func TestALaneKeepsOrderAndNeverHoldsUpTheSocket(t *testing.T) {
	t.Parallel()
	l := newLanes(slog.New(slog.DiscardHandler))
	var mu sync.Mutex
	var done []int
	for i := range laneDepth {
		ok := l.offer("C1/1.1", func(context.Context) {
			mu.Lock()
			defer mu.Unlock()
			done = append(done, i)
		})
		if !ok {
			t.Fatalf("job %d is refused", i)
		}
	}
	if l.offer("C1/1.1", func(context.Context) {}) {
		t.Error("a full lane takes another job")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- l.run(ctx) }()
	last := make(chan struct{})
	for !l.offer("C1/1.1", func(context.Context) { close(last) }) {
		// The lane is being emptied; a refused envelope comes again.
	}
	<-last
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for i, n := range done {
		if i != n {
			t.Fatalf("job %d came %dth", n, i)
		}
	}
}

// impatient repeats events soon, as Slack does within minutes.
var impatient = option{workspace: func(o *practice.Options) {
	o.AckTimeout = 300 * time.Millisecond
	o.Retries = []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond}
}}

func TestADatabaseThatStandsStillLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes, impatient)
	tw.slack.RepeatEvents(10, 2)
	lock, err := tw.DB.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(`lock table inbound in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	var roots []string
	for i := range 5 {
		roots = append(roots, tw.say(tw.alice, "", tw.mention(fmt.Sprintf("request %d in acme/greeter", i))))
	}
	sessionstest.Eventually(t, "requests wait for the database", func() bool {
		var waiting int
		err := tw.DB.Get(&waiting, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
		return err == nil && waiting >= 3
	})
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	for _, ts := range roots {
		tw.see(ts, "Queued")
	}
	tw.settledCards(len(roots))
	for _, ts := range roots {
		if p, m := tw.prompts(ts), tw.ours(ts); len(p) != 1 || len(m) != 1 {
			t.Errorf("%d prompts and %d messages", len(p), len(m))
		}
	}
}

// settledCards waits until all cards show the newest state.
func (tw *town) settledCards(n int) {
	tw.T.Helper()
	sessionstest.Eventually(tw.T, "all cards are up to date", func() bool {
		var shown int
		err := tw.DB.Get(&shown, `select count(*) from outbox where kind = 'card' and cursor >= wanted`)
		return err == nil && shown == n
	})
}

func TestSomebodyWhoIsNotKnownYetIsAskedForAgain(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, noSandboxes)
	tw.slack.FailNext("users.list", 1, practice.Fault{Status: 500})
	tw.slack.FailNext("users.info", 1, practice.Fault{Status: 500})
	tw.slack.FailNext("users.info", 1, practice.Fault{Status: 429, RetryAfter: 1, Error: "ratelimited"})
	tw.Run(tw.engine)
	tw.startBot()
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	if p := tw.prompts(ts); len(p) != 1 || !strings.HasPrefix(p[0].AuthorName, "Alice") {
		t.Errorf("got %+v", p)
	}
}
