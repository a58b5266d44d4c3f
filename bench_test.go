package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	practicemodel "openinspect/internal/practice/model"
	practiceslack "openinspect/internal/practice/slack"
	"openinspect/sandbox/supervisor"
)

// benchRig is a practice with nothing slowed down for people's sake.
func benchRig(b *testing.B, change func(*practice)) *rig {
	b.Helper()
	return startRig(b, func(p *practice) {
		p.extraEnv = []string{"LOG_LEVEL=warn", "MAX_SPARES=0"}
		p.slackOpt = practiceslack.Options{RateScale: -1}
		p.scripts = benchScripts.write(b)
		if change != nil {
			change(p)
		}
	})
}

// benchScripts are an answer at once, and a task of several steps that touches
// files and runs commands.
var benchScripts = scriptFS{
	"hello.txt": `match ^say hello
step
say
	Hello.
`,
	"task.txt": `match ^do the task
step
call bash
	description: Look
	command: ls; git log --oneline | head -3
step
call write
	filePath: {{"notes.md"}}
	content: |
		# Notes
step
call bash
	description: Count
	command: for i in $(seq 1 20); do echo "line $i" >> notes.md; done; wc -l notes.md
step
call bash
	description: Show
	command: cat notes.md; sleep 1
step
say
	The notes are written.
`,
}

// quantile is the q-th of the sorted durations.
func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// slackTime is when Slack took a message, from its ts.
func slackTime(ts string) time.Time {
	seconds, micros, _ := strings.Cut(ts, ".")
	s, _ := strconv.ParseInt(seconds, 10, 64)
	us, _ := strconv.ParseInt(micros, 10, 64)
	return time.Unix(s, us*1000)
}

// BenchmarkMentionToFirstReply measures from a mention to the card in its
// thread, both by Slack's own clock.
func BenchmarkMentionToFirstReply(b *testing.B) {
	// One sandbox at most: what is measured is the way to the card, not boots.
	r := benchRig(b, func(p *practice) { p.extraEnv = append(p.extraEnv, "MAX_SANDBOXES=1") })
	var took []time.Duration
	channels := []string{"general", "greeter", "random"}
	for i := range 30 {
		time.Sleep(400 * time.Millisecond) // Slack takes one post a second in a channel
		channel := r.channel(channels[i%len(channels)])
		ts := r.say("alice", channel, "", "@inspect say hello in acme/greeter")
		card := r.waitMessage(channel, ts, 20*time.Second, "acme/greeter")
		took = append(took, slackTime(card.TS).Sub(slackTime(ts)))
	}
	b.ReportMetric(millis(quantile(took, 0.5)), "p50-ms")
	b.ReportMetric(millis(quantile(took, 0.95)), "p95-ms")
	b.ReportMetric(100, "p95-ms-max")
	b.ReportMetric(0, "ns/op")
}

// readingPause is how long somebody who answers at once still reads the answer
// before. Without it the benchmark would measure OpenCode clearing up after it.
const readingPause = 500 * time.Millisecond

// BenchmarkMentionToModel measures from a mention to the moment OpenCode is given
// the prompt, to its acceptance and to its first model request, with a cold local sandbox and with
// one that is up.
func BenchmarkMentionToModel(b *testing.B) {
	r := benchRig(b, nil)
	channel := r.channel("greeter")
	var cold, warm waits
	for i := range 3 {
		thread := r.say("alice", channel, "", fmt.Sprintf("@inspect say hello %d in acme/greeter", i))
		cold.add(r.reached(thread, "", fmt.Sprintf("say hello %d", i)))
		r.waitSettled(thread, 1, time.Minute)
		for j := range 20 {
			text := fmt.Sprintf("say hello %d and %d", i, j)
			r.eventually("an idle sandbox", 20*time.Second, func() error { return r.idle(thread) })
			time.Sleep(readingPause)
			ts := r.say("bob", channel, thread, text)
			warm.add(r.reached(thread, ts, text))
			r.waitSettled(thread, 2+j, time.Minute)
		}
	}
	b.ReportMetric(millis(quantile(cold.accepted, 0.5)), "cold-accepted-ms")
	b.ReportMetric(3000, "cold-accepted-ms-max")
	b.ReportMetric(millis(quantile(cold.asked, 0.5)), "cold-model-ms")
	b.ReportMetric(5000, "cold-model-ms-max")
	b.ReportMetric(millis(quantile(warm.given, 0.95)), "warm-given-p95-ms")
	b.ReportMetric(millis(quantile(warm.accepted, 0.5)), "warm-accepted-p50-ms")
	b.ReportMetric(millis(quantile(warm.accepted, 0.95)), "warm-accepted-p95-ms")
	b.ReportMetric(30, "warm-accepted-p95-ms-max")
	b.ReportMetric(millis(quantile(warm.asked, 0.95)), "warm-model-p95-ms")
	b.ReportMetric(150, "warm-model-p95-ms-max")
	b.ReportMetric(0, "ns/op")
}

// idle says whether the session's sandbox has done everything after its last prompt.
func (r *rig) idle(thread string) error {
	var busy bool
	err := r.db.Get(&busy, `select b.busy from sandboxes b join sessions s on s.id = b.session_id where s.thread = $1`, thread)
	if err == nil && busy {
		err = fmt.Errorf("it is busy")
	}
	return err
}

// waits are how long prompts needed, after their Slack messages, until OpenCode was
// given them, had accepted them, and asked the model.
type waits struct{ given, accepted, asked []time.Duration }

func (w *waits) add(given, accepted, asked time.Duration) {
	w.given, w.accepted, w.asked = append(w.given, given), append(w.accepted, accepted), append(w.asked, asked)
}

