package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lib/pq"
	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// errLeaseLost means that another replica holds the session's bridge by now, or
// that its sandbox is no more: whoever sees it may write nothing more.
var errLeaseLost = errors.New("the sandbox's bridge belongs to somebody else now")

// errParked ends an actor whose box was parked.
var errParked = errors.New("the sandbox is parked")

// actor is the session's one writer while its sandbox's bridge is connected to
// this process. Each of its writes is fenced by epoch.
type actor struct {
	e       *Engine
	link    *sandbox.Link
	session string
	box     string
	boot    string
	epoch   int64
	acked   int64 // highest number of the boot's events that is stored
	scrub   *scrubber
	secrets bool // the sandbox may have been given some
	parts   *parts
	arrived chan sandbox.Message // events, deltas and calls, in order
	calls   chan sandbox.Call    // those that are to be worked on
	unsent  string               // the running prompt, if the boot never got it; read and written by who has the turn
	vetted  string               // the last prompt after which it was seen to that secrets are looked for; likewise
	wake    chan struct{}

	// turn is held while a prompt's end or its beginning is committed and while the
	// next step is decided, so that a step never sees the one without the other.
	turn sync.Mutex

	mu        sync.Mutex
	unsettled map[string]time.Time // prompts that the boot knows and has not settled; when it was last told to stop
	parking   bool                 // events are stored but not acknowledged: see park
	quiet     string               // as the last heartbeat that was written said
	noted     chan struct{}        // receives when a parking box has said its last
}

// ServeBridge is the session's actor while its sandbox's bridge is connected:
// it delivers prompts and stops, appends events, answers calls. A spare's bridge
// is served until a session takes it. It returns when the bridge is cut, the lease
// is lost or ctx ends.
func (e *Engine) ServeBridge(ctx context.Context, token string, l *sandbox.Link) {
	a, welcome, err := e.adopt(ctx, token, l)
	if errors.Is(err, ErrNotFound) {
		if err = e.serveSpare(ctx, token, l); err == nil {
			return
		}
	}
	if errors.Is(err, ErrNotFound) {
		l.Close("this sandbox is not wanted any more")
		return
	}
	if err != nil {
		e.log.Warn("a sandbox could not be welcomed", "err", err)
		l.Close("the control plane cannot work at the moment")
		return
	}
	e.hub.acting(a)
	defer e.hub.acted(a)
	defer a.letGo(ctx)
	if err := l.Send(ctx, sandbox.Message{Welcome: &welcome}); err != nil {
		e.log.Info("a sandbox went away before its welcome", "session", a.session, "err", err)
		return
	}
	err = a.run(ctx)
	e.log.Info("a bridge has ended", "session", a.session, "epoch", a.epoch, "err", err)
	switch {
	case errors.Is(err, errLeaseLost):
		l.Close("another replica serves this sandbox")
	case errors.Is(err, errParked):
		l.Close("the sandbox is parked")
	}
}

// run serves the connection until one of its parts ends.
func (a *actor) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	a.e.hub.listenOn(ctx, actorTopic(a.session), a.wake)
	beats := make(chan sandbox.Heartbeat, 1)
	g.Go(func() error { return a.receive(ctx, beats) })
	g.Go(func() error { return a.store(ctx) })
	g.Go(func() error { return a.work(ctx) })
	g.Go(func() error { return a.live(ctx, beats) })
	g.Go(func() error { return a.answer(ctx) })
	return g.Wait()
}

// receive sorts the sandbox's messages.
func (a *actor) receive(ctx context.Context, beats chan sandbox.Heartbeat) error {
	for {
		m, err := a.link.Recv(ctx)
		if err != nil {
			return err
		}
		switch {
		case m.Event != nil || m.Delta != nil || m.Call != nil:
			select {
			case a.arrived <- m:
			case <-ctx.Done():
				return ctx.Err()
			}
		case m.Heartbeat != nil:
			select { // the newest one counts
			case <-beats:
			default:
			}
			beats <- *m.Heartbeat
		}
	}
}

