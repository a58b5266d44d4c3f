package local

import (
	"testing"

	"openinspect/sandbox"
)

// BenchmarkStart measures from the call of Start to a running main program.
// 25 ms of it are startGrace.
func BenchmarkStart(b *testing.B) {
	p, err := New(b.Context(), Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		box, err := p.Start(b.Context(), sandbox.Spec{Name: "bench", Command: []string{"sleep", "600"}})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := box.Kill(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkExec measures a command that does nothing.
func BenchmarkExec(b *testing.B) {
	p, err := New(b.Context(), Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	box, err := p.Start(b.Context(), sandbox.Spec{Name: "bench", Command: []string{"sleep", "600"}})
	if err != nil {
		b.Fatal(err)
	}
	defer box.Kill(b.Context())
	for b.Loop() {
		if exit, err := box.Exec(b.Context(), sandbox.Cmd{Args: []string{"/bin/true"}}); err != nil || exit != 0 {
			b.Fatal(exit, err)
		}
	}
}
