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
// section 5.2 lays them out. The fault happens once, at a message counted over all
// connections: on a busy machine an earlier one may end by its deadlines.
type faultyProxy struct {
	listener net.Listener
	target   string
	fault    fault

	mu      sync.Mutex
	passed  int  // messages of the fault's direction
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
		p.mu.Unlock()
		p.running.Go(func() { p.copy(down, up, true) })
		p.running.Go(func() { p.copy(up, down, false) })
	}
}

// copy forwards one direction: the HTTP handshake, then frame by frame.
func (p *faultyProxy) copy(from, to net.Conn, up bool) {
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
	for {
		raw, data, err := readFrame(r)
		if err != nil {
			return
		}
		if p.due(up, data) {
			p.suffer(from, to, raw)
			return
		}
		if _, err := to.Write(raw); err != nil {
			return
		}
	}
}

// due counts a frame and says whether it meets the fault.
func (p *faultyProxy) due(up, data bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault.kind == "none" || p.fault.up != up || p.hit {
		return false
	}
	if data {
		p.passed++
	}
	p.hit = p.passed >= p.fault.frame
	return p.hit
}

func (p *faultyProxy) suffer(from, to net.Conn, raw []byte) {
	switch p.fault.kind {
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
