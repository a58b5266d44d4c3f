package modal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"strconv"
	"sync"
	"time"

	sdk "github.com/modal-labs/modal-client/go"

	"openinspect/sandbox"
)

// imageID is what Modal's ids of images look like, which are our Refs.
var imageID = regexp.MustCompile(`^im-[A-Za-z0-9]{1,64}$`)

func checkRef(r sandbox.Ref) error {
	if !imageID.MatchString(string(r)) {
		return sandbox.Invalid("%q names no filesystem of this provider", r)
	}
	return nil
}

// Snapshot implements sandbox.Box. Modal forgets it after keep, by itself. One
// whose time is over before it is saved may exist nevertheless, until then.
func (b *box) Snapshot(ctx context.Context, keep time.Duration) (sandbox.Ref, error) {
	if keep < 0 {
		return "", sandbox.Invalid("a saved filesystem cannot be kept for %s", keep)
	}
	if keep == 0 {
		keep = sandbox.KeepSession
	}
	if b.h.dead.Load() {
		return "", goneIf(true, b.ID())
	}
	ctx, cancel := context.WithTimeout(ctx, b.p.o.SaveTime+callTime)
	defer cancel()
	image, err := onMachine(ctx, b, func(sb *sdk.Sandbox) (*sdk.Image, error) {
		return sb.SnapshotFilesystem(ctx, &sdk.SandboxSnapshotFilesystemParams{Timeout: b.p.o.SaveTime, TTL: wholeSeconds(keep)})
	})
	if err != nil {
		return "", fmt.Errorf("saving sandbox %s: %w", b.ID(), b.explain(ctx, notFull(err)))
	}
	return sandbox.Ref(image.ImageID), nil
}

// notFull keeps a save that Modal has no room for from being taken for a box that
// cannot be started: it is tried again.
func notFull(err error) error {
	if err := translate(err); errors.Is(err, sandbox.ErrCapacity) {
		return errors.New(err.Error())
	}
	return err
}

// parkGrace is how long a main program has, after SIGTERM, to save its state.
const parkGrace = 10 * time.Second

// Park implements sandbox.Box. The main program gets SIGTERM and 10 seconds. It
// may be called again after it failed, by another process too, and goes on where
// the first one ended.
func (b *box) Park(ctx context.Context) (sandbox.Ref, error) {
	ref, err := b.park(ctx)
	if err != nil {
		return "", fmt.Errorf("parking sandbox %s: %w", b.ID(), err)
	}
	return ref, nil
}

func (b *box) park(ctx context.Context) (sandbox.Ref, error) {
	if b.h.dead.Load() {
		return "", goneIf(true, b.ID())
	}
	tags, err := b.fetchTags(ctx)
	if err != nil {
		return "", err
	}
	ref := sandbox.Ref(tags[tagParked])
	if ref == "" {
		if ref, err = b.saveParked(ctx, tags); err != nil {
			return "", err
		}
	}
	// What is saved is saved: whoever asks again finds it noted.
	return ref, b.Kill(ctx)
}

// saveParked ends the main program, saves the filesystem and notes where.
func (b *box) saveParked(ctx context.Context, tags map[string]string) (sandbox.Ref, error) {
	ending, cancel := context.WithTimeout(ctx, parkGrace+callTime)
	defer cancel()
	if err := b.script(ending, parkScript, strconv.Itoa(int(parkGrace/(100*time.Millisecond)))); err != nil {
		return "", fmt.Errorf("ending its main program: %w", err)
	}
	ref, err := b.Snapshot(ctx, sandbox.KeepSession)
	if err != nil {
		return "", err
	}
	tags = maps.Clone(tags)
	tags[tagParked] = string(ref)
	noting, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := b.h.sb.Load().SetTags(noting, encodeTags(tags), nil); err != nil {
		// It may be noted all the same, so that what was saved is not deleted: at
		// worst it is kept beside the next one until its time is over.
		return "", fmt.Errorf("noting where it is saved: %w", b.explain(noting, err))
	}
	return ref, nil
}

// Delete implements sandbox.Provider.
func (p *Provider) Delete(ctx context.Context, ref sandbox.Ref) error {
	if ref == "" {
		return nil
	}
	if err := checkRef(ref); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := translate(p.client.Images.Delete(ctx, string(ref), nil)); err != nil && !errors.Is(err, sandbox.ErrGone) {
		return fmt.Errorf("deleting %s: %w", ref, err)
	}
	return nil
}

// buildTime is the longest life of a box that builds.
const buildTime = 2 * time.Hour

// Build implements sandbox.Provider. Each step is a command line for sh, run in
// the workspace; the first that fails ends the build. The result is kept for
// sandbox.KeepImage. If this process dies, the box ends after two hours.
func (p *Provider) Build(ctx context.Context, from sandbox.Ref, steps []string, log io.Writer) (sandbox.Ref, error) {
	started, err := p.Start(ctx, sandbox.Spec{
		Name: "build-" + rand.Text(), From: from, Command: []string{"sleep", "infinity"},
		Tags: map[string]string{"build": "yes"}, Lifetime: min(buildTime, p.o.Lifetime),
	})
	if err != nil {
		return "", err
	}
	ref, err := runSteps(ctx, started, steps, &lockedWriter{w: log})
	return ref, errors.Join(err, started.Kill(context.WithoutCancel(ctx)))
}

func runSteps(ctx context.Context, b sandbox.Box, steps []string, log io.Writer) (sandbox.Ref, error) {
	for i, step := range steps {
		exit, err := b.Exec(ctx, sandbox.Cmd{Args: []string{"sh", "-c", step}, Dir: sandbox.Workspace, Stdout: log, Stderr: log})
		if err == nil && exit != 0 {
			err = fmt.Errorf("exit status %d", exit)
		}
		if err != nil {
			return "", fmt.Errorf("build step %d (%s): %w", i+1, step, err)
		}
	}
	return b.Snapshot(ctx, sandbox.KeepImage)
}

// lockedWriter lets both streams of a command write to one log.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
