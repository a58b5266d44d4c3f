package local

import (
	"context"
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
		sandboxtest.Run(t, func(*testing.T) sandbox.Provider { return p })
	})
	for _, name := range []string{"boxes", "saved", "tmp", "trash"} {
		left, err := os.ReadDir(filepath.Join(p.dir, name))
		if err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", name, left, err)
		}
	}
}
