package sessions

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lib/pq"
)

// channel is where replicas notify each other. A notification is a hint to
// look; polling finds what a hint missed. It is a statement of its own, apart
// from the transactions, because a NOTIFY inside them serialises their commits.
const channel = "openinspect"

// hint is a notification: which sessions' logs or running parts grew, which
// sessions' actors and starters have to look, and on which surfaces something is
// due. All stands for too many to name.
type hint struct {
	From     string   `json:"from"`
	Logs     []string `json:"logs,omitempty"`
	Work     []string `json:"work,omitempty"`
	Surfaces []string `json:"surfaces,omitempty"`
	All      bool     `json:"all,omitempty"`
}

// gossip collects what other replicas have to be told, and which sessions of
// our own readers have to be read from the tables.
type gossip struct {
	mu       sync.Mutex
	logs     map[string]bool
	work     map[string]bool
	surfaces map[string]bool
	told     chan struct{} // something was collected
	reread   chan struct{} // a topic of the hub is behind
}

func newGossip() gossip {
	return gossip{logs: map[string]bool{}, work: map[string]bool{}, surfaces: map[string]bool{},
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
	e.collect(n)
}

// collect notes what other replicas have to be told.
func (e *Engine) collect(n news) {
	g := &e.gossip
	g.mu.Lock()
	defer g.mu.Unlock()
	for session := range n.events {
		g.logs[session] = true
	}
	maps.Copy(g.work, n.sessions)
	maps.Copy(g.surfaces, n.surfaces)
	if len(g.logs)+len(g.work)+len(g.surfaces) > 0 {
		poke(g.told)
	}
}

// takeHint empties the collection.
func (e *Engine) takeHint() hint {
	g := &e.gossip
	g.mu.Lock()
	defer g.mu.Unlock()
	h := hint{From: e.cfg.Replica}
	const most = 200 // a payload has to stay below 8,000 bytes
	if len(g.logs)+len(g.work) > most {
		h.All = true
	} else {
		h.Logs, h.Work = slices.Collect(maps.Keys(g.logs)), slices.Collect(maps.Keys(g.work))
	}
	h.Surfaces = slices.Collect(maps.Keys(g.surfaces))
	clear(g.logs)
	clear(g.work)
	clear(g.surfaces)
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
		case <-poll.C: // everybody else polls on their own
			e.catchUp(ctx, nil)
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
	for _, s := range h.Work {
		e.hub.wake(actorTopic(s))
	}
	if len(h.Work) > 0 {
		e.hub.wake(topicStart)
	}
	if len(h.Logs) > 0 {
		e.catchUp(ctx, h.Logs)
	}
}

// hearAll looks at everything.
func (e *Engine) hearAll(ctx context.Context) {
	e.hub.wakeAll()
	e.catchUp(ctx, nil)
}

// catchUp hands on what the tables have and this process's readers have not
// seen: of the named sessions, or of all that have readers.
func (e *Engine) catchUp(ctx context.Context, sessions []string) {
	list := e.hub.watched(sessions)
	if sessions == nil {
		list = e.behind(ctx, list)
	}
	for _, w := range list {
		if err := e.catchUpSession(ctx, w); err != nil && ctx.Err() == nil {
			e.log.Warn("a session's log could not be read for its watchers", "session", w.session, "err", err)
		}
	}
}

// behind leaves out the sessions whose readers have all there is: their log has
// not grown and nothing runs in them. So polling quiet sessions costs one statement.
func (e *Engine) behind(ctx context.Context, list []watched) []watched {
	if len(list) == 0 {
		return nil
	}
	var ids []string
	for _, w := range list {
		ids = append(ids, w.session)
	}
	var heads []struct {
		ID   string `db:"id"`
		Last int64  `db:"last_seq"`
		Runs bool   `db:"runs"`
	}
	err := e.db.SelectContext(ctx, &heads, `select id, last_seq, exists (select from prompts p
		where p.session_id = s.id and p.state = 'running') as runs from sessions s where id = any($1)`, pq.Array(ids))
	if err != nil {
		return list
	}
	quiet := map[string]int64{}
	for _, h := range heads {
		quiet[h.ID] = h.Last
		if h.Runs {
			delete(quiet, h.ID)
		}
	}
	return slices.DeleteFunc(list, func(w watched) bool {
		last, known := quiet[w.session]
		return known && w.seq == last
	})
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
		e.hub.events(w.session, events)
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
