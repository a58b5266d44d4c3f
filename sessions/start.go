package sessions

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/lib/pq"

	"openinspect/sandbox"
)

// Tags by which a box is found again.
const (
	tagSession = "session"
	tagEpoch   = "epoch" // the generation that it was started as
)

// startsAtOnce bounds the starts that one replica works on.
const startsAtOnce = 8

// mostFailures is how often a sandbox may fail to start, or die while it boots,
// before people are told.
const mostFailures = 3

// startSandboxes starts boxes for sessions with queued prompts and without one.
// Any replica may claim the work; a claim is a lease, and a token of the box is
// valid from the claim on, so that a box whose starter died is adopted when it
// dials in.
func (e *Engine) startSandboxes(ctx context.Context) error {
	return e.startClaimed(ctx, startsAtOnce, func() (start func(), err error) {
		for {
			c, err := e.claimStart(ctx)
			if err != nil || c == nil {
				return nil, err
			}
			if !c.taken {
				return func() { e.start(ctx, *c) }, nil
			}
		}
	})
}

// startClaimed starts what claim claims, atOnce of them at a time, for as long as
// it returns something to do, and again whenever there may be something.
func (e *Engine) startClaimed(ctx context.Context, atOnce int, claim func() (start func(), err error)) error {
	wake := e.hub.listen(ctx, topicStart)
	poll := time.NewTicker(e.tempo.poll)
	defer poll.Stop()
	var starts sync.WaitGroup
	defer starts.Wait()
	busy := make(chan struct{}, atOnce)
	for {
		// What is claimed has to be worked on at once: so first the place, then the claim.
		for ctx.Err() == nil && !e.leaving.Load() && len(busy) < atOnce {
			start, err := claim()
			e.warn(ctx, "claiming a sandbox to start", err)
			if err != nil || start == nil {
				break
			}
			busy <- struct{}{}
			starts.Go(func() {
				start()
				<-busy
				e.hub.wake(topicStart)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-poll.C:
		}
	}
}

// claim is the right to start a session's box.
type claim struct {
	session    string
	generation int64
	token      string
	from       sandbox.Ref // the session's own files, if it has any
	image      image       // else the repository's image, if there is one
	failures   int
	reason     string // why an earlier start was put off
	again      bool   // an earlier starter may have started the box: look first
	spare      string // the spare that the session took, if it did
	taken      bool   // a spare was taken: there is nothing to start
}

// candidate is a session that needs a box.
type candidate struct {
	Session    string       `db:"session_id"`
	Repository string       `db:"repository"`
	Spare      string       `db:"spare"`
	Asked      bool         `db:"asked"` // a prompt waits, and not only somebody's interest
	State      SandboxState `db:"state"`
	Ref        string       `db:"ref"`
	Reason     string       `db:"reason"`
	Generation int64        `db:"generation"`
	Failures   int          `db:"failures"`
}

// claimStart claims the session that has waited longest, or returns nil.
func (e *Engine) claimStart(ctx context.Context) (*claim, error) {
	var c *claim
	err := e.transact(ctx, func(t *tx) error {
		c = nil
		var next candidate
		err := t.GetContext(ctx, &next, `
			with wanted as (
				select session_id, min(created_at) as since from prompts
				where state = 'queued' or state = 'running' and boot is null group by session_id
				union all select session_id, null from sandboxes where wanted_until > now())
			select b.session_id, s.repository, b.state, b.ref, b.reason, b.generation, b.failures, b.spare, w.since is not null as asked
			from wanted w join sandboxes b on b.session_id = w.session_id join sessions s on s.id = b.session_id
			where s.repository is not null
				and (b.state in ('none', 'parked', 'lost', 'failed') and b.box = '' and coalesce(b.retry_at, now()) <= now()
					or b.state = 'starting' and b.box = '' and b.held_until < now())
			order by w.since limit 1
			for no key update of b skip locked`)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking for a session that needs a sandbox: %w", err)
		}
		if err := t.leaveBehind(ctx, &next); err != nil {
			return err
		}
		if next.State == SandboxStarting {
			c, err = e.reclaim(ctx, t, next)
			return err
		}
		took, err := t.takeSpare(ctx, next)
		if err != nil {
			return err
		}
		if took {
			c = &claim{session: next.Session, taken: true}
			return nil
		}
		free, err := e.hasCapacity(ctx, t)
		if err != nil {
			return err
		}
		if !free && !next.Asked {
			_, err := t.ExecContext(ctx, `update sandboxes set wanted_until = null where session_id = $1`, next.Session)
			return err
		}
		if !free {
			return t.waitForCapacity(ctx, next, fmt.Sprintf("Waiting for a free sandbox: %d are running, which is the limit.", e.cfg.MaxSandboxes))
		}
		c, err = e.newGeneration(ctx, t, next)
		return err
	})
	return c, err
}

// hasCapacity counts the live boxes, one claim at a time.
func (e *Engine) hasCapacity(ctx context.Context, t *tx) (bool, error) {
	const lock = 0x6f69636c61696d // an advisory lock's number that nothing else uses
	if _, err := t.ExecContext(ctx, `select pg_advisory_xact_lock($1)`, lock); err != nil {
		return false, fmt.Errorf("counting sandboxes: %w", err)
	}
	var live int
	err := t.GetContext(ctx, &live, `select (select count(*) from sandboxes where state in ('starting', 'booting', 'ready', 'parking'))
		+ (select count(*) from spares where ended_at is null)`)
	return live < e.cfg.MaxSandboxes, err
}

// Why a start waits: the provider has no capacity for it, or does not take our
// credentials, which people have to mend.
const (
	noRoom  = "Waiting for a free sandbox."
	refused = "Waiting: the provider of sandboxes refuses the control plane's credentials. Its administrators have to renew them; nothing is lost."
)

// waitForCapacity puts the start off and says so once. A spare makes room, or else
// the box that has been idle longest, unless as many are making room as requests wait.
func (t *tx) waitForCapacity(ctx context.Context, c candidate, reason string) error {
	if err := t.putOff(ctx, c, reason); err != nil {
		return err
	}
	coming, err := t.roomIsComing(ctx)
	if err == nil && !coming {
		err = t.makeRoom(ctx)
	}
	if err != nil {
		return err
	}
	return t.sayWhy(ctx, c, reason)
}

// roomIsComing says whether as many boxes are about to end as sessions wait for one.
// Those that take too long are not counted on.
func (t *tx) roomIsComing(ctx context.Context) (coming bool, err error) {
	err = t.GetContext(ctx, &coming, `
		select (select count(*) from sandboxes where state = 'parking' and not carry and state_at > now() - make_interval(secs => $1))
			>= (select count(distinct p.session_id) from prompts p join sandboxes b on b.session_id = p.session_id
				where (p.state = 'queued' or p.state = 'running' and p.boot is null) and b.state in ('none', 'parked', 'lost', 'failed'))`,
		seconds(t.e.tempo.quickPark()))
	if err != nil {
		return false, fmt.Errorf("counting the sandboxes that end: %w", err)
	}
	return coming, nil
}

func (t *tx) makeRoom(ctx context.Context) error {
	gaveUp, err := t.giveUpSpare(ctx)
	if err == nil && !gaveUp {
		_, err = t.parkIdle(ctx, 0, 1)
	}
	return err
}

// waitForAdministrators puts the start off and says so once.
func (t *tx) waitForAdministrators(ctx context.Context, c candidate) error {
	if err := t.putOff(ctx, c, refused); err != nil {
		return err
	}
	return t.sayWhy(ctx, c, refused)
}

func (t *tx) putOff(ctx context.Context, c candidate, reason string) error {
	_, err := t.ExecContext(ctx, `update sandboxes set reason = $2, retry_at = now() + make_interval(secs => $3) where session_id = $1`,
		c.Session, reason, seconds(t.e.tempo.retry))
	if err != nil {
		return fmt.Errorf("putting off the start of %s: %w", c.Session, err)
	}
	return nil
}

// sayWhy tells people why a start waits, unless they know.
func (t *tx) sayWhy(ctx context.Context, c candidate, reason string) error {
	if c.Reason == reason {
		return nil
	}
	_, err := t.append(ctx, c.Session, entry{kind: KindSandbox, body: BodySandbox{State: c.State, Reason: reason}})
	return err
}

// newGeneration begins a start: from now on the new token is the only valid one.
func (e *Engine) newGeneration(ctx context.Context, t *tx, next candidate) (*claim, error) {
	c := &claim{session: next.Session, token: rand.Text() + rand.Text(), from: sandbox.Ref(next.Ref), failures: next.Failures, reason: next.Reason}
	var err error
	if c.image, err = t.imageFor(ctx, next); err != nil {
		return nil, err
	}
	err = t.GetContext(ctx, &c.generation, `
		update sandboxes set epoch = epoch + 1, generation = epoch + 1, state = 'starting', state_at = now(), claimed_at = now(),
			reason = '', token_hash = $2, box = '', spare = '', wanted_until = null, boot = '', phase = '', born_at = null, heartbeat_at = null, looked_at = null,
			busy = false, carry = false, quiet_prompt = '', quiet_at = null, snapped_prompt = '', snap_soon = false, retry_at = null,
			holder = $3, held_until = now() + make_interval(secs => $4), image = $5
		where session_id = $1 returning generation`,
		next.Session, hashOf(c.token), e.cfg.Replica, seconds(e.tempo.lease), c.image.ID)
	if err != nil {
		return nil, fmt.Errorf("claiming the start of %s: %w", next.Session, err)
	}
	// People know of a start that the provider puts off again and again.
	if next.State != SandboxStarting && next.Reason != noRoom && next.Reason != refused {
		if _, err := t.append(ctx, c.session, entry{kind: KindSandbox, body: BodySandbox{State: SandboxStarting}}); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// reclaim takes a start over whose replica let the lease run out.
func (e *Engine) reclaim(ctx context.Context, t *tx, next candidate) (*claim, error) {
	_, err := t.ExecContext(ctx, `update sandboxes set holder = $2, held_until = now() + make_interval(secs => $3) where session_id = $1`,
		next.Session, e.cfg.Replica, seconds(e.tempo.lease))
	if err != nil {
		return nil, fmt.Errorf("taking over the start of %s: %w", next.Session, err)
	}
	return &claim{session: next.Session, generation: next.Generation, from: sandbox.Ref(next.Ref), failures: next.Failures,
		spare: next.Spare, again: true}, nil
}

// start starts the claimed box and records what became of it.
func (e *Engine) start(ctx context.Context, c claim) {
	held, lose := context.WithCancel(ctx)
	kept := make(chan struct{})
	session := c.session
	go func() {
		defer close(kept)
		e.keepClaim(held, session)
	}()
	box, err := e.startBox(ctx, &c)
	lose()
	<-kept
	if box != nil && err == nil {
		err = e.recordBox(ctx, c, box)
	}
	if err != nil && ctx.Err() == nil {
		e.log.Warn("a sandbox was not started", "session", c.session, "err", e.scrub.text(err.Error()))
		err = e.transact(ctx, func(t *tx) error { return t.startFailed(ctx, c, err) })
		if err != nil && ctx.Err() == nil {
			e.log.Warn("the failure of a start could not be recorded; the claim runs out", "session", c.session, "err", err)
		}
	}
}

// keepClaim renews the claim while the provider works, through a change of its
// generation too.
func (e *Engine) keepClaim(ctx context.Context, session string) {
	for e.pause(ctx, e.tempo.lease/4) {
		_, err := e.db.ExecContext(ctx, `update sandboxes set held_until = now() + make_interval(secs => $3)
			where session_id = $1 and holder = $2 and state = 'starting'`, session, e.cfg.Replica, seconds(e.tempo.lease))
		if err != nil && ctx.Err() == nil {
			e.log.Warn("a claim could not be renewed", "session", session, "err", err)
		}
	}
}

// startBox starts the box, unless an earlier holder of the claim did. Boxes of
// earlier generations are killed.
func (e *Engine) startBox(ctx context.Context, c *claim) (sandbox.Box, error) {
	if c.again {
		box, err := e.findBox(ctx, *c)
		if box != nil || err != nil {
			return box, err
		}
		err = e.transact(ctx, func(t *tx) error {
			fresh, err := e.newGeneration(ctx, t, candidate{Session: c.session, State: SandboxStarting, Ref: string(c.from), Failures: c.failures})
			if err == nil {
				*c = *fresh
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	spec, err := e.sessionBox(ctx, *c)
	if err != nil {
		return nil, err
	}
	if err := e.recordSize(ctx, c.session, spec); err != nil {
		return nil, err
	}
	return e.cfg.Provider.Start(ctx, spec)
}

// sessionBox is the box that a claim asks for.
func (e *Engine) sessionBox(ctx context.Context, c claim) (sandbox.Spec, error) {
	spec := sandbox.Spec{
		Name: fmt.Sprintf("inspect-%s-%d", c.session, c.generation), From: cmp.Or(c.from, c.image.Ref), Command: e.cfg.Command,
		Env:  map[string]string{sandbox.EnvToken: c.token, sandbox.EnvControl: e.cfg.Control},
		Tags: map[string]string{tagSession: c.session, tagEpoch: strconv.FormatInt(c.generation, 10)},
	}
	s, err := readSession(ctx, e.db, c.session)
	if err != nil {
		return spec, err
	}
	return spec, e.equip(ctx, s.Repository, &spec)
}

// findBox looks for the box of the claim's generation, and ends earlier ones of the
// session. There may be a later one: the answer takes a while.
func (e *Engine) findBox(ctx context.Context, c claim) (sandbox.Box, error) {
	if c.spare != "" {
		return e.findSpareBox(ctx, c.spare)
	}
	var found sandbox.Box
	for info, err := range e.cfg.Provider.List(ctx, map[string]string{tagSession: c.session}) {
		if err != nil {
			return nil, fmt.Errorf("looking for boxes of %s: %w", c.session, err)
		}
		box, err := e.cfg.Provider.Attach(ctx, info.ID)
		if errors.Is(err, sandbox.ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch generation, err := strconv.ParseInt(info.Tags[tagEpoch], 10, 64); {
		case err != nil || generation > c.generation: // not ours to end
		case generation == c.generation:
			found = box
		default:
			if err := box.Kill(ctx); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// recordBox notes which box was started. If the session has moved on meanwhile,
// the box is not wanted.
func (e *Engine) recordBox(ctx context.Context, c claim, box sandbox.Box) error {
	res, err := e.db.ExecContext(ctx, `
		update sandboxes set box = $3, provider = $4, born_at = coalesce(born_at, now())
		where session_id = $1 and generation = $2 and state in ('starting', 'booting', 'ready', 'parking')`,
		c.session, c.generation, box.ID(), e.cfg.Provider.Caps().Name)
	if err != nil {
		return fmt.Errorf("recording the box of %s: %w", c.session, err)
	}
	if wanted, err := affected(res); err != nil || wanted {
		return err
	}
	return box.Kill(ctx)
}

// startFailed decides what a failed start means: wait, start from nothing, try
// again, or tell people.
func (t *tx) startFailed(ctx context.Context, c claim, cause error) error {
	var one int
	err := t.GetContext(ctx, &one, `select 1 from sandboxes where session_id = $1 and generation = $2 and state = 'starting' for no key update`,
		c.session, c.generation)
	if err != nil {
		return ignoreNotFound(notFound(err)) // somebody else has it by now
	}
	s, err := t.lockSession(ctx, c.session)
	if err != nil {
		return err
	}
	reason := t.e.scrub.text(storable(cause.Error()))
	back := candidate{Session: c.session, State: SandboxNone, Ref: string(c.from), Reason: c.reason}
	if c.from != "" {
		back.State = SandboxParked
	}
	if problem, ok := errors.AsType[*Problem](cause); ok { // of the settings: no other try would do better
		return t.bootFailed(ctx, s, problem.Text, "starting")
	}
	switch {
	case errors.Is(cause, sandbox.ErrCapacity):
		if err := t.unclaim(ctx, c, back.State, string(c.from), ""); err != nil {
			return err
		}
		return t.waitForCapacity(ctx, back, noRoom)
	case errors.Is(cause, sandbox.ErrRefused):
		if err := t.unclaim(ctx, c, back.State, string(c.from), ""); err != nil {
			return err
		}
		return t.waitForAdministrators(ctx, back)
	case errors.Is(cause, sandbox.ErrGone) && c.from != "":
		return t.startFromBranch(ctx, c)
	case errors.Is(cause, sandbox.ErrGone) && c.image.ID != "":
		return t.startWithoutImage(ctx, c)
	case errors.Is(cause, sandbox.ErrInvalid):
		return t.bootFailed(ctx, s, "The sandbox cannot be started: "+reason, "starting")
	}
	return t.countFailure(ctx, s, c.failures, "The sandbox could not be started: "+reason)
}

// startFromBranch puts a start off that was to continue what its provider does not
// have any more, or let expire: the next one begins from the branch as it was
// pushed, and people are told.
func (t *tx) startFromBranch(ctx context.Context, c claim) error {
	if err := t.forgetSaved(ctx, c.session, c.from); err != nil {
		return err
	}
	if err := t.unclaim(ctx, c, SandboxLost, "", "its saved files are gone: starting from the branch"); err != nil {
		return err
	}
	return t.sayFromBranch(ctx, c.session, "The session's saved files are gone.")
}

// sayFromBranch tells people of a session that goes on from its branch, and why.
func (t *tx) sayFromBranch(ctx context.Context, session, why string) error {
	var waiting string
	err := t.GetContext(ctx, &waiting, `select coalesce((select id from prompts where session_id = $1 and state in ('queued', 'running')
		order by state desc, position limit 1), '')`, session)
	if err != nil {
		return fmt.Errorf("reading what waits in %s: %w", session, err)
	}
	_, err = t.append(ctx, session, entry{prompt: waiting, kind: sandbox.KindNote,
		body: sandbox.BodyNote{Text: why + " It goes on from its branch, as it was pushed last."}})
	return err
}

// unclaim gives a claim back.
func (t *tx) unclaim(ctx context.Context, c claim, to SandboxState, ref, reason string) error {
	_, err := t.ExecContext(ctx, `update sandboxes set state = $2, state_at = now(), ref = $3, reason = $4, token_hash = null,
		holder = '', held_until = null where session_id = $1`, c.session, to, ref, reason)
	if err != nil {
		return fmt.Errorf("giving back the start of %s: %w", c.session, err)
	}
	t.wakeSession(c.session)
	return nil
}

// countFailure makes the sandbox lost, to be started again after a while, until
// it has failed too often: then people are told.
func (t *tx) countFailure(ctx context.Context, s Session, before int, reason string) error {
	if before+1 >= mostFailures {
		return t.bootFailed(ctx, s, reason, "starting", "booting")
	}
	wait := t.e.tempo.retry << before
	_, err := t.ExecContext(ctx, `
		update sandboxes set state = 'lost', state_at = now(), reason = $2, failures = $3, token_hash = null,
			holder = '', retry_at = now() + make_interval(secs => $4)
		where session_id = $1`, s.ID, reason, before+1, seconds(wait))
	if err != nil {
		return fmt.Errorf("counting a failed start of %s: %w", s.ID, err)
	}
	t.wakeSession(s.ID)
	_, err = t.append(ctx, s.ID, entry{kind: KindSandbox, body: BodySandbox{State: SandboxLost,
		Reason: fmt.Sprintf("%s (try %d of %d)", reason, before+1, mostFailures)}})
	return err
}

// bootFailed ends a boot that cannot succeed: the sandbox has failed, and so has
// every prompt that waited for it (I3). The next prompt starts anew. The
// sandbox's row is locked; in other states than those named nothing happens.
func (t *tx) bootFailed(ctx context.Context, s Session, reason string, from ...SandboxState) error {
	states := make([]string, len(from))
	for i, state := range from {
		states[i] = string(state)
	}
	res, err := t.ExecContext(ctx, `
		update sandboxes set state = 'failed', state_at = now(), reason = $2, failures = 0, token_hash = null, holder = '', retry_at = null
		where session_id = $1 and state = any($3)`, s.ID, reason, pq.Array(states))
	if err != nil {
		return fmt.Errorf("noting that the sandbox of %s failed: %w", s.ID, err)
	}
	if changed, err := affected(res); err != nil || !changed {
		return err
	}
	if _, err := t.append(ctx, s.ID, entry{kind: KindSandbox, body: BodySandbox{State: SandboxFailed, Reason: reason}}); err != nil {
		return err
	}
	t.wakeSession(s.ID)
	return t.settleWaiting(ctx, s, ending{state: Failed, reason: reason, retry: true})
}

func ignoreNotFound(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
