package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"

	"openinspect/sessions"
)

// The live connection. The browser says {"ticket", "after": N} first. It is sent
// the rows after N, the running parts whole, {"type": "live"}, and then what
// happens. {"after": N} again asks for the rows after N once more, {"parts":
// true} for the running parts.

// watcherQueue is how many frames a browser may be behind.
const watcherQueue = 512

// missedMost is how many rows a browser is sent to catch up; one that missed
// more loads the page again, which is cheaper for both.
const missedMost = 1500

// clientMost is the largest frame that a browser may send, in bytes.
const clientMost = 4096

// closeTooSlow is the close code of a browser that could not keep up.
const closeTooSlow = 4008

// watcher is one browser that watches a session.
type watcher struct {
	server  *Server
	viewer  viewer
	session string
	conn    *websocket.Conn
	queue   chan *websocket.PreparedMessage
	slow    chan struct{} // closed when the queue was full
}

// wish is what a browser says.
type wish struct {
	Ticket string `json:"ticket"`
	After  *int64 `json:"after"`
	Parts  bool   `json:"parts"`
}

// offer queues a message, or marks the watcher as too slow. It is called under
// its room's mutex, so by one goroutine at a time.
func (w *watcher) offer(m *websocket.PreparedMessage) {
	select {
	case w.queue <- m:
	default:
		select {
		case <-w.slow:
		default:
			close(w.slow)
		}
	}
}

// sameOrigin refuses connections that pages of other sites open.
func (s *Server) sameOrigin(r *http.Request) bool {
	u, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && u.Host != "" && (u.Host == r.Host || u.Host == s.public.Host)
}

// serveLive makes the connection and hands it to Run.
func (s *Server) serveLive(rw http.ResponseWriter, r *http.Request, v viewer) error {
	id := r.PathValue("id")
	if _, err := s.engine.Session(r.Context(), id); errors.Is(err, sessions.ErrNotFound) {
		return errNoSession
	} else if err != nil {
		return err
	}
	up := websocket.Upgrader{HandshakeTimeout: s.timing.greet, CheckOrigin: s.sameOrigin,
		ReadBufferSize: 1 << 10, WriteBufferSize: 4 << 10, WriteBufferPool: &s.hub.buffers}
	conn, err := up.Upgrade(rw, r, nil)
	if err != nil {
		return nil // Upgrade has answered
	}
	w := &watcher{server: s, viewer: v, session: id, conn: conn,
		queue: make(chan *websocket.PreparedMessage, watcherQueue), slow: make(chan struct{})}
	if err := s.hub.start(r.Context(), w.serve); err != nil {
		conn.Close()
	}
	return nil
}

// serve runs the connection to its end.
func (w *watcher) serve(ctx context.Context) {
	defer w.conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.conn.SetReadLimit(clientMost)
	first, err := w.greet()
	if err != nil {
		return
	}
	if !w.server.useTicket(w.viewer, w.session, first.Ticket) {
		w.say(websocket.ClosePolicyViolation, "the ticket is not valid: ask for another one")
		return
	}
	wishes := make(chan wish)
	read := make(chan struct{})
	if err := w.server.hub.start(ctx, func(context.Context) {
		defer close(read)
		defer cancel()
		w.read(ctx, wishes)
	}); err != nil {
		return
	}
	defer func() { w.conn.Close(); <-read }()
	room, through, err := w.server.hub.join(ctx, w)
	if err != nil {
		w.say(websocket.CloseTryAgainLater, "the session cannot be watched now")
		return
	}
	defer w.server.hub.leave(room, w)
	if err := w.catchUp(ctx, *first.After, through); err != nil {
		return
	}
	w.write(ctx, room, wishes)
}

// greet reads the first frame.
func (w *watcher) greet() (wish, error) {
	var first wish
	if err := w.conn.SetReadDeadline(time.Now().Add(w.server.timing.greet)); err != nil {
		return first, err
	}
	_, data, err := w.conn.ReadMessage()
	if err != nil {
		return first, err
	}
	if err := json.Unmarshal(data, &first); err != nil || first.After == nil {
		w.say(websocket.ClosePolicyViolation, "the first frame has to be a ticket and a sequence number")
		return first, errors.New("the first frame is not one")
	}
	return first, nil
}

