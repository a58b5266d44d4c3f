package sessions

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"openinspect/sandbox"
)

// watch keeps every deadline, by Postgres's clock: of prompts, boots, heartbeats
// and idle sandboxes. One replica at a time does, by lease.
func (e *Engine) watch(ctx context.Context) error {
	wake := e.hub.listen(ctx, topicStart)
	tick := time.NewTicker(e.tempo.watch)
	defer tick.Stop()
	since := time.Now()
	looks := []func(context.Context) error{
		e.endLongPrompts, e.endLongBoots, e.recordAdopted, e.parkIdleOnes, e.parkAbandoned, e.killDead,
		func(ctx context.Context) error { return e.lookForSilent(ctx, time.Since(since)) },
	}
	for n := 0; ; n++ {
		for _, look := range looks {
			if err := look(ctx); err != nil && ctx.Err() == nil {
				e.log.Warn("watching deadlines", "err", e.scrub.text(err.Error()))
			}
		}
		const sweepEvery = 15 // of the looks
		if n%sweepEvery == 0 {
			if err := e.killOrphans(ctx); err != nil && ctx.Err() == nil {
				e.log.Warn("looking for orphaned boxes", "err", e.scrub.text(err.Error()))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}

// endLongPrompts fails prompts that ran for too long. The supervisor has the
// same deadline; it is given a while to keep it itself.
func (e *Engine) endLongPrompts(ctx context.Context) error {
	var late []string
	err := e.db.SelectContext(ctx, &late, `select id from prompts where state = 'running' and started_at < now() - make_interval(secs => $1)`,
		seconds(e.cfg.PromptTimeout+e.tempo.grace))
	if err != nil {
		return fmt.Errorf("looking for prompts that run too long: %w", err)
	}
	for _, id := range late {
		err := e.transact(ctx, func(t *tx) error {
			s, p, err := t.lockPrompt(ctx, id)
			if err != nil || p.State != Running {
				return err
			}
			_, err = t.settle(ctx, s, id, ending{state: Failed, retry: true,
				reason: fmt.Sprintf("It ran longer than %s and was ended.", e.cfg.PromptTimeout)})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// silentBox is a sandbox that has to be looked at.
type silentBox struct {
	Session  string       `db:"session_id"`
	Epoch    int64        `db:"epoch"`
	Box      string       `db:"box"`
	State    SandboxState `db:"state"`
	Failures int          `db:"failures"`
	Silent   float64      `db:"silent"` // seconds
}

// endLongBoots fails boots that took too long; deadlines of a boot count from
// the claim of its start (I9).
func (e *Engine) endLongBoots(ctx context.Context) error {
	var late []silentBox
	err := e.db.SelectContext(ctx, &late, `select session_id, epoch, box, state, failures from sandboxes
		where state in ('starting', 'booting') and claimed_at < now() - make_interval(secs => $1)`, seconds(e.cfg.BootTimeout))
	if err != nil {
		return fmt.Errorf("looking for boots that take too long: %w", err)
	}
	for _, b := range late {
		err := e.onSandbox(ctx, b, func(t *tx, s Session) error {
			return t.bootFailed(ctx, s, fmt.Sprintf("The sandbox was not ready within %s.", e.cfg.BootTimeout), SandboxStarting, SandboxBooting)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// onSandbox runs f with the sandbox's and the session's rows locked, if the
// sandbox is still as it was seen.
func (e *Engine) onSandbox(ctx context.Context, b silentBox, f func(*tx, Session) error) error {
	return e.transact(ctx, func(t *tx) error {
		var one int
		err := t.GetContext(ctx, &one, `select 1 from sandboxes where session_id = $1 and epoch = $2 and state = $3 for no key update`,
			b.Session, b.Epoch, b.State)
		if err != nil {
			return ignoreNotFound(notFound(err))
		}
		s, err := t.lockSession(ctx, b.Session)
		if err != nil {
			return err
		}
		return f(t, s)
	})
}

// lookForSilent asks the provider for boxes that have not dialled in, whose bridge
// is cut or that send no heartbeat (I9: silence alone is not death, but a box that its provider does
// not know is dead). Boxes that are known and stay silent are given up in the
// end, but only by a watcher that was there all the time: after a control plane
// was away, the boxes need a while to dial in.
func (e *Engine) lookForSilent(ctx context.Context, watching time.Duration) error {
	var silent []silentBox
	err := e.db.SelectContext(ctx, &silent, `
		update sandboxes set looked_at = now()
		where box <> '' and (state = 'starting' or state in ('booting', 'ready') and coalesce(held_until, now()) <= now())
			and coalesce(looked_at, '-infinity') < now() - make_interval(secs => $1)
		returning session_id, epoch, box, state, failures,
			extract(epoch from now() - coalesce(heartbeat_at, claimed_at, now())) as silent`, seconds(e.tempo.watch))
	if err != nil {
		return fmt.Errorf("looking for silent sandboxes: %w", err)
	}
	for _, b := range silent {
		box, err := e.cfg.Provider.Attach(ctx, b.Box)
		switch {
		case errors.Is(err, sandbox.ErrGone):
			err = e.lose(ctx, b)
		case err == nil && b.Silent > seconds(e.tempo.silent) && watching > e.tempo.silent:
			if err = box.Kill(ctx); err == nil {
				err = e.lose(ctx, b)
			}
		}
		if err != nil {
			return fmt.Errorf("looking for the box of %s: %w", b.Session, err)
		}
	}
	return nil
}

// lose records that a box is no more, and settles what ran in it. What is
// queued has it started again; a boot that keeps dying is a failure.
func (e *Engine) lose(ctx context.Context, b silentBox) error {
	return e.onSandbox(ctx, b, func(t *tx, s Session) error {
		if err := t.settleLost(ctx, s); err != nil {
			return err
		}
		if b.State != SandboxReady {
			return t.countFailure(ctx, s, b.Failures, "The sandbox ended while it was being prepared.")
		}
		_, err := t.ExecContext(ctx, `update sandboxes set state = 'lost', state_at = now(), reason = 'it ended', token_hash = null,
			box = '', holder = '', retry_at = null, busy = false, memory = 0 where session_id = $1`, s.ID)
		if err != nil {
			return fmt.Errorf("noting that the sandbox of %s is lost: %w", s.ID, err)
		}
		t.wakeSession(s.ID)
		_, err = t.append(ctx, s.ID, entry{kind: KindSandbox, body: BodySandbox{State: SandboxLost, Reason: "The sandbox ended."}})
		return err
	})
}

// settleLost settles what ran in a session's box that is no more. The session's
// row is locked.
func (t *tx) settleLost(ctx context.Context, s Session) error {
	var running []string
	err := t.SelectContext(ctx, &running, `select id from prompts where session_id = $1 and state = 'running'`, s.ID)
	if err != nil {
		return fmt.Errorf("reading what ran in %s: %w", s.ID, err)
	}
	for _, id := range running {
		if _, err := t.settle(ctx, s, id, sandboxLost); err != nil {
			return err
		}
	}
	return nil
}

// recordAdopted finds out which boxes serve the sessions whose starter died
// before it could say so. One that is not to be found, and does not speak, is lost.
func (e *Engine) recordAdopted(ctx context.Context) error {
	var unknown []struct {
		silentBox
		Generation int64 `db:"generation"`
		Cut        bool  `db:"cut"`
	}
	err := e.db.SelectContext(ctx, &unknown, `
		select session_id, epoch, box, state, failures, generation, coalesce(held_until, now()) <= now() as cut from sandboxes
		where state in ('booting', 'ready') and box = '' and claimed_at < now() - make_interval(secs => $1)`, seconds(e.tempo.lease))
	if err != nil {
		return fmt.Errorf("looking for adopted sandboxes: %w", err)
	}
	for _, u := range unknown {
		c := claim{session: u.Session, generation: u.Generation}
		box, err := e.findBox(ctx, c)
		switch {
		case err != nil:
		case box != nil:
			err = e.recordBox(ctx, c, box)
		case u.Cut:
			err = e.lose(ctx, u.silentBox)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parkIdleOnes parks what has been idle for long enough.
func (e *Engine) parkIdleOnes(ctx context.Context) error {
	const atOnce = 20
	return e.transact(ctx, func(t *tx) error {
		_, err := t.parkIdle(ctx, e.cfg.ParkAfter, atOnce)
		return err
	})
}

// parkAbandoned parks boxes whose actor cannot do it: their bridge is cut, or it hangs.
func (e *Engine) parkAbandoned(ctx context.Context) error {
	var left []silentBox
	err := e.db.SelectContext(ctx, &left, `select session_id, epoch, box, state, failures from sandboxes
		where state = 'parking' and (holder = '' or held_until < now() or state_at < now() - make_interval(secs => $1))`, seconds(10*e.tempo.park))
	if err != nil {
		return fmt.Errorf("looking for sandboxes to park: %w", err)
	}
	for _, b := range left {
		if err := e.parkBox(ctx, b.Session); err != nil {
			return err
		}
	}
	return nil
}

// killDead ends boxes whose sandbox has failed or was given up.
func (e *Engine) killDead(ctx context.Context) error {
	var dead []silentBox
	err := e.db.SelectContext(ctx, &dead, `select session_id, epoch, box, state, failures from sandboxes
		where state in ('lost', 'failed') and box <> ''`)
	if err != nil {
		return fmt.Errorf("looking for boxes to end: %w", err)
	}
	for _, b := range dead {
		box, err := e.cfg.Provider.Attach(ctx, b.Box)
		if err == nil {
			err = box.Kill(ctx)
		}
		if err != nil && !errors.Is(err, sandbox.ErrGone) {
			return fmt.Errorf("ending the box of %s: %w", b.Session, err)
		}
		_, err = e.db.ExecContext(ctx, `update sandboxes set box = '' where session_id = $1 and epoch = $2 and box = $3`, b.Session, b.Epoch, b.Box)
		if err != nil {
			return fmt.Errorf("noting the end of the box of %s: %w", b.Session, err)
		}
	}
	return nil
}

// killOrphans ends boxes that the provider knows and no session wants: of an
// earlier generation, or of a sandbox that is no more. Boxes of sessions that
// this database does not have belong to somebody else.
func (e *Engine) killOrphans(ctx context.Context) error {
	for info, err := range e.cfg.Provider.List(ctx, nil) {
		if err != nil {
			return fmt.Errorf("listing boxes: %w", err)
		}
		generation, err := strconv.ParseInt(info.Tags[tagEpoch], 10, 64)
		if err != nil {
			continue
		}
		var orphan bool
		err = e.db.GetContext(ctx, &orphan, `select exists (select from sandboxes where session_id = $1
			and (generation > $2 or state in ('none', 'parked', 'lost', 'failed')))`, info.Tags[tagSession], generation)
		if err != nil {
			return fmt.Errorf("looking up the box %s: %w", info.ID, err)
		}
		if !orphan {
			continue
		}
		box, err := e.cfg.Provider.Attach(ctx, info.ID)
		if err == nil {
			err = box.Kill(ctx)
		}
		if err != nil && !errors.Is(err, sandbox.ErrGone) {
			return fmt.Errorf("ending the orphaned box %s: %w", info.ID, err)
		}
	}
	return nil
}
