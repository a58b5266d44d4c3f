package modal

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFramesAreSentOnceInWhateverPiecesTheyCome(t *testing.T) {
	t.Parallel()
	frame := func(at uint64, text string) []byte {
		head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, at), uint32(len(text)))
		return append(head, text...)
	}
	var all []byte
	for _, f := range [][]byte{
		frame(0, "abc"), frame(3, ""), frame(3, "def"),
		frame(0, "abcdefgh"), // again from the beginning, with more
		frame(2, "cd"),       // nothing new
		frame(20, "late"),    // after what was not kept
	} {
		all = append(all, f...)
	}
	for _, size := range []int{1, 5, len(all)} {
		var got []string
		f := &frameSender{next: 1, send: func(at uint64, data []byte) error {
			got = append(got, fmt.Sprint(at, string(data)))
			return nil
		}}
		for rest := all; len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := f.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if diff := cmp.Diff([]string{"1bc", "3def", "6gh", "20late"}, got); diff != "" {
			t.Errorf("in pieces of %d: %s", size, diff)
		}
	}
}
