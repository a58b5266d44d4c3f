// Package sandboxtest holds the tests that every sandbox.Provider passes: what
// the engine relies on, whoever runs the boxes. A provider's own tests call
// Run; what only one provider promises (isolation, crash recovery) is tested
// beside it.
//
// Programs that the tests run inside are those of any Debian-like image: sh,
// cat, sleep, env and perl, which serves as the HTTP server because perl is
// part of the base system.
package sandboxtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
)

// patience bounds each test: a provider that hangs fails, with a stack.
const patience = 2 * time.Minute

// Open returns a provider for one test. What it needs to end, it registers
// with t.Cleanup. Providers may share state: the tests use names of their own.
type Open func(t *testing.T) sandbox.Provider

// Run runs the suite. faulty opens a provider of its own for each test that
// breaks something.
func Run(t *testing.T, open Open, faulty func(t *testing.T) Faults) {
	for name, test := range map[string]func(*testing.T, *suite){
		"start":       testStart,
		"invalid":     testInvalid,
		"names":       testNames,
		"attach":      testAttach,
		"list":        testList,
		"environment": testEnvironment,
		"exec":        testExec,
		"exec ends":   testExecEnds,
		"files":       testFiles,
		"url":         testURL,
		"snapshot":    testSnapshot,
		"park":        testPark,
		"saved":       testSaved,
		"stubborn":    testParkStubborn,
		"build":       testBuild,
		"kill":        testKill,
		"gone":        testGone,
		"lifetime":    testLifetime,
		"info":        testInfo,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newSuite(t, open(t)))
		})
	}
	runFaults(t, faulty)
}

// suite is one test's provider and its wrappers, which fail the test.
type suite struct {
	t   *testing.T
	ctx context.Context
	p   sandbox.Provider
}

func newSuite(t *testing.T, p sandbox.Provider) *suite {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return &suite{t: t, ctx: ctx, p: p}
}

// spec is a box that does nothing until it is told to.
func (s *suite) spec() sandbox.Spec {
	return sandbox.Spec{Name: "test " + rand.Text(), Command: []string{"sleep", "600"}}
}

// start starts a box that ends with the test.
func (s *suite) start(spec sandbox.Spec) sandbox.Box {
	s.t.Helper()
	b, err := s.p.Start(s.ctx, spec)
	if err != nil {
		s.t.Fatalf("starting a box: %v", err)
	}
	s.t.Cleanup(func() { kill(s.t, b) })
	return b
}

func kill(t *testing.T, b sandbox.Box) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.Kill(ctx); err != nil {
		t.Errorf("killing box %s: %v", b.ID(), err)
	}
}

// deleted makes sure that a saved filesystem goes with the test.
func (s *suite) deleted(r sandbox.Ref) {
	s.t.Cleanup(func() {
		if err := s.p.Delete(context.Background(), r); err != nil {
			s.t.Errorf("deleting %s: %v", r, err)
		}
	})
}

// sh runs a shell command that has to succeed and returns its output.
func (s *suite) sh(b sandbox.Box, command string) string {
	s.t.Helper()
	var out, errs bytes.Buffer
	exit, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"sh", "-c", command}, Stdout: &out, Stderr: &errs})
	if err != nil || exit != 0 {
		s.t.Fatalf("running %q: exit %d, %v\n%s", command, exit, err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

func (s *suite) read(b sandbox.Box, path string) string {
	s.t.Helper()
	var out bytes.Buffer
	if err := b.ReadFile(s.ctx, path, &out); err != nil {
		s.t.Fatalf("reading %s: %v", path, err)
	}
	return out.String()
}

func (s *suite) write(b sandbox.Box, path, text string) {
	s.t.Helper()
	if err := b.WriteFile(s.ctx, path, strings.NewReader(text)); err != nil {
		s.t.Fatalf("writing %s: %v", path, err)
	}
}

// want fails unless err is one of the sentinels.
func (s *suite) want(what string, err error, sentinels ...error) {
	s.t.Helper()
	if !slices.ContainsFunc(sentinels, func(e error) bool { return errors.Is(err, e) }) {
		s.t.Errorf("%s: got error %v, want one of %v", what, err, sentinels)
	}
}

// until polls a condition that a box brings about by itself.
func (s *suite) until(what string, ok func() bool) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.t.Fatalf("waiting in vain: %s", what)
		}
	}
}

// list returns the names of live boxes with tags, sorted.
func (s *suite) list(tags map[string]string) []string {
	s.t.Helper()
	names := map[string]bool{}
	for info, err := range s.p.List(s.ctx, tags) {
		if err != nil {
			s.t.Fatalf("listing: %v", err)
		}
		if !info.Alive || info.Born.IsZero() || info.ID == "" {
			s.t.Errorf("listed a box as %+v", info)
		}
		names[info.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}
