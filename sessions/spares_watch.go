package sessions

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// keepSpares holds as many spares of each busy repository as its recent starts
// suggest, and ends those that are over. The watcher calls it, on one replica at a
// time.
func (e *Engine) keepSpares(ctx context.Context) error {
	if e.cfg.MaxSpares <= 0 {
		return nil
	}
	return errors.Join(e.endOldSpares(ctx), e.endSilentSpares(ctx), e.fillPool(ctx))
}

// busyStarts is how many sessions have to begin on a repository within an hour
// for it to be busy.
const busyStarts = 2

// fillPool asks for the spares that busy repositories lack. A repository whose
// spares fail gets none for a while.
func (e *Engine) fillPool(ctx context.Context) error {
	if e.cfg.PoolSize <= 0 {
		return nil
	}
	var busy []struct {
		Repository string `db:"repository"`
		Starts     int    `db:"starts"`
	}
	err := e.db.SelectContext(ctx, &busy, `
		select repository, count(*) as starts from sessions s
		where created_at > now() - interval '1 hour' and repository is not null
			and not exists (select from spares f where f.repository = s.repository and f.state = 'ended' and f.reason <> ''
				and f.cause = 'pool' and f.ended_at > now() - interval '10 minutes')
		group by repository having count(*) >= $1 order by starts desc`, busyStarts)
	if err != nil {
		return fmt.Errorf("counting the starts of sessions: %w", err)
	}
	return each(busy, func(b struct {
		Repository string `db:"repository"`
		Starts     int    `db:"starts"`
	}) error {
		return e.wantSpare(ctx, b.Repository, causePool, poolLasts, min(spareCount(b.Starts), e.cfg.PoolSize))
	})
}

// spareCount is how many spares a repository with so many starts in an hour can
// use: those that are expected while a spare is replaced, and one standard
// deviation (starts arrive as a Poisson process) on top.
func spareCount(startsPerHour int) int {
	const replaced = 1.0 / 30 // of an hour: what it takes to notice, start and boot another
	expected := float64(startsPerHour) * replaced
	return max(1, int(math.Ceil(expected+math.Sqrt(expected))))
}

// endOldSpares ends what has waited, or has been starting, for too long, or shall not
// be there any more: it was asked for while spares were being switched off.
func (e *Engine) endOldSpares(ctx context.Context) error {
	return e.endSparesWhere(ctx, `not `+switchedOn(switchSpares, "spares.repository")+` or until < now() or state <> 'ready' and claimed_at < now() - make_interval(secs => $1)`, seconds(e.cfg.BootTimeout))
}

// endSilentSpares ends what was not heard of for a while; unlike a session's
// sandbox it holds nothing that would be lost.
func (e *Engine) endSilentSpares(ctx context.Context) error {
	return e.endSparesWhere(ctx, `box <> '' and held_until < now() - make_interval(secs => $1)`, seconds(e.tempo.lost))
}

func (e *Engine) endSparesWhere(ctx context.Context, condition string, arg float64) error {
	var over []string
	err := e.db.SelectContext(ctx, &over, `select id from spares where ended_at is null and (`+condition+`)`, arg)
	if err != nil {
		return fmt.Errorf("looking for spare sandboxes to end: %w", err)
	}
	return each(over, func(id string) error {
		return e.transact(ctx, func(t *tx) error { return t.endSpare(ctx, id, spareEnded, "") })
	})
}

// killEndedSpares ends the boxes of spares that nobody took, and forgets old rows.
func (e *Engine) killEndedSpares(ctx context.Context, boxes *tending) error {
	var ended []struct {
		ID  string `db:"id"`
		Box string `db:"box"`
	}
	if err := e.db.SelectContext(ctx, &ended, `select id, box from spares where state = 'ended' and box <> ''`); err != nil {
		return fmt.Errorf("looking for boxes of spare sandboxes to end: %w", err)
	}
	for _, s := range ended {
		boxes.begin(s.ID, func() error {
			err := e.killBox(ctx, s.Box)
			if err == nil {
				_, err = e.db.ExecContext(ctx, `update spares set box = '' where id = $1`, s.ID)
			}
			if err != nil {
				return fmt.Errorf("ending the box of spare sandbox %s: %w", s.ID, err)
			}
			return nil
		})
	}
	_, err := e.db.ExecContext(ctx, `delete from spares where ended_at < now() - interval '7 days' and (state = 'taken' or box = '')`)
	if err != nil {
		return fmt.Errorf("forgetting old spare sandboxes: %w", err)
	}
	return nil
}

// orphanedSpare says whether a box that was started as a spare is wanted by
// nobody: neither as a spare nor by the session that took it.
func (e *Engine) orphanedSpare(ctx context.Context, id, box string) (bool, error) {
	var wanted bool
	err := e.db.GetContext(ctx, &wanted, `
		select exists (select from spares where id = $1 and ended_at is null and box in ('', $2))
			or exists (select from sandboxes where spare = $1 and box in ('', $2) and state in ('starting', 'booting', 'ready', 'parking'))
			or exists (select from sandboxes where box = $2)`, id, box)
	if err != nil {
		return false, fmt.Errorf("looking up the spare sandbox %s: %w", id, err)
	}
	return !wanted, nil
}
