//go:build live

package modal

import (
	"log/slog"
	"os"
	"testing"

	sdk "github.com/modal-labs/modal-client/go"

	practicemodal "openinspect/internal/practice/modal"
	"openinspect/sandbox"
	"openinspect/sandbox/sandboxtest"
)

// TestLive runs the suite against Modal itself, where it costs money: `make
// live-modal`. It is TestConformance but for the server and the credentials; a
// fault that only Modal could bring about is left out. With the credentials of the
// stand-in, it runs against one that it starts, which shows that it would run.
func TestLive(t *testing.T) {
	o := Options{
		TokenID: os.Getenv("MODAL_TOKEN_ID"), TokenSecret: os.Getenv("MODAL_TOKEN_SECRET"),
		Environment: os.Getenv("MODAL_ENVIRONMENT"), ServerURL: os.Getenv("MODAL_SERVER_URL"), App: "openinspect-live-test",
		Control: "https://machines.inspect.example.org", From: "debian:13-slim", CPU: 0.5, MemMiB: 512,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if o.TokenID == practicemodal.TokenID && o.ServerURL == "" {
		o.ServerURL = server(t).URL()
	}
	p := open(t, o)
	if _, err := p.base(t.Context()); err != nil { // for which the suite would have too little patience
		t.Fatal(err)
	}
	sandboxtest.Run(t, func(*testing.T) sandbox.Provider { return p }, func(t *testing.T) sandboxtest.Faults {
		behind := open(t, o) // knows nothing of what p knows
		return sandboxtest.Faults{Provider: p, End: func(t *testing.T, b sandbox.Box) {
			sb, err := behind.client.Sandboxes.FromID(t.Context(), b.ID(), nil)
			if err == nil {
				_, err = sb.Terminate(t.Context(), &sdk.SandboxTerminateParams{Wait: true})
			}
			if err != nil {
				t.Fatalf("terminating: %v", err)
			}
		}}
	})
}
