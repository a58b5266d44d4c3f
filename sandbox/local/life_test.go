package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"openinspect/sandbox"
)

// eventually polls what a box brings about by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waiting in vain: %s", what)
		}
	}
}

func TestAProgramThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	for script, want := range map[string]string{
		"echo bad flag >&2; exit 3": "bad flag",
		"exit 3":                    "exit status 3",
		"kill -SEGV $$":             "segmentation fault",
	} {
		_, err := p.Start(t.Context(), sandbox.Spec{Name: "test", Command: []string{"sh", "-c", script}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", script, err, want)
		}
	}
	_, err := p.Start(t.Context(), sandbox.Spec{Name: "test", Command: []string{"no-such-program"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a program that does not exist: %v", err)
	}
	if err := p.emptyTrash(); err != nil {
		t.Error(err)
	}
	wantNothing(t, p)
}

func TestADeadBoxSaysWhy(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p, func(s *sandbox.Spec) {
		s.Command = []string{"sh", "-c", "until [ -e stop ]; do sleep 0.01; done; echo my last words; exit 5"}
	})
	sh(t, b, "sleep 600 >/dev/null 2>&1 &") // does not hold it
	if err := b.WriteFile(t.Context(), sandbox.Home+"/stop", strings.NewReader("")); err != nil {
		t.Fatalf("telling it to stop: %v", err)
	}
	eventually(t, "the end of the box", func() bool { return !b.record.Keeper.alive() })
	_, err := p.Attach(t.Context(), b.ID())
	for _, want := range []string{"my last words", "exit status 5"} {
		if !errors.Is(err, sandbox.ErrGone) || !strings.Contains(err.Error(), want) {
			t.Errorf("attaching: got %v, want %q in it", err, want)
		}
	}
	if _, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "last words") {
		t.Errorf("a command: %v", err)
	}
}

// TestAParkedFilesystemSurvivesTheDeathOfItsBox is a reboot of the machine
// as a session sees it.
func TestAParkedFilesystemSurvivesTheDeathOfItsBox(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p)
	sh(t, b, "echo parked >/workspace/file")
	ref, err := b.Park(t.Context())
	if err != nil {
		t.Fatalf("parking: %v", err)
	}
	for _, how := range []string{"found dead by Start", "found dead by Attach", "found dead by New"} {
		b := start(t, p, func(s *sandbox.Spec) { s.From = ref })
		sh(t, b, `echo "$1" >>/workspace/file`, how)
		if _, err := p.Start(t.Context(), sandbox.Spec{Name: "second", From: ref, Command: []string{"true"}}); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("starting from what is in use: %v", err)
		}
		if err := b.record.Keeper.kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		switch how {
		case "found dead by Attach":
			if _, err := p.Attach(t.Context(), b.ID()); !errors.Is(err, sandbox.ErrGone) {
				t.Errorf("attaching: %v", err)
			}
		case "found dead by New":
			if _, err := New(t.Context(), Options{Dir: p.dir}); err != nil {
				t.Error(err)
			}
		}
	}
	last := start(t, p, func(s *sandbox.Spec) { s.From = ref })
	want := "parked\nfound dead by Start\nfound dead by Attach\nfound dead by New"
	if out, _ := sh(t, last, "cat /workspace/file"); out != want {
		t.Errorf("the file holds %q, want %q", out, want)
	}
	// Parked again, it is found by its old name too, until it is deleted.
	again, err := last.Park(t.Context())
	if err != nil {
		t.Fatalf("parking again: %v", err)
	}
	old := start(t, p, func(s *sandbox.Spec) { s.From = ref })
	if out, _ := sh(t, old, "cat /workspace/file"); out != want {
		t.Errorf("by its old name the file holds %q, want %q", out, want)
	}
	if err := p.Delete(t.Context(), again); err != nil {
		t.Errorf("deleting: %v", err)
	}
	if err := old.record.Keeper.kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = p.Start(t.Context(), sandbox.Spec{Name: "third", From: again, Command: []string{"true"}})
	if !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("starting from what was deleted while it was in use: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(p.dir, "saved")); err != nil || len(left) > 0 {
		t.Errorf("left in saved: %v, %v", left, err)
	}
}

