package sandboxtest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"openinspect/sandbox"
)

func testStart(t *testing.T, s *suite) {
	spec := s.spec()
	spec.Command = []string{"sh", "-c", `printf "%s in %s" "$GREETING" "$PWD" >$HOME/said; exec sleep 600`}
	spec.Env = map[string]string{"GREETING": "hello"}
	b := s.start(spec)
	s.until("the main program to speak", func() bool {
		return b.ReadFile(s.ctx, sandbox.Home+"/said", new(strings.Builder)) == nil
	})
	if got, want := s.read(b, sandbox.Home+"/said"), "hello in "+sandbox.Home; got != want {
		t.Errorf("main program said %q, want %q", got, want)
	}
	_, err := s.p.Start(s.ctx, spec)
	s.want("starting a second box of the name", err, sandbox.ErrInvalid)
}

func testInvalid(t *testing.T, s *suite) {
	for what, change := range map[string]func(*sandbox.Spec){
		"no name":              func(s *sandbox.Spec) { s.Name = "" },
		"no command":           func(s *sandbox.Spec) { s.Command = nil },
		"empty program":        func(s *sandbox.Spec) { s.Command = []string{""} },
		"a foreign ref":        func(s *sandbox.Spec) { s.From = "../../etc" },
		"a port too high":      func(s *sandbox.Spec) { s.Ports = []int{65536} },
		"a negative port":      func(s *sandbox.Spec) { s.Ports = []int{-1} },
		"negative memory":      func(s *sandbox.Spec) { s.MemMiB = -1 },
		"negative cores":       func(s *sandbox.Spec) { s.CPU = -1 },
		"a negative lifetime":  func(s *sandbox.Spec) { s.Lifetime = -time.Second },
		"a variable with = in": func(s *sandbox.Spec) { s.Env = map[string]string{"A=B": "C"} },
		"a zero byte":          func(s *sandbox.Spec) { s.Command = []string{"echo", "a\x00b"} },
	} {
		spec := s.spec()
		change(&spec)
		b, err := s.p.Start(s.ctx, spec)
		if err == nil {
			kill(t, b)
		}
		s.want(what, err, sandbox.ErrInvalid)
	}
}

// testNames starts many boxes of one name at once; one may win.
func testNames(t *testing.T, s *suite) {
	spec := s.spec()
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			b, err := s.p.Start(s.ctx, spec)
			if err != nil {
				s.want("losing the race for a name", err, sandbox.ErrInvalid)
				return
			}
			won.Add(1)
			t.Cleanup(func() { kill(t, b) })
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d boxes have the same name", won.Load())
	}
}

func testAttach(t *testing.T, s *suite) {
	b := s.start(s.spec())
	s.write(b, sandbox.Home+"/mark", "here")
	again, err := s.p.Attach(s.ctx, b.ID())
	if err != nil {
		t.Fatalf("attaching: %v", err)
	}
	if again.ID() != b.ID() || s.read(again, sandbox.Home+"/mark") != "here" {
		t.Errorf("attached to another box than %s", b.ID())
	}
	for _, id := range []string{"", "none", "..", "../boxes", "a/b"} {
		_, err := s.p.Attach(s.ctx, id)
		s.want("attaching to "+id, err, sandbox.ErrGone)
	}
}

func testList(t *testing.T, s *suite) {
	run := s.spec().Name
	var names [2]string
	for i, session := range []string{"1", "2"} {
		spec := s.spec()
		spec.Tags = map[string]string{"run": run, "session": session}
		names[i] = spec.Name
		b := s.start(spec)
		if info, err := b.Info(s.ctx); err != nil {
			t.Errorf("describing a box: %v", err)
		} else if diff := cmp.Diff(spec.Tags, info.Tags); diff != "" {
			t.Errorf("tags (-want +got):\n%s", diff)
		}
	}
	if got := s.list(map[string]string{"run": run}); len(got) != 2 {
		t.Errorf("boxes of the run: %q, want two", got)
	}
	if diff := cmp.Diff([]string{names[1]}, s.list(map[string]string{"run": run, "session": "2"})); diff != "" {
		t.Errorf("boxes of session 2 (-want +got):\n%s", diff)
	}
	if got := s.list(map[string]string{"run": run, "session": "3"}); len(got) != 0 {
		t.Errorf("boxes of a session that does not exist: %q", got)
	}
	for range s.p.List(s.ctx, nil) {
		break // a caller may stop early
	}
}

func testKill(t *testing.T, s *suite) {
	spec := s.spec()
	spec.Tags = map[string]string{"run": spec.Name}
	b := s.start(spec)
	other, err := s.p.Attach(s.ctx, b.ID())
	if err != nil {
		t.Fatalf("attaching: %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { kill(t, b) })
	}
	wg.Wait()
	kill(t, other)
	if got := s.list(spec.Tags); len(got) != 0 {
		t.Errorf("boxes after Kill: %q", got)
	}
	s.start(spec) // its name is free again
}

// testGone lets a box die in each way and asks everything of it.
func testGone(t *testing.T, s *suite) {
	for how, end := range map[string]func(b sandbox.Box){
		"killed": func(b sandbox.Box) { kill(t, b) },
		"by itself": func(b sandbox.Box) {
			// The command may be told of its box's end before it hears of its own.
			_, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"sh", "-c", "echo end >" + sandbox.Home + "/fifo; sleep 600"}})
			s.want("a command in a box that dies", err, sandbox.ErrGone)
		},
	} {
		spec := s.spec()
		spec.Tags = map[string]string{"run": spec.Name}
		spec.Command = []string{"sh", "-c", "mkfifo fifo; cat fifo"}
		b := s.start(spec)
		s.sh(b, "until [ -p fifo ]; do sleep 0.01; done")
		end(b)
		askDead(s, how, b)
		if got := s.list(spec.Tags); len(got) != 0 {
			t.Errorf("%s: boxes after the end: %q", how, got)
		}
		kill(t, b)
	}
}

