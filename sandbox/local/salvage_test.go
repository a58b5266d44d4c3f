package local

import (
	"errors"
	"os"
	"testing"
	"time"

	"openinspect/sandbox"
)

func TestWhatADeadBoxLeftIsSalvaged(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p)
	sh(t, b, "echo unsaved >/workspace/file")
	if _, err := p.Salvage(t.Context(), b.ID()); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("salvaging a living box: %v", err)
	}
	if err := b.record.Keeper.kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ref, err := p.Salvage(t.Context(), b.ID())
	if err != nil {
		t.Fatalf("salvaging: %v", err)
	}
	listed := false
	for saved, err := range p.ListSaved(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		listed = listed || saved.Ref == ref && saved.Box == b.ID() && saved.Parked
	}
	if !listed {
		t.Error("whoever did not hear the name cannot find it")
	}
	if _, err := p.Salvage(t.Context(), b.ID()); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("salvaging it again: %v", err)
	}
	next := start(t, p, func(s *sandbox.Spec) { s.From = ref })
	if out, _ := sh(t, next, "cat /workspace/file"); out != "unsaved" {
		t.Errorf("the file holds %q", out)
	}
	if err := next.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{next.ID(), "no-such-box", "../saved"} {
		if _, err := p.Salvage(t.Context(), id); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("salvaging %s: %v", id, err)
		}
	}
}

func TestWhatNobodySalvagesIsRemoved(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p)
	if err := b.record.Keeper.kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := func() int {
		t.Helper()
		if err := p.tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(p.leftDir(""))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if n := left(); n != 1 {
		t.Fatalf("%d filesystems are left by one dead box", n)
	}
	old := time.Now().Add(-2 * tombstoneTime)
	if err := os.Chtimes(p.leftDir(b.ID()), old, old); err != nil {
		t.Fatal(err)
	}
	if n := left(); n != 0 {
		t.Errorf("%d filesystems are left after a day", n)
	}
}