// live writes heartbeats (I9) and so keeps the lease.
func (a *actor) live(ctx context.Context, beats <-chan sandbox.Heartbeat) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case h := <-beats:
			res, err := a.e.db.ExecContext(ctx, `
				update sandboxes set heartbeat_at = now(), held_until = now() + make_interval(secs => $3),
					busy = $4, memory = $5, disk = $6,
					quiet_prompt = $7, quiet_at = case when quiet_prompt = $7 then quiet_at else now() end
				where session_id = $1 and epoch = $2`,
				a.session, a.epoch, seconds(a.e.tempo.lost), h.Busy, h.Memory, h.Disk, storable(h.Quiet))
			if err != nil {
				return fmt.Errorf("writing a heartbeat of %s: %w", a.session, err)
			}
			if held, err := affected(res); err != nil || !held {
				return errors.Join(err, errLeaseLost)
			}
			a.mu.Lock()
			a.quiet = h.Quiet
			a.mu.Unlock()
			if err := a.e.transact(ctx, func(t *tx) error { return t.charge(ctx, a.session) }); err != nil {
				return err
			}
		}
	}
}

// adopt takes the session over from whoever held it: it checks the token, raises
// the epoch and settles what an earlier boot left running.
func (e *Engine) adopt(ctx context.Context, token string, l *sandbox.Link) (*actor, sandbox.Welcome, error) {
	hello := l.Hello()
	scrub := e.scrub.with(token)
	a := &actor{e: e, link: l, boot: hello.Boot, scrub: scrub, parts: newParts(scrub),
		arrived: make(chan sandbox.Message, 32), calls: make(chan sandbox.Call, callsWaiting), wake: make(chan struct{}, 1), noted: make(chan struct{}, 1)}
	a.unsettled = map[string]time.Time{}
	known := map[string]bool{}
	for _, p := range hello.Prompts {
		known[p.ID] = true
		if !p.Settled {
			a.unsettled[p.ID] = time.Time{}
		}
	}
	var s Session
	err := e.transact(ctx, func(t *tx) (err error) {
		s, err = a.takeOver(ctx, t, token, known)
		return err
	})
	if err != nil {
		return nil, sandbox.Welcome{}, err
	}
	if err := a.learnSecrets(ctx, s.Repository); err != nil {
		return nil, sandbox.Welcome{}, err
	}
	poke(a.wake)
	welcome := a.welcome(s)
	return a, welcome, a.addGiven(ctx, s, &welcome)
}

func (a *actor) takeOver(ctx context.Context, t *tx, token string, known map[string]bool) (Session, error) {
	var b struct {
		Session string       `db:"session_id"`
		State   SandboxState `db:"state"`
		Boot    string       `db:"boot"`
		Box     string       `db:"box"`
	}
	err := t.GetContext(ctx, &b, `
		select session_id, state, boot, box from sandboxes
		where token_hash = $1 and state in ('starting', 'booting', 'ready', 'parking') for no key update`, hashOf(token))
	if err != nil {
		return Session{}, notFound(err)
	}
	a.session, a.box, a.parking = b.Session, b.Box, b.State == SandboxParking
	s, err := t.lockSession(ctx, b.Session)
	if err != nil {
		return s, err
	}
	next := b.State
	if b.State == SandboxStarting || b.Boot != a.boot && b.State != SandboxParking {
		next = SandboxBooting
	}
	err = t.GetContext(ctx, &a.epoch, `
		update sandboxes set epoch = epoch + 1, holder = $2, held_until = now() + make_interval(secs => $3),
			heartbeat_at = now(), boot = $4, state = $5,
			state_at = case when state = $5 then state_at else now() end
		where session_id = $1 returning epoch`,
		b.Session, a.e.cfg.Replica, seconds(a.e.tempo.lost), a.boot, next)
	if err != nil {
		return s, fmt.Errorf("taking over the sandbox of %s: %w", b.Session, err)
	}
	if next != b.State {
		if _, err := t.append(ctx, s.ID, entry{kind: KindSandbox, body: BodySandbox{State: next}}); err != nil {
			return s, err
		}
	}
	if b.Boot != a.boot {
		if err := a.endEarlierBoots(ctx, t, s); err != nil {
			return s, err
		}
	}
	return s, a.compare(ctx, t, s, known)
}

