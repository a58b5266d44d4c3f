package bot

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	practice "openinspect/internal/practice/slack"
	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// thorough is an agent that plans, runs a command, changes a file and waits to
// be let on before it answers.
func thorough(on <-chan struct{}) sessionstest.Script {
	return func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		bridge := b.Bridge()
		bridge.Event(sandbox.KindTodo, p.ID, sandbox.BodyTodo{Items: []sandbox.TodoItem{
			{Text: "read <the> code", State: "completed"}, {Text: "fix it", State: "in_progress"}, {Text: "test it", State: "pending"}}})
		bridge.Event(sandbox.KindDiff, p.ID, sandbox.BodyDiff{Files: []sandbox.FileDiff{{Path: "greet.go", Status: "modified", Additions: 2, Deletions: 1}}})
		bridge.Event(sandbox.KindTool, p.ID, sandbox.BodyTool{Part: "t-" + p.ID, Tool: "bash", State: "running", Input: map[string]any{"command": "go test ./..."}})
		select {
		case <-ctx.Done():
			return
		case <-on:
		}
		bridge.Event(sandbox.KindTool, p.ID, sandbox.BodyTool{Part: "t-" + p.ID, Tool: "bash", State: "completed"})
		bridge.Event(sandbox.KindSettled, p.ID, sandbox.BodySettled{Outcome: sandbox.OutcomeCompleted,
			Answer: "I fixed **" + p.Text + "**.", Files: 1, Additions: 2, Deletions: 1})
	}
}

// waiting is an agent that works until it is stopped.
func waiting(ctx context.Context, _ *sessionstest.Box, _ sandbox.Prompt) { <-ctx.Done() }

// saying is an agent that answers at once.
func saying(answer string) sessionstest.Script {
	return func(_ context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		b.Settle(p, sandbox.OutcomeCompleted, "", answer)
	}
}

func TestTheThreadShowsTheWorkAndThenTheAnswer(t *testing.T) {
	t.Parallel()
	on := make(chan struct{})
	tw := newTown(t, agent(thorough(on)))
	ts := tw.say(tw.alice, "", tw.mention("the greeting in acme/greeter"))
	for _, want := range []string{"Working", "☑ read &lt;the&gt; code", "▣ *fix it*", "☐ test it", "running `go test ./...`", "1 file, +2 −1", "`greet.go`"} {
		tw.see(ts, want)
	}
	tw.say(tw.bob, ts, "the farewell")
	tw.see(ts, "Queued, 1 ahead")
	sessionstest.Eventually(t, "Slack's own row says that it works", func() bool {
		status, _ := tw.slack.SessionStatus(tw.channel, ts)
		return status == "processing"
	})
	on <- struct{}{}
	first := tw.see(ts, "the greeting in acme/greeter.")
	if !strings.Contains(shows(first), tw.alice) || !strings.Contains(shows(first), "1 file, +2 −1") {
		t.Errorf("the answer is %s", shows(first))
	}
	on <- struct{}{}
	second := tw.see(ts, "I fixed the farewell.")
	if !strings.Contains(shows(second), tw.bob) {
		t.Errorf("the second answer does not go to Bob: %s", shows(second))
	}
	sessionstest.Eventually(t, "both cards end as done", func() bool { return tw.count(ts, "✅ Done") == 2 })
	if n := len(tw.ours(ts)); n != 4 {
		t.Errorf("%d messages for two prompts", n)
	}
	sessionstest.Eventually(t, "Slack's own row ends", func() bool {
		status, _ := tw.slack.SessionStatus(tw.channel, ts)
		return status == "active"
	})
}

// count is how many of the bot's messages of a thread show a text.
func (tw *town) count(thread, text string) (n int) {
	for _, m := range tw.ours(thread) {
		if strings.Contains(shows(m), text) {
			n++
		}
	}
	return n
}

