package main

import (
	"fmt"
	"testing"
	"time"
)

// roundTrip is how long it took to park a sandbox and to go on in the next one.
type roundTrip struct {
	Park      float64 `db:"park"`      // seconds from the decision to the recorded park
	Delivered float64 `db:"delivered"` // from the reply's acceptance to its delivery to the next sandbox
	Provider  float64 `db:"provider"`  // of these, the provider's own
}

// BenchmarkParkAndRestore measures a sandbox that is parked because it is idle, and
// the reply that has it continued.
func BenchmarkParkAndRestore(b *testing.B) {
	r := benchRig(b, func(p *practice) { p.extraEnv = append(p.extraEnv, "PARK_AFTER=1s") })
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect say hello 0 in acme/greeter")
	session := r.waitSettled(thread, 1, time.Minute)[0].Session
	var park, delivered, provider, own []time.Duration
	for i := range 10 {
		r.eventually("the sandbox is parked", time.Minute, func() error {
			var state string
			if err := r.db.Get(&state, `select state from sandboxes where session_id = $1`, session); err != nil || state == "parked" {
				return err
			}
			return fmt.Errorf("it is %s", state)
		})
		r.say("alice", channel, thread, fmt.Sprintf("say hello %d", i+1))
		r.waitSettled(thread, i+2, time.Minute)
		var took roundTrip
		err := r.db.Get(&took, `
			with p as (select * from prompts where session_id = $1 order by position desc limit 1),
			parked as (select max(seq) as seq from events where session_id = $1 and kind = 'sandbox.state' and body->>'state' = 'parked'
				and at < (select created_at from p))
			select extract(epoch from (select at from events where session_id = $1 and seq = parked.seq)
					- (select max(at) from events e where e.session_id = $1 and e.seq < parked.seq and e.body->>'state' = 'parking')) as park,
				extract(epoch from p.started_at - p.created_at) as delivered, extract(epoch from b.born_at - b.claimed_at) as provider
			from p, parked, sandboxes b where b.session_id = $1`, session)
		if err != nil {
			b.Fatal(err)
		}
		seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
		park = append(park, seconds(took.Park))
		delivered = append(delivered, seconds(took.Delivered))
		provider = append(provider, seconds(took.Provider))
		own = append(own, seconds(took.Delivered-took.Provider))
	}
	b.ReportMetric(millis(quantile(park, 0.5)), "park-ms")
	b.ReportMetric(millis(quantile(delivered, 0.5)), "delivered-ms")
	b.ReportMetric(millis(quantile(provider, 0.5)), "provider-ms")
	b.ReportMetric(millis(quantile(own, 0.95)), "own-p95-ms")
	b.ReportMetric(3000, "own-p95-ms-max")
	b.ReportMetric(0, "ns/op")
}
