package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

const helloScript = `match hello
step
say
	Hello.
`

const rememberScript = `match what did i say|remember
step
say
	You said something before.
`

const workScript = `match work
step
call bash
	command: echo mine > mine.txt; echo written; touch .git/index.lock; sleep 700

step
say
	Done.
`

func TestASetupScriptThatHangsFailsThePromptAndNamesItself(t *testing.T) {
	t.Parallel()
	p := newPlane(t, helloScript)
	p.seedFile(".openinspect/setup.sh", "#!/bin/sh\necho waiting for the database\nsleep 500\n")
	p.welcome.SetupTimeout = 2 * time.Second
	b := p.newBox()
	p.prompt("p1", "hello", "Alice")
	b.start()
	end := p.settled("p1")
	for _, want := range []string{".openinspect/setup.sh", "did not end within 2s", "waiting for the database"} {
		if end.Outcome != sandbox.OutcomeFailed || !strings.Contains(end.Reason, want) {
			t.Errorf("%q is missing in %+v", want, end)
		}
	}
	b.gone("sleep 500", 30*time.Second)
}

func TestADeclaredServiceOutlivesPromptsAndSetupRunsOnce(t *testing.T) {
	t.Parallel()
	p := newPlane(t, "match hello\nstep\ncall bash\n\tcommand: sleep 611 >/dev/null 2>&1 & echo started\n\nstep\nsay\n\tHello.\n")
	p.seedFile(".openinspect/setup.sh", "echo setup >> ../hooks.txt\n")
	p.seedFile(".openinspect/start.sh", "echo start >> ../hooks.txt\nsleep 612 &\nsetsid sleep 613 >/dev/null 2>&1 &\n")
	b := p.newBox()
	p.prompt("p1", "hello", "Alice")
	b.start()
	p.settled("p1")
	p.prompt("p2", "hello", "Bob")
	p.settled("p2")
	running := strings.Join(b.below(), "\n")
	if !strings.Contains(running, "sleep 612") || !strings.Contains(running, "sleep 613") {
		t.Errorf("a declared service has ended; these run:\n%s", running)
	}
	b.kill()
	b.start()
	p.prompt("p3", "hello", "Alice")
	p.settled("p3")
	if hooks, _ := os.ReadFile(filepath.Join(b.config.Workspace, "hooks.txt")); string(hooks) != "setup\nstart\nstart\n" {
		t.Errorf("hooks ran as %q", hooks)
	}
}

func TestAParkedBoxContinuesTheConversation(t *testing.T) {
	t.Parallel()
	p := newPlane(t, helloScript, rememberScript)
	b := p.newBox()
	p.prompt("p1", "hello, I am the first prompt", "Alice")
	b.start()
	p.settled("p1")
	p.mu.Lock()
	p.park = "idle"
	p.notify()
	p.mu.Unlock()
	<-b.done
	if b.err != nil {
		t.Fatalf("the parked supervisor ended with %v", b.err)
	}
	p.mu.Lock()
	p.park = ""
	p.mu.Unlock()
	b.start()
	p.prompt("p2", "what did I say?", "Bob")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted {
		t.Fatalf("settled as %+v", end)
	}
	p.checkRemembered("hello, I am the first prompt")
}

func TestABoxThatWasKilledKeepsTheWorkForItsAuthor(t *testing.T) {
	t.Parallel()
	p := newPlane(t, helloScript, rememberScript, workScript)
	b := p.newBox()
	p.prompt("p0", "hello, I am the first prompt", "Alice")
	p.prompt("p1", "work", "Alice")
	b.start()
	p.printed("p1", "written")
	b.kill()
	// What a filesystem saved in the middle of a write may hold.
	if err := os.Truncate(filepath.Join(b.config.Home, database+"-wal"), 5000); err != nil {
		t.Fatal(err)
	}
	b.start()
	p.prompt("p2", "remember?", "Bob")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted {
		t.Fatalf("settled as %+v", end)
	}
	p.wait("the interrupted prompt's commit", func(e sandbox.Event) bool { return e.Kind == sandbox.KindCommit && e.Prompt == "p1" })
	c := of[sandbox.BodyCommit](p, "p1", sandbox.KindCommit)
	if len(c) != 1 || c[0].Author != "Alice" || c[0].Files != 1 {
		t.Errorf("the interrupted prompt's work was committed as %+v", c)
	}
	p.checkRemembered("hello, I am the first prompt")
}

func TestABoxThatWasCutOffWithoutItsHistoryBootsAndKeepsTheWork(t *testing.T) {
	t.Parallel()
	p := newPlane(t, workScript, twoScript)
	b := p.newBox()
	p.prompt("p1", "work", "Alice")
	b.start()
	p.printed("p1", "written")
	b.kill()
	if err := os.RemoveAll(filepath.Join(b.checkout(), ".git")); err != nil {
		t.Fatal(err)
	}
	b.start()
	p.prompt("p2", "make two", "Bob")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted || end.Files != 1 {
		t.Fatalf("settled as %+v", end)
	}
	if c := of[sandbox.BodyCommit](p, "p1", sandbox.KindCommit); len(c) != 1 || c[0].Author != "Alice" || c[0].Files != 1 {
		t.Errorf("the interrupted prompt's work was committed as %+v", c)
	}
}
