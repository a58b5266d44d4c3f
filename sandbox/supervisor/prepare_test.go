package supervisor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

// prepare makes an image's filesystem in the box, and returns how that ended and
// what was printed.
func (b *box) prepare(p *plane) (sandbox.Prepared, string) {
	b.t.Helper()
	b.config.Prepare = &sandbox.Preparation{
		Repository: p.welcome.Repository, RemoteURL: p.welcome.RemoteURL, Branch: p.welcome.BaseBranch,
		BotName: botName, BotEmail: botEmail, SetupTimeout: p.welcome.SetupTimeout,
	}
	b.start()
	<-b.done
	b.config.Prepare = nil
	var did sandbox.Prepared
	if err := json.Unmarshal(b.stdout.Bytes(), &did); err != nil || b.err != nil {
		b.t.Fatalf("the preparation printed %q: %v, %v", &b.stdout, err, b.err)
	}
	return did, b.stderr.String()
}

func TestASessionFromAnImageIsUpToDateAndNothingOfTheSetupIsCommitted(t *testing.T) {
	t.Parallel()
	p := newPlane(t, helloScript, twoScript)
	p.seedFile(".openinspect/setup.sh", "echo setup >> ../hooks.txt\necho changed >> greet.go\nmkdir 'my [deps]' && echo x > 'my [deps]/x.js'\nsleep 614 &\n")
	p.seedFile(".openinspect/warm.sh", "echo warm >> ../hooks.txt\necho cannot compile\nexit 3\n")
	b := p.newBox()
	did, log := b.prepare(p)
	if main := strings.TrimSpace(p.sh(p.remote(), "git rev-parse main")); did.Commit != main || did.Error != "" || !strings.Contains(did.Warning, "warm.sh failed (exit status 3)") {
		t.Errorf("the preparation of %s ended with %+v", main, did)
	}
	for _, want := range []string{"Cloning acme/greeter", "cannot compile", "M greet.go", "Ignoring my [deps]/"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if left := strings.Join(b.below(), "\n"); left != "" {
		t.Errorf("these run on: %s", left)
	}
	if status := p.sh(b.checkout(), "git status --porcelain"); status != "" {
		t.Errorf("the checkout is not clean: %s", status)
	}
	p.seedFile("later.txt", "after the image\n")
	p.prompt("p1", "make two", "Alice")
	b.start()
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || end.Files != 1 {
		t.Errorf("settled as %+v", end)
	}
	p.wait("the push", func(e sandbox.Event) bool { return e.Kind == sandbox.KindPush })
	if files := p.sh(p.remote(), "git diff --name-only main inspect/s1"); files != "two.txt\n" {
		t.Errorf("the session's branch differs from main by %q", files)
	}
	if _, err := os.Stat(filepath.Join(b.checkout(), "my [deps]", "x.js")); err != nil {
		t.Errorf("what the setup made: %v", err)
	}
	if hooks, _ := os.ReadFile(filepath.Join(b.config.Workspace, "hooks.txt")); string(hooks) != "setup\nwarm\n" {
		t.Errorf("hooks ran as %q", hooks)
	}
}

func TestASetupThatChangedSinceTheImageRunsAgain(t *testing.T) {
	t.Parallel()
	p := newPlane(t, helloScript)
	p.seedFile(".openinspect/setup.sh", "echo old >> ../hooks.txt\n")
	b := p.newBox()
	b.prepare(p)
	p.seedFile(".openinspect/setup.sh", "echo new >> ../hooks.txt\n")
	p.prompt("p1", "hello", "Alice")
	b.start()
	p.settled("p1")
	p.wait("the end of the setup", func(e sandbox.Event) bool {
		return e.Kind == sandbox.KindPhase && strings.Contains(string(e.Body), `"phase":"setup","state":"done"`)
	})
	if hooks, _ := os.ReadFile(filepath.Join(b.config.Workspace, "hooks.txt")); string(hooks) != "old\nnew\n" {
		t.Errorf("hooks ran as %q", hooks)
	}
}

func TestAnImageIsNotMadeWhenItsSetupFails(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	p.seedFile(".openinspect/setup.sh", "echo no such package\nsleep 615\n")
	p.welcome.SetupTimeout = 2 * time.Second
	b := p.newBox()
	did, log := b.prepare(p)
	if !strings.Contains(did.Error, ".openinspect/setup.sh did not end within 2s") || !strings.Contains(log, "no such package") {
		t.Errorf("the preparation ended with %+v and printed %s", did, log)
	}
	b.gone("sleep 615", 30*time.Second)
}
