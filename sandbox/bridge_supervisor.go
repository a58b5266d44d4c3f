package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
)

// ErrAbandoned ends Run: no control plane answered for BridgeConfig.Patience.
var ErrAbandoned = errors.New("no control plane answered for too long")

// Orders is what the control plane asks of a supervisor. The methods are called
// one after the other and have to return at once.
type Orders interface {
	// Welcome comes first on every connection, so more than once.
	Welcome(Welcome)
	// Prompt comes once per id and boot.
	Prompt(Prompt)
	// Stop, Park and Vet may come again after a lost connection.
	Stop(Stop)
	Park(Park)
	Vet(Vet)
}

// BridgeConfig says where a Bridge connects and as whom.
type BridgeConfig struct {
	Control string // as in EnvControl
	Token   string
	Boot    string // this start of the supervisor, unique for ever
	// SpoolDir holds the file of events that are not acknowledged; made if missing.
	SpoolDir string
	// SpoolLimit is how many bytes it may have before big outputs are dropped; 0 is 64 MiB.
	SpoolLimit int64
	// Scrub, if any, takes what nobody may see out of an event's JSON, before it
	// is kept; it may change the insides of strings only.
	Scrub func([]byte) []byte
	// Patience is how long Run goes on without a control plane; 0 is for ever.
	Patience time.Duration
	// Heartbeat is asked for the next heartbeat; it has to return at once.
	Heartbeat func() Heartbeat
	Log       *slog.Logger
}

// Bridge is the supervisor's end. Event, Delta and Call may be used by several
// goroutines, before Run and while no connection exists.
type Bridge struct {
	cfg     BridgeConfig
	control Control
	timing  timing
	spool   *spool
	wake    chan struct{} // something is to be sent
	beats   chan struct{} // a heartbeat is to be sent now

	mu      sync.Mutex
	known   []KnownPrompt
	deltas  []*pendingDelta         // not sent yet, oldest first
	running map[string]*Delta       // whole text so far of parts still being written
	calls   map[string]*pendingCall // not answered yet
	order   []string                // ids of calls, oldest first
}

// pendingDelta waits for the next flush, after event after.
type pendingDelta struct {
	Delta
	after int64
	since time.Time
}

type pendingCall struct {
	call   Call
	sent   bool // on this connection
	result chan Result
}

// deltaEvery is how long deltas are collected before they are sent.
const deltaEvery = 50 * time.Millisecond

// NewBridge opens the spool. Events of an earlier boot that it still holds are discarded.
func NewBridge(cfg BridgeConfig) (*Bridge, error) {
	control, err := ParseControl(cfg.Control)
	if err != nil {
		return nil, err
	}
	if cfg.SpoolLimit == 0 {
		cfg.SpoolLimit = 64 << 20
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	sp, err := openSpool(cfg.SpoolDir, cfg.SpoolLimit)
	if err != nil {
		return nil, err
	}
	return &Bridge{
		cfg: cfg, control: control, timing: defaultTiming, spool: sp,
		wake:    make(chan struct{}, 1),
		beats:   make(chan struct{}, 1),
		running: make(map[string]*Delta),
		calls:   make(map[string]*pendingCall),
	}, nil
}

// Event appends one event with a Body* value. It is sent as soon as there is a
// connection and kept until it is acknowledged. A finished part ends its deltas;
// BodySettled marks the prompt as settled.
func (b *Bridge) Event(kind, prompt string, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		b.cfg.Log.Error("event cannot be encoded", "kind", kind, "err", err)
		return
	}
	if b.cfg.Scrub != nil {
		data = b.cfg.Scrub(data)
	}
	b.mu.Lock()
	if _, err := b.spool.append(Event{Prompt: prompt, Kind: kind, Body: data, At: time.Now().UTC()}); err != nil {
		b.cfg.Log.Error("event cannot be kept", "kind", kind, "err", err)
	}
	b.note(prompt, body)
	b.mu.Unlock()
	b.poke()
}