func TestParkingKeepsTheFilesystemFromWhoeverTidies(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	ctx, stop := context.WithCancel(t.Context())
	tidied := make(chan error)
	go func() {
		var err error
		for err == nil && ctx.Err() == nil {
			err = p.tidy(context.WithoutCancel(ctx))
		}
		tidied <- err
	}()
	b := start(t, p)
	for i := range 10 {
		sh(t, b, "echo $1 >>/workspace/file", strconv.Itoa(i))
		ref, err := b.Park(t.Context())
		if err != nil {
			t.Fatalf("parking: %v", err)
		}
		b = start(t, p, func(s *sandbox.Spec) { s.From = ref })
	}
	stop()
	if err := <-tidied; err != nil {
		t.Error(err)
	}
	if out, _ := sh(t, b, "tr -d '\\n' </workspace/file"); out != "0123456789" {
		t.Errorf("the file holds %q", out)
	}
}

func TestAParkedFilesystemSurvivesTheDeathOfWhoeverParksIt(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p)
	sh(t, b, "echo work >/workspace/file")
	dead := process{PID: os.Getpid(), Start: 1, Boot: bootID()}
	if err := p.updateRecord(t.Context(), b.ID(), func(r *record) { r.Parker = &dead }); err != nil {
		t.Fatal(err)
	}
	if err := b.record.Keeper.kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ref, err := p.Salvage(t.Context(), b.ID())
	if err != nil {
		t.Fatalf("salvaging: %v", err)
	}
	next := start(t, p, func(s *sandbox.Spec) { s.From = ref })
	if out, _ := sh(t, next, "cat /workspace/file"); out != "work" {
		t.Errorf("the file holds %q", out)
	}
}

func TestAFailedStartGivesTheParkedFilesystemBack(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p)
	sh(t, b, "echo precious >/workspace/file")
	ref, err := b.Park(t.Context())
	if err != nil {
		t.Fatalf("parking: %v", err)
	}
	if _, err := p.Start(t.Context(), sandbox.Spec{Name: "fails", From: ref, Command: []string{"false"}}); err == nil {
		t.Fatal("false did not fail")
	}
	b = start(t, p, func(s *sandbox.Spec) { s.From = ref })
	if out, _ := sh(t, b, "cat /workspace/file"); out != "precious" {
		t.Errorf("the file holds %q", out)
	}
}

func TestAProgramThatIgnoresParkingIsEndedAnyway(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p, func(s *sandbox.Spec) {
		s.Command = []string{"sh", "-c", "trap '' TERM; touch ready; while :; do sleep 0.05; done"}
	})
	sh(t, b, "until [ -e ready ]; do sleep 0.01; done")
	if _, err := b.keep(t.Context(), newRef(kindParked), 200*time.Millisecond); err != nil {
		t.Errorf("parking: %v", err)
	}
	if b.record.Keeper.alive() {
		t.Error("the box lives on")
	}
}

func TestALogKeepsItsEndAndStaysSmall(t *testing.T) {
	t.Parallel()
	b := start(t, open(t, Options{}), func(s *sandbox.Spec) {
		s.Command = []string{"sh", "-c", "seq 1000000; echo the end; exec sleep 600"}
	})
	eventually(t, "the end of the output", func() bool { return strings.HasSuffix(logTail(b.dir()), "the end") })
	info, err := os.Stat(filepath.Join(b.dir(), "log"))
	if err != nil || info.Size() > maxLog {
		t.Errorf("the log is %d bytes, %v", info.Size(), err)
	}
}

func TestABoxThatTakesTooMuchMemoryLosesItsLargestProcess(t *testing.T) {
	t.Parallel()
	b := start(t, open(t, Options{}), func(s *sandbox.Spec) { s.MemMiB = 128 })
	out, exit := sh(t, b, `perl -e '$x = "x" x (300 << 20); print "allocated\n"; sleep 600'`)
	if exit != 128+int(syscall.SIGKILL) {
		t.Errorf("the process ended with %d and printed %q", exit, out)
	}
	if out, _ := sh(t, b, "df --output=size -B1M /tmp /run /dev/shm | tail -n +2 | tr -d '\\n'"); len(strings.Fields(out)) != 3 {
		t.Errorf("files in memory: %q", out)
	}
	if tail := logTail(b.dir()); !strings.Contains(tail, "killing the largest process, perl") {
		t.Errorf("the log says %q", tail)
	}
}

func TestMemoryAndDiskAreMeasured(t *testing.T) {
	t.Parallel()
	b := start(t, open(t, Options{}))
	before, err := b.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sh(t, b, `head -c 20M /dev/urandom >/tmp/memory; head -c 10M /dev/urandom >/workspace/disk; ln /workspace/disk /workspace/again; sync`)
	after, err := b.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := after.Memory - before.Memory; got < 19<<20 || got > 40<<20 {
		t.Errorf("20 MiB in memory count as %d bytes", got)
	}
	if got := after.Disk - before.Disk; got < 10<<20 || got > 11<<20 {
		t.Errorf("10 MiB on disk count as %d bytes", got)
	}
}

