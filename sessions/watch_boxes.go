package sessions

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"openinspect/sandbox"
)

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

// lookForSilent asks the provider for boxes that have not dialled in, whose bridge
// is cut or that send no heartbeat (I9: silence alone is not death, but a box that
// its provider does not know is dead). Boxes that are known and stay silent are
// given up in the end, but only by a watcher that saw them silent all the time:
// after a control plane was away, or the machine asleep, it is a while before
// they are heard.
func (e *Engine) lookForSilent(ctx context.Context, since *silences, boxes *tending) error {
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
	for _, b := range silent {
		giveUp := since.of(b.Session, b.Heartbeat) > e.tempo.silent
		boxes.begin(b.Session, func() error {
			gone, err := e.lookFor(ctx, &b.silentBox, giveUp)
			if gone && err == nil {
				since.forget(b.Session)
				err = e.lose(ctx, b.silentBox)
			}
			if err != nil {
				return fmt.Errorf("looking for the box of %s: %w", b.Session, err)
			}
			return nil
		})
	}
	return nil
}

// silences is since when sessions' boxes have been seen silent, by this process's
// own clock, which does not jump and stands still while the machine sleeps.
type silences struct {
	mu        sync.Mutex
	bySession map[string]silence
}

type silence struct {
	heartbeat time.Time // the last one, by Postgres's clock: it tells silences apart
	seen      time.Time // when it was first looked at
}

// of returns for how long the session's box has been seen silent.
func (s *silences) of(session string, heartbeat time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bySession == nil {
		s.bySession = map[string]silence{}
	}
	known := s.bySession[session]
	if !known.heartbeat.Equal(heartbeat) {
		known = silence{heartbeat, time.Now()}
		s.bySession[session] = known
	}
	return time.Since(known.seen)
}

func (s *silences) forget(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bySession, session)
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
func (e *Engine) recordAdopted(ctx context.Context, boxes *tending) error {
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
	for _, u := range unknown {
		boxes.begin(u.Session, func() error {
			c := claim{session: u.Session, generation: u.Generation, spare: u.Spare}
			asking, cancel := context.WithTimeout(ctx, providerCall)
			box, err := e.findBox(asking, c)
			cancel()
			switch {
			case err != nil:
				return err
			case box != nil:
				return e.recordBox(ctx, c, box)
			case u.Cut:
				return e.lose(ctx, u.silentBox)
			}
			return nil
		})
	}
	return nil
}

// parkAbandoned parks boxes whose actor cannot do it: their bridge is cut, or it hangs.
func (e *Engine) parkAbandoned(ctx context.Context, boxes *tending) error {
	var left []silentBox
	err := e.db.SelectContext(ctx, &left, `select session_id, epoch, box, state, failures from sandboxes
		where state = 'parking' and (holder = '' or held_until < now() or state_at < now() - make_interval(secs => $1))`, seconds(10*e.tempo.park+e.tempo.slowPark()))
	if err != nil {
		return fmt.Errorf("looking for sandboxes to park: %w", err)
	}
	for _, b := range left {
		boxes.begin(b.Session, func() error { return e.parkBox(ctx, b.Session, e.tempo.quickPark()) })
	}
	return nil
}

// endDead ends boxes whose sandbox has failed or was given up. Until that is
// done the session gets no other one.
func (e *Engine) endDead(ctx context.Context, boxes *tending) error {
	var dead []silentBox
	err := e.db.SelectContext(ctx, &dead, `select session_id, epoch, box, state, failures, ref from sandboxes
		where state in ('lost', 'failed') and box <> ''`)
	if err != nil {
		return fmt.Errorf("looking for boxes to end: %w", err)
	}
	for _, b := range dead {
		boxes.begin(b.Session, func() error { return e.endDeadBox(ctx, b) })
	}
	return nil
}

func (e *Engine) endDeadBox(ctx context.Context, b silentBox) error {
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

// killOrphans ends boxes that the provider knows and nobody wants, each by itself.
func (e *Engine) killOrphans(ctx context.Context, boxes *tending) error {
	listing, cancel := context.WithTimeout(ctx, providerCall)
	defer cancel()
	for info, err := range e.cfg.Provider.List(listing, nil) {
		if err != nil {
			return fmt.Errorf("listing boxes: %w", err)
		}
		orphan, err := e.orphaned(listing, info)
		if err != nil {
			return err
		}
		if !orphan {
			continue
		}
		boxes.begin(info.ID, func() error {
			if err := e.killBox(ctx, info.ID); err != nil {
				return fmt.Errorf("ending the orphaned box %s: %w", info.ID, err)
			}
			return nil
		})
	}
	return nil
}

// orphaned says whether nobody wants the box: it is of an earlier generation, or
// of a sandbox, a spare or a build that is no more. One that endDead still has to end
// is wanted: it may be saved. Boxes of what this database does not have belong to
// somebody else.
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
			and (generation > $2 or state in ('none', 'parked', 'lost', 'failed') and box <> $3))`, info.Tags[tagSession], generation, info.ID)
	}
	if err != nil {
		return false, fmt.Errorf("looking up the box %s: %w", info.ID, err)
	}
	return orphan, nil
}
