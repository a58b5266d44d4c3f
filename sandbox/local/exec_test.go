package local

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"

	"openinspect/sandbox"
)

func TestAFileIsACommandsOwnInput(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b, err := p.Start(t.Context(), sandbox.Spec{Name: "input", Command: []string{"sleep", "600"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Kill(context.Background()); err != nil {
			t.Error(err)
		}
	})
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	// The first command takes one line and leaves the rest, which a copy would have lost.
	if _, err := io.WriteString(write, "one\ntwo\n"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"got one\n", "got two\n"} {
		var out bytes.Buffer
		exit, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"sh", "-c", "read line; echo got $line"}, Stdin: read, Stdout: &out})
		if err != nil || exit != 0 || out.String() != want {
			t.Errorf("exit %d, %v, out %q; want %q", exit, err, out.String(), want)
		}
	}
	if err := write.Close(); err != nil {
		t.Fatal(err)
	}
	if exit, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"sh", "-c", "read line"}, Stdin: read}); err != nil || exit != 1 {
		t.Errorf("at the end of the input: exit %d, %v; want 1", exit, err)
	}
}
