package sandbox

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

// BridgeHandler is the control plane's end: it serves BridgePath of the machine
// listener. For each supervisor that connected and said a Hello of our version
// it calls serve with the token that came in TokenHeader (not yet checked) and
// the link. ctx ends when the link does or when the request's context does;
// returning from serve closes the link. A request without a token is refused.
//
// What serve has to do for I5: answer with Welcome first, naming the highest
// event number that is stored for Hello.Boot; store events before it sends Ack
// and ignore those it already has; resend the running prompt if Hello does not
// list it, and Stop or Park if Hello shows that they are still to be done.
func BridgeHandler(serve func(ctx context.Context, token string, l *Link)) http.Handler {
	return &bridgeServer{serve: serve, timing: defaultTiming}
}

type bridgeServer struct {
	serve  func(ctx context.Context, token string, l *Link)
	timing timing
}

// writeBuffers are shared: a bridge writes seldom, and needs one only while it does.
var writeBuffers sync.Pool

func (b *bridgeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get(TokenHeader)
	if token == "" {
		http.Error(w, "the sandbox's token is missing", http.StatusUnauthorized)
		return
	}
	up := websocket.Upgrader{HandshakeTimeout: b.timing.greet, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
		WriteBufferPool: &writeBuffers}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	ctx, cancel := context.WithCancel(r.Context())
	s := newSocket(ws, b.timing, MaxUp, MaxDown)
	var running sync.WaitGroup
	running.Go(func() { defer cancel(); s.read() })
	running.Go(func() { s.ping(ctx) })
	defer running.Wait()
	defer cancel()

	hello, err := greet(ctx, s)
	if err != nil {
		s.close(websocket.ClosePolicyViolation, err.Error())
		return
	}
	b.serve(ctx, token, &Link{socket: s, hello: hello})
	s.close(websocket.CloseGoingAway, "the control plane ended the connection")
}

// greet waits for the supervisor's Hello and checks its version.
func greet(ctx context.Context, s *socket) (Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.greet)
	defer cancel()
	m, err := s.recv(ctx)
	if err != nil {
		return Hello{}, fmt.Errorf("waiting for hello: %w", err)
	}
	if m.Hello == nil || m.Hello.Boot == "" {
		return Hello{}, fmt.Errorf("the first message must be hello with a boot")
	}
	if m.Hello.Version != ProtocolVersion {
		return Hello{}, fmt.Errorf("this control plane speaks bridge version %d, the sandbox %d: start a new sandbox",
			ProtocolVersion, m.Hello.Version)
	}
	return *m.Hello, nil
}

// Link is one live connection of a supervisor, seen from the control plane.
// It is good until BridgeHandler's serve returns.
type Link struct {
	socket *socket
	hello  Hello
}

// Hello returns what the supervisor said first. Its version is ours.
func (l *Link) Hello() Hello { return l.hello }

// Send writes one message. It may be called by several goroutines; a write that
// takes longer than ten seconds ends the link. ErrTooLarge leaves it working.
func (l *Link) Send(ctx context.Context, m Message) error { return l.socket.send(ctx, m) }

// Recv returns the supervisor's next message, in order. It fails when the link
// has ended, which a silent peer brings about within 20 seconds.
func (l *Link) Recv(ctx context.Context) (Message, error) { return l.socket.recv(ctx) }

// Close ends the link and tells the supervisor why (its first 120 bytes). The
// supervisor will dial again.
func (l *Link) Close(reason string) { l.socket.close(websocket.ClosePolicyViolation, reason) }
