package bot

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	practice "openinspect/internal/practice/slack"
)

// BenchmarkMentionToFirstReply measures from a mention's post to the card that
// answers it, and reports the 95th percentile.
func BenchmarkMentionToFirstReply(b *testing.B) {
	// Posts into several channels, and at the pace that Slack allows for all of
	// them: the wait for that is not what is measured.
	tw := newTown(b, agent(saying("Done.")), option{workspace: func(o *practice.Options) {
		for i := range 10 {
			o.Channels = append(o.Channels, fmt.Sprintf("channel-%d", i))
		}
	}})
	pace := time.NewTicker(3 * limits[methodPost].every) // a card, an answer, and some room
	defer pace.Stop()
	var took []time.Duration
	for b.Loop() {
		tw.channel = tw.seed.Channels[len(took)%10].ID
		began := time.Now()
		ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
		_, err := tw.slack.WaitMessage(context.Background(), tw.channel, ts, func(m practice.Message) bool { return m.BotID == tw.seed.BotID })
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		b.StopTimer()
		<-pace.C
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
}
