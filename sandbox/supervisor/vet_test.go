package supervisor

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

// printScript is what the agent does when it is to print the secret: OpenCode
// keeps the output while the tool runs, before it can be scrubbed.
const printScript = "match say it\nstep\ncall bash\n\tdescription: Say it\n\tcommand: echo \"[$NPM_TOKEN]\"; sleep 1; echo said\n\nstep\nsay\n\tSaid.\n"

// isQuiet waits until the box says that it is quiet since the prompt.
func (p *plane) isQuiet(prompt string) {
	p.t.Helper()
	p.until("the box says that it is quiet", func() bool { return slices.Contains(p.quiet, prompt) })
}

// askVet asks the box to look for secrets.
func (p *plane) askVet(prompt string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.vet = prompt
	p.notify()
}

// vetted has the quiet box look for secrets and returns what it says.
func (p *plane) vetted(prompt string) sandbox.BodyKept {
	p.t.Helper()
	p.isQuiet(prompt)
	p.askVet(prompt)
	return body[sandbox.BodyKept](p.t, p.wait("what the files hold", func(e sandbox.Event) bool {
		return e.Kind == sandbox.KindKept && e.Prompt == prompt
	}))
}

// openCodes are the processes of the box that are OpenCode: not its children, which
// look like it until they run something else.
func (b *box) openCodes() []int {
	all := processes()
	var pids, children []int
	for _, pid := range descendants(all, b.cmd.Process.Pid) {
		data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if strings.Contains(string(data), "serve\x00--hostname") {
			pids, children = append(pids, pid), append(children, descendants(all, pid)...)
		}
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return slices.Contains(children, pid) })
}

func TestAQuietBoxIsCleanedBeforeASnapshot(t *testing.T) { // I7
	t.Parallel()
	p := newPlane(t, printScript, helloScript)
	b := p.newBox().withSecret()
	p.prompt("p1", "say it", "Alice")
	b.start()
	p.settled("p1")
	p.isQuiet("p1")
	if len(holding(t, b.config.Home, npmToken)) == 0 {
		t.Fatal("OpenCode has not kept the secret, so that there is nothing to clean")
	}
	before := b.openCodes()
	if kept := p.vetted("p1"); !kept.Clean() {
		t.Errorf("the files are said to hold %+v", kept)
	}
	if paths := holding(t, b.config.Home, npmToken); len(paths) > 0 {
		t.Errorf("the secret is in %q", paths)
	}
	if after := b.openCodes(); len(after) != 1 || slices.Equal(before, after) {
		t.Errorf("OpenCode ran as %v before and as %v after its database was cleaned", before, after)
	}
	p.prompt("p2", "hello", "Alice")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted {
		t.Errorf("the next request was settled as %+v", end)
	}
	p.checkRemembered("say it")
	p.isQuiet("p2")
	b.kill() // and is continued from its files as they are
	b.start()
	p.prompt("p3", "hello", "Alice")
	p.settled("p3")
	p.checkRemembered("say it")
}

func TestALookLeavesACleanOpenCodeAlone(t *testing.T) {
	t.Parallel()
	p := newPlane(t, helloScript)
	b := p.newBox().withSecret()
	p.prompt("p1", "hello", "Alice")
	b.start()
	p.settled("p1")
	p.isQuiet("p1")
	before := b.openCodes()
	if kept := p.vetted("p1"); !kept.Clean() {
		t.Errorf("the files are said to hold %+v", kept)
	}
	if after := b.openCodes(); len(before) != 1 || !slices.Equal(before, after) {
		t.Errorf("OpenCode ran as %v before and as %v after", before, after)
	}
}

func TestAQuietBoxSaysWhereASecretIs(t *testing.T) { // I7
	t.Parallel()
	p := newPlane(t, leakScript)
	b := p.newBox().withSecret()
	p.prompt("p1", "keep my token", "Alice")
	b.start()
	p.settled("p1")
	kept := p.vetted("p1")
	if !slices.ContainsFunc(kept.Places, func(k sandbox.KeptSecret) bool { return k.Secret == "NPM_TOKEN" && k.Path == "~/.npmrc" }) {
		t.Errorf("the secret is said to be in %+v", kept.Places)
	}
}

// A request that comes while the box looks for secrets does not wait for that, and
// nothing is said of files that are about to change.
func TestARequestDoesNotWaitForALook(t *testing.T) {
	t.Parallel()
	p := newPlane(t, printScript, helloScript)
	b := p.newBox().withSecret()
	p.prompt("p1", "say it", "Alice")
	b.start()
	p.settled("p1")
	p.isQuiet("p1")
	// It takes minutes to look through, and no room.
	huge := filepath.Join(b.checkout(), "ignored.txt")
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	before := b.openCodes()
	p.askVet("p1")
	b.eventually("an OpenCode with a clean database", time.Minute, func() bool {
		now := b.openCodes()
		return len(now) > 0 && !slices.Equal(before, now)
	})
	p.prompt("p2", "hello again", "Alice")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCompleted {
		t.Errorf("the request was settled as %+v", end)
	}
	p.isQuiet("p2")
	if said := of[sandbox.BodyKept](p, "p1", sandbox.KindKept); len(said) > 0 {
		t.Errorf("the look that was given up says %+v", said)
	}
}
