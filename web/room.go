package web

import (
	"context"
	"html/template"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
	"openinspect/sessions"
)

// panelPause is how long changes of a session's state are collected before its
// panels are rendered again.
const panelPause = 60 * time.Millisecond

// room follows one session's log for everybody who watches it here: it renders
// each event once and hands it to all.
type room struct {
	server  *Server
	session string
	ready   chan struct{} // closed when cursor is known
	closed  chan struct{} // closed when the room has ended
	err     error         // why; written before closed is closed
	stale   chan struct{} // the panels may have changed

	mu       sync.Mutex
	cursor   int64 // what was handed out
	watchers map[*watcher]struct{}
	others   []sessions.Person                     // who watches at other replicas
	left     map[uuid.UUID]time.Time               // until when somebody who left here may still be listed
	panels   map[string]*websocket.PreparedMessage // by name, as they were handed out last
	html     map[string]template.HTML
}

func newRoom(s *Server, session string) *room {
	return &room{server: s, session: session, ready: make(chan struct{}), closed: make(chan struct{}),
		stale: make(chan struct{}, 1), watchers: make(map[*watcher]struct{}), left: make(map[uuid.UUID]time.Time),
		panels: make(map[string]*websocket.PreparedMessage), html: make(map[string]template.HTML)}
}

// run follows the log until the last watcher has left or ctx ends.
func (r *room) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sub := r.server.engine.Subscribe(r.session)
	defer sub.Close()
	x, err := r.server.engine.Session(ctx, r.session)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.cursor = x.LastSeq
	r.mu.Unlock()
	close(r.ready)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-r.closed:
			cancel()
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error { return r.follow(ctx, sub) })
	g.Go(func() error { return r.keepPanels(ctx) })
	err = g.Wait()
	select {
	case <-r.closed:
		return nil // the last watcher has left
	default:
		return err
	}
}

// follow hands out the log and the deltas. What another replica appends without
// waking us is found by looking every few seconds.
func (r *room) follow(ctx context.Context, sub *sessions.Subscription) error {
	look := time.NewTicker(r.server.timing.look)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u, ok := <-sub.Updates():
			if !ok {
				return errEnding
			}
			if err := r.take(ctx, u); err != nil {
				return err
			}
		case <-sub.Lagged():
			if err := r.catchUp(ctx); err != nil {
				return err
			}
			if err := r.sendParts(ctx); err != nil {
				return err
			}
		case <-look.C:
			if err := r.catchUp(ctx); err != nil {
				return err
			}
		}
	}
}

// take hands out an update. Entries that do not follow the last one are read
// from the table.
func (r *room) take(ctx context.Context, u sessions.Update) error {
	for _, ev := range u.Events {
		switch at := r.position(); {
		case ev.Seq <= at:
			continue
		case ev.Seq > at+1:
			return r.catchUp(ctx)
		}
		if err := r.handOut(ctx, ev); err != nil {
			return err
		}
	}
	if u.Delta != nil {
		return r.send(deltaFrame(*u.Delta))
	}
	return nil
}

// catchUp hands out what the table has after the cursor.
func (r *room) catchUp(ctx context.Context) error {
	for {
		const batch = 200
		events, err := r.server.engine.Events(ctx, r.session, r.position(), batch)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if err := r.handOut(ctx, ev); err != nil {
				return err
			}
		}
		if len(events) < batch {
			return nil
		}
	}
}

// changesPanels are the kinds after which header and side column look different.
var changesPanels = map[string]bool{
	sessions.KindRepository: true, sessions.KindTitle: true, sessions.KindQueued: true, sessions.KindEdited: true,
	sessions.KindStarted: true, sessions.KindStop: true, sessions.KindEnded: true, sessions.KindSandbox: true,
	sessions.KindArtifact: true, sessions.KindWaiting: true, sandbox.KindPhase: true, sandbox.KindTodo: true,
	sandbox.KindPush: true, sessions.KindQuestion: true, sessions.KindAnswered: true,
	sessions.KindRevoked: true, sessions.KindChild: true, sessions.KindCarried: true, sessions.KindArchived: true,
}

