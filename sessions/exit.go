package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"openinspect/sandbox"
)

// EndStarting ends the boxes that ParkAll could not park, because they are still
// being prepared or speak to nobody, spares and those of builds, after Run has
// ended. What continued a saved filesystem is parked; of all others nothing is kept.
// Boxes that another replica works on are left to it, and those that this database
// does not know to whomever they belong to.
// One that cannot be ended keeps the others from nothing.
func (e *Engine) EndStarting(ctx context.Context) error {
	var failed []error
	for info, err := range e.cfg.Provider.List(ctx, nil) {
		if err != nil {
			return errors.Join(append(failed, fmt.Errorf("looking for sandboxes to end: %w", err))...)
		}
		if spare := info.Tags[tagSpare]; spare != "" {
			err = e.endStartingSpare(ctx, spare, info.ID)
		} else if info.Tags[TagBuild] != "" {
			err = e.endStartingBuild(ctx, info)
		} else if generation, bad := strconv.ParseInt(info.Tags[tagEpoch], 10, 64); bad == nil { // else it is no session's
			err = e.endStarting(ctx, info.Tags[tagSession], generation, info.ID)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// endStarting ends one box, if it is of a session of ours and no other replica works on it.
func (e *Engine) endStarting(ctx context.Context, session string, generation int64, box string) error {
	var was struct {
		Ref   sandbox.Ref  `db:"ref"`
		State SandboxState `db:"state"`
	}
	err := e.transact(ctx, func(t *tx) error {
		err := t.GetContext(ctx, &was, `select ref, state from sandboxes where session_id = $1 and generation = $2
			and state in ('starting', 'booting', 'ready', 'parking') and (holder in ('', $3) or held_until < now()) for no key update`,
			session, generation, e.cfg.Replica)
		if err != nil {
			return err
		}
		_, err = t.ExecContext(ctx, `update sandboxes set state = 'parking', state_at = now(), reason = 'the control plane was stopped', box = $2
			where session_id = $1`, session, box)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ending the sandbox of %s: %w", session, err)
	}
	if was.State == SandboxReady || was.State == SandboxParking || was.Ref != "" {
		return e.parkBox(ctx, session, e.tempo.quickPark())
	}
	if err := e.killBox(ctx, box); err != nil {
		return fmt.Errorf("ending the sandbox of %s: %w", session, err)
	}
	return e.transact(ctx, func(t *tx) error {
		return t.parked(ctx, session, box, SandboxNone, keeping{}, "the control plane was stopped")
	})
}

// endStartingSpare ends a spare's box, or that of the session that took it.
func (e *Engine) endStartingSpare(ctx context.Context, spare, box string) error {
	var taken struct {
		Session    string `db:"session_id"`
		Generation int64  `db:"generation"`
	}
	err := e.db.GetContext(ctx, &taken, `select session_id, generation from sandboxes
		where spare = $1 and box in ('', $2) and state in ('starting', 'booting', 'ready', 'parking')`, spare, box)
	if err == nil {
		return e.endStarting(ctx, taken.Session, taken.Generation, box)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("looking up the spare sandbox %s: %w", spare, err)
	}
	var ours bool
	err = e.db.GetContext(ctx, &ours, `select exists (select from spares where id = $1 and (holder in ('', $2) or held_until < now()))`, spare, e.cfg.Replica)
	if err != nil || !ours {
		return err
	}
	if err := e.transact(ctx, func(t *tx) error { return t.endSpare(ctx, spare, spareEnded, "") }); err != nil {
		return err
	}
	return e.killBox(ctx, box)
}

// endStartingBuild ends the box of a build, unless another replica builds in it:
// nobody continues a build, it is begun again in another box.
func (e *Engine) endStartingBuild(ctx context.Context, box sandbox.Info) error {
	epoch, bad := strconv.ParseInt(box.Tags[tagBuildEpoch], 10, 64)
	if bad != nil {
		return nil
	}
	var ours bool
	err := e.db.GetContext(ctx, &ours, `select exists (select from images where id = $1
		and (epoch > $2 or state not in ('building', 'saving') or holder in ('', $3) or held_until < now()))`,
		box.Tags[TagBuild], epoch, e.cfg.Replica)
	if err != nil {
		return fmt.Errorf("looking up the build %s: %w", box.Tags[TagBuild], err)
	}
	if !ours {
		return nil
	}
	return e.killBox(ctx, box.ID)
}

// killBox ends a box of which nothing is kept.
func (e *Engine) killBox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, providerCall)
	defer cancel()
	box, err := e.cfg.Provider.Attach(ctx, id)
	if err == nil {
		err = box.Kill(ctx)
	}
	if errors.Is(err, sandbox.ErrGone) {
		return nil
	}
	return err
}