// read passes on what the browser says until the connection ends. A browser that
// sends neither frames nor pongs is gone.
func (w *watcher) read(ctx context.Context, wishes chan<- wish) {
	extend := func(string) error { return w.conn.SetReadDeadline(time.Now().Add(w.server.timing.silence)) }
	w.conn.SetPongHandler(extend)
	for {
		if extend("") != nil {
			return
		}
		_, data, err := w.conn.ReadMessage()
		if err != nil {
			return
		}
		var next wish
		if json.Unmarshal(data, &next) != nil {
			return
		}
		select {
		case wishes <- next:
		case <-ctx.Done():
			return
		}
	}
}

// write sends what the room hands out, until the connection, the sign-in or the room ends.
func (w *watcher) write(ctx context.Context, room *room, wishes <-chan wish) {
	ping := time.NewTicker(w.server.timing.ping)
	defer ping.Stop()
	authorise := time.NewTicker(w.server.timing.authorise)
	defer authorise.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			w.say(websocket.CloseGoingAway, "the connection ends: connect again")
			return
		case <-room.closed:
			w.say(websocket.CloseServiceRestart, "connect again")
			return
		case <-w.slow:
			w.say(closeTooSlow, "too slow: connect again")
			return
		case m := <-w.queue:
			err = w.send(m)
		case next := <-wishes:
			err = w.grant(ctx, room, next)
		case <-ping.C:
			// The ping shows a lost browser to us; scripts cannot see it, so the
			// frame shows a lost server to the browser.
			err = w.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(w.server.timing.write))
			if err == nil {
				err = w.sendFrame(frame{Type: frameStill})
			}
		case <-authorise.C:
			if w.signedOut(ctx) {
				w.say(websocket.ClosePolicyViolation, "the sign-in has ended")
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// signedOut says whether the sign-in has ended since the connection was made.
func (w *watcher) signedOut(ctx context.Context) bool {
	p, err := w.server.engine.WhoIs(ctx, w.viewer.secret)
	if err == nil {
		return w.server.stillMember(ctx, p) != nil
	}
	return errors.Is(err, sessions.ErrNotFound)
}

// grant answers a browser that misses something.
func (w *watcher) grant(ctx context.Context, room *room, next wish) error {
	if next.After != nil {
		return w.catchUp(ctx, *next.After, room.position())
	}
	if next.Parts {
		return w.sendParts(ctx)
	}
	return nil
}

// catchUp sends the rows after one number up to another, and the running parts.
func (w *watcher) catchUp(ctx context.Context, after, through int64) error {
	if through-after > missedMost {
		return w.sendFrame(frame{Type: frameReload})
	}
	rows, err := w.server.readRows(ctx, w.session, max(after, 0), through)
	if err != nil {
		w.server.log.Error("reading what a browser missed", "session", w.session, "err", err)
		return err
	}
	for _, r := range rows {
		if err := w.sendFrame(rowFrame(r)); err != nil {
			return err
		}
	}
	if err := w.sendParts(ctx); err != nil {
		return err
	}
	return w.sendFrame(frame{Type: frameLive, Seq: through})
}

func (w *watcher) sendParts(ctx context.Context) error {
	parts, err := w.server.engine.RunningParts(ctx, w.session)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := w.sendFrame(partFrame(p)); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) sendFrame(f frame) error {
	m, err := prepare(f)
	if err != nil {
		return err
	}
	return w.send(m)
}

func (w *watcher) send(m *websocket.PreparedMessage) error {
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.server.timing.write)); err != nil {
		return err
	}
	return w.conn.WritePreparedMessage(m)
}

// say ends the connection with a reason. The browser may be gone already.
func (w *watcher) say(code int, reason string) {
	_ = w.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(time.Second))
}
