package sessions

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// mostBuildAttempts is how often a build that was interrupted is begun again.
const mostBuildAttempts = 3

// Deadlines of a build besides those of the repository's scripts.
const (
	imageFetch = 20 * time.Minute // for the clone, and what the provider needs to start a box
	imageSave  = 10 * time.Minute // for the snapshot
)

// budget is how long the whole build may take: setup.sh and warm.sh have the time of
// a script each.
func (b build) budget() time.Duration { return imageFetch + 2*b.script + imageSave }

// errBuildLost means that another replica has the build by now.
var errBuildLost = errors.New("the build belongs to somebody else now")

// build is the right to build an image.
type build struct {
	ID         string `db:"id"`
	Repository string `db:"repository"`
	Branch     string `db:"default_branch"`
	Epoch      int64  `db:"epoch"`
	Attempts   int    `db:"attempts"`
	Again      bool   `db:"again"` // an earlier builder may have left a box
	token      string
	set        Settings          // of the repository
	script     time.Duration     // one of its scripts may run so long
	env        map[string]string // its variables and secrets
}

// boxName is the name of the build's box.
func (b build) boxName() string { return fmt.Sprintf("image-%s-%d", b.ID, b.Epoch) }

// buildImages builds what is queued, as many at once as this replica may.
func (e *Engine) buildImages(ctx context.Context) error {
	if e.cfg.ImageBuilds < 0 {
		<-ctx.Done()
		return nil
	}
	wake := e.hub.listen(ctx, topicImages)
	tick := time.NewTicker(e.tempo.poll)
	defer tick.Stop()
	var builds errgroup.Group
	defer func() { _ = builds.Wait() }() // they return no errors
	builds.SetLimit(e.cfg.ImageBuilds)
	for {
		free := true
		for free && ctx.Err() == nil {
			// What is claimed has to be worked on at once: so first the place, then the claim.
			none := make(chan bool, 1)
			free = builds.TryGo(func() error {
				b, err := e.claimBuild(ctx)
				e.warn(ctx, "claiming an image to build", err)
				none <- b == nil
				if b != nil {
					e.build(ctx, *b)
				}
				return nil
			})
			if free {
				free = !<-none
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}

// claimBuild claims the build that has waited longest, or returns nil. A build
// waits while a session's sandbox on the same repository is being started, which
// people wait for. One whose builder let its lease run out is begun again.
func (e *Engine) claimBuild(ctx context.Context) (*build, error) {
	var b *build
	err := e.transact(ctx, func(t *tx) error {
		b = nil
		next := build{token: rand.Text() + rand.Text()}
		err := t.GetContext(ctx, &next, `
			with next as (
				select i.id, i.state <> 'queued' as again from images i
				where (i.state = 'queued' and i.not_before <= now() or i.state in ('building', 'saving') and i.held_until < now())
					and `+switchedOn(switchImages, "i.repository")+`
					and not exists (select from sandboxes b join sessions s on s.id = b.session_id
						where s.repository = i.repository and b.state in ('starting', 'booting') and b.claimed_at > now() - interval '2 minutes')
				order by i.queued_at limit 1 for no key update of i skip locked)
			update images i set state = 'building', epoch = epoch + 1, attempts = attempts + 1, holder = $1,
				held_until = now() + make_interval(secs => $2), token_hash = $3, box = '', provider = $4,
				log = '', log_cut = 0, started_at = now()
			from next, repositories r where i.id = next.id and r.name = i.repository
			returning i.id, i.repository, r.default_branch, i.epoch, i.attempts, next.again`,
			e.cfg.Replica, seconds(e.tempo.lease), hashOf(next.token), e.cfg.Provider.Caps().Name)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("claiming a build: %w", err)
		}
		fingerprint, err := t.imageFingerprint(ctx, next.Repository)
		if err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, `update images set fingerprint = $2 where id = $1`, next.ID, fingerprint); err != nil {
			return fmt.Errorf("claiming a build: %w", err)
		}
		b = &next
		return nil
	})
	return b, err
}

// build builds the claimed image and records what became of it.
func (e *Engine) build(ctx context.Context, b build) {
	set, err := e.SettingsFor(ctx, b.Repository)
	b.set, b.script = set, cmp.Or(time.Duration(set.SetupMinutes)*time.Minute, e.cfg.SetupTimeout)
	held, lose := context.WithTimeout(ctx, b.budget())
	env, secrets, hidden := e.secretsOf(held, b.Repository)
	b.env, err = env, cmp.Or(err, hidden)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		defer lose()
		e.keepBuild(held, b)
	}()
	log := newBuildLog(e.scrub.with(append(secrets, b.token)...))
	var made made
	if err == nil {
		made, err = e.makeImage(held, b, log)
	}
	if err != nil && errors.Is(held.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("it was not done within %s", b.budget())
	}
	lose()
	<-kept
	// What was made is recorded even if this replica is about to end.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = errors.Join(e.writeLog(ending, b, log, true), e.endBuild(ending, b, made, err, ctx.Err() != nil))
	if err != nil {
		e.log.Warn("the end of a build could not be recorded; its lease runs out", "build", b.ID, "err", e.scrub.text(err.Error()))
	}
	e.hub.wake(topicImages)
}

