package sessions_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// BenchmarkAccept is a mention that begins a session, from the call to the commit.
func BenchmarkAccept(b *testing.B) {
	w := sessionstest.New(b)
	e := w.Engine()
	alice := w.Person(e, "Alice")
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		w.Ask(e, alice.ID, fmt.Sprint(i, ".0"), "fix acme/greeter")
		took = append(took, time.Since(began))
	}
	report(b, took)
}

// report adds the quantiles of what was measured.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-ms": .5, "p95-ms": .95, "p99-ms": .99} {
		b.ReportMetric(float64(took[int(q*float64(len(took)-1))].Microseconds())/1000, name)
	}
}

// piece is a text of which an event has 710 bytes, as agents' events do on average.
var piece = strings.Repeat("x", 600)

// busy makes a session whose agent does what the benchmark says, with watchers.
func busy(b *testing.B, agent sessionstest.Script, watchers int) (*sessions.Engine, sessions.Accepted, []*sessions.Subscription) {
	w := sessionstest.New(b)
	w.Provider.Agent = agent
	e := w.Engine()
	w.Run(e)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: go")
	var subs []*sessions.Subscription
	for range watchers {
		sub := e.Subscribe(acc.Session.ID)
		b.Cleanup(sub.Close)
		subs = append(subs, sub)
	}
	return e, acc, subs
}

// BenchmarkAppend is a burst of events over the bridge, until all are stored and
// acknowledged.
func BenchmarkAppend(b *testing.B) {
	for _, watchers := range []int{1, 10, 50} {
		b.Run(fmt.Sprint("watchers=", watchers), func(b *testing.B) {
			begin, done := make(chan struct{}), make(chan struct{})
			_, _, subs := busy(b, func(ctx context.Context, box *sessionstest.Box, p sandbox.Prompt) {
				<-begin
				for i := range b.N {
					box.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: fmt.Sprint(i), Text: piece})
				}
				if err := box.Bridge().Flush(ctx); err != nil {
					b.Error(err)
				}
				close(done)
			}, watchers)
			var reading sync.WaitGroup
			for _, sub := range subs {
				reading.Go(func() {
					for range sub.Updates() {
					}
				})
			}
			b.ResetTimer()
			close(begin)
			<-done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			for _, sub := range subs {
				sub.Close()
			}
			reading.Wait()
		})
	}
}

// BenchmarkFanOut is the time from an event's leaving the sandbox to each of 50
// watchers, at 200 events a second.
func BenchmarkFanOut(b *testing.B) {
	const watchers, perSecond = 50, 200
	sent := make([]time.Time, b.N)
	begin, stored := make(chan struct{}), make(chan struct{})
	_, _, subs := busy(b, func(_ context.Context, box *sessionstest.Box, p sandbox.Prompt) {
		<-begin
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		for i := range b.N {
			<-tick.C
			sent[i] = time.Now()
			box.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: fmt.Sprint(i), Text: piece})
		}
		<-stored
	}, watchers)
	took := make([][]time.Duration, watchers)
	var reading sync.WaitGroup
	for i, sub := range subs {
		reading.Go(func() {
			for n := 0; n < b.N; {
				for _, ev := range (<-sub.Updates()).Events {
					if ev.Kind == sandbox.KindText {
						took[i] = append(took[i], time.Since(sent[n]))
						n++
					}
				}
			}
		})
	}
	b.ResetTimer()
	close(begin)
	reading.Wait()
	close(stored)
	report(b, slices.Concat(took...))
}

// BenchmarkDue is what a delivering replica asks all the time, with 1000 open sessions.
func BenchmarkDue(b *testing.B) {
	w := sessionstest.New(b)
	e := w.Engine()
	alice := w.Person(e, "Alice")
	for i := range 1000 {
		w.Ask(e, alice.ID, fmt.Sprint(i, ".0"), "acme/greeter: x")
	}
	if _, err := w.DB.Exec(`update outbox set cursor = 100 where id % 10 <> 0`); err != nil { // most show everything
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := e.Due(bg, "slack", 20); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSessionMemory is the heap and stacks of the control plane for one
// more live session: its bridge, 230 events and one watcher. What does not grow
// with sessions (the pool of database connections, say) is there before.
func BenchmarkSessionMemory(b *testing.B) {
	w := sessionstest.New(b)
	peers := newDistant(b, w.Provider)
	e := w.Engine(func(c *sessions.Config) { c.MaxSandboxes, c.Provider = 1<<20, peers })
	w.Run(e)
	alice := w.Person(e, "Alice")
	n := 0
	live := func() sessions.Accepted {
		n++
		acc := w.Ask(e, alice.ID, fmt.Sprint(n, ".0"), "acme/greeter: x")
		sub := e.Subscribe(acc.Session.ID)
		b.Cleanup(sub.Close)
		go func() {
			for range sub.Updates() {
			}
		}()
		return acc
	}
	stored := func(all []sessions.Accepted) {
		for _, acc := range all {
			sessionstest.Eventually(b, "the events are stored", func() bool {
				s, err := e.Session(bg, acc.Session.ID)
				return err == nil && s.LastSeq > 230
			})
		}
	}
	var first, measured []sessions.Accepted
	for range 10 {
		for range 10 {
			first = append(first, live())
		}
		stored(first)
	}
	before := inUse()
	for b.Loop() {
		measured = append(measured, live())
	}
	stored(measured)
	b.ReportMetric(float64(inUse()-before)/float64(len(measured))/1024, "KB/session")
	b.ReportMetric(100, "KB/session-max")
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
