package sessions

import (
	"context"
	"sync"
)

// Update is what a watcher of a session gets: entries of the log in sequence,
// or a delta of a running part. The log's entries are dense: a reader that sees
// a jump reads the table (Events) from its cursor.
type Update struct {
	Events []Event
	Delta  *PartDelta
}

// PartDelta is text added to a running part; Offset in bytes of the part so far.
// An Offset before the part's end replaces what was there.
type PartDelta struct {
	Prompt string `json:"prompt"`
	Part   string `json:"part"`
	Kind   string `json:"kind"`
	Offset int    `json:"offset"`
	Text   string `json:"text"`
}

// subscriptionBuffer is how many updates a reader may be behind before it lags.
const subscriptionBuffer = 64

// Subscription delivers updates of one session. If the reader is slower than
// the session, updates are dropped and Lagged is signalled: it reads the tables
// again from its own cursor.
type Subscription struct {
	hub     *hub
	session string
	updates chan Update
	lagged  chan struct{}
	closed  bool // guarded by hub.mu
}

// Updates is closed when the subscription ends.
func (s *Subscription) Updates() <-chan Update { return s.updates }

// Lagged receives when updates were dropped.
func (s *Subscription) Lagged() <-chan struct{} { return s.lagged }

// Close ends the subscription; it may be called twice.
func (s *Subscription) Close() { s.hub.unsubscribe(s) }

// Subscribe watches a session from now on. Read the tables after subscribing,
// then apply updates with greater sequence numbers: nothing is missed.
func (e *Engine) Subscribe(session string) *Subscription { return e.hub.subscribe(session) }

// Woken returns a channel that receives (coalesced) whenever something may have
// to be delivered on a surface. It is a hint; a reader also polls. The channel
// is released when ctx ends.
func (e *Engine) Woken(ctx context.Context, surface string) <-chan struct{} {
	return e.hub.listen(ctx, surfaceTopic(surface))
}

// Topics of wake-ups that are not a session's log.
const topicStart = "start" // a session may need a sandbox, or its deadlines changed

func surfaceTopic(surface string) string { return "surface:" + surface }
func actorTopic(session string) string   { return "actor:" + session }

// hub hands what was committed to the readers in this process.
type hub struct {
	mu       sync.Mutex
	sessions map[string]*topic
	wakes    map[string]map[chan struct{}]bool
}

// topic is a session with readers or an actor in this process.
type topic struct {
	subs  map[*Subscription]bool
	seq   int64             // last entry handed on; 0 before the first
	parts map[string]string // text of another replica's running parts, as handed on
	actor *actor            // holds the session's bridge in this process: deltas come at once
}

func newHub() *hub {
	return &hub{sessions: map[string]*topic{}, wakes: map[string]map[chan struct{}]bool{}}
}

func (h *hub) subscribe(session string) *Subscription {
	s := &Subscription{hub: h, session: session,
		updates: make(chan Update, subscriptionBuffer), lagged: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.topic(session).subs[s] = true
	return s
}

func (h *hub) unsubscribe(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.updates)
	delete(h.sessions[s.session].subs, s)
	h.release(s.session)
}

// topic returns the session's, making it. h.mu is held.
func (h *hub) topic(session string) *topic {
	t := h.sessions[session]
	if t == nil {
		t = &topic{subs: map[*Subscription]bool{}}
		h.sessions[session] = t
	}
	return t
}

// release forgets a topic that nobody needs. h.mu is held.
func (h *hub) release(session string) {
	if t := h.sessions[session]; t != nil && len(t.subs) == 0 && t.actor == nil {
		delete(h.sessions, session)
	}
}

// acting says that a holds the session's bridge in this process.
func (h *hub) acting(a *actor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topic(a.session)
	t.actor, t.parts = a, nil
}

// acted says that a does so no more; another one may by now.
func (h *hub) acted(a *actor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.sessions[a.session]; t != nil && t.actor == a {
		t.actor = nil
		h.release(a.session)
	}
}

// actorOf returns the holder of the session's bridge, if it is in this process.
func (h *hub) actorOf(session string) *actor {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.sessions[session]; t != nil {
		return t.actor
	}
	return nil
}

// events hands on what was committed. Two transactions of this process may
// arrive here in the wrong order: entries that leave a gap are not handed on but
// read from the table (gap is true), so that readers see a dense log.
func (h *hub) events(session string, events []Event) (gap bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.sessions[session]
	if t == nil || len(events) == 0 {
		return false
	}
	for len(events) > 0 && t.seq > 0 && events[0].Seq <= t.seq {
		events = events[1:]
	}
	if len(events) == 0 {
		return false
	}
	if t.seq > 0 && events[0].Seq > t.seq+1 {
		return true
	}
	t.seq = events[len(events)-1].Seq
	t.send(Update{Events: events})
	return false
}

// delta hands on a piece of a running part.
func (h *hub) delta(session string, d PartDelta) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.sessions[session]; t != nil {
		t.send(Update{Delta: &d})
	}
}

// send gives every reader the update, and those that are full the sign that
// they missed it. h.mu is held.
func (t *topic) send(u Update) {
	for s := range t.subs {
		select {
		case s.updates <- u:
		default:
			poke(s.lagged)
		}
	}
}

// listen returns a channel that receives whenever the topic is woken.
func (h *hub) listen(ctx context.Context, topic string) <-chan struct{} {
	ch := make(chan struct{}, 1)
	h.listenOn(ctx, topic, ch)
	return ch
}

// listenOn has the topic's wake-ups arrive on a channel of capacity one.
func (h *hub) listenOn(ctx context.Context, topic string, ch chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wakes[topic] == nil {
		h.wakes[topic] = map[chan struct{}]bool{}
	}
	h.wakes[topic][ch] = true
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.wakes[topic], ch)
		if len(h.wakes[topic]) == 0 {
			delete(h.wakes, topic)
		}
	})
}

// wake pokes everybody who listens to the topic.
func (h *hub) wake(topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.wakes[topic] {
		poke(ch)
	}
}

// poke signals a channel of capacity one; signals coalesce.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
