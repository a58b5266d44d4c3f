package doors

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// madePack is a pack as no git makes one.
type madePack struct {
	bytes.Buffer
	objects uint32
}

// add adds an object, or a delta that is made from the one with the name base.
func (p *madePack) add(kind byte, base string, data []byte) {
	p.objects++
	size := len(data)
	head := []byte{kind<<4 | byte(size&15)}
	for size >>= 4; size > 0; size >>= 7 {
		head[len(head)-1] |= 0x80
		head = append(head, byte(size&0x7f))
	}
	p.Write(head)
	p.WriteString(base)
	z := zlib.NewWriter(p)
	_, _ = z.Write(data) // into memory
	_ = z.Close()
}

// named adds an object and returns its name.
func (p *madePack) named(kind byte, data []byte) string {
	p.add(kind, "", data)
	name := sha1.Sum(fmt.Appendf(nil, "%s %d\x00%s", kindNames[kind], len(data), data))
	return string(name[:])
}

func (p *madePack) pack() []byte {
	head := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), p.objects)
	return append(head, p.Bytes()...)
}

// file is one with the pack in it.
func (p *madePack) file(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "pack")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(p.pack()); err != nil {
		t.Fatal(err)
	}
	return f
}

// A sandbox could otherwise keep a core of the control plane busy for hours with a few
// megabytes, and everybody's pushes waiting.
func TestAPackWhoseDeltasWaitForEachOtherWithoutEndIsRefused(t *testing.T) {
	t.Parallel()
	const deltas = 500
	var p madePack
	nowhere := strings.Repeat("x", sha1.Size)
	last := 0
	for i := range deltas {
		here := p.Len()
		if i == 0 {
			p.add(kindRefDelta, nowhere, []byte{0, 0})
		} else {
			p.add(kindOfsDelta, ofsBack(here-last), []byte{0, 0})
		}
		last = here
	}
	in, err := openPack(p.file(t), 0, 40)
	if err != nil {
		t.Fatal(err)
	}
	in.inflated = maxInflated - deltas*deltas/4*stepCost // so that the rest of it is soon used up
	if err := in.each(func(packed) error { return nil }); !errors.Is(err, errPackTooLarge) {
		t.Errorf("%d bytes in which each delta looks through all before it: %v", p.Len(), err)
	}
}

// ofsBack writes how far back a delta's base is.
func ofsBack(n int) string {
	out := []byte{byte(n & 0x7f)}
	for n >>= 7; n > 0; n >>= 7 {
		n--
		out = append([]byte{0x80 | byte(n&0x7f)}, out...)
	}
	return string(out)
}

// To say where a secret is may cost no more than to find it.
func TestAHistoryThatIsMadeToBeLostInIsToldOfSoonAndInLittleMemory(t *testing.T) {
	var p madePack
	blob := p.named(3, []byte(npmToken))
	empty := p.named(kindTree, nil)
	// A folder deep down that has the same folder in it again and again, by different names.
	deep := p.named(kindTree, bytes.Repeat([]byte("40000 a\x00"+empty), 100_000))
	root := p.named(kindTree, []byte("40000 "+strings.Repeat("d", 4000)+"\x00"+deep))
	top := p.named(kindTree, []byte("100644 z"+strings.Repeat("y", 70_000)+"\x00"+blob))
	first := p.named(kindCommit, fmt.Appendf(nil, "tree %x\n\nfirst\n", root))
	// A large commit that is the parent of the next one as often as there is room for it.
	parents := bytes.Repeat(fmt.Appendf(nil, "parent %x\n", first), 4_000)
	second := p.named(kindCommit, append(fmt.Appendf(nil, "tree %x\n", root), parents...))
	parents = bytes.Repeat(fmt.Appendf(nil, "parent %x\n", second), 4_000)
	third := p.named(kindCommit, append(fmt.Appendf(nil, "tree %x\n", top), parents...))
	push, file := &pushRequest{commands: []pushCommand{{new: hex.EncodeToString([]byte(third))}}}, p.file(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	said := push.leaks(file, findToken)
	runtime.ReadMemStats(&after)
	if !strings.Contains(said, "the value of NPM_TOKEN") || len(said) > 2000 {
		t.Errorf("it says in %d bytes %.300q", len(said), said)
	}
	used := after.TotalAlloc - before.TotalAlloc
	if used > 192<<20 {
		t.Errorf("a pack of %d kB took %d MB", p.Len()>>10, used>>20)
	}
}
