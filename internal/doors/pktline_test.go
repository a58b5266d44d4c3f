package doors

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	zeros = "0000000000000000000000000000000000000000"
	some  = "1111111111111111111111111111111111111111"
)

func TestTheCommandsOfAPushAreReadAsGitReadsThem(t *testing.T) {
	t.Parallel()
	stream := packet("shallow "+some+"\n") + packet(zeros+" "+some+" refs/heads/a\x00 report-status side-band-64k agent=git/2\n") +
		packet(some+" "+zeros+" refs/heads/b c\n") + flush + "PACK"
	rest := strings.NewReader(stream)
	p, err := readPush(rest)
	if err != nil {
		t.Fatal(err)
	}
	want := []pushCommand{{zeros, some, "refs/heads/a"}, {some, zeros, "refs/heads/b c"}}
	if diff := cmp.Diff(want, p.commands, cmp.AllowUnexported(pushCommand{})); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if !p.reports() || p.bandSize() != maxPacket-5 || p.commands[0].deletes() || !p.commands[1].deletes() {
		t.Errorf("capabilities %v", p.caps)
	}
	if pack, err := io.ReadAll(rest); err != nil || string(p.raw)+string(pack) != stream {
		t.Errorf("the bytes to replay are not those that came: %q + %q, %v", p.raw, pack, err)
	}
}

func TestALongReportIsCutIntoBands(t *testing.T) {
	t.Parallel()
	p := &pushRequest{caps: map[string]bool{"report-status": true, "side-band": true}}
	reasons := map[string]string{}
	for _, name := range strings.Split(strings.Repeat("x,", 40), ",") {
		ref := "refs/heads/" + name + strings.Repeat("y", len(p.commands))
		p.commands = append(p.commands, pushCommand{zeros, some, ref})
		reasons[ref] = "no\nline break\x00"
	}
	banded := bytes.NewReader(p.report("ok", reasons))
	var report bytes.Buffer
	for {
		raw, data, err := readPacket(banded)
		if errors.Is(err, errFlush) {
			break
		}
		if err != nil || len(raw) > 1000 || data[0] != 1 {
			t.Fatalf("packet of %d bytes, band %d: %v", len(raw), data[0], err)
		}
		report.Write(data[1:])
	}
	if n := strings.Count(report.String(), " no line break \n"); n != len(p.commands) || banded.Len() != 0 {
		t.Errorf("%d of %d refusals; %d bytes too many", n, len(p.commands), banded.Len())
	}
}

// FuzzPush checks that whatever is taken for a push is replayed byte for byte,
// and that no push is allowed that names another ref.
func FuzzPush(f *testing.F) {
	f.Add([]byte(packet(zeros+" "+some+" refs/heads/inspect/s1\x00report-status") + flush + "PACK"))
	f.Add([]byte(packet(zeros+" "+some+" refs/heads/inspect/s1\n\x00report-status") + flush))
	f.Add([]byte(packet(zeros+" "+some+" refs/heads/main") + flush))
	f.Add([]byte("0000"))
	f.Add([]byte("0001000400050006"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		p, err := readPush(bytes.NewReader(stream))
		if !bytes.HasPrefix(stream, p.raw) {
			t.Fatalf("read %q of %q", p.raw, stream)
		}
		if err != nil || p.signed || len(p.forbidden(access)) > 0 {
			return
		}
		for _, c := range p.commands {
			if c.ref != "refs/heads/inspect/s1" || c.deletes() || len(p.commands) != 1 {
				t.Fatalf("allowed %+v", p.commands)
			}
		}
	})
}
