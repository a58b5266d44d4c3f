package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// watch keeps every deadline, by Postgres's clock: of prompts, boots, heartbeats
// and idle sandboxes. One replica at a time does, by lease.
func (e *Engine) watch(ctx context.Context) error {
	wake := e.hub.listen(ctx, topicStart)
	tick := time.NewTicker(e.tempo.watch)
	defer tick.Stop()
	var since silences
	boxes := &tending{again: e.tempo.watch, report: func(err error) { e.warn(ctx, "looking after boxes", err) }}
	defer boxes.wait()
	deadlines := []func(context.Context) error{e.endLongPrompts, e.endLongBoots, e.parkIdleOnes, e.parkOldOnes, e.keepSpares}
	atProvider := []func(context.Context, *tending) error{e.recordAdopted, e.parkAbandoned, e.endDead, e.killEndedSpares,
		func(ctx context.Context, boxes *tending) error { return e.lookForSilent(ctx, &since, boxes) }}
	for n := 0; ; n++ {
		for _, look := range deadlines {
			e.warn(ctx, "watching deadlines", look(ctx))
		}
		for _, look := range atProvider {
			e.warn(ctx, "looking for boxes", look(ctx, boxes))
		}
		const sweepEvery = 15 // of the looks
		if n%sweepEvery == 0 {
			boxes.begin(allBoxes, func() error { return e.killOrphans(ctx, boxes) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}

// warn logs what failed, if anything did and not because ctx ended.
func (e *Engine) warn(ctx context.Context, doing string, err error) {
	if err != nil && ctx.Err() == nil {
		e.log.Warn(doing, "err", e.scrub.text(err.Error()))
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
