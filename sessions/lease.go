package sessions

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// HoldLease runs f while this replica holds the named lease, again and again
// until ctx ends: f's context ends when the lease is lost. It returns when f
// has returned. An error of f that is not its context's end ends HoldLease.
func (e *Engine) HoldLease(ctx context.Context, name string, f func(ctx context.Context) error) error {
	holder := e.cfg.Replica + "/" + rand.Text()
	for {
		taken, err := e.takeLease(ctx, name, holder)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			e.log.Warn("the lease cannot be taken", "lease", name, "err", err)
		case taken:
			if err := e.whileHeld(ctx, name, holder, f); err != nil {
				return err
			}
		}
		if !e.pause(ctx, e.tempo.lease/4) {
			return nil
		}
	}
}

// whileHeld runs f and keeps the lease; it gives the lease back at the end.
func (e *Engine) whileHeld(ctx context.Context, name, holder string, f func(ctx context.Context) error) error {
	held, lose := context.WithCancel(ctx)
	defer lose()
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		defer lose()
		e.keepLease(held, name, holder)
	}()
	err := f(held)
	lost := held.Err() != nil
	lose()
	<-kept
	e.dropLease(ctx, name, holder)
	if lost && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// keepLease renews the lease until ctx ends or it is lost. Time is counted from
// before each renewal was sent, so that we stop before Postgres lets others in.
func (e *Engine) keepLease(ctx context.Context, name, holder string) {
	until := time.Now().Add(e.tempo.lease)
	for e.pause(ctx, e.tempo.lease/4) {
		asked := time.Now()
		try, cancel := context.WithDeadline(ctx, until)
		held, err := e.takeLease(try, name, holder)
		cancel()
		switch {
		case err == nil && held:
			until = asked.Add(e.tempo.lease)
		case err == nil || time.Now().After(until):
			e.log.Warn("a lease was lost", "lease", name, "err", err)
			return
		}
	}
}

// takeLease takes or renews the lease.
func (e *Engine) takeLease(ctx context.Context, name, holder string) (bool, error) {
	var epoch int64
	err := e.db.GetContext(ctx, &epoch, `
		insert into leases (name, holder, until) values ($1, $2, now() + make_interval(secs => $3))
		on conflict (name) do update set holder = excluded.holder, until = excluded.until,
			epoch = leases.epoch + (leases.holder <> excluded.holder)::int
		where leases.holder = excluded.holder or leases.until < now()
		returning epoch`, name, holder, seconds(e.tempo.lease))
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("taking the lease %s: %w", name, err)
	}
	return true, nil
}

// dropLease lets the next replica in at once.
func (e *Engine) dropLease(ctx context.Context, name, holder string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, err := e.db.ExecContext(ctx, `delete from leases where name = $1 and holder = $2`, name, holder); err != nil {
		e.log.Warn("a lease could not be given back; it expires", "lease", name, "err", err)
	}
}

// pause waits and reports whether ctx is still alive.
func (e *Engine) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
