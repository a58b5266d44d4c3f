package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

// Faults are what can befall a provider from outside, and how its test brings
// them about. What it cannot bring about is nil and is not asked for: nobody can
// fill the machines of a company that rents them.
type Faults struct {
	Provider sandbox.Provider // one of its own, which may be broken
	// End ends a box behind the provider's back, as a machine that fails does. It
	// returns when the box has ended.
	End func(t *testing.T, b sandbox.Box)
	// Fill, Hang and Stall break something until heal is called: there is no room
	// for another box; a start is never scheduled; saving a filesystem does not end.
	Fill, Hang, Stall func(t *testing.T) (heal func())
	// Refuse has the provider's credentials refused, and Slow each answer take longer
	// than anybody would wait who takes silence for an end, until heal is called.
	Refuse, Slow func(t *testing.T) (heal func())
	// Cut breaks all connections to the provider once. New ones are taken.
	Cut func()
}

// runFaults runs the tests of what can be brought about.
func runFaults(t *testing.T, faulty func(t *testing.T) Faults) {
	for name, test := range map[string]struct {
		can func(Faults) bool
		run func(*testing.T, *suite, Faults)
	}{
		"full":            {func(f Faults) bool { return f.Fill != nil }, testFull},
		"never scheduled": {func(f Faults) bool { return f.Hang != nil }, testNeverScheduled},
		"endless save":    {func(f Faults) bool { return f.Stall != nil }, testEndlessSave},
		"dies in a call":  {func(f Faults) bool { return f.End != nil }, testDiesInACall},
		"refused":         {func(f Faults) bool { return f.Refuse != nil }, testRefused},
		"slow":            {func(f Faults) bool { return f.Slow != nil }, testSlow},
		"cut":             {func(f Faults) bool { return f.Cut != nil }, testCut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := faulty(t)
			if !test.can(f) {
				t.Skip("nobody can bring this about at this provider")
			}
			test.run(t, newSuite(t, f.Provider), f)
		})
	}
	for i := range life {
		t.Run("dies before "+life[i].name, func(t *testing.T) {
			t.Parallel()
			f := faulty(t)
			if f.End == nil {
				t.Skip("nobody can bring this about at this provider")
			}
			testDiesBefore(t, newSuite(t, f.Provider), f, i)
		})
	}
}

func testFull(t *testing.T, s *suite, f Faults) {
	heal := f.Fill(t)
	spec := s.spec()
	spec.Tags = map[string]string{"run": spec.Name}
	_, err := s.p.Start(s.ctx, spec)
	s.want("starting a box where there is no room", err, sandbox.ErrCapacity)
	if got := s.list(spec.Tags); len(got) != 0 {
		t.Errorf("boxes that there was no room for: %q", got)
	}
	heal()
	s.start(spec)
}

func testNeverScheduled(t *testing.T, s *suite, f Faults) {
	heal := f.Hang(t)
	spec := s.spec()
	spec.Tags = map[string]string{"run": spec.Name}
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	_, err := s.p.Start(ctx, spec)
	s.want("starting a box that is never scheduled", err, context.DeadlineExceeded, sandbox.ErrCapacity)
	heal()
	s.until("nothing to be left of it", func() bool { return len(s.list(spec.Tags)) == 0 })
	s.start(spec)
}

// testEndlessSave lets a snapshot and a park take for ever: neither may harm
// the box, and both work later.
func testEndlessSave(t *testing.T, s *suite, f Faults) {
	b := s.start(s.spec())
	s.sh(b, "echo work >$HOME/work")
	heal := f.Stall(t)
	short, stop := context.WithTimeout(s.ctx, time.Second)
	_, err := b.Snapshot(short, time.Hour)
	stop()
	if err == nil || errors.Is(err, sandbox.ErrGone) || errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("a snapshot that does not end: got error %v", err)
	}
	if got := s.sh(b, "cat work"); got != "work" {
		t.Errorf("after a snapshot that does not end the box has %q", got)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Second)
	defer cancel()
	ref, err := b.Park(ctx) // of a provider that saves nothing to park, it succeeds
	if errors.Is(err, sandbox.ErrGone) || errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("parking while saving does not end: %v", err)
	}
	heal()
	if err != nil {
		if ref, err = b.Park(s.ctx); err != nil {
			t.Fatalf("parking again: %v", err)
		}
	}
	s.deleted(ref)
	spec := s.spec()
	spec.From = ref
	if got := s.sh(s.start(spec), "cat work"); got != "work" {
		t.Errorf("what was parked at last has %q", got)
	}
}

