package sandbox

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// fault is what happens to a connection at one message.
type fault struct {
	kind  string // cut, half, stall, or none
	up    bool   // the direction: from the supervisor to the control plane
	frame int    // the first message of that direction to suffer, from 1
}

// faultyProxy stands between both ends and understands frames as RFC 6455
// section 5.2 lays them out. Its first connection suffers the fault, later ones
// do not.
type faultyProxy struct {
	listener net.Listener
	target   string
	fault    fault

	mu      sync.Mutex
	used    bool
	hit     bool // the fault has happened
	conns   []net.Conn
	running sync.WaitGroup
}

func newFaultyProxy(t *testing.T, target string, f fault) *faultyProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &faultyProxy{listener: l, target: target, fault: f}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *faultyProxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *faultyProxy) accept() {
	for {
		down, err := p.listener.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", p.target)
		if err != nil {
			down.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, down, up)
		f := p.fault
		if p.used {
			f = fault{kind: "none"}
		}
		p.used = true
		p.mu.Unlock()
		p.running.Go(func() { p.copy(down, up, f, true) })
		p.running.Go(func() { p.copy(up, down, f, false) })
	}
}

// copy forwards one direction: the HTTP handshake, then frame by frame.
func (p *faultyProxy) copy(from, to net.Conn, f fault, up bool) {
	defer closeHalf(to)
	r := bufio.NewReader(from)
	for { // the handshake ends with an empty line
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		if _, err := to.Write(line); err != nil {
			return
		}
		if len(line) <= 2 {
			break
		}
	}
	for messages := 0; ; {
		raw, data, err := readFrame(r)
		if err != nil {
			return
		}
		if data {
			messages++
		}
		if f.kind == "none" || f.up != up || messages < f.frame {
			if _, err := to.Write(raw); err != nil {
				return
			}
			continue
		}
		p.suffer(f, from, to, raw)
		return
	}
}

func (p *faultyProxy) suffer(f fault, from, to net.Conn, raw []byte) {
	p.mu.Lock()
	p.hit = true
	p.mu.Unlock()
	switch f.kind {
	case "cut": // in the middle of the frame, in both directions
		_, _ = to.Write(raw[:len(raw)/2])
		from.Close()
		to.Close()
	case "half": // copy ends this direction; the other one goes on
	case "stall": // nothing arrives any more, and nobody is told
		_, _ = io.Copy(io.Discard, from)
	}
}

func closeHalf(c net.Conn) {
	if half, ok := c.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}

// readFrame returns one whole frame and whether it carries a message.
func readFrame(r *bufio.Reader) (raw []byte, data bool, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, false, err
	}
	size := int(head[1] & 0x7f)
	more := map[int]int{126: 2, 127: 8}[size]
	ext := make([]byte, more)
	if _, err := io.ReadFull(r, ext); err != nil {
		return nil, false, err
	}
	switch more {
	case 2:
		size = int(binary.BigEndian.Uint16(ext))
	case 8:
		size = int(binary.BigEndian.Uint64(ext))
	}
	if head[1]&0x80 != 0 {
		size += 4 // the mask
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, false, err
	}
	return append(append(head, ext...), body...), head[0]&0x0f <= 2, nil
}
