package sessions

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/lib/pq"
)

// channel is where replicas notify each other. A notification is a hint to
// look; polling finds what a hint missed. It is a statement of its own, apart
// from the transactions, because a NOTIFY inside them serialises their commits.
const channel = "openinspect"

// hint is a notification: which sessions' logs grew or whose state changed, and
// on which surfaces something is due. All stands for too many to name.
type hint struct {
	From     string   `json:"from"`
	Sessions []string `json:"sessions,omitempty"`
	Surfaces []string `json:"surfaces,omitempty"`
	All      bool     `json:"all,omitempty"`
}

// gossip collects what other replicas have to be told, and which sessions of
// our own readers have to be read from the tables.
type gossip struct {
	mu       sync.Mutex
	sessions map[string]bool
	surfaces map[string]bool
	told     chan struct{} // something was collected
	reread   chan struct{} // a topic of the hub is behind
}

func newGossip() gossip {
	return gossip{sessions: map[string]bool{}, surfaces: map[string]bool{},
		told: make(chan struct{}, 1), reread: make(chan struct{}, 1)}
}

// publish tells this process's readers of a committed transaction, and collects
// it for the other replicas.
func (e *Engine) publish(n news) {
	gap := false
	for session, events := range n.events {
		gap = e.hub.events(session, events) || gap
	}
	if gap {
		poke(e.reread)
	}
	for session := range n.sessions {
		e.hub.wake(actorTopic(session))
	}
	if len(n.sessions) > 0 {
		e.hub.wake(topicStart)
	}
	for surface := range n.surfaces {
		e.hub.wake(surfaceTopic(surface))
	}
	e.gossip.mu.Lock()
	defer e.gossip.mu.Unlock()
	for session := range n.events {
		e.gossip.sessions[session] = true
	}
	for session := range n.sessions {
		e.gossip.sessions[session] = true
	}
	for surface := range n.surfaces {
		e.gossip.surfaces[surface] = true
	}
	if len(e.gossip.sessions)+len(e.gossip.surfaces) > 0 {
		poke(e.told)
	}
}

// take empties the collection into a hint.
func (e *Engine) takeHint() hint {
	e.gossip.mu.Lock()
	defer e.gossip.mu.Unlock()
	h := hint{From: e.cfg.Replica}
	const most = 200 // a payload has to stay below 8,000 bytes
	if len(e.gossip.sessions) > most {
		h.All = true
	} else {
		for s := range e.gossip.sessions {
			h.Sessions = append(h.Sessions, s)
		}
	}
	for s := range e.gossip.surfaces {
		h.Surfaces = append(h.Surfaces, s)
	}
	clear(e.gossip.sessions)
	clear(e.gossip.surfaces)
	return h
}

// tellReplicas sends the hints, at most one per tempo.notify.
func (e *Engine) tellReplicas(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.told:
		}
		payload, err := json.Marshal(e.takeHint())
		if err != nil {
			return fmt.Errorf("encoding a notification: %w", err)
		}
		if _, err := e.db.ExecContext(ctx, `select pg_notify($1, $2)`, channel, string(payload)); err != nil && ctx.Err() == nil {
			e.log.Warn("other replicas could not be notified; they will find out by polling", "err", err)
		}
		if !e.pause(ctx, e.tempo.notify) {
			return nil
		}
	}
}

// hearReplicas wakes this process's readers on other replicas' hints, and now
// and then without one.
func (e *Engine) hearReplicas(ctx context.Context) error {
	var notes <-chan *pq.Notification
	if e.cfg.Listen != "" {
		l := pq.NewListener(e.cfg.Listen, 100*time.Millisecond, 10*time.Second, func(_ pq.ListenerEventType, err error) {
			if err != nil {
				e.log.Warn("the connection for notifications is down; polling goes on", "err", err)
			}
		})
		defer l.Close()
		if err := l.Listen(channel); err != nil {
			e.log.Warn("listening for notifications is not possible; polling goes on", "err", err)
		}
		notes = l.NotificationChannel()
	}
	poll := time.NewTicker(e.tempo.poll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-notes:
			e.hear(ctx, n)
		case <-e.reread:
			e.catchUp(ctx, nil)
		case <-poll.C:
			e.hearAll(ctx)
		}
	}
}

// hear acts on one notification; nil means that the connection was lost and is back.
func (e *Engine) hear(ctx context.Context, n *pq.Notification) {
	var h hint
	if n == nil || json.Unmarshal([]byte(n.Extra), &h) != nil || h.All {
		e.hearAll(ctx)
		return
	}
	if h.From == e.cfg.Replica {
		return
	}
	for _, s := range h.Surfaces {
		e.hub.wake(surfaceTopic(s))
	}
	if len(h.Sessions) == 0 {
		return
	}
	for _, s := range h.Sessions {
		e.hub.wake(actorTopic(s))
	}
	e.hub.wake(topicStart)
	e.catchUp(ctx, h.Sessions)
}

// hearAll looks at everything.
func (e *Engine) hearAll(ctx context.Context) {
	e.hub.wakeAll()
	e.catchUp(ctx, nil)
}

// catchUp hands on what the tables have and this process's readers have not
// seen: of the named sessions, or of all that have readers.
func (e *Engine) catchUp(ctx context.Context, sessions []string) {
	for _, w := range e.hub.watched(sessions) {
		if err := e.catchUpSession(ctx, w); err != nil && ctx.Err() == nil {
			e.log.Warn("a session's log could not be read for its watchers", "session", w.session, "err", err)
		}
	}
}

func (e *Engine) catchUpSession(ctx context.Context, w watched) error {
	const page, newest = 500, 200
	if w.seq == 0 { // nothing was handed on yet: the newest entries show readers whether they miss some
		s, err := e.Session(ctx, w.session)
		if err != nil {
			return err
		}
		w.seq = max(0, s.LastSeq-newest)
	}
	for {
		events, err := e.Events(ctx, w.session, w.seq, page)
		if err != nil {
			return err
		}
		e.hub.caughtUp(w.session, events)
		if len(events) < page {
			break
		}
		w.seq = events[len(events)-1].Seq
	}
	if w.acted {
		return nil // deltas come from the bridge itself
	}
	parts, err := e.RunningParts(ctx, w.session)
	if err != nil {
		return err
	}
	e.hub.remoteParts(w.session, parts)
	return nil
}
