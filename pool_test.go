package main

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// sparesReady says whether sandboxes wait for a session, and nothing else happens.
func (r *rig) sparesReady(n int) error {
	var have int
	if err := r.db.Get(&have, `select count(*) from spares where state = 'ready' and held_until > now()`); err != nil {
		return err
	}
	if have < n {
		return errors.New("no sandbox waits")
	}
	return nil
}

func TestASandboxThatWaitsInTheWarmPoolDoesTheMainJob(t *testing.T) {
	t.Parallel()
	r := startRig(t, func(p *practice) { p.extraEnv = append(p.extraEnv, "MAX_SPARES=1", "POOL_SIZE=1") })
	channel := r.channel("greeter")
	for i := range 2 {
		thread := r.say("alice", channel, "", fmt.Sprintf("@inspect explain %d in acme/greeter", i))
		r.waitSettled(thread, 1, 2*time.Minute)
	}
	r.eventually("a spare of the busy repository", 2*time.Minute, func() error { return r.sparesReady(1) })
	thread := r.say("alice", channel, "", "@inspect fix the failing test in acme/greeter")
	rows := r.waitSettled(thread, 1, 2*time.Minute)
	if rows[0].State != "completed" {
		t.Fatalf("it ended as %s: %s", rows[0].State, rows[0].Reason)
	}
	var spare string
	if err := r.db.Get(&spare, `select b.spare from sandboxes b join sessions s on s.id = b.session_id where s.thread = $1`, thread); err != nil || spare == "" {
		t.Errorf("the session's sandbox was spare %q (%v)", spare, err)
	}
	r.killServe()
	r.say("bob", channel, thread, "add a usage section to the README")
	if rows := r.waitSettled(thread, 2, 2*time.Minute); rows[1].State != "completed" {
		t.Errorf("after a restart the next one ended as %s: %s", rows[1].State, rows[1].Reason)
	}
	r.checkPullRequest(rows[0].Session)
	r.checkLog(rows[0].Session)
}

// BenchmarkWarmPool measures from a mention to OpenCode's first model request when
// a sandbox waits in the pool.
func BenchmarkWarmPool(b *testing.B) {
	r := benchRig(b, func(p *practice) { p.extraEnv = append(p.extraEnv, "MAX_SPARES=1", "POOL_SIZE=1") })
	channel := r.channel("greeter")
	var pooled waits
	for i := range 10 {
		text := fmt.Sprintf("say hello %d", i)
		ready := i >= 2 // the first two make the repository busy
		if ready {
			r.eventually("a spare", 2*time.Minute, func() error { return r.sparesReady(1) })
			time.Sleep(readingPause)
		}
		thread := r.say("alice", channel, "", "@inspect "+text+" in acme/greeter")
		given, accepted, asked := r.reached(thread, "", text)
		if ready {
			pooled.add(given, accepted, asked)
		}
		r.waitSettled(thread, 1, time.Minute)
	}
	b.ReportMetric(millis(quantile(pooled.given, 0.5)), "given-p50-ms")
	b.ReportMetric(millis(quantile(pooled.asked, 0.5)), "model-p50-ms")
	b.ReportMetric(millis(quantile(pooled.asked, 0.95)), "model-p95-ms")
	b.ReportMetric(500, "model-p95-ms-max")
	b.ReportMetric(0, "ns/op")
}
