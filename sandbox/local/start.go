package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"openinspect/sandbox"
)

// Start implements sandbox.Provider. Besides its errors it fails with ErrGone
// if Spec.From no longer exists. An error for a program that ended at once
// holds the end of what it printed.
func (p *Provider) Start(ctx context.Context, s sandbox.Spec) (sandbox.Box, error) {
	b, err := p.start(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// start is Start of a box that lives no longer than owner, if any.
func (p *Provider) start(ctx context.Context, s sandbox.Spec, owner *process) (*box, error) {
	if err := s.Check(p.lifetime); err != nil {
		return nil, err
	}
	from, err := parseRef(s.From)
	if err != nil {
		return nil, err
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	r := record{ID: newID(), Name: s.Name, Tags: maps.Clone(s.Tags), Born: time.Now().UTC(), Starter: self, Owner: owner}
	if err := p.reserve(ctx, r); err != nil {
		return nil, err
	}
	b, err := p.bringUp(ctx, r, from, s)
	if err != nil {
		err = fmt.Errorf("starting sandbox %s: %w", s.Name, err)
		// What is half made goes even if the caller no longer waits for it.
		return nil, errors.Join(err, p.discard(context.WithoutCancel(ctx), r.ID, giveBack))
	}
	return b, nil
}

func newID() string {
	id := make([]byte, 10)
	rand.Read(id) // never fails (crypto/rand)
	return hex.EncodeToString(id)
}

// reserve makes the record of a box under its name, if no live box has it.
func (p *Provider) reserve(ctx context.Context, r record) error {
	half := filepath.Join(p.dir, "tmp", p.tempName(r.Starter))
	if err := os.Mkdir(half, 0o700); err != nil {
		return fmt.Errorf("making sandbox %s: %w", r.Name, err)
	}
	defer os.RemoveAll(half) // nothing is there after the rename
	if err := writeRecord(half, r); err != nil {
		return err
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := p.records()
	if err != nil {
		return err
	}
	live := 0
	for _, other := range all {
		if !other.live() {
			continue
		}
		if live++; other.Name == r.Name {
			return sandbox.Invalid("a sandbox named %s is alive", r.Name)
		}
	}
	if p.maxBoxes > 0 && live >= p.maxBoxes {
		return fmt.Errorf("%w: %d of %d sandboxes are alive", sandbox.ErrCapacity, live, p.maxBoxes)
	}
	if err := os.Rename(half, p.boxDir(r.ID)); err != nil {
		return fmt.Errorf("making sandbox %s: %w", r.Name, err)
	}
	return nil
}

// bringUp fills a reserved box and starts it.
func (p *Provider) bringUp(ctx context.Context, r record, from savedRef, s sandbox.Spec) (*box, error) {
	ctx, cancel := context.WithTimeout(ctx, p.fillTime(from))
	defer cancel()
	r, err := p.fill(ctx, r, from)
	if err != nil {
		return nil, err
	}
	dir := p.boxDir(r.ID)
	memory := int64(s.MemMiB) << 20
	if memory == 0 {
		memory = int64(p.memMiB) << 20
	}
	if p.unisolated {
		memory = 0 // it would be that of the whole machine
		if err := p.linkPaths(dir); err != nil {
			return nil, err
		}
	}
	l, err := p.launch(ctx, dir, memory)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if r.Keeper, err = l.pid(ctx); err != nil {
		return nil, withLog(dir, err)
	}
	// From here the record names the process; the orders that follow are what
	// makes it a box.
	if err := p.updateRecord(ctx, r.ID, func(old *record) { old.Keeper = r.Keeper }); err != nil {
		return nil, err
	}
	o := orders{Command: s.Command, Env: s.Env, Lifetime: s.Lifetime, Memory: memory}
	if o.Lifetime == 0 {
		o.Lifetime = p.lifetime
	}
	if err := l.command(ctx, o); err != nil {
		return nil, withLog(dir, err)
	}
	return &box{p: p, record: r}, nil
}

// fillTime is startTime, and more for a copy of unknown size.
func (p *Provider) fillTime(from savedRef) time.Duration {
	if from.kind == kindSnapshot {
		return startTime + copyTime
	}
	return startTime
}

// updateRecord changes the record of a box under the lock, so that two changes
// are both made.
func (p *Provider) updateRecord(ctx context.Context, id string, change func(*record)) error {
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return p.updateLocked(id, change)
}

func (p *Provider) updateLocked(id string, change func(*record)) error {
	r, err := p.readRecord(id)
	if errors.Is(err, fs.ErrNotExist) {
		return p.gone(id)
	}
	if err != nil {
		return err
	}
	change(&r)
	return writeRecord(p.boxDir(id), r)
}

// fill gives the box its filesystem: empty, copied or moved there.
func (p *Provider) fill(ctx context.Context, r record, from savedRef) (record, error) {
	dir := filepath.Join(p.boxDir(r.ID), "fs")
	switch from.kind {
	case kindParked:
		r.Continues = from.name
		return r, p.unpark(ctx, r.ID, from)
	case kindSnapshot:
		source := p.savedDir(from)
		if _, err := os.Stat(source); err != nil {
			return r, errNoFilesystem(from)
		}
		return r, p.copyFilesystem(ctx, source, dir)
	default:
		return r, p.makeFilesystem(dir)
	}
}

// makeFilesystem makes an empty filesystem that belongs to the box's user.
func (p *Provider) makeFilesystem(dir string) error {
	for _, path := range []string{dir, filepath.Join(dir, "home"), filepath.Join(dir, "workspace")} {
		if err := os.Mkdir(path, 0o700); err != nil {
			return fmt.Errorf("making a filesystem: %w", err)
		}
		if p.uid == 0 {
			continue
		}
		if err := os.Chown(path, p.uid, p.uid); err != nil {
			return fmt.Errorf("making a filesystem: %w", err)
		}
	}
	return nil
}

// maxLogTail is how much of a log an error shows.
const maxLogTail = 4 << 10

// logTail returns the end of the log in a box's directory.
func logTail(dir string) string {
	f, err := os.Open(filepath.Join(dir, "log"))
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxLogTail {
		f.Seek(-maxLogTail, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(f, maxLogTail))
	return strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
}

func withLog(dir string, err error) error {
	if tail := logTail(dir); tail != "" {
		return fmt.Errorf("%w; it printed:\n%s", err, tail)
	}
	return err
}
