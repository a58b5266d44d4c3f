package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"openinspect/sandbox"
	"openinspect/sandbox/sandboxtest"
)

// controlSecret is in the environment of the control plane in all tests, and
// must never be seen in a box.
const controlSecret = "secret-of-the-control-plane"

func TestMain(m *testing.M) {
	if name := os.Getenv(envScript); name != "" {
		if err := runScript(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Setenv("LOCAL_TEST_SECRET", controlSecret)
	goleak.VerifyTestMain(m)
}

// open makes a provider whose Run ends with the test, and which leaves nothing.
func open(t *testing.T, o Options) *Provider {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "sandboxes")
	}
	p, err := New(t.Context(), o)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running: %v", err)
		}
	})
	return p
}

func TestConformance(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	t.Run("suite", func(t *testing.T) {
		sandboxtest.Run(t, func(*testing.T) sandbox.Provider { return p }, faulty)
	})
	for _, name := range []string{"boxes", "saved", "tmp", "trash"} {
		left, err := os.ReadDir(filepath.Join(p.dir, name))
		if err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", name, left, err)
		}
	}
}

// faulty opens a provider that can be broken.
func faulty(t *testing.T) sandboxtest.Faults {
	p := open(t, Options{})
	return sandboxtest.Faults{
		Provider: p,
		End: func(t *testing.T, b sandbox.Box) {
			if err := b.(*box).record.Keeper.kill(t.Context()); err != nil {
				t.Fatalf("killing a keeper: %v", err)
			}
		},
		Fill: func(t *testing.T) func() {
			p.maxBoxes = 1
			filler := start(t, p)
			return func() {
				if err := filler.Kill(t.Context()); err != nil {
					t.Fatalf("making room: %v", err)
				}
			}
		},
		Hang:  func(t *testing.T) func() { return hangBwrap(t, p) },
		Stall: func(t *testing.T) func() { return hangBwrap(t, p) },
	}
}

// hangBwrap puts something in bubblewrap's place that never starts a box and
// never ends a copy, but ends with whoever wants it.
func hangBwrap(t *testing.T, p *Provider) (heal func()) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "local-hang-") // the stage covers /tmp, and other users cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path, script := filepath.Join(dir, "bwrap"), "#!/bin/sh\nif [ -e /proc/self/fd/3 ]; then exec cat <&3; fi\nexec sleep 600\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	real := p.bwrap
	p.bwrap = path
	return func() { p.bwrap = real }
}