// endEarlierBoots settles what was given to a boot that is no more: it is never
// run again silently (I5).
func (a *actor) endEarlierBoots(ctx context.Context, t *tx, s Session) error {
	var lost []string
	err := t.SelectContext(ctx, &lost, `select id from prompts where session_id = $1 and state = 'running' and boot <> $2`, s.ID, a.boot)
	if err != nil {
		return fmt.Errorf("reading what earlier boots ran: %w", err)
	}
	for _, id := range lost {
		if _, err := t.settle(ctx, s, id, sandboxLost); err != nil {
			return err
		}
	}
	_, err = t.ExecContext(ctx, `delete from running_parts where session_id = $1`, s.ID)
	return err
}

// sandboxLost is how the prompt ends that ran in a boot that is no more.
var sandboxLost = ending{state: Failed, reason: "The sandbox was lost while this ran.", retry: true}

// compare finds how far the boot's events are stored, and whether the running
// prompt never reached it.
func (a *actor) compare(ctx context.Context, t *tx, s Session, known map[string]bool) error {
	err := t.GetContext(ctx, &a.acked, `select coalesce(max(n), 0) from events where session_id = $1 and boot = $2`, s.ID, a.boot)
	if err != nil {
		return fmt.Errorf("reading how far the events of %s are stored: %w", s.ID, err)
	}
	var given []string
	err = t.SelectContext(ctx, &given, `select id from prompts where session_id = $1 and state = 'running' and boot = $2`, s.ID, a.boot)
	if err != nil {
		return fmt.Errorf("reading what runs in %s: %w", s.ID, err)
	}
	for _, id := range given {
		if !known[id] {
			a.unsent = id
		}
	}
	return nil
}

// welcome tells the supervisor what it works on.
func (a *actor) welcome(s Session) sandbox.Welcome {
	w := a.e.welcomeTo(s.Repository)
	w.Session, w.PageURL, w.BaseBranch, w.Branch, w.Head = s.ID, a.e.pageURL(s.ID), s.BaseBranch, s.Branch(), s.Head
	if s.Model != "" {
		w.Model = s.Model
	}
	if !a.withholds() { // see park
		w.AckedThrough = a.acked
	}
	return w
}

// welcomeTo is what a sandbox of the repository is told, whatever its session.
func (e *Engine) welcomeTo(repository string) sandbox.Welcome {
	c := e.cfg
	return sandbox.Welcome{
		Repository: repository, RemoteURL: c.Forge.RemoteURL(repository), BotName: c.BotName, BotEmail: c.BotEmail,
		Model: c.Model, SmallModel: c.SmallModel, Protocol: c.Protocol, Instructions: c.Instructions,
		PromptTimeout: c.PromptTimeout, SetupTimeout: c.SetupTimeout, ModelSilence: c.ModelSilence,
	}
}

func (e *Engine) pageURL(session string) string { return e.cfg.PublicURL + "/sessions/" + session }

// letGo tells everybody that the bridge is cut, unless somebody else holds it already.
func (a *actor) letGo(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_, err := a.e.db.ExecContext(ctx, `update sandboxes set holder = '', held_until = now() where session_id = $1 and epoch = $2`,
		a.session, a.epoch)
	if err != nil {
		a.e.log.Warn("a bridge's lease could not be given back; it expires", "session", a.session, "err", err)
	}
	a.e.hub.wake(topicStart)
}

// fence makes sure that the actor still holds the bridge, until the transaction
// ends: whoever takes over changes the same row, and waits. It returns the state
// that the sandbox is in meanwhile.
func (a *actor) fence(ctx context.Context, t *tx) (SandboxState, error) {
	var state SandboxState
	err := t.GetContext(ctx, &state, `select state from sandboxes where session_id = $1 and epoch = $2 for no key update`, a.session, a.epoch)
	if errors.Is(notFound(err), ErrNotFound) {
		return "", errLeaseLost
	}
	return state, err
}

// Limits of one transaction of the bridge's events.
const (
	batchEvents = 256
	batchBytes  = 1 << 20
)

// store appends what arrives, as many events at once as have arrived meanwhile,
// and acknowledges them after the commit (I5). Deltas are handed on in their
// place among the events, and calls after those that were sent before them: what
// they do is told behind what led to it.
func (a *actor) store(ctx context.Context) error {
	tick := time.NewTicker(a.e.tempo.parts)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := a.storeParts(ctx); err != nil {
				return err
			}
		case m := <-a.arrived:
			if err := a.storeBatch(ctx, a.drain(m)); err != nil {
				return err
			}
		}
	}
}

