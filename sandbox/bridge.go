package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// The bridge's two ends: Link is the control plane's, Bridge the supervisor's.
// Both stand on socket, which is one WebSocket with the rules that make a lost
// connection visible: the control plane pings every few seconds, both ends give
// up on a peer that was silent for longer than timing.silence, every write has
// a deadline, and every frame a largest size.

// Largest frames in bytes. A prompt's attachments travel down in one frame.
const (
	MaxUp   = 4 << 20
	MaxDown = 48 << 20
)

// ErrTooLarge means that a message was not sent because it exceeds MaxUp or
// MaxDown; the link goes on working.
var ErrTooLarge = errors.New("message is too large for the bridge")

// timing holds the bridge's own deadlines, so that tests can shorten them.
type timing struct {
	ping    time.Duration // between two pings of the control plane
	silence time.Duration // a peer that sent nothing for this long is gone
	write   time.Duration // for one frame
	greet   time.Duration // for hello and welcome
}

var defaultTiming = timing{
	ping:    4 * time.Second,
	silence: 15 * time.Second,
	write:   10 * time.Second,
	greet:   10 * time.Second,
}

// socket is one WebSocket that carries Messages. read must run until it returns;
// everything else may be called by several goroutines.
type socket struct {
	ws      *websocket.Conn
	timing  timing
	max     int // largest frame that this end may send
	writing chan struct{}
	in      chan Message
	closing chan struct{} // closed when nobody wants messages any more
	dead    chan struct{} // closed when read has returned
	err     error         // why it returned; written before dead is closed
	once    sync.Once
}

func newSocket(ws *websocket.Conn, t timing, maxIn, maxOut int) *socket {
	s := &socket{
		ws: ws, timing: t, max: maxOut,
		writing: make(chan struct{}, 1),
		in:      make(chan Message, 16),
		closing: make(chan struct{}),
		dead:    make(chan struct{}),
	}
	ws.SetReadLimit(int64(maxIn))
	ws.SetPongHandler(func(string) error { return s.extend() })
	ws.SetPingHandler(func(data string) error {
		// A pong that cannot be written shows at the peer as silence.
		_ = ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Second))
		return s.extend()
	})
	return s
}

// extend moves the read deadline: the peer lives.
func (s *socket) extend() error {
	return s.ws.SetReadDeadline(time.Now().Add(s.timing.silence))
}

// read moves frames into s.in until the connection ends. The deadline is set
// anew before each frame, so that a slow consumer is not mistaken for a silent peer.
func (s *socket) read() {
	defer close(s.dead)
	for {
		m, err := s.readOne()
		if err != nil {
			s.err = err
			return
		}
		select {
		case s.in <- m:
		case <-s.closing:
		}
	}
}

func (s *socket) readOne() (Message, error) {
	var m Message
	if err := s.extend(); err != nil {
		return m, err
	}
	_, data, err := s.ws.ReadMessage()
	if err != nil {
		return m, fmt.Errorf("reading from the bridge: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("reading a message of the bridge: %w", err)
	}
	return m, nil
}

// ping sends pings until the reader ends or ctx does.
func (s *socket) ping(ctx context.Context) {
	tick := time.NewTicker(s.timing.ping)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dead:
			return
		case <-tick.C:
			if err := s.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(s.timing.write)); err != nil {
				s.ws.Close()
				return
			}
		}
	}
}

// recv returns the next message. What arrived before the connection ended is
// still returned.
func (s *socket) recv(ctx context.Context) (Message, error) {
	select {
	case m := <-s.in:
		return m, nil
	default:
	}
	select {
	case m := <-s.in:
		return m, nil
	case <-ctx.Done():
		return Message{}, ctx.Err()
	case <-s.dead:
	}
	select {
	case m := <-s.in:
		return m, nil
	default:
		return Message{}, s.err
	}
}

func (s *socket) send(ctx context.Context, m Message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding a message for the bridge: %w", err)
	}
	return s.sendRaw(ctx, data)
}

// sendRaw writes one frame. A failed write ends the connection, because a
// WebSocket cannot go on after half a frame.
func (s *socket) sendRaw(ctx context.Context, frame []byte) error {
	if len(frame) > s.max {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, len(frame))
	}
	select {
	case s.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.dead:
		return s.err
	}
	defer func() { <-s.writing }()
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.ws.SetWriteDeadline(time.Now().Add(s.timing.write))
	if err == nil {
		err = s.ws.WriteMessage(websocket.TextMessage, frame)
	}
	if err != nil {
		s.ws.Close()
		return fmt.Errorf("writing to the bridge: %w", err)
	}
	return nil
}

// close says goodbye with a sentence and ends the connection. It waits shortly
// for the peer to read it: closing with unread data would reset the connection
// and take the sentence with it.
func (s *socket) close(code int, reason string) {
	s.once.Do(func() {
		close(s.closing)
		const frameRoom = 120 // a control frame carries at most 125 bytes
		if len(reason) > frameRoom {
			reason = strings.ToValidUTF8(reason[:frameRoom], "")
		}
		_ = s.ws.WriteControl(websocket.CloseMessage,
			websocket.FormatCloseMessage(code, reason), time.Now().Add(time.Second))
		select {
		case <-s.dead:
		case <-time.After(time.Second):
		}
		s.ws.Close()
	})
}

// Control is where the machine listener is reached.
type Control struct {
	// URL has the scheme and host that requests name. Behind a Unix socket the
	// host is only a name.
	URL *url.URL
	// Dial connects to it whatever address is asked for, or is nil if the
	// address in URL is to be dialled.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// ParseControl reads the value of EnvControl: unix:/path or http(s)://host.
func ParseControl(s string) (Control, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok && path != "" {
		return Control{
			URL: &url.URL{Scheme: "http", Host: "control"},
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			},
		}, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return Control{}, fmt.Errorf("control address %q is neither unix:/path nor http(s)://host", s)
	}
	return Control{URL: &url.URL{Scheme: u.Scheme, Host: u.Host}}, nil
}

// Transport returns a new transport whose connections go to the machine listener.
func (c Control) Transport() *http.Transport {
	return &http.Transport{
		DialContext:         c.Dial,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     30 * time.Second,
	}
}
