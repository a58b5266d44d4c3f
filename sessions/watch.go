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
	since := silences{}
	looks := []func(context.Context) error{
		e.endLongPrompts, e.endLongBoots, e.recordAdopted, e.parkIdleOnes, e.parkOldOnes, e.parkAbandoned, e.endDead, e.keepSpares,
		func(ctx context.Context) error { return e.lookForSilent(ctx, since) },
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

// overdue is a prompt that ran longer than the seconds that it had.
type overdue struct {
	ID      string  `db:"id"`
	Seconds float64 `db:"seconds"`
}

// endLongPrompts fails prompts that ran for too long. The supervisor has the
// same deadline; it is given a while to keep it itself.
func (e *Engine) endLongPrompts(ctx context.Context) error {
	var late []overdue
	err := e.db.SelectContext(ctx, &late, `
		select p.id, coalesce(b.prompt_seconds, $1) as seconds from prompts p left join sandboxes b on b.session_id = p.session_id
		where p.state = 'running' and p.started_at < now() - make_interval(secs => coalesce(b.prompt_seconds, $1) + $2)`,
		seconds(e.cfg.PromptTimeout), seconds(e.tempo.grace))
	if err != nil {
		return fmt.Errorf("looking for prompts that run too long: %w", err)
	}
	return each(late, func(of overdue) error {
		return e.transact(ctx, func(t *tx) error {
			s, p, err := t.lockPrompt(ctx, of.ID)
			if err != nil || p.State != Running {
				return err
			}
			_, err = t.settle(ctx, s, of.ID, ending{state: Failed, retry: true,
				reason: fmt.Sprintf("It ran longer than %s and was ended.", inSeconds(of.Seconds))})
			return err
		})
	})
}

// each does the same for all: one that fails does not keep the others waiting.
func each[T any](all []T, f func(T) error) error {
	var failed []error
	for _, one := range all {
		failed = append(failed, f(one))
	}
	return errors.Join(failed...)
}

// silentBox is a sandbox that has to be looked at.
type silentBox struct {
	Session  string       `db:"session_id"`
	Epoch    int64        `db:"epoch"`
	Box      string       `db:"box"`
	State    SandboxState `db:"state"`
	Failures int          `db:"failures"`
	Ref      sandbox.Ref  `db:"ref"` // what the next box continues from, if anything
	Said     string       `db:"-"`   // the last that it said, once it is gone
	left     keeping      // what was saved of it at its end
}

// endLongBoots fails boots that took too long; deadlines of a boot count from
// the claim of its start (I9).
func (e *Engine) endLongBoots(ctx context.Context) error {
	var late []struct {
		silentBox
		Seconds float64 `db:"seconds"`
	}
	// Of scripts that may take longer than usual there are two.
	err := e.db.SelectContext(ctx, &late, `
		select session_id, epoch, box, state, failures, seconds
		from sandboxes, lateral (select $1 + 2 * greatest(coalesce(setup_seconds, 0) - $2, 0) as seconds) allowed
		where state in ('starting', 'booting') and claimed_at < now() - make_interval(secs => seconds)`,
		seconds(e.cfg.BootTimeout), seconds(e.cfg.SetupTimeout))
	if err != nil {
		return fmt.Errorf("looking for boots that take too long: %w", err)
	}
	var failed []error
	for _, b := range late {
		failed = append(failed, e.onSandbox(ctx, b.silentBox, func(t *tx, s Session) error {
			return t.bootFailed(ctx, s, fmt.Sprintf("The sandbox was not ready within %s.", inSeconds(b.Seconds)), SandboxStarting, SandboxBooting)
		}))
	}
	return errors.Join(failed...)
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
// is cut or that send no heartbeat (I9: silence alone is not death, but a box that
// its provider does not know is dead). Boxes that are known and stay silent are
// given up in the end, but only by a watcher that saw them silent all the time:
// after a control plane was away, or the machine asleep, it is a while before
// they are heard.
func (e *Engine) lookForSilent(ctx context.Context, since silences) error {
	var silent []struct {
		silentBox
		Heartbeat time.Time `db:"heartbeat"`
	}
	err := e.db.SelectContext(ctx, &silent, `
		update sandboxes set looked_at = now()
		where box <> '' and (state = 'starting' or state in ('booting', 'ready') and coalesce(held_until, now()) <= now())
			and coalesce(looked_at, '-infinity') < now() - make_interval(secs => $1)
		returning session_id, epoch, box, state, failures, ref, coalesce(heartbeat_at, claimed_at, state_at) as heartbeat`,
		seconds(e.tempo.watch))
	if err != nil {
		return fmt.Errorf("looking for silent sandboxes: %w", err)
	}
	var failed []error
	for _, b := range silent {
		gone, err := e.lookFor(ctx, &b.silentBox, since.of(b.Session, b.Heartbeat) > e.tempo.silent)
		if gone && err == nil {
			delete(since, b.Session)
			err = e.lose(ctx, b.silentBox)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("looking for the box of %s: %w", b.Session, err))
		}
	}
	return errors.Join(failed...)
}

// silences is since when sessions' boxes have been seen silent, by this process's
// own clock, which does not jump and stands still while the machine sleeps.
type silences map[string]silence

type silence struct {
	heartbeat time.Time // the last one, by Postgres's clock: it tells silences apart
	seen      time.Time // when it was first looked at
}

// of returns for how long the session's box has been seen silent.
func (s silences) of(session string, heartbeat time.Time) time.Duration {
	known := s[session]
	if !known.heartbeat.Equal(heartbeat) {
		known = silence{heartbeat, time.Now()}
		s[session] = known
	}
	return time.Since(known.seen)
}

// providerCall bounds a call of the provider that copies no files.
const providerCall = time.Minute

// lookFor asks the provider for a box and, if it is to be given up, ends it. gone
// says that it is no more; b.left is then where its filesystem is kept.
func (e *Engine) lookFor(ctx context.Context, b *silentBox, giveUp bool) (gone bool, err error) {
	if giveUp {
		// With nobody to speak to, it is parked as it is: killing it would forget the
		// conversation, and what was not pushed.
		b.left, _, err = e.keepBox(ctx, b.Session, b.Box, e.tempo.quickPark())
		return err == nil, err
	}
	asking, cancel := context.WithTimeout(ctx, providerCall)
	defer cancel()
	_, err = e.cfg.Provider.Attach(asking, b.Box)
	if !errors.Is(err, sandbox.ErrGone) {
		return false, err
	}
	b.Said = e.scrub.text(storable(sandbox.LastWords(err)))
	b.left, err = e.leftBy(asking, b.Session, b.Box)
	return err == nil, err
}

// lose records that a box is no more, and settles what ran in it. What is
// queued has it started again, from what was saved of it last; a boot that keeps
// dying is a failure.
func (e *Engine) lose(ctx context.Context, b silentBox) error {
	return e.onSandbox(ctx, b, func(t *tx, s Session) error {
		if err := t.settleLost(ctx, s); err != nil {
			return err
		}
		if err := t.keep(ctx, s.ID, b.left); err != nil {
			return err
		}
		if b.State != SandboxReady {
			reason := "The sandbox ended while it was being prepared."
			if b.Said != "" {
				reason = "The sandbox ended while it was being prepared, and said: " + b.Said
			}
			return t.countFailure(ctx, s, b.Failures, reason)
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

// settleLost settles what ran in a session's box that is no more, unless it was
// carried over from it. The session's row is locked.
func (t *tx) settleLost(ctx context.Context, s Session) error {
	var running []string
	err := t.SelectContext(ctx, &running, `select id from prompts where session_id = $1 and state = 'running' and boot is not null`, s.ID)
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
		Generation int64  `db:"generation"`
		Spare      string `db:"spare"`
		Cut        bool   `db:"cut"`
	}
	err := e.db.SelectContext(ctx, &unknown, `
		select session_id, epoch, box, state, failures, ref, generation, spare, coalesce(held_until, now()) <= now() as cut from sandboxes
		where state in ('booting', 'ready') and box = '' and claimed_at < now() - make_interval(secs => $1)`, seconds(e.tempo.lease))
	if err != nil {
		return fmt.Errorf("looking for adopted sandboxes: %w", err)
	}
	var failed []error
	for _, u := range unknown {
		c := claim{session: u.Session, generation: u.Generation, spare: u.Spare}
		asking, cancel := context.WithTimeout(ctx, providerCall)
		box, err := e.findBox(asking, c)
		cancel()
		switch {
		case err != nil:
		case box != nil:
			err = e.recordBox(ctx, c, box)
		case u.Cut:
			err = e.lose(ctx, u.silentBox)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// parkIdleOnes parks what has been idle for long enough.
func (e *Engine) parkIdleOnes(ctx context.Context) error {
	const atOnce = 20
	return e.transact(ctx, func(t *tx) error {
		_, err := t.parkIdle(ctx, e.cfg.ParkAfter, atOnce)
		return err
	})
}

// parkOldOnes parks boxes whose lifetime at the provider is nearly over, so that
// their state is saved before (I9): idle ones early, working ones in the end. What
// runs then goes on in the next box.
func (e *Engine) parkOldOnes(ctx context.Context) error {
	const enough = 10 * time.Minute // to stop, commit, push and save
	return e.transact(ctx, func(t *tx) error {
		var old []string
		err := t.SelectContext(ctx, &old, `
			update sandboxes b set state = 'parking', state_at = now(), reason = 'its longest lifetime is nearly over', carry = true
			where b.state = 'ready' and b.lifetime > 0 and b.born_at < now() - make_interval(secs => b.lifetime * 7 / 8)
				and (b.born_at < now() - make_interval(secs => b.lifetime - greatest(b.lifetime / 40, least($1, b.lifetime / 9)))
					or not exists (select from prompts p where p.session_id = b.session_id and p.state in ('queued', 'running')))
			returning session_id`, seconds(enough))
		if err != nil {
			return fmt.Errorf("parking old sandboxes: %w", err)
		}
		return t.announceParking(ctx, old)
	})
}

// parkAbandoned parks boxes whose actor cannot do it: their bridge is cut, or it hangs.
func (e *Engine) parkAbandoned(ctx context.Context) error {
	var left []silentBox
	err := e.db.SelectContext(ctx, &left, `select session_id, epoch, box, state, failures from sandboxes
		where state = 'parking' and (holder = '' or held_until < now() or state_at < now() - make_interval(secs => $1))`, seconds(10*e.tempo.park+e.tempo.slowPark()))
	if err != nil {
		return fmt.Errorf("looking for sandboxes to park: %w", err)
	}
	return each(left, func(b silentBox) error {
		return e.parkBox(ctx, b.Session, e.tempo.quickPark())
	})
}

// endDead ends boxes whose sandbox has failed or was given up. Until that is
// done the session gets no other one.
func (e *Engine) endDead(ctx context.Context) error {
	var dead []silentBox
	err := e.db.SelectContext(ctx, &dead, `select session_id, epoch, box, state, failures, ref from sandboxes
		where state in ('lost', 'failed') and box <> ''`)
	if err != nil {
		return fmt.Errorf("looking for boxes to end: %w", err)
	}
	return each(dead, func(b silentBox) error {
		left, err := e.endBox(ctx, b)
		if err != nil {
			return fmt.Errorf("ending the box of %s: %w", b.Session, err)
		}
		err = e.onSandbox(ctx, b, func(t *tx, s Session) error {
			if _, err := t.ExecContext(ctx, `update sandboxes set box = '' where session_id = $1`, s.ID); err != nil {
				return fmt.Errorf("noting the end of the box of %s: %w", s.ID, err)
			}
			return t.keep(ctx, s.ID, left)
		})
		e.hub.wake(topicStart)
		return err
	})
}

// endBox ends a box. One that continued a saved filesystem is parked, because
// what failed may work another time; of one that never was ready nothing is kept.
func (e *Engine) endBox(ctx context.Context, b silentBox) (keeping, error) {
	if b.Ref != "" {
		left, _, err := e.keepBox(ctx, b.Session, b.Box, e.tempo.quickPark())
		return left, err
	}
	return keeping{}, e.killBox(ctx, b.Box)
}

// killOrphans ends boxes that the provider knows and nobody wants.
func (e *Engine) killOrphans(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, providerCall)
	defer cancel()
	for info, err := range e.cfg.Provider.List(ctx, nil) {
		if err != nil {
			return fmt.Errorf("listing boxes: %w", err)
		}
		orphan, err := e.orphaned(ctx, info)
		if err != nil {
			return err
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

// orphaned says whether nobody wants the box: it is of an earlier generation, or
// of a sandbox, a spare or a build that is no more. Boxes of what this database
// does not have belong to somebody else.
func (e *Engine) orphaned(ctx context.Context, info sandbox.Info) (bool, error) {
	if spare := info.Tags[tagSpare]; spare != "" {
		return e.orphanedSpare(ctx, spare, info.ID)
	}
	var orphan bool
	var err error
	if epoch, cause := strconv.ParseInt(info.Tags[tagBuildEpoch], 10, 64); cause == nil {
		err = e.db.GetContext(ctx, &orphan, `select exists (select from images where id = $1
			and (epoch > $2 or state not in ('building', 'saving')))`, info.Tags[TagBuild], epoch)
	} else if generation, cause := strconv.ParseInt(info.Tags[tagEpoch], 10, 64); cause == nil {
		err = e.db.GetContext(ctx, &orphan, `select exists (select from sandboxes where session_id = $1
			and (generation > $2 or state in ('none', 'parked', 'lost', 'failed')))`, info.Tags[tagSession], generation)
	}
	if err != nil {
		return false, fmt.Errorf("looking up the box %s: %w", info.ID, err)
	}
	return orphan, nil
}
