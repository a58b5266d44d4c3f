package supervisor

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"openinspect/internal/practice/model"
	"openinspect/sandbox"
)

// goOnScript is what the agent does when it is told to go on.
const goOnScript = `match go on where you stopped
step
call bash
	command: cat began.txt && echo more > more.txt

step
say
	It is finished.
`

// parkBox has the box's boot end, with what runs carried over.
func (p *plane) parkBox(b *box) {
	p.t.Helper()
	p.mu.Lock()
	p.park, p.carry = "its longest lifetime is nearly over", true
	p.notify()
	p.mu.Unlock()
	select {
	case <-b.done:
	case <-time.After(time.Minute):
		p.t.Fatalf("the supervisor does not park; the log is:\n%s", p.log())
	}
	if b.err != nil {
		p.t.Fatalf("the parked supervisor ended with %v", b.err)
	}
	p.mu.Lock()
	p.park, p.carry = "", false
	p.mu.Unlock()
}

func TestARequestIsStoppedInOneBoxAndGoesOnInTheNext(t *testing.T) { // I5, I11
	t.Parallel()
	p := newPlane(t, goOnScript, longScript)
	b := p.newBox()
	p.prompt("p1", "take long", "Alice")
	b.start()
	p.printed("p1", "begun")
	p.parkBox(b)
	end := p.settled("p1")
	if end.Outcome != sandbox.OutcomeCarried || !end.Begun || end.Since == "" {
		t.Fatalf("the first box settled it as %+v", end)
	}
	if c := of[sandbox.BodyCommit](p, "p1", sandbox.KindCommit); len(c) != 1 || c[0].Author != "Alice" || c[0].Subject != "take long" {
		t.Errorf("what it had done was committed as %+v", c)
	}
	b.start()
	p.mu.Lock()
	p.prompts[0].Text, p.prompts[0].Subject, p.prompts[0].Since = "go on where you stopped: take long", "take long", end.Since
	p.owner["p1"] = ""
	p.notify()
	p.mu.Unlock()
	last := body[sandbox.BodySettled](t, p.wait("its end in the next box", func(e sandbox.Event) bool {
		return e.Kind == sandbox.KindSettled && e.Prompt == "p1" && !strings.Contains(string(e.Body), sandbox.OutcomeCarried)
	}))
	if last.Outcome != sandbox.OutcomeCompleted || last.Answer != "It is finished." || last.Files != 2 {
		t.Errorf("the next box settled it as %+v, want both boxes' files counted", last)
	}
	p.until("the push of both halves", func() bool {
		pushes := 0
		for _, e := range p.all {
			if e.Kind == sandbox.KindPush {
				pushes++
			}
		}
		return pushes == 2
	})
	log := p.sh(p.remote(), "git log --reverse --format='%an|%s' main..inspect/s1")
	if want := "Alice|take long\nAlice|take long\n"; log != want {
		t.Errorf("the branch holds\n%swant\n%s", log, want)
	}
}

func TestARequestThatHasNotBegunIsCarriedOverAsItIs(t *testing.T) {
	t.Parallel()
	p := newPlane(t, longScript, twoScript)
	b := p.newBox()
	p.prompt("p1", "take long", "Alice")
	p.prompt("p2", "make two", "Bob")
	b.start()
	p.printed("p1", "begun")
	p.parkBox(b)
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeCarried || end.Begun {
		t.Errorf("the waiting request was settled as %+v", end)
	}
}

// A box is copied as it is while it is quiet, and lost afterwards.
func TestACopyOfAQuietBoxHasEverythingOfTheLastRequest(t *testing.T) {
	t.Parallel()
	p := newPlane(t, helloScript, rememberScript, twoScript)
	b := p.newBox()
	p.prompt("p1", "hello, I am the first prompt", "Alice")
	p.prompt("p2", "make two", "Alice")
	b.start()
	p.until("the box says that it is quiet", func() bool { return slices.Contains(p.quiet, "p2") })
	if status := p.sh(b.checkout(), "git status --porcelain"); status != "" {
		t.Errorf("the box is quiet with uncommitted work: %s", status)
	}
	p.until("the push before it", func() bool {
		return slices.ContainsFunc(p.all, func(e sandbox.Event) bool { return e.Kind == sandbox.KindPush && e.Prompt == "p2" })
	})
	dir := filepath.Dir(b.config.Home)
	p.sh(dir, "cp -a home home.saved && cp -a workspace workspace.saved")
	// What a copy in the middle of a write may hold.
	if err := os.Truncate(filepath.Join(dir, "home.saved", database+"-wal"), 5000); err != nil {
		t.Fatal(err)
	}
	p.prompt("p3", "hello, this is forgotten", "Alice")
	p.settled("p3")
	b.kill()
	p.sh(dir, "chmod -R u+w home; rm -rf home workspace && mv home.saved home && mv workspace.saved workspace && touch workspace/greeter/.git/index.lock")
	b.start()
	p.prompt("p4", "remember?", "Bob")
	if end := p.settled("p4"); end.Outcome != sandbox.OutcomeCompleted {
		t.Fatalf("settled as %+v", end)
	}
	p.checkRemembered("hello, I am the first prompt")
}

// A tool that says nothing for longer than a model may is at work all the same (I9).
func TestAToolThatSaysNothingForLongIsAlive(t *testing.T) {
	t.Parallel()
	p := newPlane(t, "match sleep\nstep\ncall bash\n\tcommand: sleep 20; echo slept\n\nstep\nsay\n\tSlept well.\n", longScript)
	p.welcome.ModelSilence = 15 * time.Second
	b := p.newBox()
	b.start()
	p.prompt("p1", "sleep", "Alice")
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || end.Answer != "Slept well." {
		t.Errorf("settled as %+v", end)
	}
	p.prompt("p2", "take long", "Alice")
	p.printed("p2", "begun")
	p.stop("p2")
	if end := p.settled("p2"); end.Outcome != sandbox.OutcomeStopped {
		t.Errorf("settled as %+v", end)
	}
	b.gone("sleep 40", 20*time.Second)
}

// A call that the model writes for longer than it may say nothing is a sign of life.
func TestAModelThatWritesALongCallIsAlive(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	long := strings.Repeat("a long line of the file ", 11)
	slow, err := model.New(model.Options{Key: modelKey, Log: slog.New(slog.DiscardHandler), Pace: 600 * time.Millisecond,
		Scripts: fstest.MapFS{"00.txt": {Data: []byte("match write it\nstep\ncall bash\n\tcommand: echo '" + long + "' >it\n\nstep\nsay\n\tWritten.\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	p.model = slow
	p.welcome.ModelSilence = 6 * time.Second
	p.newBox().start()
	p.prompt("p1", "write it", "Alice")
	if end := p.settled("p1"); end.Outcome != sandbox.OutcomeCompleted || end.Answer != "Written." {
		t.Errorf("settled as %+v", end)
	}
}
