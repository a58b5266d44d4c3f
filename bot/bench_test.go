package bot

import (
	"context"
	"slices"
	"testing"
	"time"

	practice "openinspect/internal/practice/slack"
)

// BenchmarkMentionToFirstReply measures from a mention's post to the card that
// answers it, and reports the 95th percentile.
func BenchmarkMentionToFirstReply(b *testing.B) {
	tw := newTown(b, noSandboxes)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
		_, err := tw.slack.WaitMessage(context.Background(), tw.channel, ts, func(m practice.Message) bool { return m.BotID == tw.seed.BotID })
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		b.StopTimer()
		time.Sleep(channelEvery) // Slack's pace for one channel: this is what is not measured
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
}
