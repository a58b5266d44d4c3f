package main

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkFirstPromptFromImage measures a session's first prompt, from its mention
// to its acceptance by OpenCode and to its first model request, when its sandbox
// starts from the repository's image.
func BenchmarkFirstPromptFromImage(b *testing.B) {
	r := benchRig(b, nil)
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect say hello 0 in acme/greeter")
	r.waitSettled(thread, 1, time.Minute)
	r.imageBuilt("acme/greeter", 3*time.Minute)
	var took waits
	for i := 1; i <= 5; i++ {
		time.Sleep(time.Second) // Slack takes one post a second in a channel
		text := fmt.Sprintf("say hello %d", i)
		thread := r.say("alice", channel, "", "@inspect "+text+" in acme/greeter")
		took.add(r.reached(thread, "", text))
		r.waitSettled(thread, 1, time.Minute)
	}
	b.ReportMetric(millis(quantile(took.accepted, 0.5)), "accepted-ms")
	b.ReportMetric(millis(quantile(took.asked, 0.5)), "model-ms")
	b.ReportMetric(5000, "model-ms-max")
	b.ReportMetric(0, "ns/op")
}
