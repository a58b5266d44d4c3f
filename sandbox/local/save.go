package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"openinspect/sandbox"
)

// Kinds of saved filesystems, and the first part of their Refs. A snapshot is
// copied into each box that starts from it, a parked one moves.
const (
	kindSnapshot = "snapshot"
	kindParked   = "parked"
)

// copyTime bounds one copy of a filesystem.
const copyTime = 10 * time.Minute

// savedRef is a Ref taken apart; the zero value is the base image.
type savedRef struct{ kind, name string }

var refForm = regexp.MustCompile(`^(snapshot|parked)-[0-9a-f]{20}$`)

func parseRef(r sandbox.Ref) (savedRef, error) {
	if r == "" {
		return savedRef{}, nil
	}
	m := refForm.FindStringSubmatch(string(r))
	if m == nil {
		return savedRef{}, sandbox.Invalid("%q names no filesystem of this provider", r)
	}
	return savedRef{kind: m[1], name: string(r)}, nil
}

func newRef(kind string) savedRef { return savedRef{kind: kind, name: kind + "-" + newID()} }

func (p *Provider) savedDir(r savedRef) string { return filepath.Join(p.dir, "saved", r.name) }

func errNoFilesystem(r savedRef) error {
	return fmt.Errorf("%w: no saved filesystem %s", sandbox.ErrGone, r.name)
}

// unpark moves a parked filesystem into a box. The record says so first, so that
// whoever finds the box dead knows where the filesystem belongs.
func (p *Provider) unpark(ctx context.Context, id string, from savedRef) error {
	if _, err := os.Stat(p.savedDir(from)); err != nil {
		// The box it continued in may have died and nobody looked yet.
		if err := p.tidy(ctx); err != nil {
			return err
		}
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	source, err := filepath.EvalSymlinks(p.savedDir(from)) // see keep
	if err != nil {
		return errNoFilesystem(from)
	}
	if err := p.updateLocked(id, func(r *record) { r.Continues = filepath.Base(source) }); err != nil {
		return err
	}
	if err := os.Rename(source, filepath.Join(p.boxDir(id), "fs")); err != nil {
		return fmt.Errorf("moving %s into its sandbox: %w", from.name, err)
	}
	return nil
}

// copyFilesystem copies a saved or a live filesystem to a new directory. It is
// cp(1) in a box of its own that does the walking: a live box may turn a
// directory into a link to anything while it is copied.
func (p *Provider) copyFilesystem(ctx context.Context, source, target string) error {
	if err := p.makeFilesystem(target); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, copyTime)
	defer cancel()
	out, err := p.copyTree(ctx, source, target)
	if err != nil && ctx.Err() == nil && bearable(out) {
		p.log.WarnContext(ctx, "left out of a copy", "files", out)
		return nil
	}
	if err != nil {
		return fmt.Errorf("copying a filesystem: %w: %s", err, out)
	}
	return nil
}

func (p *Provider) copyTree(ctx context.Context, source, target string) (complaints string, err error) {
	if p.unisolated {
		return copyUnisolated(ctx, source, target)
	}
	binds := []bind{{Host: source, Inside: "/mnt/from"}, {Host: target, Inside: "/mnt/to", Writable: true}}
	return p.confined(ctx, binds,
		"/usr/bin/env", "LC_ALL=C", "cp", "-a", "--reflink=auto", "--sparse=auto", "--", "/mnt/from/.", "/mnt/to/")
}

// bearable reports whether all that cp complains about are files that went
// away while it ran, or that their own owner may not read.
func bearable(complaints string) bool {
	for line := range strings.Lines(complaints) {
		line = strings.TrimSpace(line)
		if !strings.HasSuffix(line, ": No such file or directory") && !strings.HasSuffix(line, ": Permission denied") {
			return false
		}
	}
	return complaints != ""
}

// Snapshot implements sandbox.Box. The copy is of a filesystem in use: a file
// that is written meanwhile may be copied half. It is kept until it is deleted.
func (b *box) Snapshot(ctx context.Context, keep time.Duration) (sandbox.Ref, error) {
	if keep < 0 {
		return "", sandbox.Invalid("a saved filesystem cannot be kept for %s", keep)
	}
	if !b.record.Keeper.alive() {
		return "", b.p.gone(b.record.ID)
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return "", err
	}
	half := filepath.Join(b.p.dir, "tmp", b.p.tempName(self))
	ref := newRef(kindSnapshot)
	err = b.p.copyFilesystem(ctx, filepath.Join(b.dir(), "fs"), half)
	if err == nil && !b.record.Keeper.alive() {
		err = b.p.gone(b.record.ID) // its files may have been on their way out
	}
	if err == nil {
		err = writeOrigin(half, b.record.ID)
	}
	if err == nil {
		err = os.Rename(half, b.p.savedDir(ref))
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("saving sandbox %s: %w", b.record.Name, err), removeTree(half))
	}
	return sandbox.Ref(ref.name), nil
}

// parkGrace is how long a main program has, after SIGTERM, to save its state.
const parkGrace = 10 * time.Second

