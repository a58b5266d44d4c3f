package sessions

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/lib/pq"

	"openinspect/sandbox"
)

// reapSaved deletes the saved filesystems and the files that nobody wants. One replica at a time
// does, by lease.
func (e *Engine) reapSaved(ctx context.Context) error {
	tick := time.NewTicker(e.tempo.watch)
	defer tick.Stop()
	const doing = "looking after saved filesystems"
	deletions := &tending{again: e.tempo.watch, report: func(err error) { e.warn(ctx, doing, err) }}
	defer deletions.wait()
	looks := []func(context.Context) error{e.giveUpSaving, e.expireSaved, e.archiveIdle,
		func(ctx context.Context) error { return e.deleteUnwanted(ctx, deletions) }}
	// These go through all sessions that were ever archived.
	sweeps := []func(context.Context) error{e.emptyArchive, e.deleteFiles}
	for n := 0; ; n++ {
		for _, look := range looks {
			e.warn(ctx, doing, look(ctx))
		}
		const sweepEvery = 30 // of the looks
		if n%sweepEvery == 0 {
			for _, sweep := range sweeps {
				e.warn(ctx, doing, sweep(ctx))
			}
			deletions.begin(allBoxes, func() error { return e.sweepSaved(ctx) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// giveUpSaving ends the rows of those who asked a provider and died. A park's row
// is needed until its box is settled, see leftBy; a snapshot is tried again.
func (e *Engine) giveUpSaving(ctx context.Context) error {
	_, err := e.db.ExecContext(ctx, `
		with given_up as (update saved v set state = 'unwanted', held_until = null
			where v.state = 'saving' and v.held_until < now()
				and not (v.kind = 'park' and exists (select from sandboxes b where b.session_id = v.session_id and b.box = v.box))
			returning v.session_id, v.kind, v.prompt_id)
		update sandboxes b set snapped_prompt = '' from given_up g
		where b.session_id = g.session_id and g.kind = 'snapshot' and b.snapped_prompt = g.prompt_id`)
	if err != nil {
		return fmt.Errorf("giving up what was being saved: %w", err)
	}
	return nil
}

// expireSaved lets go of what its provider may have forgotten.
func (e *Engine) expireSaved(ctx context.Context) error {
	_, err := e.db.ExecContext(ctx, `
		with expired as (update saved set state = 'unwanted' where state = 'kept' and expires_at < now() returning session_id, ref)
		update sandboxes b set ref = '' from expired x where b.session_id = x.session_id and b.ref = x.ref`)
	if err != nil {
		return fmt.Errorf("letting go of expired filesystems: %w", err)
	}
	return nil
}

// deleteAgain is the wait before a second attempt to delete a filesystem, doubled
// for each further one.
const deleteAgain = time.Minute

// deleteUnwanted deletes at the provider what is not wanted, and tries again later
// what it refuses. What another provider keeps is left to it.
func (e *Engine) deleteUnwanted(ctx context.Context, deletions *tending) error {
	var list []unwanted
	err := e.db.SelectContext(ctx, &list, `
		select id, ref, failures from saved v where state = 'unwanted' and coalesce(retry_at, now()) <= now()
			and (ref = '' or provider = $1)
			and not exists (select from saved k where k.ref = v.ref and k.session_id = v.session_id and k.state = 'kept')
		order by id limit 50`, e.cfg.Provider.Caps().Name)
	if err != nil {
		return fmt.Errorf("reading what is to be deleted: %w", err)
	}
	for _, v := range list {
		deletions.begin(strconv.FormatInt(v.Row, 10), func() error { return e.deleteRow(ctx, v) })
	}
	return nil
}

// unwanted is a row of a filesystem that is to be deleted.
type unwanted struct {
	Row      int64       `db:"id"`
	Ref      sandbox.Ref `db:"ref"`
	Failures int         `db:"failures"`
}

// deleteRow deletes a filesystem, or notes when that is tried again.
func (e *Engine) deleteRow(ctx context.Context, v unwanted) error {
	err := e.deleteSaved(ctx, v.Ref)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		_, err = e.db.ExecContext(ctx, `update saved set state = 'gone' where id = $1 and state = 'unwanted'`, v.Row)
	} else {
		if v.Failures == 0 {
			e.log.Warn("a saved filesystem could not be deleted; it is tried again", "ref", v.Ref, "err", e.scrub.text(err.Error()))
		}
		_, err = e.db.ExecContext(ctx, `update saved set failures = failures + 1, retry_at = now() + make_interval(secs => $2) where id = $1`,
			v.Row, seconds(min(deleteAgain<<min(v.Failures, 10), e.tempo.deletion)))
	}
	if err != nil {
		return fmt.Errorf("noting that a filesystem is deleted: %w", err)
	}
	return nil
}

func (e *Engine) deleteSaved(ctx context.Context, ref sandbox.Ref) error {
	if ref == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, providerCall)
	defer cancel()
	return e.cfg.Provider.Delete(ctx, ref)
}

// sweepSaved deletes what the provider keeps of our boxes and no row names: whoever
// asked for it died before the provider had answered. Filesystems of boxes that no
// row knows belong to somebody else; young ones may be about to be recorded.
func (e *Engine) sweepSaved(ctx context.Context) error {
	lister, can := e.cfg.Provider.(sandbox.Lister)
	if !can {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, providerCall)
	defer cancel()
	var refs, boxes []string
	for saved, err := range lister.ListSaved(ctx) {
		if err != nil {
			return fmt.Errorf("listing saved filesystems: %w", err)
		}
		if saved.Box != "" && time.Since(saved.At) > e.tempo.unowned {
			refs, boxes = append(refs, string(saved.Ref)), append(boxes, saved.Box)
		}
	}
	var unowned []sandbox.Ref
	err := e.db.SelectContext(ctx, &unowned, `
		select f.ref from unnest($1::text[], $2::text[]) as f (ref, box)
		where (exists (select from saved v where v.box = f.box) or exists (select from image_boxes i where i.box = f.box))
			and not exists (select from saved v where v.box = f.box and (v.state = 'saving' or v.ref = f.ref and v.state <> 'gone'))
			and not exists (select from sandboxes b where b.ref = f.ref)
			and not exists (select from images i where i.ref = f.ref and i.image in ('ready', 'removing')
				or i.box = f.box and i.state in ('building', 'saving'))`, pq.Array(refs), pq.Array(boxes))
	if err != nil {
		return fmt.Errorf("looking up whose filesystems are saved: %w", err)
	}
	var failed []error
	for _, ref := range unowned {
		e.log.Info("a saved filesystem that nobody owns is deleted", "ref", ref)
		failed = append(failed, e.deleteSaved(ctx, ref))
	}
	return errors.Join(failed...)
}
