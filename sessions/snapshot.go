package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// snapshotsAtOnce bounds the snapshots that one replica asks for.
const snapshotsAtOnce = 3

// takeSnapshots has the filesystem of each sandbox saved that has been quiet for a
// while after a prompt, so that a lost box costs no more than what ran in it. Every
// prompt that began has changed something: the conversation, if nothing else.
//
// A prompt does not wait for a snapshot. One that begins while it is taken makes it
// worthless: it is deleted, and the next one is taken as soon as that prompt has
// ended. No provider promises that what it saves is the disk at one moment; of a
// repository that is written meanwhile a branch may be saved and not the commit that
// it names, and of the conversation half a copy. A secret that the prompt writes would
// be in it as well. So a session whose pauses are all shorter than its provider needs
// has no snapshot until it pauses; its work is pushed after each prompt all the same.
func (e *Engine) takeSnapshots(ctx context.Context) error {
	if e.cfg.SnapshotAfter < 0 {
		return nil
	}
	poll := time.NewTicker(e.tempo.poll)
	defer poll.Stop()
	var taking errgroup.Group
	defer func() { _ = taking.Wait() }() // they return no errors
	free := make(chan struct{}, snapshotsAtOnce)
	for {
		for ctx.Err() == nil && len(free) < snapshotsAtOnce {
			s, err := e.claimSnapshot(ctx)
			e.warn(ctx, "looking for a sandbox to save", err)
			if err != nil || s == nil {
				break
			}
			free <- struct{}{}
			taking.Go(func() error {
				defer func() { <-free }()
				e.snapshot(ctx, *s)
				return nil
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
	}
}

// snapshotClaim is the right to have a box saved.
type snapshotClaim struct {
	Session    string       `db:"session_id"`
	Box        string       `db:"box"`
	Generation int64        `db:"generation"`
	Prompt     string       `db:"quiet_prompt"`
	KeptAt     sql.NullTime `db:"kept_at"` // when it was looked for secrets
	row        int64
}

// stillQuiet is the condition that nothing has run in the sandbox b since the
// prompt after which it became quiet.
const stillQuiet = `b.quiet_prompt = (select p.id from prompts p where p.session_id = b.session_id and p.started_at is not null
	order by p.started_at desc limit 1)
	and not exists (select from prompts p where p.session_id = b.session_id and p.state = 'running')`

// toBeSaved is the condition that the sandbox b of the session s has been quiet for $1
// seconds after a prompt of which no snapshot was tried.
const toBeSaved = `b.state = 'ready' and b.box <> '' and b.quiet_prompt not in ('', b.snapped_prompt) and s.state = 'open'
	and (b.snap_soon or b.quiet_at <= now() - make_interval(secs => $1)) and ` + stillQuiet + `
	and not exists (select from prompts p where p.session_id = b.session_id and p.state = 'queued')
	and not exists (select from saved v where v.session_id = b.session_id and v.state = 'saving')`

// claimSnapshot claims the box that has been quiet for longest, or returns nil.
func (e *Engine) claimSnapshot(ctx context.Context) (*snapshotClaim, error) {
	var c *snapshotClaim
	err := e.transact(ctx, func(t *tx) error {
		var next snapshotClaim
		c = nil
		err := t.GetContext(ctx, &next, `
			select b.session_id, b.box, b.generation, b.quiet_prompt, b.kept_at from sandboxes b join sessions s on s.id = b.session_id
			where `+toBeSaved+` and case when `+lookedAt+` then b.kept = '' else not `+hasSecrets+` end
			order by b.quiet_at limit 1 for no key update of b skip locked`, seconds(e.cfg.SnapshotAfter))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking for a sandbox to save: %w", err)
		}
		if next.row, err = t.beginSaving(ctx, next.Session, next.Box, savedSnapshot, next.Prompt, e.tempo.snapshot); err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, `update sandboxes set snapped_prompt = quiet_prompt where session_id = $1`, next.Session); err != nil {
			return fmt.Errorf("noting that %s is saved: %w", next.Session, err)
		}
		c = &next
		return nil
	})
	return c, err
}

// snapshot asks the provider and records what became of it. A failure is tried
// again after the next prompt.
func (e *Engine) snapshot(ctx context.Context, c snapshotClaim) {
	ref, err := e.askSnapshot(ctx, c)
	if ctx.Err() != nil {
		return // the row says so to whoever comes after us
	}
	if err == nil {
		err = e.recordSnapshot(ctx, c, ref)
	} else {
		err = errors.Join(err, e.dropSaved(ctx, c.row, ""))
	}
	if err != nil && ctx.Err() == nil {
		e.log.Warn("a sandbox was not saved; it is tried after the next request", "session", c.Session, "err", e.scrub.text(err.Error()))
	}
}

func (e *Engine) askSnapshot(ctx context.Context, c snapshotClaim) (sandbox.Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, e.tempo.snapshot)
	defer cancel()
	box, err := e.cfg.Provider.Attach(ctx, c.Box)
	if err != nil {
		return "", err
	}
	return box.Snapshot(ctx, sandbox.KeepSession)
}

// recordSnapshot keeps the snapshot if nothing ran while it was taken, and nobody
// looked for secrets, which may change files. The box may have ended meanwhile; once
// it is parked, or another one has been started, there is something newer.
func (e *Engine) recordSnapshot(ctx context.Context, c snapshotClaim, ref sandbox.Ref) error {
	kept := false
	err := e.transact(ctx, func(t *tx) error {
		kept = false
		var one int
		err := t.GetContext(ctx, &one, `select 1 from sandboxes b join sessions s on s.id = b.session_id where b.session_id = $1 and b.generation = $2 and b.quiet_prompt = $3
			and (b.kept_at is not distinct from $4 or not `+hasSecrets+`) and b.state in ('ready', 'parking', 'lost') for no key update of b`,
			c.Session, c.Generation, c.Prompt, c.KeptAt)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading whether %s is still quiet: %w", c.Session, err)
		}
		if _, err := t.lockSession(ctx, c.Session); err != nil { // prompts begin under this lock
			return err
		}
		var quiet bool
		if err := t.GetContext(ctx, &quiet, `select `+stillQuiet+` from sandboxes b where b.session_id = $1`, c.Session); err != nil || !quiet {
			return err
		}
		kept = true
		if err := t.snapSoon(ctx, c, false); err != nil {
			return err
		}
		return t.keep(ctx, c.Session, keeping{row: c.row, ref: ref})
	})
	if err == nil && !kept {
		err = errors.Join(e.dropSaved(ctx, c.row, ref), e.transact(ctx, func(t *tx) error { return t.snapSoon(ctx, c, true) }))
	}
	return err
}

// snapSoon notes whether the box's next snapshot is to be taken without a wait.
func (t *tx) snapSoon(ctx context.Context, c snapshotClaim, soon bool) error {
	_, err := t.ExecContext(ctx, `update sandboxes set snap_soon = $3 where session_id = $1 and generation = $2`, c.Session, c.Generation, soon)
	if err != nil {
		return fmt.Errorf("noting when %s is saved next: %w", c.Session, err)
	}
	return nil
}