// Park implements sandbox.Box. The main program gets SIGTERM and 10 seconds.
func (b *box) Park(ctx context.Context) (sandbox.Ref, error) {
	return b.keep(ctx, newRef(kindParked), parkGrace)
}

// keep ends the box and moves its filesystem to ref.
func (b *box) keep(ctx context.Context, ref savedRef, grace time.Duration) (sandbox.Ref, error) {
	if !b.record.Keeper.alive() {
		return "", b.p.gone(b.record.ID)
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return "", err
	}
	if err := b.p.updateRecord(ctx, b.record.ID, func(r *record) { r.Parker = &self }); err != nil {
		return "", err
	}
	kept, err := b.endAndMove(ctx, ref, grace)
	if err != nil && !errors.Is(err, sandbox.ErrGone) { // whoever finds it dead may dispose of it
		err = errors.Join(err, b.p.updateRecord(context.WithoutCancel(ctx), b.record.ID, func(r *record) { r.Parker = nil }))
	}
	return kept, err
}

// endAndMove is keep once nobody else disposes of the box's filesystem.
func (b *box) endAndMove(ctx context.Context, ref savedRef, grace time.Duration) (sandbox.Ref, error) {
	if err := b.stop(ctx, grace); err != nil {
		return "", fmt.Errorf("parking sandbox %s: %w", b.record.Name, err)
	}
	unlock, err := b.p.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	r, err := b.p.readRecord(b.record.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return "", b.p.gone(b.record.ID) // killed by somebody else
	}
	if err != nil {
		return "", err
	}
	if err := writeOrigin(filepath.Join(b.dir(), "fs"), b.record.ID); err != nil {
		return "", fmt.Errorf("parking sandbox %s: %w", b.record.Name, err)
	}
	if r.Continues != "" {
		// Whoever dies before it has noted the new name still finds the filesystem by the old one.
		if err := os.Symlink(ref.name, filepath.Join(b.p.dir, "saved", r.Continues)); err != nil {
			return "", fmt.Errorf("parking sandbox %s: %w", b.record.Name, err)
		}
	}
	if err := os.Rename(filepath.Join(b.dir(), "fs"), b.p.savedDir(ref)); err != nil {
		return "", fmt.Errorf("parking sandbox %s: %w", b.record.Name, err)
	}
	b.p.forgetURLs(b.record.ID)
	return sandbox.Ref(ref.name), b.p.trashLocked(b.record.ID)
}

// Delete implements sandbox.Provider. A parked filesystem that continues in a
// box stays with the box, and goes with it.
func (p *Provider) Delete(ctx context.Context, ref sandbox.Ref) error {
	r, err := parseRef(ref)
	if err != nil || r.kind == "" {
		return err
	}
	if err := p.deleteName(ctx, r); err != nil {
		return fmt.Errorf("deleting %s: %w", r.name, err)
	}
	return p.emptyTrash()
}

func (p *Provider) deleteName(ctx context.Context, r savedRef) error {
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	err = os.Rename(p.savedDir(r), filepath.Join(p.dir, "trash", newID()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names, err := os.ReadDir(filepath.Join(p.dir, "saved"))
	if err != nil {
		return err
	}
	for _, n := range names { // older names of the same filesystem
		path := filepath.Join(p.dir, "saved", n.Name())
		if to, err := os.Readlink(path); err == nil && to == r.name {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	all, err := p.records()
	if err != nil {
		return err
	}
	for _, box := range all {
		if box.Continues == r.name {
			if err := p.updateLocked(box.ID, func(r *record) { r.Continues = "" }); err != nil {
				return err
			}
		}
	}
	return nil
}

// Build implements sandbox.Provider. Each step is a command line for sh, run in
// the workspace; the first that fails ends the build. Steps have no network: there
// is no supervisor in this box that could forward to a door.
func (p *Provider) Build(ctx context.Context, from sandbox.Ref, steps []string, log io.Writer) (sandbox.Ref, error) {
	self, err := identify(os.Getpid())
	if err != nil {
		return "", err
	}
	if r, err := parseRef(from); err != nil {
		return "", err
	} else if r.kind == kindParked {
		return "", sandbox.Invalid("%s is parked: only a box continues it", from)
	}
	b, err := p.start(ctx, sandbox.Spec{
		Name: "build " + newID(), From: from, Command: []string{"sleep", "infinity"}, Tags: map[string]string{"build": "yes"},
	}, &self)
	if err != nil {
		return "", err
	}
	for i, step := range steps {
		exit, err := b.Exec(ctx, sandbox.Cmd{
			Args: []string{"/bin/sh", "-c", step}, Dir: sandbox.Workspace, Stdout: log, Stderr: log,
		})
		if err == nil && exit != 0 {
			err = fmt.Errorf("exit status %d", exit)
		}
		if err != nil {
			err = fmt.Errorf("build step %d (%s): %w", i+1, step, err)
			return "", errors.Join(err, b.Kill(context.WithoutCancel(ctx)))
		}
	}
	return b.keep(ctx, newRef(kindSnapshot), 0)
}
