package supervisor

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

// BenchmarkPromptInARunningBox measures, in a box that is up, the time from a
// prompt being handed to the bridge until OpenCode's request for it reaches the
// model door, and until it is settled.
func BenchmarkPromptInARunningBox(b *testing.B) {
	p := newPlane(b, "match hello\nstep\nsay\n\tHello.\n")
	p.prompt("first", "hello", "Alice")
	p.newBox().start()
	p.settled("first")
	var toModel, toEnd []time.Duration
	for i := 0; b.Loop(); i++ {
		id := "p" + strconv.Itoa(i)
		before := p.modelRequests()
		began := time.Now()
		p.prompt(id, "hello", "Alice")
		p.until("the model request", func() bool { return p.requests > before })
		toModel = append(toModel, time.Since(began))
		p.settled(id)
		toEnd = append(toEnd, time.Since(began))
	}
	b.ReportMetric(percentile(toModel, 0.95), "p95-ms-to-model")
	b.ReportMetric(percentile(toModel, 0.5), "p50-ms-to-model")
	b.ReportMetric(percentile(toEnd, 0.5), "p50-ms-to-end")
}

// BenchmarkColdBox measures from the start of the supervisor's process to the
// end of the boot and to the first request that reaches the model door.
func BenchmarkColdBox(b *testing.B) {
	var toReady, toModel []time.Duration
	for b.Loop() {
		p := newPlane(b, "match hello\nstep\nsay\n\tHello.\n")
		p.prompt("p", "hello", "Alice")
		box := p.newBox()
		began := time.Now()
		box.start()
		ready := p.wait("the end of the boot", func(e sandbox.Event) bool {
			return e.Kind == sandbox.KindPhase && strings.Contains(string(e.Body), `"phase":"ready","state":"done"`)
		})
		toReady = append(toReady, ready.At.Sub(began))
		p.until("the model request", func() bool { return p.requests > 0 })
		toModel = append(toModel, time.Since(began))
		p.settled("p")
		box.kill()
	}
	b.ReportMetric(percentile(toReady, 0.5), "p50-ms-to-ready")
	b.ReportMetric(percentile(toModel, 0.5), "p50-ms-to-model")
}

// BenchmarkStop measures from a stop, while a tool runs whose processes ignore SIGTERM
// and one of which has left its group, to the prompt's end and to that of the last of
// them (I12).
func BenchmarkStop(b *testing.B) {
	p := newPlane(b, longScript)
	box := p.newBox()
	box.start()
	var toEnd, toGone []time.Duration
	for i := 0; b.Loop(); i++ {
		id := "p" + strconv.Itoa(i)
		p.prompt(id, "take long", "Alice")
		p.printed(id, "begun")
		began := time.Now()
		p.stop(id)
		p.settled(id)
		toEnd = append(toEnd, time.Since(began))
		box.gone("sleep 40", time.Minute)
		toGone = append(toGone, time.Since(began))
	}
	b.ReportMetric(percentile(toEnd, 0.95), "p95-ms-to-end")
	b.ReportMetric(1000, "p95-ms-to-end-max")
	b.ReportMetric(percentile(toGone, 0.95), "p95-ms-to-gone")
	b.ReportMetric(5000, "p95-ms-to-gone-max")
}

// percentile is in milliseconds.
func percentile(all []time.Duration, q float64) float64 {
	slices.Sort(all)
	if len(all) == 0 {
		return 0
	}
	return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000
}
