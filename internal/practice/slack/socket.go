package slack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
)

const (
	maxSockets = 10               // Slack's limit of one app
	ticketLife = 30 * time.Second // to use what apps.connections.open gave out
	// retireAfter is how long a connection lives after a disconnect message.
	retireAfter = 10 * time.Second
	// maxAck is the size from which Slack ignores an acknowledgement silently.
	maxAck = 20480
	// connectionTime is after how long a connection is recycled, and debugTime
	// the same of clients that ask for debug_reconnects.
	connectionTime = 18060 * time.Second
	debugTime      = 360 * time.Second
)

// socket is one Socket Mode connection. Its fields below are guarded by
// Server.mu, from number on; the others are for all goroutines.
type socket struct {
	conn    *websocket.Conn
	out     chan []byte
	gone    chan struct{} // closed to end it
	stalled atomic.Bool   // a black hole, see StallSockets

	number   int
	recycle  time.Time // when it will be told to reconnect
	retiring time.Time // when it will be closed; zero while in use
	closed   bool
}

// cut ends a connection at once. The caller holds Server.mu.
func (c *socket) cut() {
	if !c.closed {
		c.closed = true
		close(c.gone)
	}
}

// send queues a frame; it is false if the client has stopped reading.
func (c *socket) send(v any) bool {
	raw, err := json.Marshal(v)
	if err != nil || c.closed {
		return false
	}
	select {
	case c.out <- raw:
		return true
	default:
		return false
	}
}

// appsConnectionsOpen hands out a ticket for one connection.
func (s *Server) appsConnectionsOpen(c *call) (object, error) {
	if c.r.Method != http.MethodPost {
		return nil, fail("insecure_request")
	}
	ticket := secret(16)
	s.tickets[ticket] = time.Now().Add(ticketLife)
	base := s.base
	if base == "" {
		base = "http://" + c.r.Host
	}
	base = "ws" + strings.TrimPrefix(base, "http")
	q := url.Values{"ticket": {ticket}, "app_id": {s.id.AppID}}
	return object{"url": base + "/link/?" + q.Encode()}, nil
}

var upgrader = websocket.Upgrader{
	ReadBufferSize: 4 << 10, WriteBufferSize: 64 << 10,
	// Socket Mode clients send the Origin of Slack; the ticket is what counts.
	CheckOrigin: func(*http.Request) bool { return true },
}

func (s *Server) serveLink(w http.ResponseWriter, r *http.Request) {
	ticket := r.URL.Query().Get("ticket")
	s.mu.Lock()
	until, known := s.tickets[ticket]
	delete(s.tickets, ticket)
	s.mu.Unlock()
	if !known || time.Now().After(until) {
		http.Error(w, "ticket is used, expired or unknown", http.StatusForbidden)
		return
	}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	c := &socket{conn: conn, out: make(chan []byte, 256), gone: make(chan struct{})}
	life := connectionTime
	if r.URL.Query().Get("debug_reconnects") == "true" {
		life = debugTime
	}
	if !s.register(c, life) {
		conn.Close()
		return
	}
	defer s.open.Done()
	if err := s.runSocket(context.WithoutCancel(r.Context()), c); err != nil {
		s.log.Debug("socket ended", "number", c.number, "err", err)
	}
	s.unregister(c)
}

// register greets a connection, or turns it away if it is one too many. It is
// false once Run has ended.
func (s *Server) register(c *socket, life time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.open.Add(1)
	s.nextSocket++
	c.number, c.recycle = s.nextSocket, time.Now().Add(life)
	if len(s.sockets) >= maxSockets {
		c.send(disconnect("too_many_websockets", c))
		c.retiring = time.Now().Add(time.Second)
	}
	s.sockets = append(s.sockets, c)
	if c.retiring.IsZero() {
		c.send(object{
			"type": "hello", "num_connections": s.inUse(),
			"connection_info": object{"app_id": s.id.AppID},
			"debug_info":      object{"host": host(c), "build_number": 1, "approximate_connection_time": int(life.Seconds())},
		})
	}
	s.stir()
	return true
}

// inUse counts the connections that get envelopes.
func (s *Server) inUse() int {
	n := 0
	for _, c := range s.sockets {
		if c.retiring.IsZero() && !c.closed {
			n++
		}
	}
	return n
}

func (s *Server) unregister(c *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.cut()
	s.sockets = slices.DeleteFunc(s.sockets, func(o *socket) bool { return o == c })
	s.stir()
}

func host(c *socket) string { return fmt.Sprintf("applink-practice-%d", c.number) }

func disconnect(reason string, c *socket) object {
	return object{"type": "disconnect", "reason": reason, "debug_info": object{"host": host(c)}}
}

// retire announces the end of a connection; it gets no more envelopes.
func (s *Server) retire(c *socket, reason string) {
	c.send(disconnect(reason, c))
	c.retiring = time.Now().Add(retireAfter)
	s.stir()
}

// runSocket reads and writes until the connection or the server ends.
func (s *Server) runSocket(ctx context.Context, c *socket) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer c.conn.Close() // ends the reader
		return s.writeSocket(ctx, c)
	})
	group.Go(func() error { return s.readSocket(c) })
	return group.Wait()
}

// socketWrite bounds the writing of one frame.
const socketWrite = 5 * time.Second

func (s *Server) writeSocket(ctx context.Context, c *socket) error {
	ping := time.NewTicker(s.opts.PingEvery)
	defer ping.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.gone:
			return nil
		case frame := <-c.out:
			if !c.stalled.Load() {
				err = c.conn.SetWriteDeadline(time.Now().Add(socketWrite))
				if err == nil {
					err = c.conn.WriteMessage(websocket.TextMessage, frame)
				}
			}
		case <-ping.C:
			if !c.stalled.Load() {
				err = c.conn.WriteControl(websocket.PingMessage, []byte("Ping from "+host(c)), time.Now().Add(socketWrite))
			}
		}
		if err != nil {
			return err
		}
	}
}

// readSocket takes acknowledgements. Pings of the client are answered by the
// library while it reads.
func (s *Server) readSocket(c *socket) error {
	answer := c.conn.PingHandler()
	c.conn.SetPingHandler(func(data string) error {
		if c.stalled.Load() {
			return nil
		}
		return answer(data)
	})
	c.conn.SetReadLimit(1 << 20)
	for {
		_, raw, err := c.conn.ReadMessage()
		if err != nil {
			return err
		}
		var ack struct {
			EnvelopeID string          `json:"envelope_id"`
			Payload    json.RawMessage `json:"payload"`
		}
		if len(raw) >= maxAck || c.stalled.Load() || json.Unmarshal(raw, &ack) != nil || ack.EnvelopeID == "" {
			continue
		}
		s.acknowledge(c, ack.EnvelopeID, ack.Payload)
	}
}
