package local

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"openinspect/sandbox"
)

// forward is a port of a box, offered on the loopback of the host.
type forward struct {
	key      forwardKey
	box      *box
	listener net.Listener
}

type forwardKey struct {
	id   string
	port int
}

// URL implements sandbox.Box: an address on the host's loopback that every
// program of the host can reach, as long as the box lives and Run runs. The port
// inside must listen on the box's loopback or on all its addresses.
func (b *box) URL(ctx context.Context, port int) (string, http.Header, error) {
	if err := sandbox.CheckPort(port); err != nil {
		return "", nil, err
	}
	if !b.record.Keeper.alive() {
		return "", nil, b.p.gone(b.record.ID)
	}
	f, isNew, err := b.p.forward(b, port)
	if err != nil {
		return "", nil, err
	}
	if isNew {
		select {
		case b.p.forwards <- f:
		case <-ctx.Done():
			b.p.endForward(f)
			return "", nil, fmt.Errorf("waiting for Run to offer a port: %w", ctx.Err())
		}
	}
	return "http://" + f.listener.Addr().String(), http.Header{}, nil
}

// forward finds or makes the listener for a port.
func (p *Provider) forward(b *box, port int) (f *forward, isNew bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := forwardKey{b.record.ID, port}
	if f := p.urls[key]; f != nil {
		return f, false, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, false, fmt.Errorf("offering port %d of sandbox %s: %w", port, b.record.Name, err)
	}
	f = &forward{key: key, box: b, listener: l}
	p.urls[key] = f
	return f, true, nil
}

func (p *Provider) endForward(f *forward) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.urls[f.key] == f {
		delete(p.urls, f.key)
	}
	f.listener.Close()
}

// forgetURLs ends the forwards of a box that ended here; serveForward notices
// those of a box that ended otherwise.
func (p *Provider) forgetURLs(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, f := range p.urls {
		if key.id == id {
			delete(p.urls, key)
			f.listener.Close()
		}
	}
}

// serveForward serves one forward until its box or ctx ends, and returns when
// all its connections have.
func (p *Provider) serveForward(ctx context.Context, f *forward) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var connections sync.WaitGroup
	defer connections.Wait()
	defer p.endForward(f)
	connections.Go(func() {
		defer p.endForward(f) // ends Accept
		held, ok, err := f.box.record.Keeper.hold()
		if err != nil || !ok {
			return
		}
		defer held.Close()
		if err := waitEnd(ctx, held); err != nil && ctx.Err() == nil {
			p.log.WarnContext(ctx, "watching a sandbox", "sandbox", f.box.record.Name, "error", err)
		}
	})
	for {
		c, err := f.listener.Accept()
		if err != nil {
			cancel()
			return nil // closed: there is no other error of a loopback listener that waiting would heal
		}
		connections.Go(func() { p.serveConnection(ctx, f, c) })
	}
}

func (p *Provider) serveConnection(ctx context.Context, f *forward, c net.Conn) {
	defer c.Close()
	there, err := f.box.dialPort(ctx, f.key.port)
	if err != nil {
		p.log.InfoContext(ctx, "no connection to a sandbox's port",
			"sandbox", f.box.record.Name, "port", f.key.port, "error", err)
		return
	}
	defer there.Close()
	stop := context.AfterFunc(ctx, func() {
		c.SetDeadline(time.Unix(1, 0))
		there.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(there, c) })
	pumps.Go(func() { pump(c, there) })
	pumps.Wait()
}

// pump copies one direction and passes on its end, so that a half-closed
// connection stays one.
func pump(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close() // an error has no end that could be passed on
		from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// dialPort connects to a port on the box's loopback.
func (b *box) dialPort(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+time.Second)
	defer cancel()
	file, err := b.fetch(ctx, request{Op: opDial, Port: port})
	if err != nil {
		return nil, err
	}
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("using a connection from sandbox %s: %w", b.record.Name, err)
	}
	return c, nil
}

var (
	_ sandbox.Box      = (*box)(nil)
	_ sandbox.Provider = (*Provider)(nil)
)