// life is what is done with a box, in an order in which it could be. Each step is
// one call, and says what it has to say of a dead box.
var life = []struct {
	name string
	do   func(s *suite, b sandbox.Box, tags map[string]string) error
}{
	{"Info", func(s *suite, b sandbox.Box, _ map[string]string) error {
		info, err := b.Info(s.ctx)
		return errors.Join(err, goneUnless(info.Alive))
	}},
	{"Exec", func(s *suite, b sandbox.Box, _ map[string]string) error {
		_, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"true"}, Stdout: io.Discard, Stderr: io.Discard})
		return err
	}},
	{"WriteFile", func(s *suite, b sandbox.Box, _ map[string]string) error {
		return b.WriteFile(s.ctx, sandbox.Home+"/file", strings.NewReader("text"))
	}},
	{"ReadFile", func(s *suite, b sandbox.Box, _ map[string]string) error {
		return b.ReadFile(s.ctx, sandbox.Home+"/file", io.Discard)
	}},
	{"URL", func(s *suite, b sandbox.Box, _ map[string]string) error {
		_, _, err := b.URL(s.ctx, 8080)
		return err
	}},
	{"Snapshot", func(s *suite, b sandbox.Box, _ map[string]string) error {
		ref, err := b.Snapshot(s.ctx, time.Hour)
		if err == nil {
			s.deleted(ref)
		}
		return err
	}},
	{"Attach", func(s *suite, b sandbox.Box, _ map[string]string) error {
		_, err := s.p.Attach(s.ctx, b.ID())
		return err
	}},
	{"List", func(s *suite, _ sandbox.Box, tags map[string]string) error {
		return goneUnless(len(s.list(tags)) == 1)
	}},
	{"Park", func(s *suite, b sandbox.Box, _ map[string]string) error {
		ref, err := b.Park(s.ctx)
		if err == nil {
			s.deleted(ref)
		}
		return err
	}},
}

func goneUnless(alive bool) error {
	if alive {
		return nil
	}
	return sandbox.ErrGone
}

// testDiesBefore lets a box die before the step n of its life: that one and all
// that follow have to say so, and its name has to be free.
func testDiesBefore(t *testing.T, s *suite, f Faults, n int) {
	spec := s.spec()
	spec.Tags, spec.Ports = map[string]string{"run": spec.Name}, []int{8080}
	b := s.start(spec)
	for _, step := range life[:n] {
		if err := step.do(s, b, spec.Tags); err != nil {
			t.Fatalf("%s of a living box: %v", step.name, err)
		}
	}
	f.End(t, b)
	for _, step := range slices.Concat(life[n:], life[:n]) {
		if err := step.do(s, b, spec.Tags); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("%s of a box that died: got error %v, want %v", step.name, err, sandbox.ErrGone)
		}
	}
	kill(t, b)
	s.start(spec)
}

// testDiesInACall lets boxes die while something is done in them: it ends, and
// either it was done or the box is gone.
func testDiesInACall(t *testing.T, s *suite, f Faults) {
	silent, end := io.Pipe()
	defer end.Close()
	for name, call := range map[string]func(sandbox.Box) error{
		"Exec": func(b sandbox.Box) error {
			_, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"sleep", "600"}})
			if err == nil {
				return errors.New("it ended by itself")
			}
			return err
		},
		"Exec with input and output": func(b sandbox.Box) error {
			_, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"cat"}, Stdin: silent, Stdout: io.Discard, Stderr: io.Discard})
			if err == nil {
				return errors.New("it ended by itself")
			}
			return err
		},
		"Snapshot": func(b sandbox.Box) error {
			ref, err := b.Snapshot(s.ctx, time.Hour)
			if err == nil {
				s.deleted(ref)
			}
			return err
		},
		"Park": func(b sandbox.Box) error {
			ref, err := b.Park(s.ctx)
			if err == nil {
				s.deleted(ref)
			}
			return err
		},
	} {
		b := s.start(s.spec())
		done := make(chan error, 1)
		go func() { done <- call(b) }()
		f.End(t, b)
		if err := <-done; err != nil && !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("%s in a box that dies: got error %v, want %v", name, err, sandbox.ErrGone)
		}
	}
}