func TestAnybodyStopsWhatRunsAndTheNextGoesOn(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(tw *town, ts string){
		"word":    func(tw *town, ts string) { tw.say(tw.bob, ts, "Stop!") },
		"mention": func(tw *town, ts string) { tw.say(tw.bob, ts, tw.mention("stop")) },
		"button": func(tw *town, ts string) {
			if err := tw.slack.ClickAs(tw.bob, tw.channel, tw.see(ts, actionStop).TS, actionStop, ""); err != nil {
				tw.T.Error(err)
			}
		},
		"Slack's own row": func(tw *town, ts string) {
			sessionstest.Eventually(tw.T, "the row is there", func() bool {
				status, _ := tw.slack.SessionStatus(tw.channel, ts)
				return status == "processing"
			})
			if err := tw.slack.StopAs(tw.bob, tw.channel, ts); err != nil {
				tw.T.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tw := newTown(t, agent(waiting))
			ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
			tw.see(ts, "Working")
			tw.say(tw.carol, ts, "the second request")
			tw.see(ts, "1 ahead")
			stop(tw, ts)
			tw.see(ts, "Stopped by Bob Brandt")
			sessionstest.Eventually(t, "the second request runs", func() bool { return tw.prompts(ts)[1].State == sessions.Running })
			if p := tw.prompts(ts); p[0].State != sessions.Stopped {
				t.Errorf("the first is %s", p[0].State)
			}
		})
	}
}

func TestAStopThatComesTooLateStopsNothingElse(t *testing.T) {
	t.Parallel()
	tw := newTown(t, agent(waiting))
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	first := tw.see(ts, "Working")
	tw.say(tw.carol, ts, "the second request")
	tw.see(ts, "1 ahead")
	prompt := tw.prompts(ts)[0]
	tw.say(tw.alice, ts, "stop")
	sessionstest.Eventually(t, "the second request runs", func() bool { return tw.prompts(ts)[1].State == sessions.Running })
	// The card has no Stop button any more; a slow client still shows it.
	b, err := New(tw.Log, tw.engine, tw.cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.self = identity{team: tw.seed.TeamID, user: tw.seed.BotUserID, bot: tw.seed.BotID}
	p := &press{Type: "block_actions", Actions: []action{{ID: actionStop, Value: prompt.ID, TS: "1.1"}}}
	p.User.ID, p.Channel.ID, p.Container.MessageTS, p.Container.ThreadTS = tw.bob, tw.channel, first.TS, ts
	if _, err := b.dispatch(context.Background(), inbound{press: p}); err != nil {
		t.Fatal(err)
	}
	tw.whispered(tw.bob, "has ended already")
	if got := tw.prompts(ts)[1].State; got != sessions.Running {
		t.Errorf("the second request is %s", got)
	}
}

func TestAFailureSaysWhyAndIsTriedAgainByItsButton(t *testing.T) {
	t.Parallel()
	tw := newTown(t, agent(func(_ context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		if p.AuthorName == "Alice Ahmed" {
			b.Settle(p, sandbox.OutcomeFailed, "The model <!here> did not answer.", "")
			return
		}
		b.Settle(p, sandbox.OutcomeCompleted, "", "It worked for you.")
	}))
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	failed := tw.see(ts, "This failed.")
	if strings.Contains(failed.Text, "<!here>") {
		t.Errorf("a reason notifies: %s", failed.Text)
	}
	if err := tw.slack.ClickAs(tw.bob, tw.channel, failed.TS, actionRetry, ""); err != nil {
		t.Fatal(err)
	}
	tw.see(ts, "It worked for you.")
}

func TestNoMessageIsLostOrPostedTwiceWhateverSlackAnswers(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]practice.Fault{
		"429":                              {Status: 429, RetryAfter: 1, Error: "ratelimited"},
		"500":                              {Status: 500},
		"500 though it was posted":         {Status: 500, AfterEffect: true},
		"internal_error though posted":     {Error: "internal_error", AfterEffect: true},
		"cut connection":                   {Drop: true},
		"cut connection though it was out": {Drop: true, AfterEffect: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tw := newTown(t, agent(saying("The answer to it all.")))
			tw.slack.FailNext("chat.postMessage", 2, fault)
			ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
			tw.see(ts, "The answer to it all.")
			tw.see(ts, "✅ Done")
			tw.settled()
			if n := len(tw.ours(ts)); n != 2 {
				t.Errorf("%d messages for one prompt", n)
			}
		})
	}
}

