package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"openinspect/sandbox"
)

// Saved filesystems are rows before a provider is asked for them, and stay rows
// until they are deleted there:
//
//	saving ──> kept ──> unwanted ──> gone
//	saving ──> unwanted | gone
//
// A session keeps one: sandboxes.ref names what its next box starts from, and a
// newer one makes the older ones unwanted. Nothing is relied on whose name is not
// in a row. Who asks a provider and dies leaves a row in state saving: the box is
// saved again if it lives; if it was parked, what it left is found by its id; and
// what nobody can name any more ends by itself (see sandbox.Lister).
//
// A row also says which provider has it. What another one has than the one that is
// configured now can be neither continued nor deleted: the session goes on from its
// branch, and the row waits for that provider to come back.

// Kinds of saved filesystems.
const (
	savedSnapshot = "snapshot"
	savedPark     = "park"
)

// keeping is a saved filesystem and its row; without a row it is what the session
// had already.
type keeping struct {
	row     int64
	ref     sandbox.Ref
	unsaved string // why nothing was saved, if that was not allowed
}

// beginSaving writes the row that comes before the provider's call, which may take
// as long as within.
func (t *tx) beginSaving(ctx context.Context, session, box, kind, prompt string, within time.Duration) (row int64, err error) {
	err = t.GetContext(ctx, &row, `
		insert into saved (session_id, kind, box, prompt_id, held_until, expires_at, provider)
		values ($1, $2, $3, $4, now() + make_interval(secs => $5), now() + make_interval(secs => $6), $7) returning id`,
		session, kind, box, prompt, seconds(within+t.e.tempo.lease), seconds(sandbox.KeepSession), t.e.cfg.Provider.Caps().Name)
	if err != nil {
		return 0, fmt.Errorf("noting that %s is saved: %w", session, err)
	}
	return row, nil
}

// keep makes a saved filesystem the one that the session continues from. Its row
// may have been given up meanwhile, but not be deleted at the provider. The
// sandbox's row is locked.
func (t *tx) keep(ctx context.Context, session string, k keeping) error {
	if k.row == 0 {
		return nil
	}
	res, err := t.ExecContext(ctx, `update saved set state = 'kept', ref = $2, held_until = null,
			expires_at = now() + make_interval(secs => $3) where id = $1 and state in ('saving', 'gone')`,
		k.row, string(k.ref), seconds(sandbox.KeepSession))
	if err != nil {
		return fmt.Errorf("noting where %s is saved: %w", session, err)
	}
	if kept, err := affected(res); err != nil || !kept {
		return err
	}
	_, err = t.ExecContext(ctx, `update saved set state = 'unwanted' where session_id = $1 and state = 'kept' and id <> $2`, session, k.row)
	if err != nil {
		return fmt.Errorf("noting what %s does not need any more: %w", session, err)
	}
	if _, err := t.ExecContext(ctx, `update sandboxes set ref = $2 where session_id = $1`, session, string(k.ref)); err != nil {
		return fmt.Errorf("noting what %s continues from: %w", session, err)
	}
	return nil
}

// dropSaved notes that what was to be saved, or was, is not wanted. ref is where it
// is, or empty if there is nothing.
func (e *Engine) dropSaved(ctx context.Context, row int64, ref sandbox.Ref) error {
	_, err := e.db.ExecContext(ctx, `update saved set state = case when $2 = '' then 'gone' else 'unwanted' end, ref = $2, held_until = null
		where id = $1 and state in ('saving', 'gone')`, row, string(ref))
	if err != nil {
		return fmt.Errorf("giving up a saved filesystem: %w", err)
	}
	return nil
}

// keepBox ends a box and keeps its filesystem, unless that may not be kept. gone says that the box had ended
// before; what it left then is what an earlier attempt saved of it, or nothing
// new. Whoever calls it records the result with keep. It takes as long as within.
func (e *Engine) keepBox(ctx context.Context, session, id string, within time.Duration) (k keeping, gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	box, err := e.cfg.Provider.Attach(ctx, id)
	if errors.Is(err, sandbox.ErrGone) {
		k, err = e.leftBy(ctx, session, id)
		return k, true, err
	}
	if err != nil {
		return k, false, err
	}
	if k.unsaved, err = e.maySave(ctx, session); err != nil {
		return k, false, err
	}
	if k.unsaved != "" {
		return k, true, e.endUnsaved(ctx, session, box, k.unsaved)
	}
	err = e.transact(ctx, func(t *tx) (err error) {
		k.row, err = t.beginSaving(ctx, session, id, savedPark, "", within)
		return err
	})
	if err != nil {
		return k, false, err
	}
	k.ref, err = e.parkSafely(ctx, k.row, box)
	switch {
	case errors.Is(err, sandbox.ErrGone):
		if err := e.dropSaved(ctx, k.row, ""); err != nil {
			return k, true, err
		}
		k, err = e.leftBy(ctx, session, id)
		return k, true, err
	case err != nil:
		return k, false, errors.Join(fmt.Errorf("parking the box of %s: %w", session, err), e.parkFailed(ctx, k.row))
	}
	return k, false, nil
}

// parkFailed ends the row of a park that its provider refused, unless something is
// saved already.
func (e *Engine) parkFailed(ctx context.Context, row int64) error {
	if ctx.Err() != nil {
		return nil // it may have had its effect; the reaper looks after the row
	}
	_, err := e.db.ExecContext(ctx, `update saved set held_until = now() where id = $1 and state = 'saving'`, row)
	return err
}