// keepBuild renews the build's lease until ctx ends or it is lost. Time is counted
// from before each renewal was sent, as in keepLease.
func (e *Engine) keepBuild(ctx context.Context, b build) {
	until := time.Now().Add(e.tempo.lease)
	for e.pause(ctx, e.tempo.lease/4) {
		asked := time.Now()
		try, cancel := context.WithDeadline(ctx, until)
		err := e.onBuild(try, b, `held_until = now() + make_interval(secs => $3)`, seconds(e.tempo.lease))
		cancel()
		switch {
		case err == nil:
			until = asked.Add(e.tempo.lease)
		case errors.Is(err, errBuildLost) || time.Now().After(until):
			if ctx.Err() == nil {
				e.log.Warn("a build was lost", "build", b.ID, "err", err)
			}
			return
		}
	}
}

// onBuild changes the row of a build that is still this builder's.
func (e *Engine) onBuild(ctx context.Context, b build, set string, args ...any) error {
	res, err := e.db.ExecContext(ctx, `update images set `+set+` where id = $1 and epoch = $2 and state in ('building', 'saving')`,
		append([]any{b.ID, b.Epoch}, args...)...)
	if err != nil {
		return fmt.Errorf("writing the build %s: %w", b.ID, err)
	}
	if held, err := affected(res); err != nil || !held {
		return errors.Join(err, errBuildLost)
	}
	return nil
}

// made is what a build made.
type made struct {
	sandbox.Prepared
	ref sandbox.Ref
}

// makeImage builds an image in a box of its own, which it ends in any case.
func (e *Engine) makeImage(ctx context.Context, b build, log *buildLog) (made, error) {
	if b.Again {
		if err := e.endBuildBoxes(ctx, b.ID); err != nil {
			return made{}, err
		}
	}
	if b.Attempts > mostBuildAttempts {
		return made{}, fmt.Errorf("it was interrupted %d times", mostBuildAttempts)
	}
	fmt.Fprintf(log, "Starting a sandbox for %s.\n", b.Repository)
	spec := e.buildBox(b)
	box, err := e.cfg.Provider.Start(ctx, spec)
	if err != nil {
		return made{}, fmt.Errorf("the sandbox could not be started: %w", err)
	}
	defer e.endBuildBox(ctx, b, box, e.sizeOf(spec), time.Now())
	if err := e.onBuild(ctx, b, `box = $3`, box.ID()); err != nil {
		return made{}, err
	}
	if _, err := e.db.ExecContext(ctx, `insert into image_boxes (box) values ($1) on conflict do nothing`, box.ID()); err != nil {
		return made{}, fmt.Errorf("noting the box of a build: %w", err)
	}
	did, err := e.prepareBox(ctx, b, box, log)
	if err != nil {
		return made{Prepared: did}, err
	}
	fmt.Fprintf(log, "Saving the image of %s.\n", shortSHA(did.Commit))
	// Recorded before it is done: what a builder that dies in between has saved is
	// found by its box (sweepSaved), or its provider forgets it after KeepImage.
	if err := e.onBuild(ctx, b, `state = 'saving', commit = $3`, storable(did.Commit)); err != nil {
		return made{Prepared: did}, err
	}
	saving, cancel := context.WithTimeout(ctx, imageSave)
	defer cancel()
	ref, err := box.Snapshot(saving, sandbox.KeepImage)
	if err != nil {
		return made{Prepared: did}, fmt.Errorf("the image could not be saved: %w", err)
	}
	return made{did, ref}, nil
}

// buildBox is the box in which an image is built, as large as sessions' are. It does
// nothing by itself, and ends by itself when the build has to have ended.
func (e *Engine) buildBox(b build) sandbox.Spec {
	life := b.budget() + imageFetch
	if most := e.cfg.Provider.Caps().MaxLifetime; most > 0 {
		life = min(life, most)
	}
	spec := sandbox.Spec{
		Name: b.boxName(), Command: []string{"sleep", "infinity"},
		Tags: map[string]string{TagBuild: b.ID, tagBuildEpoch: strconv.FormatInt(b.Epoch, 10)},
	}
	b.set.put(&spec, e.cfg.Provider.Caps().MaxLifetime)
	spec.Lifetime, spec.Ports = life, nil
	return spec
}

// endBuildBox ends the box of a build, and counts what it cost. If it does not end
// now, it does as an orphan.
func (e *Engine) endBuildBox(ctx context.Context, b build, box sandbox.Box, s size, born time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := box.Kill(ctx); err != nil && !errors.Is(err, sandbox.ErrGone) {
		e.log.Warn("the box of a build did not end", "build", b.ID, "box", box.ID(), "err", err)
	}
	if err := e.chargeFor(ctx, e.db, purposeImage, s, time.Since(born)); err != nil {
		e.log.Warn("what a build cost could not be counted", "build", b.ID, "err", err)
	}
}