// reached measures how long after its Slack message a prompt was given to
// OpenCode, accepted by it, and asked of the model.
func (r *rig) reached(thread, ts, text string) (given, accepted, asked time.Duration) {
	r.Helper()
	said := slackTime(cmp.Or(ts, thread))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rec, err := r.practice.model.Await(ctx, func(rec practicemodel.Record) bool { return strings.HasPrefix(rec.Prompt, text) })
	if err != nil {
		r.Fatal(err)
	}
	var event struct{ Given, At time.Time }
	r.eventually("the prompt is accepted", time.Minute, func() error {
		return r.db.Get(&event, `select (e.body->>'given')::timestamptz as given, (e.body->>'at')::timestamptz as at
			from events e join prompts p on p.id = e.prompt_id join sessions s on s.id = p.session_id
			where s.thread = $1 and e.kind = 'accepted' and p.text like $2 || '%'`, thread, text)
	})
	return event.Given.Sub(said), event.At.Sub(said), rec.Time.Sub(said)
}

// BenchmarkMemory measures the control plane's resident memory when idle.
func BenchmarkMemory(b *testing.B) {
	r := benchRig(b, nil)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.servePID()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			b.ReportMetric(kb/1024, "idle-MB")
			b.ReportMetric(60, "idle-MB-max")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkTaskAgainstOpenCodeAlone runs one scripted task through the whole
// system, and gives the same prompt to the same OpenCode directly over HTTP.
func BenchmarkTaskAgainstOpenCodeAlone(b *testing.B) {
	r := benchRig(b, nil)
	alone := startOpenCode(b, r, supervisor.Allocator...)
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect say hello in acme/greeter")
	r.waitSettled(thread, 1, time.Minute)
	alone.prompt("say hello")
	var whole, direct []time.Duration
	for i := range 5 {
		r.eventually("an idle sandbox", 20*time.Second, func() error { return r.idle(thread) })
		time.Sleep(readingPause)
		ts := r.say("alice", channel, thread, fmt.Sprintf("do the task %d", i))
		r.waitSettled(thread, 2+i, time.Minute)
		var ended time.Time
		if err := r.db.Get(&ended, `select max(p.ended_at) from prompts p join sessions s on s.id = p.session_id where s.thread = $1`, thread); err != nil {
			b.Fatal(err)
		}
		whole = append(whole, ended.Sub(slackTime(ts)))
		time.Sleep(readingPause)
		began := time.Now()
		alone.prompt(fmt.Sprintf("do the task %d", i))
		direct = append(direct, time.Since(began))
	}
	b.ReportMetric(millis(quantile(whole, 0.5)), "whole-ms")
	b.ReportMetric(millis(quantile(direct, 0.5)), "direct-ms")
	b.ReportMetric(millis(quantile(whole, 0.5))/millis(quantile(direct, 0.5)), "ratio")
	b.ReportMetric(1.10, "ratio-max")
	var taken []time.Duration
	for range 20 {
		time.Sleep(readingPause)
		taken = append(taken, alone.taken("say hello"))
	}
	b.ReportMetric(millis(quantile(taken, 0.5)), "direct-accepted-p50-ms")
	b.ReportMetric(millis(quantile(taken, 0.95)), "direct-accepted-p95-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkAllocator measures what supervisor.Allocator is for: how long OpenCode
// alone needs to take a prompt and to answer it, with those settings and without.
func BenchmarkAllocator(b *testing.B) {
	r := benchRig(b, nil)
	ways := map[string]lone{"plain": startOpenCode(b, r), "keeping": startOpenCode(b, r, supervisor.Allocator...)}
	taken, answered := map[string][]time.Duration{}, map[string][]time.Duration{}
	for range 25 { // in turn: the machine's speed varies
		for name, alone := range ways {
			time.Sleep(readingPause)
			began := time.Now()
			taken[name] = append(taken[name], alone.taken("say hello"))
			answered[name] = append(answered[name], time.Since(began))
		}
	}
	for name := range ways {
		b.ReportMetric(millis(quantile(taken[name], 0.5)), name+"-accepted-p50-ms")
		b.ReportMetric(millis(quantile(answered[name], 0.5)), name+"-answered-p50-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// lone is an OpenCode that is driven directly over HTTP.
type lone struct {
	testing.TB
	url, session string
}

// prompt sends a prompt and waits for its whole answer.
func (l lone) prompt(text string) {
	l.Helper()
	l.post("/session/"+l.session+"/message", map[string]any{"parts": []map[string]string{{"type": "text", "text": text}}}, nil)
}

// taken sends a prompt without waiting for its answer, returns how long OpenCode
// needed to take it, and waits until it is idle again.
func (l lone) taken(text string) time.Duration {
	l.Helper()
	began := time.Now()
	l.post("/session/"+l.session+"/prompt_async", map[string]any{"parts": []map[string]string{{"type": "text", "text": text}}}, nil)
	took := time.Since(began)
	for busy := true; busy; {
		var statuses map[string]any
		l.call(http.MethodGet, "/session/status", nil, &statuses)
		_, busy = statuses[l.session]
	}
	return took
}

func (l lone) post(path string, body, into any) {
	l.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		l.Fatal(err)
	}
	l.call(http.MethodPost, path, bytes.NewReader(data), into)
}

func (l lone) call(method, path string, body io.Reader, into any) {
	l.Helper()
	req, err := http.NewRequest(method, l.url+path, body)
	if err != nil {
		l.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		l.Fatalf("OpenCode answers %s: %s %v", resp.Status, answer, err)
	}
	if into != nil && len(answer) > 0 {
		if err := json.Unmarshal(answer, into); err != nil {
			l.Fatal(err)
		}
	}
}