// note updates what the bridge itself remembers of running parts and prompts.
func (b *Bridge) note(prompt string, body any) {
	switch body := body.(type) {
	case BodyText:
		delete(b.running, body.Part)
	case BodyTool:
		if body.State != "running" {
			delete(b.running, body.Part)
		}
	case BodySettled:
		for part, d := range b.running {
			if d.Prompt == prompt {
				delete(b.running, part)
			}
		}
		for i := range b.known {
			if b.known[i].ID == prompt {
				b.known[i].Settled = true
			}
		}
	}
}

// Delta reports text added to a part, from Offset on; an Offset before the end
// replaces what was there. Deltas are collected for 50 ms, keep their place
// among the events, and are repeated whole after a lost connection.
func (b *Bridge) Delta(d Delta) {
	b.mu.Lock()
	defer b.mu.Unlock()
	after := b.spool.last()
	whole := b.running[d.Part]
	if whole == nil {
		whole = &Delta{Prompt: d.Prompt, Part: d.Part, Kind: d.Kind}
		b.running[d.Part] = whole
	}
	if d.Offset > len(whole.Text) {
		b.cfg.Log.Warn("delta leaves a gap", "part", d.Part, "offset", d.Offset, "have", len(whole.Text))
		return
	}
	whole.Text = whole.Text[:d.Offset] + d.Text
	for _, p := range b.deltas {
		if p.Part == d.Part && p.Offset <= d.Offset && d.Offset <= p.Offset+len(p.Text) {
			p.Text = p.Text[:d.Offset-p.Offset] + d.Text
			return
		}
	}
	b.deltas = append(b.deltas, &pendingDelta{Delta: d, after: after, since: time.Now()})
	b.poke()
}

// Call asks the control plane and waits for its answer, over as many
// connections as it takes. The caller's ctx bounds the wait.
func (b *Bridge) Call(ctx context.Context, c Call) (Result, error) {
	p := &pendingCall{call: c, result: make(chan Result, 1)}
	b.mu.Lock()
	if _, dup := b.calls[c.ID]; dup {
		b.mu.Unlock()
		return Result{}, fmt.Errorf("call %s is already under way", c.ID)
	}
	b.calls[c.ID] = p
	b.order = append(b.order, c.ID)
	b.mu.Unlock()
	b.poke()
	defer b.forget(c.ID)
	select {
	case r := <-p.result:
		return r, nil
	case <-ctx.Done():
		return Result{}, fmt.Errorf("waiting for the answer to %s: %w", c.Tool, ctx.Err())
	}
}

func (b *Bridge) forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.calls, id)
	for i, o := range b.order {
		if o == id {
			b.order = append(b.order[:i:i], b.order[i+1:]...)
			break
		}
	}
}

// Flush waits until every event is acknowledged.
func (b *Bridge) Flush(ctx context.Context) error {
	for {
		_, count, emptied := b.spool.unacked()
		if count == 0 {
			return nil
		}
		select {
		case <-emptied:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d events to be acknowledged: %w", count, ctx.Err())
		}
	}
}

// Close closes the spool. Call it after Run has returned.
func (b *Bridge) Close() error { return b.spool.close() }

// Beat has a heartbeat sent now, because it would say something else than the last
// one. Without a connection the next one's first heartbeat says it.
func (b *Bridge) Beat() {
	select {
	case b.beats <- struct{}{}:
	default:
	}
}

func (b *Bridge) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Run keeps a connection to the control plane until ctx ends, which is no
// error, or the patience does (ErrAbandoned).
func (b *Bridge) Run(ctx context.Context, orders Orders) error {
	const shortest, longest = 50 * time.Millisecond, 5 * time.Second
	wait := shortest
	heard := time.Now()
	for {
		began := time.Now()
		welcomed, err := b.connect(ctx, orders)
		if ctx.Err() != nil {
			return nil
		}
		if welcomed {
			heard = time.Now()
			// A control plane that hangs up at once is not called again at once.
			if heard.Sub(began) > time.Second {
				wait = shortest
			}
		}
		b.cfg.Log.Info("bridge is down", "err", err, "retry", wait)
		if b.cfg.Patience > 0 && time.Since(heard) > b.cfg.Patience {
			return ErrAbandoned
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, longest)
	}
}