// endBuildBoxes ends all boxes of a build that earlier builders left.
func (e *Engine) endBuildBoxes(ctx context.Context, id string) error {
	for info, err := range e.cfg.Provider.List(ctx, map[string]string{TagBuild: id}) {
		if err != nil {
			return fmt.Errorf("looking for boxes of the build %s: %w", id, err)
		}
		box, err := e.cfg.Provider.Attach(ctx, info.ID)
		if err == nil {
			err = box.Kill(ctx)
		}
		if err != nil && !errors.Is(err, sandbox.ErrGone) {
			return fmt.Errorf("ending a box of the build %s: %w", id, err)
		}
	}
	return nil
}

// mostAnswered bounds what a preparation says on its standard output, in bytes.
const mostAnswered = 64 << 10

// prepareBox has the supervisor prepare the box's filesystem.
func (e *Engine) prepareBox(ctx context.Context, b build, box sandbox.Box, log *buildLog) (sandbox.Prepared, error) {
	asked, err := json.Marshal(sandbox.Preparation{
		Repository: b.Repository, RemoteURL: e.cfg.Forge.RemoteURL(b.Repository), Branch: b.Branch,
		BotName: e.cfg.BotName, BotEmail: e.cfg.BotEmail, SetupTimeout: b.script,
	})
	if err != nil {
		return sandbox.Prepared{}, err
	}
	writing, stop := context.WithCancel(ctx)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for e.pause(writing, e.tempo.buildLog) {
			if err := e.writeLog(writing, b, log, false); err != nil && writing.Err() == nil {
				e.log.Warn("the log of a build could not be written", "build", b.ID, "err", err)
			}
		}
	}()
	env := maps.Clone(b.env)
	env[sandbox.EnvToken], env[sandbox.EnvControl] = b.token, e.cfg.Control
	answer := &firstBytes{most: mostAnswered}
	exit, err := box.Exec(ctx, sandbox.Cmd{
		Args:  append(append([]string(nil), e.cfg.Command...), "--prepare"),
		Env:   env,
		Stdin: bytes.NewReader(asked), Stdout: answer, Stderr: log,
	})
	stop()
	<-written
	if err != nil {
		return sandbox.Prepared{}, fmt.Errorf("the preparation broke off: %w", err)
	}
	return preparedIn(answer.String(), exit)
}

// preparedIn reads how a preparation ended from what it printed.
func preparedIn(answer string, exit int) (sandbox.Prepared, error) {
	lines := strings.Split(strings.TrimSpace(answer), "\n")
	var did sandbox.Prepared
	err := json.Unmarshal([]byte(lines[len(lines)-1]), &did)
	switch {
	case err == nil && did.Error != "":
		return did, errors.New(did.Error)
	case err == nil && exit == 0 && did.Commit != "":
		return did, nil
	}
	return sandbox.Prepared{}, fmt.Errorf("the preparation ended with status %d and did not say what it did", exit)
}

// endBuild records how a build ended. Of one that was interrupted because the
// replica ends, or lost, nothing is recorded but that somebody else may have it.
func (e *Engine) endBuild(ctx context.Context, b build, m made, cause error, ending bool) error {
	var err error
	switch {
	case cause == nil:
		err = e.onBuild(ctx, b, `state = 'succeeded', image = 'ready', ref = $3, commit = $4, warning = $5, reason = '',
			ended_at = now(), token_hash = null, holder = '', held_until = null, box = ''`,
			string(m.ref), storable(m.Commit), e.scrub.text(storable(m.Warning)))
		if err != nil { // nobody knows it
			err = errors.Join(err, e.cfg.Provider.Delete(ctx, m.ref))
		}
	case ending:
		err = e.onBuild(ctx, b, `held_until = now() - interval '1 millisecond', attempts = attempts - 1`)
	case errors.Is(cause, context.Canceled):
		err = e.onBuild(ctx, b, `held_until = now() - interval '1 millisecond'`)
	case errors.Is(cause, sandbox.ErrCapacity), errors.Is(cause, sandbox.ErrRefused):
		err = e.onBuild(ctx, b, `state = 'queued', attempts = attempts - 1, not_before = now() + make_interval(secs => $3),
			token_hash = null, holder = '', held_until = null, box = ''`, seconds(15*e.tempo.retry))
	default:
		err = e.onBuild(ctx, b, `state = 'failed', reason = $3, ended_at = now(), token_hash = null, holder = '',
			held_until = null, box = ''`, e.scrub.text(storable(sentenceOf(cause))))
	}
	if errors.Is(err, errBuildLost) {
		return nil // whose it is says what became of it
	}
	return err
}

// sentenceOf makes a reason of an error.
func sentenceOf(err error) string {
	text := strings.TrimSpace(err.Error())
	if text == "" {
		return "It failed for an unknown reason."
	}
	return strings.ToUpper(text[:1]) + strings.TrimRight(text[1:], ".") + "."
}
