package doors

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Git's pkt-line framing, as gitprotocol-common(5) describes it: four
// hexadecimal digits of length, which include themselves, then the data;
// "0000" is a flush packet.

const (
	maxPacket = 65520
	flush     = "0000"
)

var errFlush = errors.New("flush packet")

// readPacket returns the packet's bytes as they came and its data within them.
// A flush packet is errFlush, with its bytes.
func readPacket(r io.Reader) (raw, data []byte, err error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, nil, err
	}
	n, err := strconv.ParseUint(string(head), 16, 16)
	if err != nil || (n > 0 && n < 4) || n > maxPacket {
		return nil, nil, fmt.Errorf("not a pkt-line: %q", head)
	}
	if n == 0 {
		return head, nil, errFlush
	}
	raw = make([]byte, n)
	copy(raw, head)
	if _, err := io.ReadFull(r, raw[4:]); err != nil {
		return nil, nil, fmt.Errorf("reading a pkt-line of %d bytes: %w", n, err)
	}
	return raw, raw[4:], nil
}

// packet frames one line.
func packet(data string) string { return fmt.Sprintf("%04x%s", len(data)+4, data) }

// oneLine makes a sentence fit into a line of the protocol.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// maxCommands bounds the commands of a push, in bytes: some hundred refs.
const maxCommands = 64 << 10

// pushRequest is what stands before the pack in a push.
type pushRequest struct {
	raw      []byte // everything that was read, to be replayed
	commands []pushCommand
	caps     map[string]bool
	signed   bool // it carries a push certificate
}

// pushCommand asks to move one ref; an id of zeros means that the ref is not
// there before, or not afterwards.
type pushCommand struct{ old, new, ref string }

func (c pushCommand) deletes() bool { return strings.Trim(c.new, "0") == "" }

// readPush reads the commands of a push up to their flush packet, as
// gitprotocol-pack(5) has them: "shallow" lines, then either commands, the
// first with the client's capabilities, or a certificate. No command at all is
// how git probes whether it may send a large body.
func readPush(r io.Reader) (*pushRequest, error) {
	p := &pushRequest{caps: map[string]bool{}}
	limited := io.LimitReader(r, maxCommands)
	for {
		raw, data, err := readPacket(limited)
		p.raw = append(p.raw, raw...)
		if errors.Is(err, errFlush) {
			return p, nil
		}
		if err != nil {
			return p, fmt.Errorf("reading the commands of a push (at most %d kB): %w", maxCommands>>10, err)
		}
		line, caps, first := strings.Cut(strings.TrimSuffix(string(data), "\n"), "\x00")
		if first {
			for c := range strings.FieldsSeq(caps) {
				p.caps[c] = true
			}
		}
		if line == "push-cert" {
			p.signed = true
			return p, nil
		}
		if strings.HasPrefix(line, "shallow ") {
			continue
		}
		command, err := parseCommand(line)
		if err != nil {
			return p, err
		}
		p.commands = append(p.commands, command)
	}
}

func parseCommand(line string) (pushCommand, error) {
	parts := strings.SplitN(line, " ", 3)
	if len(parts) != 3 || !isOID(parts[0]) || !isOID(parts[1]) || len(parts[0]) != len(parts[1]) || parts[2] == "" {
		return pushCommand{}, fmt.Errorf("not a command of a push: %q", line)
	}
	return pushCommand{old: parts[0], new: parts[1], ref: parts[2]}, nil
}

// isOID reports whether s is a full object id, SHA-1 or SHA-256.
func isOID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// bandSize is how much data a side-band packet of this push may carry; 0 means
// that the client did not ask for side bands.
func (p *pushRequest) bandSize() int {
	switch {
	case p.caps["side-band-64k"]:
		return maxPacket - 5
	case p.caps["side-band"]:
		return 1000 - 5
	}
	return 0
}

// reports says whether the client reads a report of the push.
func (p *pushRequest) reports() bool { return p.caps["report-status"] || p.caps["report-status-v2"] }

// report is the answer to a push in the client's form. The first argument is
// the outcome of unpacking; reasons has one for each ref that is refused.
func (p *pushRequest) report(unpack string, reasons map[string]string) []byte {
	var report bytes.Buffer
	report.WriteString(packet("unpack " + oneLine(unpack) + "\n"))
	for _, c := range p.commands {
		report.WriteString(packet("ng " + c.ref + " " + oneLine(reasons[c.ref]) + "\n"))
	}
	report.WriteString(flush)
	size := p.bandSize()
	if size == 0 {
		return report.Bytes()
	}
	var banded bytes.Buffer
	for report.Len() > 0 {
		banded.WriteString(packet("\x01" + string(report.Next(size))))
	}
	banded.WriteString(flush)
	return banded.Bytes()
}

// accepted returns the refs that the upstream's report says were moved.
func accepted(report []byte) (map[string]bool, error) {
	refs := map[string]bool{}
	r := bytes.NewReader(report)
	for {
		_, data, err := readPacket(r)
		switch {
		case errors.Is(err, errFlush) || errors.Is(err, io.EOF):
			return refs, nil
		case err != nil:
			return refs, fmt.Errorf("reading the report of a push: %w", err)
		}
		if ref, ok := strings.CutPrefix(strings.TrimSuffix(string(data), "\n"), "ok "); ok {
			refs[ref] = true
		}
	}
}

// askWhole adds to the refs that a server advertises for a push that it takes no
// pack made from objects which it has already (gitprotocol-capabilities(5), "no-thin"):
// such a pack cannot be looked through.
func askWhole(advertised io.Reader) io.Reader {
	var head bytes.Buffer
	for {
		raw, data, err := readPacket(advertised)
		refs, caps, first := bytes.Cut(data, []byte{0})
		if first {
			line := string(refs) + "\x00" + strings.TrimSuffix(string(caps), "\n") + " no-thin\n"
			head.WriteString(packet(line))
			break
		}
		head.Write(raw)
		if err != nil && !errors.Is(err, errFlush) {
			break // what is left is passed on as it is
		}
	}
	return io.MultiReader(&head, advertised)
}
