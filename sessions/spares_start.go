package sessions

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"openinspect/sandbox"
)

// sparesAtOnce bounds the spares that one replica starts at a time.
const sparesAtOnce = 2

// spareClaim is the right to start a spare's box.
type spareClaim struct {
	ID         string `db:"id"`
	Repository string `db:"repository"`
	Try        int    `db:"try"`
	token      string
	image      image // of the repository, if there is one
}

// startSpares starts the spares that are wanted. Any replica may.
func (e *Engine) startSpares(ctx context.Context) error {
	if e.cfg.MaxSpares <= 0 {
		return nil
	}
	return e.startClaimed(ctx, sparesAtOnce, func() (start func(), err error) {
		c, err := e.claimSpare(ctx)
		if err != nil || c == nil {
			return nil, err
		}
		return func() { e.startSpare(ctx, *c) }, nil
	})
}

// claimSpare claims the start of a spare, or returns nil. Each try has a token of
// its own: what an earlier starter left is not served any more.
func (e *Engine) claimSpare(ctx context.Context) (*spareClaim, error) {
	var c *spareClaim
	err := e.transact(ctx, func(t *tx) error {
		c = nil
		next := spareClaim{token: rand.Text() + rand.Text()}
		err := t.GetContext(ctx, &next, `
			update spares set token_hash = $1, holder = $2, held_until = now() + make_interval(secs => $3),
				claimed_at = coalesce(claimed_at, now()), try = try + 1
			where id = (select id from spares where state = 'starting' and box = '' and coalesce(held_until, '-infinity') < now()
				order by created_at limit 1 for no key update skip locked)
			returning id, repository, try`, hashOf(next.token), e.cfg.Replica, seconds(e.tempo.lease))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("claiming a spare sandbox: %w", err)
		}
		c = &next
		if c.image, err = t.newestImage(ctx, c.Repository); err != nil {
			return err
		}
		_, err = t.ExecContext(ctx, `update spares set ref = $2 where id = $1`, c.ID, string(c.image.Ref))
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// startSpare starts the box and records it, with whoever has it by now.
func (e *Engine) startSpare(ctx context.Context, c spareClaim) {
	held, lose := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		e.keepSpareClaim(held, c)
	}()
	var box sandbox.Box
	spec := e.spareBox(c)
	err := e.equip(ctx, c.Repository, &spec)
	if err == nil {
		err = e.recordSpareSize(ctx, c, spec)
	}
	if err == nil {
		box, err = e.cfg.Provider.Start(ctx, spec)
	}
	lose()
	<-kept
	if err == nil {
		err = e.recordSpare(ctx, c, box)
	}
	if err != nil && ctx.Err() == nil {
		reason := e.scrub.text(storable(err.Error()))
		e.log.Warn("a spare sandbox was not started", "repository", c.Repository, "err", reason)
		gone := errors.Is(err, sandbox.ErrGone) && c.image.ID != ""
		err := e.transact(ctx, func(t *tx) error {
			if gone {
				if err := t.imageGone(ctx, c.image.ID); err != nil {
					return err
				}
			}
			return t.endSpare(ctx, c.ID, spareEnded, reason)
		})
		if err != nil && ctx.Err() == nil {
			e.log.Warn("the end of a spare sandbox could not be recorded; its claim runs out", "spare", c.ID, "err", err)
		}
	}
}

// recordSpareSize notes what the box is given; from then on a session may take it.
func (e *Engine) recordSpareSize(ctx context.Context, c spareClaim, spec sandbox.Spec) error {
	s := e.sizeOf(spec)
	_, err := e.db.ExecContext(ctx, `update spares set cpu = $3, mem_mib = $4, lifetime = $5 where id = $1 and token_hash = $2`,
		c.ID, hashOf(c.token), s.CPU, s.MemMiB, s.Lifetime)
	if err != nil {
		return fmt.Errorf("noting the size of spare sandbox %s: %w", c.ID, err)
	}
	return nil
}

// keepSpareClaim renews the claim while the provider works, also when a session
// has taken the spare meanwhile: its box is still to come.
func (e *Engine) keepSpareClaim(ctx context.Context, c spareClaim) {
	for e.pause(ctx, e.tempo.lease/4) {
		for _, statement := range []string{ // one after the other: a session locks the two rows the other way round
			`update spares set held_until = now() + make_interval(secs => $3) where id = $1 and token_hash = $2 and state = 'starting'`,
			`update sandboxes set held_until = now() + make_interval(secs => $3)
				where spare = $1 and token_hash = $2 and state = 'starting' and box = ''`,
		} {
			_, err := e.db.ExecContext(ctx, statement, c.ID, hashOf(c.token), seconds(e.tempo.lease))
			if err != nil && ctx.Err() == nil {
				e.log.Warn("the claim of a spare sandbox could not be renewed", "spare", c.ID, "err", err)
			}
		}
	}
}

// recordSpare notes which box was started, with the spare or with the session
// that took it. A box that neither wants is ended.
func (e *Engine) recordSpare(ctx context.Context, c spareClaim, box sandbox.Box) error {
	for _, statement := range []string{
		`update spares set box = $3, provider = $4, held_until = case when state = 'starting' then now() + make_interval(secs => $5) else held_until end
			where id = $1 and token_hash = $2 and state in ('starting', 'booting', 'ready')`,
		`update sandboxes set box = $3, provider = $4, held_until = case when state = 'starting' then now() + make_interval(secs => $5) else held_until end
			where spare = $1 and token_hash = $2 and state in ('starting', 'booting', 'ready', 'parking')`,
	} {
		res, err := e.db.ExecContext(ctx, statement, c.ID, hashOf(c.token), box.ID(), e.cfg.Provider.Caps().Name, seconds(e.tempo.lost))
		if err != nil {
			return fmt.Errorf("recording the box of spare sandbox %s: %w", c.ID, err)
		}
		if wanted, err := affected(res); err != nil || wanted {
			return err
		}
	}
	return box.Kill(ctx)
}