// testRefused has everything refused for a while: that is said, nothing is given
// up, and all goes on afterwards.
func testRefused(t *testing.T, s *suite, f Faults) {
	spec := s.spec()
	spec.Tags, spec.Ports = map[string]string{"run": spec.Name}, []int{8080}
	b := s.start(spec)
	s.sh(b, "echo work >$HOME/work")
	heal := f.Refuse(t)
	_, err := s.p.Start(s.ctx, s.spec())
	s.want("starting a box", err, sandbox.ErrRefused)
	for _, step := range life {
		if step.name == "List" || step.name == "Park" {
			continue // the one fails the test, the other may end the box
		}
		err := step.do(s, b, spec.Tags)
		for _, final := range []error{sandbox.ErrGone, sandbox.ErrInvalid, sandbox.ErrCapacity} {
			if errors.Is(err, final) && step.name != "Info" { // which step.do reads the end from
				t.Errorf("%s while the credentials are refused: %v", step.name, err)
			}
		}
	}
	for _, err := range s.p.List(s.ctx, spec.Tags) {
		s.want("listing", err, sandbox.ErrRefused)
	}
	heal()
	if got := s.sh(b, "cat work"); got != "work" {
		t.Errorf("afterwards the box has %q", got)
	}
	s.start(s.spec())
}

// testSlow does everything with a provider that answers late.
func testSlow(t *testing.T, s *suite, f Faults) {
	spec := s.spec()
	spec.Tags = map[string]string{"run": spec.Name}
	b := s.start(spec)
	heal := f.Slow(t)
	defer heal()
	text := strings.Repeat("0123456789abcdef", 1<<14)
	s.write(b, sandbox.Home+"/long", text)
	if got := s.read(b, sandbox.Home+"/long"); got != text {
		t.Errorf("of %d bytes that were written, %d were read", len(text), len(got))
	}
	// What the command wrote before its end has to come, whoever holds its output.
	if got := s.sh(b, "echo before; sleep 600 & echo last"); got != "before\nlast" {
		t.Errorf("a command that leaves a child printed %q", got)
	}
	var out bytes.Buffer
	exit, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"sh", "-c", "setsid sleep 600 & echo last; kill -TERM 0"}, Stdout: &out})
	if err != nil || exit != 128+15 || out.String() != "last\n" {
		t.Errorf("a command that was ended with its group: exit %d, %v, out %q", exit, err, out.String())
	}
	for _, step := range life {
		if err := step.do(s, b, spec.Tags); err != nil && step.name != "URL" {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}

// cutSoon breaks connections a few times in the next moments. Who breaks them for
// ever is waited for longer and longer.
func cutSoon(ctx context.Context, f Faults) (over <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for range 10 {
			select {
			case <-tick.C:
				f.Cut()
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

// testCut does everything while connections break: each call has its whole effect,
// or says that it may not have, and no box is given up.
func testCut(t *testing.T, s *suite, f Faults) {
	spec := s.spec()
	spec.Tags = map[string]string{"run": spec.Name}
	b := s.start(spec)
	text := strings.Repeat("0123456789abcdef", 1<<17)
	final := func(what string, err error) bool {
		if errors.Is(err, sandbox.ErrGone) || errors.Is(err, sandbox.ErrInvalid) || errors.Is(err, sandbox.ErrRefused) {
			t.Errorf("%s while connections break: %v", what, err)
		}
		return err == nil
	}
	for range 5 {
		cutting := cutSoon(s.ctx, f)
		var out bytes.Buffer
		_, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader(text), Stdout: &out})
		if final("Exec", err) && out.String() != text {
			t.Errorf("of %d bytes through cat, %d came back", len(text), out.Len())
		}
		if final("WriteFile", b.WriteFile(s.ctx, sandbox.Home+"/long", strings.NewReader(text))) {
			out.Reset()
			if final("ReadFile", b.ReadFile(s.ctx, sandbox.Home+"/long", &out)) && out.String() != text {
				t.Errorf("of a file of %d bytes, %d were read", len(text), out.Len())
			}
		}
		_, err = s.p.Attach(s.ctx, b.ID())
		final("Attach", err)
		<-cutting
	}
	s.sh(b, "true")
	ref, err := b.Park(s.ctx)
	if err != nil {
		t.Fatalf("parking afterwards: %v", err)
	}
	s.deleted(ref)
}
