package supervisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"openinspect/internal/practice/model"
	"openinspect/sandbox"
)

const jobScript = `match fix the greeting
step
say
	I will fix it.
call bash
	description: Fix the greeting
	command: sed -i s/helo/hello/ greet.go && echo fixed && echo data > new.txt && echo x > ignored.txt && env > /proc/self/cwd/../env.txt

step
call create_pull_request
	title: Fix the greeting
	body: It was misspelled.

step
say
	The greeting is fixed.
`

func TestTheMainJobEndsInACommitOfItsAuthorAndAPullRequest(t *testing.T) {
	t.Parallel()
	p := newPlane(t, jobScript)
	b := p.newBox()
	p.prompt("p1", "fix the greeting", "Alice")
	b.start()
	end := p.settled("p1")
	if end.Outcome != sandbox.OutcomeCompleted || end.Answer != "The greeting is fixed." || end.Files != 2 || end.Additions != 2 {
		t.Errorf("settled as %+v", end)
	}
	show := p.sh(p.remote(), "git log --format='%an <%ae> %cn%n%B' --name-only main..inspect/s1")
	for _, want := range []string{
		"Alice <1+alice@users.noreply.github.com> " + botName, "greet.go", "new.txt",
		"Session: https://inspect.example/s/s1", "Co-authored-by: " + botName + " <" + botEmail + ">",
	} {
		if !strings.Contains(show, want) {
			t.Errorf("the branch's log lacks %q:\n%s", want, show)
		}
	}
	if strings.Contains(show, "ignored.txt") {
		t.Errorf("an ignored file was committed:\n%s", show)
	}
	p.checkCall("p1", "create_pull_request", "Fix the greeting")
	env, err := os.ReadFile(filepath.Join(b.config.Workspace, "env.txt"))
	if err != nil || strings.Contains(string(env), testToken) || strings.Contains(strings.ToLower(string(env)), "malloc") || !strings.Contains(string(env), "HTTPS_PROXY=http://127.0.0.1:") {
		t.Errorf("the agent's environment is wrong (%v):\n%s", err, env)
	}
	if origin := p.sh(b.checkout(), "git remote get-url origin; cat .git/config"); !strings.Contains(origin, "https://github.com/acme/greeter.git") {
		t.Errorf("origin is %s", origin)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.tokens) != 1 || !p.tokens[testToken] {
		t.Errorf("the doors saw the tokens %v", p.tokens)
	}
	if len(p.tunnels) > 0 {
		t.Errorf("OpenCode asked the internet for %v", p.tunnels)
	}
}

// checkCall expects one call of a tool whose arguments name the title.
func (p *plane) checkCall(prompt, tool, title string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var args struct{ Title string }
	if len(p.calls) != 1 || json.Unmarshal(p.calls[0].Args, &args) != nil {
		p.t.Fatalf("calls: %+v", p.calls)
	}
	if c := p.calls[0]; c.Prompt != prompt || c.Tool != tool || args.Title != title {
		p.t.Errorf("call: %+v", c)
	}
}

// printed waits until a running tool of the prompt has printed the text.
func (p *plane) printed(prompt, text string) {
	p.t.Helper()
	p.until("the output "+text, func() bool {
		return slices.ContainsFunc(p.deltas, func(d sandbox.Delta) bool {
			return d.Prompt == prompt && d.Kind == sandbox.KindTool && strings.Contains(d.Text, text)
		})
	})
}

const authorsScript = `match make one
step
call bash
	command: echo one > one.txt; git add one.txt; git commit -q -m "add one"; echo more >> one.txt; git -c user.name=Eve -c user.email=eve@example.com commit -qam "by another" --no-verify --author="Mallory <m@example.com>"; echo left > left.txt; dd if=/dev/zero of=big.bin bs=1M count=6 2>/dev/null; (sleep 300; echo late > late.txt) >/dev/null 2>&1 & (setsid sleep 301 >/dev/null 2>&1 &) ; echo done

step
say
	One is there.
`

const twoScript = `match make two
step
call bash
	command: echo two > two.txt

step
say
	Two is there.
`

func TestNoAuthorGetsWhatAnotherOneLeft(t *testing.T) {
	t.Parallel()
	p := newPlane(t, authorsScript, twoScript)
	b := p.newBox()
	p.prompt("p1", "make one", "Alice")
	p.prompt("p2", "make two", "Bob")
	b.start()
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted {
		t.Fatalf("settled as %+v", end)
	}
	p.wait("the second push", func(e sandbox.Event) bool { return e.Kind == sandbox.KindPush && e.Prompt == "p2" })
	log := p.sh(p.remote(), "git log --reverse --format='%an|%s|%(trailers:key=Session,valueonly,separator=)' main..inspect/s1")
	const page = "https://inspect.example/s/s1"
	want := "Alice|add one|" + page + "\nAlice|by another|" + page + "\nAlice|make one|" + page + "\nBob|make two|" + page + "\n"
	if log != want {
		t.Errorf("the branch holds\n%swant\n%s", log, want)
	}
	commits := of[sandbox.BodyCommit](p, "p1", sandbox.KindCommit)
	if len(commits) != 3 || len(commits[2].Left) != 1 || commits[2].Left[0] != "big.bin" {
		t.Errorf("commits of the first prompt: %+v", commits)
	}
	if notes := of[sandbox.BodyNote](p, "p1", sandbox.KindNote); len(notes) > 0 {
		t.Errorf("people were told %+v", notes)
	}
	for _, line := range b.below() {
		if strings.Contains(line, "sleep 30") {
			t.Errorf("the first prompt's process still runs: %s", line)
		}
	}
}