// echo sends back what it reads, in both directions at once, and goodbye at the end.
const echo = `use IO::Socket::INET; my $l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => 9000) or die $!;
while (my $c = $l->accept) { while (sysread $c, my $x, 4096) { syswrite $c, $x } syswrite $c, "goodbye"; close $c }`

func TestAPortCarriesAnyProtocol(t *testing.T) {
	t.Parallel()
	b := start(t, open(t, Options{}), func(s *sandbox.Spec) { s.Command = []string{"perl", "-e", echo} })
	url, _, err := b.URL(t.Context(), 9000)
	if err != nil {
		t.Fatalf("asking for the URL: %v", err)
	}
	var c net.Conn
	eventually(t, "the port to open", func() bool {
		if c, err = net.Dial("tcp", strings.TrimPrefix(url, "http://")); err != nil {
			return false
		}
		fmt.Fprint(c, "hello")
		word := make([]byte, 5)
		if _, err := io.ReadFull(c, word); err != nil {
			c.Close()
			return false
		}
		return string(word) == "hello"
	})
	defer c.Close()
	fmt.Fprint(c, "more")
	c.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || string(rest) != "moregoodbye" {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestABoxReachesTheControlPlaneThatComesBack(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control", "machine.sock")
	serve := func(word string) (end func()) {
		l, err := Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, word) })}
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		return func() { s.Close(); <-done }
	}
	end := serve("first")
	b := start(t, open(t, Options{Control: socket}))
	path := strings.TrimPrefix(ControlAddress(socket), "unix:")
	ask := `perl -MIO::Socket::UNIX -e 'my $c = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!;
		print $c "GET / HTTP/1.0\r\n\r\n"; local $/; print((split /\r\n\r\n/, <$c>)[1])' "$1"`
	if out, _ := sh(t, b, ask, path); out != "first" {
		t.Errorf("the control plane says %q", out)
	}
	end()
	defer serve("second")()
	if out, _ := sh(t, b, ask, path); out != "second" {
		t.Errorf("the control plane that came back says %q", out)
	}
	if out, exit := sh(t, b, `rm -f "$1" || touch "$1.x"`, path); exit == 0 {
		t.Errorf("a box may change the control plane's directory: %s", out)
	}
}

func TestNoMoreBoxesThanAllowed(t *testing.T) {
	t.Parallel()
	p := open(t, Options{MaxBoxes: 1})
	b := start(t, p)
	_, err := p.Start(t.Context(), sandbox.Spec{Name: "second", Command: []string{"true"}})
	if !errors.Is(err, sandbox.ErrCapacity) {
		t.Errorf("starting one too many: %v", err)
	}
	if err := b.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	start(t, p)
}

func TestToolsAreShownReadOnly(t *testing.T) {
	t.Parallel()
	tool := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho works\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	inside := sandbox.Tools + "/bin/tool"
	b := start(t, open(t, Options{Tools: map[string]string{inside: tool}}))
	if out, _ := sh(t, b, inside); out != "works" {
		t.Errorf("the tool printed %q", out)
	}
	if out, exit := sh(t, b, "echo x >>"+inside); exit == 0 {
		t.Errorf("the tool can be changed: %s", out)
	}
	if _, err := New(t.Context(), Options{Dir: t.TempDir(), Tools: map[string]string{inside: tool + "-missing"}}); err == nil {
		t.Error("a tool that does not exist was accepted")
	}
}

func TestOldProgramsGoAndTheirBoxesStay(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	old := filepath.Join(p.dir, "programs", "old")
	program, err := os.ReadFile(p.program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, append(program, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	b := start(t, &Provider{dir: p.dir, program: old, tools: p.tools, lifetime: p.lifetime, memMiB: p.memMiB,
		uid: p.uid, log: p.log, bwrap: p.bwrap, noUserns: p.noUserns})
	long := time.Now().Add(-2 * programTime)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), Options{Dir: p.dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("an old program is still there")
	}
	if out, exit := sh(t, b, "test -x "+Program+" && echo works"); exit != 0 || out != "works" {
		t.Errorf("its box says %q, exit %d", out, exit)
	}
}
