package doors

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// packOf has git pack what the arguments and the input say.
func packOf(t testing.TB, dir, input string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"pack-objects", "--stdout", "-q"}, args...)...)
	cmd.Dir, cmd.Stdin, cmd.Stderr = dir, strings.NewReader(input), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// read reads a pack and returns the kinds of its objects by their names, and how
// many are deltas.
func read(t testing.TB, data []byte) (kinds map[string]string, deltas int, err error) {
	file, err := os.CreateTemp(t.TempDir(), "pack")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	p, err := openPack(file, 0, 40)
	if err != nil {
		t.Fatal(err)
	}
	kinds = map[string]string{}
	err = p.each(func(o packed) error {
		kinds[hex.EncodeToString([]byte(o.id))] = fmt.Sprint(kindNames[o.kind], " ", len(o.data))
		return nil
	})
	for _, e := range p.entries {
		if e.delta() {
			deltas++
		}
	}
	return kinds, deltas, err
}

// packedRepository has versions of files that are much alike.
func packedRepository(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	git(t, dir, nil, "init", "-q", "-b", "main")
	for i := range 12 {
		commit(t, dir, "big.txt", strings.Repeat(fmt.Sprintf("line of %d\n", i/3), 3000)+fmt.Sprint("the end ", i))
		commit(t, dir, fmt.Sprintf("file%d.txt", i), "text\n")
	}
	return dir
}

func TestEveryObjectOfAPackIsReadAsGitReadsIt(t *testing.T) {
	t.Parallel()
	dir := packedRepository(t)
	want := map[string]string{}
	for line := range strings.Lines(git(t, dir, nil, "cat-file", "--batch-all-objects", "--batch-check")) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		want[id] = rest
	}
	for _, args := range [][]string{{"--all", "--delta-base-offset"}, {"--all"}, {"--all", "--window=0"}, {"--all", "--delta-base-offset", "--depth=500", "--window=50"}} {
		got, deltas, err := read(t, packOf(t, dir, "", args...))
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-git +read):\n%s", args, diff)
		}
		if none := args[len(args)-1] == "--window=0"; none != (deltas == 0) {
			t.Errorf("%v: %d deltas: the test proves nothing", args, deltas)
		}
	}
}

func TestAPackThatBuildsOnOthersObjectsIsSaidToBe(t *testing.T) {
	t.Parallel()
	dir := packedRepository(t)
	thin := packOf(t, dir, "HEAD\n^HEAD~4\n", "--revs", "--thin")
	if _, deltas, err := read(t, thin); !errors.Is(err, errThinPack) {
		t.Errorf("with %d deltas: %v", deltas, err)
	}
	rest, err := os.Create(filepath.Join(t.TempDir(), "rest"))
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	if _, err := rest.Write(thin); err != nil {
		t.Fatal(err)
	}
	p := &pushRequest{commands: []pushCommand{{new: strings.Repeat("a", 40)}}}
	if said := p.leaks(rest, findToken); !strings.Contains(said, "push with --no-thin") {
		t.Errorf("it says %q", said)
	}
}

func TestAPackThatWouldFillTheMemoryIsRefused(t *testing.T) {
	t.Parallel()
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, _ = w.Write(make([]byte, 1<<20)) // into memory
	_ = w.Close()
	blob := func(head ...byte) []byte { return append(head, z.Bytes()...) }
	for name, data := range map[string][]byte{
		"a large object":              append([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01"), blob(0xb0, 0x80, 0x80, 0x80, 0x7f)...),
		"an object that says more":    append([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01"), blob(0xb0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f)...),
		"more objects than one reads": []byte("PACK\x00\x00\x00\x02\x7f\x00\x00\x00"),
	} {
		if _, _, err := read(t, data); !errors.Is(err, errPackTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := read(t, append([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01"), blob(0xb1, 0x01)...)); err == nil {
		t.Error("an object that is longer than it says is taken")
	}
}

// Whatever a sandbox sends, reading it ends, with an error or without.
func TestABrokenPackBreaksNothing(t *testing.T) {
	t.Parallel()
	dir := packedRepository(t)
	good := packOf(t, dir, "", "--all", "--delta-base-offset")
	rapid.Check(t, func(r *rapid.T) {
		data := bytes.Clone(good)
		for range rapid.IntRange(1, 5).Draw(r, "changes") {
			data[rapid.IntRange(0, len(data)-1).Draw(r, "where")] = rapid.Byte().Draw(r, "to")
		}
		data = data[:rapid.IntRange(0, len(data)).Draw(r, "length")]
		_, _, _ = read(t, data) // it may still be whole
	})
}