// handOut renders the event that follows the cursor and gives it to every watcher.
func (r *room) handOut(ctx context.Context, ev sessions.Event) error {
	x, err := r.server.rows.row(ctx, ev)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.server.log.Error("an event cannot be shown", "session", r.session, "seq", ev.Seq, "err", err)
		x = row{Seq: ev.Seq, Kind: ev.Kind}
	}
	f := rowFrame(x)
	f.Prompt = ev.Prompt
	m, err := prepare(f)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.cursor = ev.Seq
	r.give(m)
	r.mu.Unlock()
	if changesPanels[ev.Kind] {
		r.refresh()
	}
	return nil
}

// sendParts gives every watcher the running parts as they are.
func (r *room) sendParts(ctx context.Context) error {
	parts, err := r.server.engine.RunningParts(ctx, r.session)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := r.send(partFrame(p)); err != nil {
			return err
		}
	}
	return nil
}

func (r *room) send(f frame) error {
	m, err := prepare(f)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.give(m)
	return nil
}

// give puts a message into every watcher's queue. One whose queue is full is too
// slow: it is cut and connects again, which costs it less than it costs the
// others to wait. r.mu is held.
func (r *room) give(m *websocket.PreparedMessage) {
	for w := range r.watchers {
		w.offer(m)
	}
}

// refresh has the panels looked at again soon.
func (r *room) refresh() {
	select {
	case r.stale <- struct{}{}:
	default:
	}
}

// keepPanels renders the panels when something changed, and every few seconds
// for what has no events.
func (r *room) keepPanels(ctx context.Context) error {
	look := time.NewTicker(r.server.timing.panels)
	defer look.Stop()
	for {
		if err := r.sendPanels(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			if err := r.meetOthers(ctx); err != nil {
				return err
			}
			continue
		case <-r.stale:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(panelPause):
		}
	}
}

// sendPanels gives out the panels that look different from the last time.
func (r *room) sendPanels(ctx context.Context) error {
	v, err := r.server.view(ctx, r.session)
	if err != nil {
		return err
	}
	for _, name := range []string{"head", "side", "question"} {
		html, err := r.server.panel(name, v)
		if err != nil {
			return err
		}
		if html == r.html[name] {
			continue
		}
		r.html[name] = html
		m, err := prepare(frame{Type: framePanel, Name: name, HTML: string(html)})
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.panels[name] = m
		r.give(m)
		r.mu.Unlock()
	}
	return nil
}

// position is the sequence number that was handed out last.
func (r *room) position() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cursor
}

// add makes w a watcher and gives it the state that others already have.
func (r *room) add(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[w] = struct{}{}
	for _, m := range r.panels {
		w.offer(m)
	}
	r.tellPeople()
}

// remove returns how many watchers are left.
func (r *room) remove(w *watcher) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers, w)
	r.left[w.viewer.ID] = time.Now().Add(r.presence())
	r.tellPeople()
	return len(r.watchers)
}

// presence is how long other replicas take it that somebody watches.
func (r *room) presence() time.Duration { return 3 * r.server.timing.panels }

// meetOthers tells other replicas who watches here, and hears who watches there.
func (r *room) meetOthers(ctx context.Context) error {
	r.mu.Lock()
	here := onlookers(r.watchers, nil, nil)
	r.mu.Unlock()
	for _, p := range here {
		if err := r.server.engine.Watching(ctx, r.session, uuid.MustParse(p.ID), r.presence()); err != nil {
			return err
		}
	}
	others, err := r.server.engine.Watchers(ctx, r.session)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := onlookers(r.watchers, r.others, r.left)
	r.others = others
	if !slices.Equal(before, onlookers(r.watchers, r.others, r.left)) {
		r.tellPeople()
	}
	return nil
}

// tellPeople tells everybody who watches. r.mu is held.
func (r *room) tellPeople() {
	m, err := prepare(frame{Type: framePeople, People: onlookers(r.watchers, r.others, r.left)})
	if err != nil {
		r.server.log.Error("telling who watches", "err", err)
		return
	}
	r.give(m)
}

// end closes the room; it may be called twice. hub.mu is held.
func (r *room) end(err error) {
	select {
	case <-r.closed:
	default:
		r.err = err
		if err == nil {
			r.err = errEnding
		}
		close(r.closed)
	}
}
