package supervisor

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

const readThenWriteScript = `match read and write
step
call read
	filePath: greet.go

step
call write
	filePath: written.txt
	content: by the agent

step
call bash
	command: cat later.txt

step
say
	Read and written.
`

// imageBox is a box that begins from an image, with git held from now on.
func imageBox(p *plane) (b *box, release func(denied bool)) {
	p.t.Helper()
	b = p.newBox()
	b.prepare(p)
	p.seedFile("later.txt", "after the image\n")
	return b, p.holdGit()
}

// tool waits until a prompt's call of a tool is in a state.
func (p *plane) tool(prompt, tool, state string) sandbox.BodyTool {
	p.t.Helper()
	return body[sandbox.BodyTool](p.t, p.wait(tool+" "+state, func(e sandbox.Event) bool {
		return e.Kind == sandbox.KindTool && e.Prompt == prompt && strings.Contains(string(e.Body), `"tool":"`+tool+`","state":"`+state+`"`)
	}))
}

func TestTheAgentReadsAtOnceAndWritesWhenTheRepositoryIsUpToDate(t *testing.T) {
	t.Parallel()
	p := newPlane(t, readThenWriteScript)
	b, release := imageBox(p)
	p.prompt("p1", "read and write", "Alice")
	b.start()
	if read := p.tool("p1", "read", "completed"); !strings.Contains(read.Output, "helo") {
		t.Errorf("the agent read %q", read.Output)
	}
	p.tool("p1", "write", "running")
	p.until("the fetch waits", func() bool { return p.waits > 0 })
	if _, err := os.Stat(filepath.Join(b.checkout(), "written.txt")); err == nil {
		t.Error("the agent wrote before the repository was up to date")
	}
	release(false)
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || end.Files != 1 {
		t.Errorf("settled as %+v", end)
	}
	if cat := p.tool("p1", "bash", "completed"); !strings.Contains(cat.Output, "after the image") {
		t.Errorf("the agent does not see the newest commit: %q", cat.Output)
	}
	p.wait("the push", func(e sandbox.Event) bool { return e.Kind == sandbox.KindPush })
	if files := p.sh(p.remote(), "git diff --name-only main inspect/s1"); files != "written.txt\n" {
		t.Errorf("the session's branch differs from main by %q", files)
	}
}

func TestAStopWhileAWriteWaitsLeavesNothingBehind(t *testing.T) { // I12
	t.Parallel()
	p := newPlane(t, readThenWriteScript, helloScript)
	b, release := imageBox(p)
	p.prompt("p1", "read and write", "Alice")
	b.start()
	p.tool("p1", "write", "running")
	p.stop("p1")
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeStopped {
		t.Errorf("settled as %+v", end)
	}
	release(false)
	p.prompt("p2", "hello", "Bob")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted || end.Files != 0 {
		t.Errorf("the next prompt settled as %+v", end)
	}
	if _, err := os.Stat(filepath.Join(b.checkout(), "written.txt")); err == nil {
		t.Error("the write was done after the stop")
	}
}

func TestAPromptThatReadsFailsWithTheReasonWhenTheRepositoryCannotBeReached(t *testing.T) { // I3
	t.Parallel()
	p := newPlane(t, readThenWriteScript, helloScript)
	b, release := imageBox(p)
	p.prompt("p1", "read and write", "Alice")
	b.start()
	p.tool("p1", "write", "running")
	release(true)
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeFailed || !strings.Contains(end.Reason, "Git fetch") {
		t.Errorf("settled as %+v", end)
	}
	p.prompt("p2", "hello", "Bob")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeFailed || !strings.Contains(end.Reason, "Git fetch") {
		t.Errorf("the next prompt settled as %+v", end)
	}
	if _, err := os.Stat(filepath.Join(b.checkout(), "written.txt")); err == nil {
		t.Error("the agent wrote into a repository that is not up to date")
	}
}

func TestABoxParksInOrderWhileItsRepositoryIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	p := newPlane(t, readThenWriteScript)
	b, _ := imageBox(p)
	p.prompt("p1", "read and write", "Alice")
	b.start()
	p.tool("p1", "write", "running")
	p.mu.Lock()
	p.park = "idle"
	p.notify()
	p.mu.Unlock()
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeFailed || !strings.Contains(end.Reason, "had to end") {
		t.Errorf("settled as %+v", end)
	}
	select {
	case <-b.done:
	case <-time.After(30 * time.Second):
		t.Fatal("the box does not end")
	}
	if b.err != nil {
		t.Errorf("the parked supervisor ended with %v", b.err)
	}
}

// holdGit has git's requests wait until release.
func (p *plane) holdGit() (release func(denied bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := make(chan struct{})
	p.held = held
	release = func(denied bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.held != nil {
			close(held)
			p.held, p.denied = nil, denied
		}
	}
	p.t.Cleanup(func() { release(true) })
	return release
}

// passes waits where git's requests are held, and says whether one may go on.
func (p *plane) passes(r *http.Request) bool {
	p.mu.Lock()
	held := p.held
	if held != nil {
		p.waits++
		p.notify()
	}
	p.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.denied
}

// A stop and the end of the sync may come at the same moment.
func TestAPromptThatWasStoppedAsTheRepositoryBecameReadySpoilsNoLaterOne(t *testing.T) { // I12
	t.Parallel()
	bridge, err := sandbox.NewBridge(sandbox.BridgeConfig{Control: "http://127.0.0.1:1", SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer bridge.Close()
	s := &supervisor{cfg: Config{Log: slog.New(slog.DiscardHandler)}, state: t.TempDir(), repo: newGitRig(t).repo,
		gate: gate{opened: make(chan struct{})}}
	early := newTurn(sandbox.Prompt{ID: "p1"}, bridge)
	if err := s.enter(t.Context(), early); err != nil {
		t.Fatal(err)
	}
	early.settle(sandbox.BodySettled{Outcome: sandbox.OutcomeStopped})
	s.openGate(t.Context(), nil)
	s.leave(early, true)
	next := newTurn(sandbox.Prompt{ID: "p2"}, bridge)
	if err := s.enter(t.Context(), next); err != nil || !next.hasBegun() || early.hasBegun() {
		t.Errorf("the next prompt cannot begin: %v", err)
	}
}
