package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"openinspect/sandbox"
)

// assign gives the box the session that the plane welcomes to as a rule.
func (p *plane) assign(w sandbox.Welcome) {
	p.mu.Lock()
	p.welcome = w
	p.mu.Unlock()
	p.cut()
}

// spare has the plane welcome to no session, until assign is called with what is returned.
func (p *plane) spare() sandbox.Welcome {
	w := p.welcome
	p.welcome.Session, p.welcome.PageURL, p.welcome.Branch = "", "", ""
	return w
}

// readySpare waits until a spare waits for its session.
func (p *plane) readySpare() {
	p.t.Helper()
	p.wait("a spare", func(e sandbox.Event) bool {
		return e.Kind == sandbox.KindPhase && strings.Contains(string(e.Body), `"phase":"spare","state":"done"`)
	})
}

func TestASpareIsGivenASessionAndWorksAsAnyOther(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"openai", "anthropic"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t, jobScript)
			p.seedFile(".openinspect/setup.sh", "echo setup >> ../hooks.txt\n")
			p.welcome.Protocol = protocol
			w := p.spare()
			b := p.newBox()
			b.start()
			p.readySpare()
			if n := p.modelRequests(); n != 0 {
				t.Errorf("getting ready asked the model %d times", n)
			}
			p.seedFile("later.txt", "pushed while the spare waited\n")
			p.prompt("p1", "fix the greeting", "Alice")
			p.assign(w)
			if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted {
				t.Fatalf("settled as %+v", end)
			}
			show := p.sh(p.remote(), "git log --format='%an%n%B' --name-only main..inspect/s1; git show inspect/s1:later.txt")
			for _, want := range []string{"Alice", "greet.go", "Session: https://inspect.example/s/s1", "pushed while the spare waited"} {
				if !strings.Contains(show, want) {
					t.Errorf("the branch lacks %q:\n%s", want, show)
				}
			}
			p.mu.Lock()
			asked := p.asked
			p.mu.Unlock()
			if strings.Contains(asked, "Say that you are ready") || strings.Contains(asked, "Ready.") {
				t.Errorf("the conversation holds the throw-away prompt:\n%.2000s", asked)
			}
			hooks, err := os.ReadFile(filepath.Join(b.config.Workspace, "hooks.txt"))
			if err != nil || strings.TrimSpace(string(hooks)) != "setup" {
				t.Errorf("the setup script left %q (%v)", hooks, err)
			}
		})
	}
}

func TestASpareThatIsTakenWhileItBootsIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := newPlane(t, jobScript)
	p.seedFile(".openinspect/setup.sh", "while [ ! -e ../go ]; do sleep 0.02; done\n")
	w := p.spare()
	b := p.newBox()
	p.prompt("p1", "fix the greeting", "Alice")
	b.start()
	p.wait("the setup", func(e sandbox.Event) bool {
		return e.Kind == sandbox.KindPhase && strings.Contains(string(e.Body), `"phase":"setup","state":"running"`)
	})
	p.assign(w)
	if err := os.WriteFile(filepath.Join(b.config.Workspace, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted {
		t.Errorf("settled as %+v", end)
	}
}

func TestASpareWhoseAgentDiedStartsAnotherForItsSession(t *testing.T) {
	t.Parallel()
	p := newPlane(t, jobScript)
	w := p.spare()
	b := p.newBox()
	b.start()
	p.readySpare()
	for _, pid := range descendants(processes(), b.cmd.Process.Pid) {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(line), "opencode") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	p.prompt("p1", "fix the greeting", "Alice")
	p.assign(w) // while the box may not know of the death yet
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted {
		t.Errorf("settled as %+v", end)
	}
}

// BenchmarkPromptInASpare measures from the moment a waiting box is given its
// session, with a prompt, to OpenCode's first request to the model.
func BenchmarkPromptInASpare(b *testing.B) {
	var toModel []time.Duration
	for b.Loop() {
		p := newPlane(b, helloScript)
		w := p.spare()
		box := p.newBox()
		box.start()
		p.readySpare()
		began := time.Now()
		p.prompt("p", "hello", "Alice")
		p.assign(w)
		p.until("the model request", func() bool { return p.requests > 0 })
		toModel = append(toModel, time.Since(began))
		p.settled("p")
		box.kill()
	}
	b.ReportMetric(percentile(toModel, 0.5), "p50-ms-to-model")
}
