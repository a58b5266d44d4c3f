package modal

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	practicemodal "openinspect/internal/practice/modal"
	"openinspect/sandbox"
	"openinspect/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server starts a stand-in whose sandboxes end with the test.
func server(t *testing.T) *practicemodal.Server {
	t.Helper()
	s, err := practicemodal.Open(t.Context(), t.TempDir(), practicemodal.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("opening the stand-in: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("running the stand-in: %v", err)
		}
	})
	t.Cleanup(func() {
		for _, left := range s.Sandboxes() {
			if err := s.KillBox(context.Background(), left.ID); err != nil {
				t.Errorf("ending sandbox %s: %v", left.Name, err)
			}
		}
		cancel()
		run.Wait()
	})
	return s
}

// options reach a stand-in.
func options(s *practicemodal.Server) Options {
	return Options{
		TokenID: practicemodal.TokenID, TokenSecret: practicemodal.TokenSecret, ServerURL: s.URL(),
		Control: "https://machines.inspect.example.org", From: "debian:13-slim", CPU: 0.5, MemMiB: 512, Log: slog.New(slog.DiscardHandler),
	}
}

// open makes a provider that ends with the test.
func open(t *testing.T, o Options) *Provider {
	t.Helper()
	p, err := New(o)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return p
}

// TestConformance asks the provider against the stand-in for what every provider
// has to do. TestLive asks Modal itself for the same.
func TestConformance(t *testing.T) {
	t.Parallel()
	s := server(t)
	p := open(t, options(s))
	t.Run("suite", func(t *testing.T) {
		sandboxtest.Run(t, func(*testing.T) sandbox.Provider { return p }, standInFaults)
	})
	for _, b := range s.Sandboxes() {
		if b.Ended.IsZero() {
			t.Errorf("sandbox %s was left running", b.Name)
		}
	}
	for _, i := range s.Images() {
		if i.Snapshot != "" {
			t.Errorf("image %s was left of sandbox %s", i.ID, i.Snapshot)
		}
	}
}

// standInFaults opens a provider with a stand-in of its own, which can be broken.
func standInFaults(t *testing.T) sandboxtest.Faults {
	s := server(t)
	inject := func(f practicemodal.Fault) func(*testing.T) func() {
		return func(*testing.T) func() { s.Inject(f); return s.Clear }
	}
	return sandboxtest.Faults{
		Provider: open(t, options(s)),
		End: func(t *testing.T, b sandbox.Box) {
			if err := s.KillBox(t.Context(), b.ID()); err != nil {
				t.Fatalf("killing a box: %v", err)
			}
		},
		Fill:   inject(practicemodal.Fault{Kind: practicemodal.NoCapacity}),
		Hang:   inject(practicemodal.Fault{Kind: practicemodal.Hang, Method: "SandboxCreateV2"}),
		Stall:  inject(practicemodal.Fault{Kind: practicemodal.Hang, Method: "TaskSnapshotFilesystem"}),
		Refuse: inject(practicemodal.Fault{Kind: practicemodal.Refused}),
		Slow: func(*testing.T) func() {
			s.Inject(practicemodal.Fault{Kind: practicemodal.Slow, Delay: 200 * time.Millisecond})
			s.Inject(practicemodal.Fault{Kind: practicemodal.SlowStream, Method: "TaskExecStdioRead", Delay: 2 * quietTime})
			return s.Clear
		},
		Cut: s.BreakConnections,
	}
}