const longScript = `match take long
step
call bash
	description: Sleep
	command: trap '' TERM; echo begun; touch began.txt; (setsid sleep 400 >/dev/null 2>&1 &); sleep 401 | sleep 402

step
say
	Slept well.
`

func TestStopSettlesAtOnceAndEndsTheWholeProcessTree(t *testing.T) {
	t.Parallel()
	p := newPlane(t, longScript, twoScript)
	b := p.newBox()
	p.prompt("p1", "take long", "Alice")
	p.prompt("p2", "make two", "Bob")
	b.start()
	p.printed("p1", "begun")
	p.stop("p1")
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeStopped {
		t.Errorf("settled as %+v", end)
	}
	b.gone("sleep 40", time.Minute) // BenchmarkStop has the figures
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted || end.Answer != "Two is there." {
		t.Errorf("the queued prompt settled as %+v", end)
	}
	if c := of[sandbox.BodyCommit](p, "p1", sandbox.KindCommit); len(c) != 1 || c[0].Author != "Alice" {
		t.Errorf("what the stopped prompt left was committed as %+v", c)
	}
}

func TestStopBeforeTheAgentsFirstWordLeavesNothingBrokenBehind(t *testing.T) {
	t.Parallel()
	p := newPlane(t, longScript, twoScript)
	b := p.newBox()
	p.prompt("p1", "take long", "Alice")
	p.prompt("p2", "make two", "Bob")
	b.start()
	p.wait("p1 accepted", func(e sandbox.Event) bool { return e.Prompt == "p1" && e.Kind == sandbox.KindAccepted })
	p.stop("p1")
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeStopped {
		t.Errorf("settled as %+v", end)
	}
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted || end.Answer != "Two is there." {
		t.Errorf("the queued prompt settled as %+v", end)
	}
}

func TestAPromptFailsWithANamedReasonWhenTheAgentDiesAndTheNextOneWorks(t *testing.T) {
	t.Parallel()
	p := newPlane(t, longScript, twoScript)
	b := p.newBox()
	p.prompt("p1", "take long", "Alice")
	p.prompt("p2", "make two", "Bob")
	b.start()
	p.printed("p1", "begun")
	for _, pid := range descendants(processes(), b.cmd.Process.Pid) {
		if exe, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); filepath.Base(exe) == "opencode" {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeFailed || !strings.Contains(end.Reason, "agent's program ended unexpectedly") {
		t.Errorf("settled as %+v", end)
	}
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted {
		t.Errorf("the next prompt settled as %+v", end)
	}
}

func TestAModelThatDoesNotWorkFailsThePromptWithItsReason(t *testing.T) {
	t.Parallel()
	p := newPlane(t, "match hello\nstep\nsay\n\tHello.\n")
	p.welcome.ModelSilence = 5 * time.Second
	b := p.newBox()
	b.start()
	for i, c := range []struct {
		fault model.FaultKind
		want  string
	}{
		{model.Unauthorized, "refused the key (401)"},
		{model.Unavailable, "did not answer for 5s; its provider said"},
		{model.Hang, "did not answer for 5s"},
		{model.Stall, "did not answer for 5s"},
		{"", ""},
	} {
		p.model.Clear()
		if c.fault != "" {
			p.model.Inject(model.Fault{Kind: c.fault})
		}
		ok := func(end sandbox.BodySettled) bool {
			if c.want == "" {
				return end.Outcome == sandbox.OutcomeCompleted
			}
			return strings.Contains(end.Reason, c.want)
		}
		// A busy machine may be too slow for what the model says to arrive in time.
		const tries = 5
		for try := 1; ; try++ {
			id := fmt.Sprintf("p%d-%d", i, try)
			p.prompt(id, "hello", "Alice")
			end := p.settled(id)
			if ok(end) {
				if notes := of[sandbox.BodyNote](p, id, sandbox.KindRetry); c.fault == model.Unavailable && len(notes) == 0 {
					t.Error("nothing told of the retries")
				}
				break
			}
			if try == tries || !strings.HasSuffix(end.Reason, "did not answer for 5s.") {
				t.Fatalf("%s: settled as %+v", c.fault, end)
			}
		}
	}
}