func TestACardThatWasPostedUnnoticedAndCannotBeEditedAtOnceIsNotPostedAgain(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]practice.Fault{"429": {Status: 429, RetryAfter: 1, Error: "ratelimited"}, "500": {Status: 500}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tw := newTown(t, agent(saying("The answer to it all.")))
			tw.slack.FailNext("chat.postMessage", 1, practice.Fault{Status: 500, AfterEffect: true})
			tw.slack.FailNext("chat.update", 1, edit)
			ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
			tw.see(ts, "✅ Done")
			tw.settled()
			if n := len(tw.ours(ts)); n != 2 {
				t.Errorf("%d messages for one prompt", n)
			}
		})
	}
}

// settled waits until nothing is left to deliver.
func (tw *town) settled() {
	tw.T.Helper()
	sessionstest.Eventually(tw.T, "everything is delivered", func() bool {
		var pending int
		err := tw.DB.Get(&pending, `select count(*) from outbox where surface = 'slack' and state = 'pending'`)
		return err == nil && pending == 0
	})
}

func TestADelivererThatDiesBetweenPostingAndRecordingPostsNothingTwice(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, agent(saying(strings.Repeat("A long paragraph of the answer. ", 20)+"\n\n"+strings.Repeat("More of it, and more. ", 800))))
	tw.Run(tw.engine)
	stop := tw.startBot()
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "✅ Done")
	tw.settled()
	stop()
	before := texts(tw.ours(ts))
	if len(before) < 3 {
		t.Fatalf("%d messages", len(before))
	}
	// The outbox as it is after kill -9 right after each post: of the answer's
	// messages, the last is not recorded.
	_, err := tw.DB.Exec(`update outbox set state = 'pending', unknown = true, cursor = -1, done_at = null, next_at = now(),
		remote = case kind when 'answer' then jsonb_set(remote::jsonb, '{parts}', (remote::jsonb->'parts') - (-1)) else '{}' end`)
	if err != nil {
		t.Fatal(err)
	}
	tw.startBot()
	tw.settled()
	if after := texts(tw.ours(ts)); !slices.Equal(before, after) {
		t.Errorf("before: %d messages, after: %d", len(before), len(after))
	}
}

func texts(all []practice.Message) (out []string) {
	for _, m := range all {
		out = append(out, m.TS+" "+m.Text)
	}
	return out
}

func TestALongAnswerArrivesInOrderOverFaults(t *testing.T) {
	t.Parallel()
	var answer strings.Builder
	for i := range 500 {
		fmt.Fprintf(&answer, "Line %03d of the answer says something.\n\n", i)
	}
	tw := newTown(t, agent(saying(answer.String())))
	tw.slack.FailNext("chat.postMessage", 1, practice.Fault{Status: 429, RetryAfter: 1, Error: "ratelimited"})
	tw.slack.FailNext("chat.postMessage", 2, practice.Fault{Status: 503, AfterEffect: true})
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "✅ Done")
	tw.settled()
	var lines []string
	for _, m := range tw.ours(ts) {
		if !strings.Contains(m.Text, "✅") {
			lines = append(lines, regexp.MustCompile(`Line \d+ `).FindAllString(string(m.Blocks), -1)...)
		}
	}
	if len(lines) != 500 || !slices.IsSorted(lines) {
		t.Errorf("%d lines, in order: %v", len(lines), slices.IsSorted(lines))
	}
}

func TestManyEventsMakeFewEditsAndTheLastOneWins(t *testing.T) {
	t.Parallel()
	const tools = 400
	tw := newTown(t, agent(func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		for i := range tools {
			b.Bridge().Event(sandbox.KindTool, p.ID, sandbox.BodyTool{Part: "same", Tool: "read", State: "running",
				Input: map[string]any{"filePath": fmt.Sprintf("/workspace/greeter/file%03d.go", i)}})
		}
		<-ctx.Done()
	}))
	began := time.Now()
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, fmt.Sprintf("greeter/file%03d.go", tools-1))
	edits := len(tw.slack.Calls("chat.update"))
	if most := 3 + int(time.Since(began)/time.Second); edits > most {
		t.Errorf("%d edits in %v", edits, time.Since(began))
	}
	tw.say(tw.alice, ts, "stop")
	tw.see(ts, "Stopped by Alice Ahmed")
}

