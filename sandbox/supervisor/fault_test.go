package supervisor

import (
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

const stepsScript = `match steps
step
call bash
	command: for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.3; done

step
say
	First text.
call bash
	command: for i in 1 2 3 4 5 6 7 8; do echo again $i; sleep 0.3; done

step
say
	All steps are done.
`

func TestABridgeCutInTheMiddleOfAPromptIsNotNoticed(t *testing.T) {
	t.Parallel()
	p := newPlane(t, stepsScript)
	b := p.newBox()
	p.prompt("p1", "do the steps", "Alice")
	b.start()
	for _, text := range []string{"line 2", "line 6", "again 3", "again 7"} {
		p.printed("p1", text)
		p.cut()
	}
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || end.Answer != "All steps are done." {
		t.Errorf("settled as %+v", end)
	}
	seen := map[string]int{}
	for _, tool := range of[sandbox.BodyTool](p, "p1", sandbox.KindTool) {
		seen[tool.Part+" "+tool.State]++
		if tool.State == "completed" && strings.Count(tool.Output, " 8") != 1 {
			t.Errorf("a tool printed %q", tool.Output)
		}
	}
	for what, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", what, n)
		}
	}
	if texts := of[sandbox.BodyText](p, "p1", sandbox.KindText); len(seen) != 4 || len(texts) != 2 {
		t.Errorf("tools %v, texts %v", seen, texts)
	}
}

func TestAPromptThatTakesTooLongFailsAndAQueuedOneCanBeStopped(t *testing.T) {
	t.Parallel()
	p := newPlane(t, longScript, twoScript)
	p.welcome.PromptTimeout = 8 * time.Second
	b := p.newBox()
	p.prompt("p1", "take long", "Alice")
	p.prompt("p2", "make two", "Bob")
	p.stop("p2")
	b.start()
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeStopped {
		t.Errorf("the queued prompt settled as %+v", end)
	}
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeFailed || !strings.Contains(end.Reason, "longer than 8s") {
		t.Errorf("settled as %+v", end)
	}
}

func TestTheAgentWorksWithAModelOfTheAnthropicProtocol(t *testing.T) {
	t.Parallel()
	p := newPlane(t, jobScript)
	p.welcome.Protocol, p.welcome.Model = "anthropic", "anthropic/claude-scripted"
	b := p.newBox()
	p.prompt("p1", "fix the greeting", "Alice")
	b.start()
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || end.Answer != "The greeting is fixed." {
		t.Errorf("settled as %+v", end)
	}
}

func TestARefusedPushIsToldInTheRemotesWords(t *testing.T) {
	t.Parallel()
	p := newPlane(t, twoScript)
	p.write(p.remote(), "hooks/update", "#!/bin/sh\nexit 1\n")
	b := p.newBox()
	p.prompt("p1", "make two", "Alice")
	b.start()
	push := body[sandbox.BodyPush](t, p.wait("the push", func(e sandbox.Event) bool { return e.Kind == sandbox.KindPush }))
	if !strings.Contains(push.Error, "hook declined") {
		t.Errorf("push: %+v", push)
	}
}

func TestABoxOfAnEmptyRepositoryMakesItsFirstCommit(t *testing.T) {
	t.Parallel()
	p := newPlane(t, twoScript)
	p.sh(p.dir, "rm -rf remotes && git init -q --bare -b main "+p.remote())
	b := p.newBox()
	p.prompt("p1", "make two", "Alice")
	b.start()
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || end.Files != 1 {
		t.Errorf("settled as %+v", end)
	}
	push := body[sandbox.BodyPush](t, p.wait("the push", func(e sandbox.Event) bool { return e.Kind == sandbox.KindPush }))
	if push.Error != "" {
		t.Error(push.Error)
	}
}