// connect is the life of one connection.
func (b *Bridge) connect(ctx context.Context, orders Orders) (welcomed bool, err error) {
	s, err := b.dial(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	reading.Go(func() { defer cancel(); s.read() })
	defer reading.Wait()
	defer cancel()
	defer s.close(websocket.CloseGoingAway, "the supervisor hangs up")

	welcome, err := b.greet(ctx, s)
	if err != nil {
		if deadErr := s.why(); deadErr != nil {
			err = deadErr
		}
		return false, err
	}
	b.spool.ack(welcome.AckedThrough)
	orders.Welcome(welcome)
	b.resume()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.receive(gctx, s, orders) })
	g.Go(func() error { return b.transmit(gctx, s) })
	err = g.Wait()
	if deadErr := s.why(); deadErr != nil {
		err = deadErr // says more than the cancellation that followed from it
	}
	return true, err
}

// why returns the reader's error if it has ended.
func (s *socket) why() error {
	select {
	case <-s.dead:
		return s.err
	default:
		return nil
	}
}

func (b *Bridge) dial(ctx context.Context) (*socket, error) {
	d := websocket.Dialer{
		NetDialContext:   b.control.Dial,
		HandshakeTimeout: b.timing.greet,
		ReadBufferSize:   16 << 10, WriteBufferSize: 16 << 10,
	}
	u := *b.control.URL
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	u.Path = BridgePath
	ws, resp, err := d.DialContext(ctx, u.String(), http.Header{TokenHeader: {b.cfg.Token}})
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("dialling the bridge: %s", resp.Status)
		}
		return nil, fmt.Errorf("dialling the bridge: %w", err)
	}
	return newSocket(ws, b.timing, MaxDown, MaxUp), nil
}

// greet says hello and waits for the welcome.
func (b *Bridge) greet(ctx context.Context, s *socket) (Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timing.greet)
	defer cancel()
	_, unacked, _ := b.spool.unacked()
	b.mu.Lock()
	hello := Hello{Version: ProtocolVersion, Boot: b.cfg.Boot, Unacked: unacked,
		Prompts: append([]KnownPrompt(nil), b.known...)}
	b.mu.Unlock()
	if err := s.send(ctx, Message{Hello: &hello}); err != nil {
		return Welcome{}, err
	}
	m, err := s.recv(ctx)
	if err != nil {
		return Welcome{}, fmt.Errorf("waiting for welcome: %w", err)
	}
	if m.Welcome == nil {
		return Welcome{}, errors.New("the control plane's first message is not welcome")
	}
	return *m.Welcome, nil
}

// resume prepares what a new connection has to repeat besides events: calls
// without an answer and the whole text of running parts.
func (b *Bridge) resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	after := b.spool.last()
	for _, p := range b.calls {
		p.sent = false
	}
	b.deltas = nil
	for _, d := range b.running {
		b.deltas = append(b.deltas, &pendingDelta{Delta: *d, after: after})
	}
}

// receive hands the control plane's messages on.
func (b *Bridge) receive(ctx context.Context, s *socket, orders Orders) error {
	for {
		m, err := s.recv(ctx)
		if err != nil {
			return err
		}
		switch {
		case m.Ack != nil:
			b.spool.ack(m.Ack.N)
		case m.Prompt != nil:
			if b.learn(m.Prompt.ID) {
				orders.Prompt(*m.Prompt)
			}
		case m.Stop != nil:
			orders.Stop(*m.Stop)
		case m.Park != nil:
			orders.Park(*m.Park)
		case m.Vet != nil:
			orders.Vet(*m.Vet)
		case m.Result != nil:
			b.answer(*m.Result)
		}
	}
}

