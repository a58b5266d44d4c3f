package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"openinspect/sessions"
)

// errEnding means that the process ends: nothing live is begun any more.
var errEnding = errors.New("the server is ending")

// hub has a room for every session that somebody watches in this process.
type hub struct {
	server  *Server
	starts  chan func(context.Context) // to be run by run
	ended   chan struct{}              // closed when run ends
	buffers sync.Pool                  // write buffers, which idle connections do not hold

	mu    sync.Mutex
	rooms map[string]*room
}

func newHub(s *Server) *hub {
	return &hub{server: s, starts: make(chan func(context.Context)), ended: make(chan struct{}), rooms: make(map[string]*room)}
}

// run runs rooms and watchers until ctx ends.
func (h *hub) run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer close(h.ended)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-h.starts:
			running.Go(func() { f(ctx) })
		}
	}
}

// start has run run f.
func (h *hub) start(ctx context.Context, f func(context.Context)) error {
	select {
	case h.starts <- f:
		return nil
	case <-h.ended:
		return errEnding
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join makes w a watcher of its session. What happens in the log after the
// returned sequence number reaches w; what happened before is w's to read.
func (h *hub) join(ctx context.Context, w *watcher) (*room, int64, error) {
	h.mu.Lock()
	r, known := h.rooms[w.session]
	if !known {
		r = newRoom(h.server, w.session)
		h.rooms[w.session] = r
	}
	r.add(w)
	h.mu.Unlock()
	if !known {
		if err := h.start(ctx, func(ctx context.Context) { h.serve(ctx, r) }); err != nil {
			h.close(r, err)
		}
	}
	select {
	case <-r.ready:
	case <-r.closed:
		return nil, 0, fmt.Errorf("watching session %s: %w", w.session, r.err)
	case <-ctx.Done():
		h.leave(r, w)
		return nil, 0, ctx.Err()
	}
	return r, r.position(), nil
}

// serve runs a room and closes it.
func (h *hub) serve(ctx context.Context, r *room) {
	err := r.run(ctx)
	if err != nil && ctx.Err() == nil {
		h.server.log.Error("watching a session ended", "session", r.session, "err", err)
	}
	h.close(r, err)
}

// close forgets a room; its watchers end and their browsers connect again.
func (h *hub) close(r *room, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rooms[r.session] == r {
		delete(h.rooms, r.session)
	}
	r.end(err)
}

// leave ends a watcher's membership; the last one closes the room.
func (h *hub) leave(r *room, w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.remove(w) > 0 {
		return
	}
	if h.rooms[r.session] == r {
		delete(h.rooms, r.session)
	}
	r.end(nil)
}

// frame is what a browser is sent: one of the fields besides Type is set.
type frame struct {
	Type string `json:"type"`
	// row: an event. HTML is empty if it shows nothing in the transcript.
	Seq     int64  `json:"seq,omitempty"` // also of live
	Kind    string `json:"kind,omitempty"`
	Key     string `json:"key,omitempty"`
	Open    bool   `json:"open,omitempty"`
	InPlace bool   `json:"in_place,omitempty"`
	HTML    string `json:"html,omitempty"`
	// delta: text added to a running part at Offset (bytes); part: all of it so far.
	Part   string `json:"part,omitempty"`
	Prompt string `json:"prompt,omitempty"`
	Offset int    `json:"offset"`
	Text   string `json:"text,omitempty"`
	// panel: state, not history.
	Name string `json:"name,omitempty"`
	// people: who watches.
	People []onlooker `json:"people,omitempty"`
}

// onlooker is a person who watches.
type onlooker struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Initials string `json:"initials"`
	Hue      int    `json:"hue"`
}

// Types of frames.
const (
	frameRow    = "row"
	frameDelta  = "delta"
	framePart   = "part"
	framePanel  = "panel"
	framePeople = "people"
	frameLive   = "live"   // everything up to Seq was sent
	frameStill  = "still"  // nothing happened
	frameReload = "reload" // too much was missed: load the page again
)

func rowFrame(r row) frame {
	return frame{Type: frameRow, Seq: r.Seq, Kind: r.Kind, Key: r.Key, Open: r.Open, InPlace: r.InPlace,
		Part: r.Part, HTML: string(r.HTML)}
}

func deltaFrame(d sessions.PartDelta) frame {
	return frame{Type: frameDelta, Part: d.Part, Prompt: d.Prompt, Kind: d.Kind, Offset: d.Offset, Text: d.Text}
}

func partFrame(p sessions.RunningPart) frame {
	return frame{Type: framePart, Part: p.Part, Prompt: p.Prompt, Kind: p.Kind, Text: p.Text}
}

// prepare encodes a frame once for all that it is sent to.
func prepare(f frame) (*websocket.PreparedMessage, error) {
	data, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encoding a frame: %w", err)
	}
	return websocket.NewPreparedMessage(websocket.TextMessage, data)
}

// onlookers are the people among watchers here and others elsewhere, each once,
// by name. Who left here counts as gone until the other replicas know it too.
func onlookers(here map[*watcher]struct{}, others []sessions.Person, left map[uuid.UUID]time.Time) []onlooker {
	seen := make(map[uuid.UUID]sessions.Person)
	for _, p := range others {
		if time.Now().After(left[p.ID]) {
			seen[p.ID] = p
		}
	}
	for w := range here {
		seen[w.viewer.ID] = w.viewer.Person
	}
	list := make([]onlooker, 0, len(seen))
	for id, p := range seen {
		list = append(list, onlooker{ID: id.String(), Name: p.Name, Initials: initials(p.Name), Hue: hue(p.Name)})
	}
	slices.SortFunc(list, func(a, b onlooker) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return list
}