func askDead(s *suite, how string, b sandbox.Box) {
	s.t.Helper()
	_, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"true"}})
	s.want(how+": Exec", err, sandbox.ErrGone)
	s.want(how+": ReadFile", b.ReadFile(s.ctx, "/etc/passwd", new(strings.Builder)), sandbox.ErrGone)
	s.want(how+": WriteFile", b.WriteFile(s.ctx, sandbox.Home+"/x", strings.NewReader("x")), sandbox.ErrGone)
	_, _, err = b.URL(s.ctx, 8080)
	s.want(how+": URL", err, sandbox.ErrGone)
	_, err = b.Snapshot(s.ctx, time.Hour)
	s.want(how+": Snapshot", err, sandbox.ErrGone)
	_, err = b.Park(s.ctx)
	s.want(how+": Park", err, sandbox.ErrGone)
	_, err = s.p.Attach(s.ctx, b.ID())
	s.want(how+": Attach", err, sandbox.ErrGone)
	if info, err := b.Info(s.ctx); err != nil || info.Alive {
		s.t.Errorf("%s: Info is %+v, %v; want it dead and no error", how, info, err)
	}
}

// testLifetime starts a box for a moment and waits for its end.
func testLifetime(t *testing.T, s *suite) {
	spec := s.spec()
	spec.Lifetime = time.Second
	b := s.start(spec)
	s.until("the end of the box's lifetime", func() bool {
		_, err := s.p.Attach(s.ctx, b.ID())
		return errors.Is(err, sandbox.ErrGone)
	})
	if age := time.Since(startOf(s.ctx, b)); age < spec.Lifetime {
		t.Errorf("the box ended %s after its birth, before its lifetime", age)
	}
}

func startOf(ctx context.Context, b sandbox.Box) time.Time {
	info, err := b.Info(ctx)
	if err != nil {
		return time.Now() // fails the comparison
	}
	return info.Born
}

func testInfo(t *testing.T, s *suite) {
	spec := s.spec()
	b := s.start(spec)
	s.sh(b, "dd if=/dev/zero of=$HOME/big bs=1M count=8 2>/dev/null; sync $HOME/big")
	info, err := b.Info(s.ctx)
	if err != nil {
		t.Fatalf("describing a box: %v", err)
	}
	if info.ID != b.ID() || info.Name != spec.Name || !info.Alive || time.Since(info.Born) > patience {
		t.Errorf("box is described as %+v", info)
	}
	if info.Disk != 0 && info.Disk < 8<<20 {
		t.Errorf("disk is %d bytes with a file of 8 MiB in it", info.Disk)
	}
	if info.Memory < 0 || info.Memory > 1<<30 {
		t.Errorf("a sleeping box holds %d bytes of memory", info.Memory)
	}
}

// testSaved asks a provider that can list its saved filesystems for them.
func testSaved(t *testing.T, s *suite) {
	lister, can := s.p.(sandbox.Lister)
	if !can {
		return // what nobody deletes has to end by itself, which takes longer than a test
	}
	b := s.start(s.spec())
	began := time.Now().Add(-time.Minute) // clocks differ
	snapshot, err := b.Snapshot(s.ctx, time.Hour)
	if err != nil {
		t.Fatalf("taking a snapshot: %v", err)
	}
	s.deleted(snapshot)
	parked, err := b.Park(s.ctx)
	if err != nil {
		t.Fatalf("parking: %v", err)
	}
	s.deleted(parked)
	list := func(box string) map[sandbox.Ref]bool {
		t.Helper()
		found := map[sandbox.Ref]bool{}
		for saved, err := range lister.ListSaved(s.ctx) {
			if err != nil {
				t.Fatalf("listing saved filesystems: %v", err)
			}
			if saved.Box != box {
				continue
			}
			if saved.At.Before(began) || saved.At.After(time.Now().Add(time.Minute)) {
				t.Errorf("%s was saved at %s", saved.Ref, saved.At)
			}
			found[saved.Ref] = saved.Parked
		}
		return found
	}
	if diff := cmp.Diff(map[sandbox.Ref]bool{snapshot: false, parked: true}, list(b.ID())); diff != "" {
		t.Errorf("saved of the box, and whether by parking (-want +got):\n%s", diff)
	}
	spec := s.spec()
	spec.From = parked
	next := s.start(spec)
	again, err := next.Park(s.ctx)
	if err != nil {
		t.Fatalf("parking again: %v", err)
	}
	s.deleted(again)
	if diff := cmp.Diff(map[sandbox.Ref]bool{again: true}, list(next.ID())); diff != "" {
		t.Errorf("saved of the box that went on (-want +got):\n%s", diff)
	}
	if err := s.p.Delete(s.ctx, snapshot); err != nil {
		t.Errorf("deleting the snapshot: %v", err)
	}
	if _, listed := list(b.ID())[snapshot]; listed {
		t.Error("a deleted snapshot is listed")
	}
}