func TestAnAnswerOvertakesWhatIsLessUrgent(t *testing.T) {
	t.Parallel()
	b := newBudget()
	now := time.Now()
	for range limits[methodUpdate].burst {
		if wait := b.take(methodUpdate, "C1", now); wait != 0 {
			t.Fatalf("an edit within the burst waits %v", wait)
		}
	}
	if wait := b.take(methodUpdate, "C1", now); wait <= 0 {
		t.Error("edits have no limit")
	}
	if wait := b.take(methodPost, "C1", now); wait != 0 {
		t.Errorf("a post waits %v for edits", wait)
	}
	for range channelBurst {
		b.take(methodPost, "C2", now)
	}
	if wait := b.take(methodPost, "C2", now); wait <= 0 || wait > channelEvery {
		t.Errorf("a channel's next post waits %v", wait)
	}
	if wait := b.take(methodPost, "C3", now); wait != 0 {
		t.Errorf("one channel holds up another for %v", wait)
	}
	b.close(methodPost, 30*time.Second)
	if wait := b.take(methodPost, "C4", now); wait < 29*time.Second {
		t.Errorf("Retry-After is not obeyed: %v", wait)
	}
}

func TestADeliveryToAPlaceThatIsGoneIsGivenUp(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	gone := sessions.Thread{Team: tw.seed.TeamID, Channel: "C0NOWHERE01", TS: "1.1"}
	if err := tw.engine.Tell(context.Background(), sessions.Notice{Key: "k", Thread: gone, Text: "hello"}); err != nil {
		t.Fatal(err)
	}
	tw.settled()
	var state string
	if err := tw.DB.Get(&state, `select state from outbox`); err != nil || state != "dead" {
		t.Errorf("the delivery is %s, %v", state, err)
	}
}

func TestAnotherReplicaTakesOverWhenTheFirstOneEnds(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, noSandboxes)
	tw.Run(tw.engine)
	stop := tw.startBot()
	second := tw.Engine(noSandboxes.engine)
	tw.Run(second)
	b, err := New(tw.Log, second, tw.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the second bot ended with %v", err)
		}
	}()
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	if n := tw.slack.Sockets(); n != 2 || b.connected.Load() != 0 {
		t.Errorf("%d sockets, %d of them the second replica's", n, b.connected.Load())
	}
	stop()
	sessionstest.Eventually(t, "the second replica hears", func() bool { return b.connected.Load() == 2 })
	tw.say(tw.bob, ts, "and go on")
	tw.see(ts, "1 ahead")
	if n := len(tw.ours(ts)); n != 2 {
		t.Errorf("%d messages for two prompts", n)
	}
}

func TestWhatIsUrgentIsPostedFirst(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, agent(saying("Urgent news.")))
	tw.Run(tw.engine)
	root := tw.say(tw.alice, "", "a thread")
	thread := sessions.Thread{Team: tw.seed.TeamID, Channel: tw.channel, TS: root}
	ctx := context.Background()
	const notices = 8
	for i := range notices {
		if err := tw.engine.Tell(ctx, sessions.Notice{Key: fmt.Sprint(i), Thread: thread, Text: "a notice"}); err != nil {
			t.Fatal(err)
		}
	}
	alice, err := tw.engine.SlackPerson(ctx, tw.seed.TeamID, tw.alice, "Alice Ahmed", "", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = tw.engine.Accept(ctx, sessions.Request{Key: "k", Source: sessions.FromSlack, Author: alice.ID, Thread: &thread,
		Text: "look at acme/greeter"})
	if err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the prompt is answered", func() bool { return tw.prompts(root)[0].State == sessions.Completed })
	tw.startBot()
	tw.settled()
	var order []string
	for _, m := range tw.ours(root) {
		order = append(order, m.Text)
	}
	// Up to a channel's burst is under way at once, in no order of its own.
	if at := slices.Index(order, "Urgent news."); at < 0 || at >= channelBurst || len(order) != notices+2 || !strings.HasPrefix(order[len(order)-1], "✅") {
		t.Errorf("the order is %q", order)
	}
}

func TestSlackIsLeftAloneForAsLongAsItAsks(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	const asked = 2 // seconds
	tw.slack.FailNext("chat.postMessage", 1, practice.Fault{Status: 429, RetryAfter: asked})
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "Queued")
	calls := tw.slack.Calls("chat.postMessage")
	if len(calls) != 2 {
		t.Fatalf("Slack was called %d times", len(calls))
	}
	if pause := calls[1].Time.Sub(calls[0].Time); pause < asked*time.Second {
		t.Errorf("Slack asked for %d s and was called again after %s", asked, pause)
	}
}
