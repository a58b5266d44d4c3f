package sessions

import (
	"context"
	"fmt"
	"time"

	"github.com/lib/pq"

	"openinspect/sandbox"
)

// parkIdle asks the sandboxes that have had nothing to do for a time to park, at
// most limit of them, and returns how many were asked. Somebody who looks at the
// page, or at what a port serves, may be about to ask for something, and is given half
// as long again; work that was refused because of a secret waits for somebody
// (withheld.go); the sandbox of an archived session is given no time.
func (t *tx) parkIdle(ctx context.Context, idle time.Duration, limit int) (int, error) {
	const nothingOpen = `not exists (select from prompts p where p.session_id = b.session_id and p.state in ('queued', 'running'))`
	var idlers, sessions []string
	err := t.SelectContext(ctx, &idlers, `
		select b.session_id from sandboxes b join sessions s on s.id = b.session_id
		where b.state = 'ready' and (s.state = 'archived' or greatest(s.idle_since, b.state_at) <= now() - make_interval(secs => $1)
				- case when b.port_used_at > now() - make_interval(secs => $5)
						or exists (select from watchers w where w.session_id = b.session_id and w.until > now())
					then make_interval(secs => $3) else interval '0' end
				- case when b.withheld_at > b.claimed_at then make_interval(secs => $4) else interval '0' end)
			and `+nothingOpen+`
		order by s.idle_since nulls first limit $2 for no key update of b skip locked`,
		seconds(idle), limit, seconds(min(idle/2, t.e.tempo.watched)), seconds(withheldFor), seconds(portUse))
	if err == nil && len(idlers) > 0 {
		// A prompt may have begun before the rows were locked, which does not change them.
		err = t.SelectContext(ctx, &sessions, `update sandboxes b set state = 'parking', state_at = now(), reason = 'it was idle'
			where session_id = any($1) and `+nothingOpen+` returning session_id`, pq.Array(idlers))
	}
	if err != nil {
		return 0, fmt.Errorf("parking idle sandboxes: %w", err)
	}
	return len(sessions), t.announceParking(ctx, sessions)
}

func (t *tx) announceParking(ctx context.Context, sessions []string) error {
	for _, id := range sessions {
		if _, err := t.append(ctx, id, entry{kind: KindSandbox, body: BodySandbox{State: SandboxParking}}); err != nil {
			return err
		}
		t.wakeSession(id)
	}
	return nil
}

// ParkAll parks the sandboxes whose bridges this replica holds, and waits until
// they are parked. What runs in them is carried over: it goes on when another
// replica, or the next control plane, has started the next sandbox. This one starts
// none from now on.
func (e *Engine) ParkAll(ctx context.Context) error {
	e.leaving.Store(true)
	var asked []string
	err := e.transact(ctx, func(t *tx) error {
		err := t.SelectContext(ctx, &asked, `
			update sandboxes set state = 'parking', state_at = now(), reason = 'the control plane was stopped', carry = true
			where state = 'ready' and holder = $1 returning session_id`, e.cfg.Replica)
		if err != nil {
			return fmt.Errorf("parking all sandboxes: %w", err)
		}
		return t.announceParking(ctx, asked)
	})
	if err != nil {
		return err
	}
	tick := time.NewTicker(e.tempo.notify)
	defer tick.Stop()
	for {
		var left int
		err := e.db.GetContext(ctx, &left, `select count(*) from sandboxes where state = 'parking' and holder = $1`, e.cfg.Replica)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d sandboxes are not parked yet: %w", left, ctx.Err())
		case <-tick.C:
		}
	}
}

// park has the supervisor make its state consistent, and then the provider take
// the filesystem. A supervisor ends as soon as its last events are acknowledged,
// and its box with it, which its provider would then not find any more: so the
// acknowledgements of a parking box are withheld until it is parked. The wait is
// short; a supervisor that says nothing is parked as it is, unless it has secrets:
// see kept.go.
func (a *actor) park(ctx context.Context) error {
	a.mu.Lock()
	a.parking = true
	a.mu.Unlock()
	var why sandbox.Park
	if err := a.e.db.GetContext(ctx, &why, `select reason, carry from sandboxes where session_id = $1`, a.session); err != nil {
		return fmt.Errorf("reading why %s is parked: %w", a.session, err)
	}
	if err := a.link.Send(ctx, sandbox.Message{Park: &why}); err != nil {
		return err
	}
	wait := a.e.tempo.park / 2
	if a.secrets {
		wait = a.e.tempo.vet
	}
	if why.Carry {
		wait += 4 * a.e.tempo.park // what ran is committed and pushed first
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.noted:
	case <-timer.C:
	}
	// The box's end cuts the bridge, and with it ctx: what was saved has to be recorded all the same.
	within := a.e.tempo.slowPark()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within+a.e.tempo.park)
	defer cancel()
	if err := a.e.parkBox(ctx, a.session, within); err != nil {
		return err
	}
	return errParked
}