// learn notes a prompt and reports whether it is new to this boot.
func (b *Bridge) learn(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.known {
		if k.ID == id {
			return false
		}
	}
	b.known = append(b.known, KnownPrompt{ID: id})
	return true
}

func (b *Bridge) answer(r Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.calls[r.ID]; p != nil {
		select {
		case p.result <- r:
		default: // answered twice
		}
	}
}

// transmit sends events, deltas, calls and heartbeats of one connection.
func (b *Bridge) transmit(ctx context.Context, s *socket) error {
	beat := time.NewTicker(HeartbeatEvery)
	defer beat.Stop()
	flush := time.NewTimer(0)
	defer flush.Stop()
	next, _, _ := b.spool.unacked()
	if err := b.beat(ctx, s); err != nil {
		return err
	}
	for {
		again, err := b.push(ctx, s, &next)
		if err != nil {
			return err
		}
		flush.Reset(again)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.wake:
		case <-flush.C:
		case <-b.beats:
			if err := b.beat(ctx, s); err != nil {
				return err
			}
		case <-beat.C:
			if err := b.beat(ctx, s); err != nil {
				return err
			}
		}
	}
}

func (b *Bridge) beat(ctx context.Context, s *socket) error {
	var h Heartbeat
	if b.cfg.Heartbeat != nil {
		h = b.cfg.Heartbeat()
	}
	return s.send(ctx, Message{Heartbeat: &h})
}

// push sends what is due from event next on and returns how long it may be
// until something is due again.
func (b *Bridge) push(ctx context.Context, s *socket, next *int64) (time.Duration, error) {
	const idle = time.Hour // a poke comes before
	last := b.spool.last()
	b.mu.Lock()
	if *next > last && len(b.deltas) > 0 {
		if early := deltaEvery - time.Since(b.deltas[0].since); early > 0 && !b.callsWaiting() {
			b.mu.Unlock()
			return early, nil
		}
	}
	deltas := b.deltas
	b.deltas = nil
	var calls []Call
	for _, id := range b.order {
		if p := b.calls[id]; !p.sent {
			p.sent = true
			calls = append(calls, p.call)
		}
	}
	b.mu.Unlock()
	for _, d := range deltas {
		if err := b.events(ctx, s, next, d.after); err != nil {
			return 0, err
		}
		if err := s.send(ctx, Message{Delta: &d.Delta}); err != nil && !errors.Is(err, ErrTooLarge) {
			return 0, err
		}
	}
	if err := b.events(ctx, s, next, last); err != nil {
		return 0, err
	}
	for _, c := range calls {
		if err := b.call(ctx, s, c); err != nil {
			return 0, err
		}
	}
	return idle, nil
}

func (b *Bridge) callsWaiting() bool {
	for _, p := range b.calls {
		if !p.sent {
			return true
		}
	}
	return false
}

// events sends the events from next to through. One that is too large is no
// lost link: it would be as large on the next. The spool keeps none that is, but
// the numbers behind it must not depend on that.
func (b *Bridge) events(ctx context.Context, s *socket, next *int64, through int64) error {
	for ; *next <= through; *next++ {
		data, err := b.spool.at(*next)
		if err != nil {
			return err
		}
		if data == nil {
			continue // acknowledged meanwhile
		}
		err = s.sendRaw(ctx, eventFrame(data))
		if errors.Is(err, ErrTooLarge) {
			b.cfg.Log.Error("event is too large for the bridge", "n", *next, "bytes", len(data))
			err = s.sendRaw(ctx, eventFrame(standIn(data)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eventFrame is the message of an encoded event.
func eventFrame(data []byte) []byte {
	return append(append([]byte(`{"event":`), data...), '}')
}

// call sends one call; one that can never pass is answered here.
func (b *Bridge) call(ctx context.Context, s *socket, c Call) error {
	err := s.send(ctx, Message{Call: &c})
	if errors.Is(err, ErrTooLarge) {
		b.answer(Result{ID: c.ID, Error: true, Text: "The arguments are too large: shorten them."})
		return nil
	}
	return err
}
