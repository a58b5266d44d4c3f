package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"openinspect/sandbox"
)

// What a box left that ended by itself lies in left/<id> until somebody salvages it,
// but no longer than its end can be asked for: nobody may want it.

func (p *Provider) leftDir(id string) string { return filepath.Join(p.dir, "left", id) }

// leave keeps the filesystem of a dead box for a while. One that continued a parked
// filesystem has been given back to that.
func (p *Provider) leave(r record) error {
	if r.Keeper.PID == 0 || r.Owner != nil {
		return nil // it never ran, or nobody can ask for it any more
	}
	to := p.leftDir(r.ID)
	err := os.Rename(filepath.Join(p.boxDir(r.ID), "fs"), to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	now := time.Now()
	if err == nil {
		err = os.Chtimes(to, now, now) // see forgetLeft
	}
	if err != nil {
		return fmt.Errorf("keeping what sandbox %s left: %w", r.Name, err)
	}
	return nil
}

// Salvage implements sandbox.Salvager.
func (p *Provider) Salvage(ctx context.Context, id string) (sandbox.Ref, error) {
	if _, err := p.Attach(ctx, id); err == nil {
		return "", sandbox.Invalid("the sandbox %s lives", id)
	} else if !errors.Is(err, sandbox.ErrGone) || !isID(id) {
		return "", err
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(p.leftDir(id)); errors.Is(err, fs.ErrNotExist) {
		return "", p.gone(id)
	}
	ref := newRef(kindParked)
	err = writeOrigin(p.leftDir(id), id)
	if err == nil {
		err = os.Rename(p.leftDir(id), p.savedDir(ref))
	}
	if err != nil {
		return "", fmt.Errorf("saving what sandbox %s left: %w", id, err)
	}
	return sandbox.Ref(ref.name), nil
}

// forgetLeft removes what nobody has salvaged for long.
func (p *Provider) forgetLeft() error {
	entries, err := os.ReadDir(filepath.Join(p.dir, "left"))
	if err != nil {
		return fmt.Errorf("tidying sandboxes: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) <= tombstoneTime {
			continue
		}
		err = os.Rename(p.leftDir(e.Name()), filepath.Join(p.dir, "trash", newID()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("tidying sandboxes: %w", err)
		}
	}
	return nil
}
