package modal

import (
	"net"
	"sync"
)

// breakable is a listener whose connections can be broken.
type breakable struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]bool
}

// Accept implements net.Listener.
func (b *breakable) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[c] = true
	return &brokenOff{Conn: c, from: b}, nil
}

// brokenOff is one of its connections.
type brokenOff struct {
	net.Conn
	from *breakable
}

// Close implements net.Conn.
func (c *brokenOff) Close() error {
	c.from.mu.Lock()
	delete(c.from.open, c.Conn)
	c.from.mu.Unlock()
	return c.Conn.Close()
}

// BreakConnections breaks all connections to both services, as a network does.
// What was being asked for goes on; new connections are taken at once.
func (s *Server) BreakConnections() {
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	for c := range s.listener.open {
		c.Close() // whoever uses it is told
	}
}
