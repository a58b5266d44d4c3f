package web

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions/sessionstest"
)

// BenchmarkEventToWatchers measures from the moment a sandbox's supervisor hands
// over an event until each of 50 browsers has it from its WebSocket, at 200
// events a second: bridge, transaction, rendering and fan-out included.
func BenchmarkEventToWatchers(b *testing.B) {
	const watchers, rate = 50, 200
	r := newRig(b)
	began, finish := make(chan *sessionstest.Box, 1), make(chan struct{})
	var prompt sandbox.Prompt
	r.Provider.Agent = func(ctx context.Context, box *sessionstest.Box, p sandbox.Prompt) {
		prompt = p
		began <- box
		select {
		case <-finish:
			box.Settle(p, sandbox.OutcomeCompleted, "", "")
		case <-ctx.Done():
		}
	}
	r.Run(r.engine)
	alice := r.signIn(b, "alice")
	s := alice.scribe("Write a lot")
	box := <-began
	sockets := make([]*socket, watchers)
	for i := range sockets {
		sockets[i] = alice.watch(s.session, s.last())
		sockets[i].next(frameLive)
	}
	var mu sync.Mutex
	var took []time.Duration
	var reading sync.WaitGroup
	for _, ws := range sockets {
		reading.Go(func() {
			mine := readLatencies(ws, b.N)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	b.ResetTimer()
	for range b.N {
		<-tick.C
		box.Bridge().Event(sandbox.KindText, prompt.ID, sandbox.BodyText{Part: "p",
			Text: "sent " + strconv.FormatInt(time.Now().UnixNano(), 10) + " and **some** words of a usual line, with `code` in it"})
	}
	reading.Wait()
	b.StopTimer()
	close(finish)
	report(b, took)
}

// readLatencies reads n rows and returns how old each was.
func readLatencies(ws *socket, n int) []time.Duration {
	took := make([]time.Duration, 0, n)
	for len(took) < n {
		var f frame
		_, data, err := ws.ReadMessage()
		if err != nil || json.Unmarshal(data, &f) != nil {
			ws.t.Errorf("reading a frame: %v", err)
			return took
		}
		if _, rest, ok := strings.Cut(f.HTML, "sent "); ok && f.Type == frameRow {
			sent, _, _ := strings.Cut(rest, " ")
			if at, err := strconv.ParseInt(sent, 10, 64); err == nil {
				took = append(took, time.Since(time.Unix(0, at)))
			}
		}
	}
	return took
}

// report adds the latencies' percentiles to a benchmark.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	at := func(p float64) float64 {
		return float64(took[min(int(p*float64(len(took))), len(took)-1)]) / float64(time.Millisecond)
	}
	b.ReportMetric(at(.5), "p50-ms")
	b.ReportMetric(at(.95), "p95-ms")
	b.ReportMetric(at(.99), "p99-ms")
}

// BenchmarkLongTranscript measures the server's part of opening a session's page
// with 10,000 entries: once when nothing of it was read before, then again.
func BenchmarkLongTranscript(b *testing.B) {
	r := newRig(b)
	alice := r.signIn(b, "alice")
	s := alice.scribe("Write a lot")
	s.run()
	s.fill(10_000)
	begin := time.Now()
	size := len(alice.page(sessionPath(s)))
	first := time.Since(begin)
	for b.Loop() {
		alice.page(sessionPath(s))
	}
	b.ReportMetric(float64(first)/float64(time.Millisecond), "first-ms")
	b.ReportMetric(float64(size)/1000, "page-kB")
}
