package modal

import (
	"testing"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
)

func TestASandboxLivesFromCreateToTerminate(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Name: "one", Timeout: time.Hour, Env: map[string]string{"GREETING": "hello"}})
	if got := s.sh(b, "echo $GREETING; pwd"); got != "hello\n/\n" {
		t.Errorf("got %q", got)
	}
	if err := b.Filesystem.WriteText(s.ctx, "kept", "/workspace/a/b.txt", nil); err != nil {
		t.Fatal(err)
	}
	snap, err := b.SnapshotFilesystem(s.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := b.Terminate(s.ctx, &sdk.SandboxTerminateParams{Wait: true}); err != nil || exit != 137 {
		t.Errorf("terminating: exit %d, %v; want 137", exit, err)
	}
	next := s.createFrom(snap, &sdk.SandboxCreateParams{Name: "one"})
	if text, err := next.Filesystem.ReadText(s.ctx, "/workspace/a/b.txt", nil); err != nil || text != "kept" {
		t.Errorf("in the next sandbox: %q, %v", text, err)
	}
}