// withholds says whether the box parks.
func (a *actor) withholds() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.parking
}

// noteParking hears a parking supervisor's last word, which is a note.
func (a *actor) noteParking(events []sandbox.Event) {
	if !a.withholds() {
		return
	}
	for _, ev := range events {
		if ev.Kind == sandbox.KindNote && ev.Prompt == "" {
			poke(a.noted)
		}
	}
}

// parkBox saves the box's filesystem and ends it. A box that is gone left
// nothing but what it pushed and what was saved of it before.
func (e *Engine) parkBox(ctx context.Context, session string, within time.Duration) error {
	box, err := e.parkingBox(ctx, session)
	if err != nil {
		return ignoreNotFound(err)
	}
	k, gone, err := e.keepBox(ctx, session, box, within)
	if err != nil {
		return err
	}
	to, reason := SandboxParked, ""
	switch {
	case k.unsaved != "":
		to, reason = SandboxLost, unsavedReason(k.unsaved)
	case gone && k.row == 0:
		to, reason = SandboxLost, "it ended before it could be parked"
	}
	return e.transact(ctx, func(t *tx) error { return t.parked(ctx, session, box, to, k, reason) })
}

// parkingBox is the id of the box that a session parks. One that its starter has not
// named yet, because it is slower than the boot or is dead, is found by its tags; empty
// if there is none and nobody speaks for it. ErrNotFound: nothing parks.
func (e *Engine) parkingBox(ctx context.Context, session string) (string, error) {
	var b struct {
		Box        string `db:"box"`
		Generation int64  `db:"generation"`
		Spare      string `db:"spare"`
		Held       bool   `db:"held"`
	}
	err := e.db.GetContext(ctx, &b, `select box, generation, spare, coalesce(held_until > now(), false) as held
		from sandboxes where session_id = $1 and state = 'parking'`, session)
	if err != nil {
		return "", fmt.Errorf("reading which box of %s is parked: %w", session, notFound(err))
	}
	if b.Box != "" {
		return b.Box, nil
	}
	c := claim{session: session, generation: b.Generation, spare: b.Spare}
	asking, cancel := context.WithTimeout(ctx, providerCall)
	defer cancel()
	box, err := e.findBox(asking, c)
	switch {
	case err != nil:
		return "", err
	case box != nil:
		return box.ID(), e.recordBox(ctx, c, box)
	case b.Held:
		return "", fmt.Errorf("the box of %s speaks and is not to be found", session)
	}
	return "", nil
}

// parked records a box's end. What is carried over from it waits for the next one.
func (t *tx) parked(ctx context.Context, session, box string, to SandboxState, k keeping, reason string) error {
	var one int
	err := t.GetContext(ctx, &one, `select 1 from sandboxes where session_id = $1 and box = $2 and state = 'parking' for no key update`, session, box)
	if err != nil {
		return ignoreNotFound(notFound(err)) // somebody else has recorded it
	}
	s, err := t.lockSession(ctx, session)
	if err != nil {
		return err
	}
	if err := t.charge(ctx, session); err != nil {
		return err
	}
	if err := t.settleLost(ctx, s); err != nil { // a supervisor that parks in order has settled it
		return err
	}
	_, err = t.ExecContext(ctx, `
		update sandboxes set state = $2, state_at = now(), reason = $3, box = '', token_hash = null,
			holder = '', held_until = null, busy = false, carry = false, memory = 0
		where session_id = $1`, session, to, reason)
	if err != nil {
		return fmt.Errorf("noting that the sandbox of %s is parked: %w", session, err)
	}
	if err := t.keep(ctx, session, k); err != nil {
		return err
	}
	t.wakeSession(session)
	_, err = t.append(ctx, session, entry{kind: KindSandbox, body: BodySandbox{State: to, Reason: reason}})
	return err
}