// drain takes what has arrived already, within the limits of a transaction.
func (a *actor) drain(first sandbox.Message) []sandbox.Message {
	batch := []sandbox.Message{first}
	size := sizeOf(first)
	for len(batch) < batchEvents && size < batchBytes {
		select {
		case m := <-a.arrived:
			batch = append(batch, m)
			size += sizeOf(m)
		default:
			return batch
		}
	}
	return batch
}

func sizeOf(m sandbox.Message) int {
	switch {
	case m.Event != nil:
		return len(m.Event.Body)
	case m.Delta != nil:
		return len(m.Delta.Text)
	}
	return len(m.Call.Args)
}

func (a *actor) storeBatch(ctx context.Context, batch []sandbox.Message) error {
	var events []sandbox.Event
	last := a.acked
	for _, m := range batch {
		if m.Event == nil {
			continue
		}
		if m.Event.N <= last { // known already, and sent again
			a.noteParking([]sandbox.Event{*m.Event})
			continue
		}
		if m.Event.N != last+1 {
			return fmt.Errorf("the sandbox sent event %d after %d", m.Event.N, last)
		}
		last++
		events = append(events, *m.Event)
	}
	finished := finishedParts(events)
	if len(events) > 0 {
		if err := a.commit(ctx, events, finished); err != nil {
			return err
		}
	}
	for _, m := range batch {
		if m.Delta != nil && !finished[m.Delta.Part] && a.runs(m.Delta.Prompt) {
			if d := a.parts.add(*m.Delta); d != nil {
				a.e.hub.delta(a.session, *d)
			}
		}
		if m.Call == nil {
			continue
		}
		select {
		case a.calls <- *m.Call:
		default: // it must not keep what comes after it waiting
			if err := a.refuseCall(ctx, *m.Call, tooManyAtOnce); err != nil {
				return err
			}
		}
	}
	if a.withholds() {
		return nil
	}
	return a.link.Send(ctx, sandbox.Message{Ack: &sandbox.Ack{N: a.acked}})
}

// finishedParts returns the parts that these events replace.
func finishedParts(events []sandbox.Event) map[string]bool {
	finished := map[string]bool{}
	for _, ev := range events {
		var body struct{ Part, State string }
		switch ev.Kind {
		case sandbox.KindText, sandbox.KindReasoning, sandbox.KindTool:
			if json.Unmarshal(ev.Body, &body) == nil && !(ev.Kind == sandbox.KindTool && body.State == "running") {
				finished[body.Part] = true
			}
		}
	}
	return finished
}

// commit appends the events with their effects in one transaction.
func (a *actor) commit(ctx context.Context, events []sandbox.Event, finished map[string]bool) error {
	settled := map[string]bool{}
	for _, ev := range events {
		if ev.Kind == sandbox.KindSettled {
			settled[ev.Prompt] = true
		}
	}
	if len(settled) > 0 {
		a.turn.Lock()
		defer a.turn.Unlock()
	}
	stored := a.parts.end(func(p RunningPart) bool { return finished[p.Part] || settled[p.Prompt] })
	err := a.e.transact(ctx, func(t *tx) error {
		if _, err := a.fence(ctx, t); err != nil {
			return err
		}
		if err := a.appendAll(ctx, t, events); err != nil {
			return err
		}
		if len(stored) == 0 {
			return nil
		}
		_, err := t.ExecContext(ctx, `delete from running_parts where session_id = $1 and part = any($2)`, a.session, pq.Array(stored))
		return err
	})
	if err != nil {
		return err
	}
	a.acked = events[len(events)-1].N
	a.mu.Lock()
	for id := range settled {
		delete(a.unsettled, id)
	}
	a.mu.Unlock()
	if len(settled) > 0 {
		poke(a.wake)
	}
	a.noteParking(events)
	return nil
}

// runs says whether the prompt is one that the boot works on.
func (a *actor) runs(prompt string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked, ok := a.unsettled[prompt]
	return ok && asked.IsZero() // of one that was told to stop nothing more is shown
}