// parkSafely parks a box so that what it leaves can be found again should this
// process end before it has recorded the name: by the box's id if the provider can
// list, else because the name is recorded before the box ends.
func (e *Engine) parkSafely(ctx context.Context, row int64, box sandbox.Box) (sandbox.Ref, error) {
	if _, can := e.cfg.Provider.(sandbox.Lister); can {
		return box.Park(ctx)
	}
	ref, err := box.Snapshot(ctx, sandbox.KeepSession)
	if err != nil {
		return "", err
	}
	if _, err := e.db.ExecContext(ctx, `update saved set ref = $2 where id = $1 and state = 'saving'`, row, string(ref)); err != nil {
		return "", fmt.Errorf("noting where a box is saved: %w", err)
	}
	return ref, box.Kill(ctx)
}

// leftBy finds what an earlier attempt to save a box that is gone saved of it and did
// not record, or else has its provider save what the box left. Without any, the
// session continues from what it had.
func (e *Engine) leftBy(ctx context.Context, session, box string) (keeping, error) {
	var left keeping
	var tried struct {
		Row int64       `db:"id"`
		Ref sandbox.Ref `db:"ref"`
	}
	err := e.db.GetContext(ctx, &tried, `select id, ref from saved where session_id = $1 and box = $2 and kind = 'park' and state = 'saving'
		order by ref <> '' desc, id desc limit 1`, session, box)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return left, fmt.Errorf("reading what the box of %s left: %w", session, err)
	}
	left.row, left.ref = tried.Row, tried.Ref
	if left.row != 0 && left.ref == "" {
		if left.ref, err = e.listedOf(ctx, box); err != nil {
			return keeping{}, fmt.Errorf("looking for what the box of %s left: %w", session, err)
		}
	}
	if left.ref != "" {
		return left, nil
	}
	return e.salvage(ctx, session, box, left.row)
}

// listedOf finds what a box was parked as, if its provider can list what it keeps.
func (e *Engine) listedOf(ctx context.Context, box string) (sandbox.Ref, error) {
	lister, can := e.cfg.Provider.(sandbox.Lister)
	if !can {
		return "", nil
	}
	for saved, err := range lister.ListSaved(ctx) {
		if err != nil {
			return "", err
		}
		if saved.Box == box && saved.Parked {
			return saved.Ref, nil
		}
	}
	return "", nil
}

// salvage has the provider save what a dead box left, if it was one in which people's
// work was done and its files may be saved. row is of an earlier attempt, or 0.
func (e *Engine) salvage(ctx context.Context, session, box string, row int64) (keeping, error) {
	provider, can := e.cfg.Provider.(sandbox.Salvager)
	if !can {
		return keeping{}, nil
	}
	var worked bool
	err := e.db.GetContext(ctx, &worked, `select exists (select from sandboxes where session_id = $1 and box = $2 and state in ('ready', 'parking'))`,
		session, box)
	if err != nil {
		return keeping{}, fmt.Errorf("reading what the box of %s was: %w", session, err)
	}
	if why, err := e.maySave(ctx, session); err != nil || why != "" || !worked {
		return keeping{}, err
	}
	if row == 0 {
		err := e.transact(ctx, func(t *tx) (err error) {
			row, err = t.beginSaving(ctx, session, box, savedPark, "", providerCall)
			return err
		})
		if err != nil {
			return keeping{}, err
		}
	}
	ref, err := provider.Salvage(ctx, box)
	if errors.Is(err, sandbox.ErrGone) {
		return keeping{}, e.dropSaved(ctx, row, "")
	}
	if err != nil {
		return keeping{}, fmt.Errorf("saving what the box of %s left: %w", session, err)
	}
	return keeping{row: row, ref: ref}, nil
}

// forgetSaved notes that the provider does not have what the session was to
// continue from.
func (t *tx) forgetSaved(ctx context.Context, session string, ref sandbox.Ref) error {
	_, err := t.ExecContext(ctx, `update saved set state = 'unwanted' where session_id = $1 and ref = $2 and state = 'kept'`, session, string(ref))
	if err != nil {
		return fmt.Errorf("forgetting what %s was saved as: %w", session, err)
	}
	return nil
}

// leaveBehind lets go of what another provider keeps than the one that is to start
// the session's next box, and tells people.
func (t *tx) leaveBehind(ctx context.Context, next *candidate) error {
	if next.Ref == "" {
		return nil
	}
	var keeper string
	err := t.GetContext(ctx, &keeper, `select coalesce(max(provider), '') from saved where session_id = $1 and ref = $2 and state = 'kept'`,
		next.Session, next.Ref)
	if err != nil {
		return fmt.Errorf("reading who keeps the files of %s: %w", next.Session, err)
	}
	if keeper == "" || keeper == t.e.cfg.Provider.Caps().Name {
		return nil
	}
	if err := t.forgetSaved(ctx, next.Session, sandbox.Ref(next.Ref)); err != nil {
		return err
	}
	if _, err := t.ExecContext(ctx, `update sandboxes set ref = '' where session_id = $1`, next.Session); err != nil {
		return fmt.Errorf("leaving the files of %s behind: %w", next.Session, err)
	}
	next.Ref = ""
	return t.sayFromBranch(ctx, next.Session, fmt.Sprintf("The session's saved files are at another provider of sandboxes (%s) than the one that is used now.", keeper))
}
