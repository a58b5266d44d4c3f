package sandboxtest

import (
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
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if f := faulty(t); test.can(f) {
				test.run(t, newSuite(t, f.Provider), f)
			}
		})
	}
	for i := range life {
		t.Run("dies before "+life[i].name, func(t *testing.T) {
			t.Parallel()
			if f := faulty(t); f.End != nil {
				testDiesBefore(t, newSuite(t, f.Provider), f, i)
			}
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
