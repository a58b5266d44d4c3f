package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"openinspect/sandbox"
)

// What becomes of the filesystem of a box that is discarded.
type fate int

const (
	giveBack fate = iota // to the parked name that it continues, or else kept for Salvage
	forget
)

// tombstone says why a box is gone, at gone/<id>.json.
type tombstone struct {
	Name  string    `json:"name"`
	Ended time.Time `json:"ended"` // when it was found dead
	Log   string    `json:"log"`   // the end of what it printed; the keeper's last word is in it
}

// tombstoneTime is how long a box's end can be asked for.
const tombstoneTime = 24 * time.Hour

// tidy removes the boxes that are dead or whose starter or owner is, and what
// dead processes left in tmp.
func (p *Provider) tidy(ctx context.Context) error {
	all, err := p.records()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.live() {
			continue
		}
		if err := p.discard(ctx, r.ID, giveBack); err != nil {
			return err
		}
	}
	temps, err := os.ReadDir(filepath.Join(p.dir, "tmp"))
	if err != nil {
		return fmt.Errorf("tidying sandboxes: %w", err)
	}
	for _, t := range temps {
		if parseTempName(t.Name()).alive() {
			continue
		}
		path := filepath.Join(p.dir, "tmp", t.Name())
		if err := os.Rename(path, filepath.Join(p.dir, "trash", newID())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("tidying sandboxes: %w", err)
		}
	}
	return errors.Join(p.forgetTombstones(), p.forgetLeft())
}

// tempName makes a name in tmp that says who works there.
func (p *Provider) tempName(owner process) string {
	return fmt.Sprintf("%d.%d.%s.%s", owner.PID, owner.Start, owner.Boot, newID())
}

func parseTempName(name string) process {
	parts := strings.Split(name, ".")
	if len(parts) != 4 {
		return process{}
	}
	pid, _ := strconv.Atoi(parts[0]) // 0 is nobody
	start, _ := strconv.ParseUint(parts[1], 10, 64)
	return process{PID: pid, Start: start, Boot: parts[2]}
}

// discard ends a box and removes its directory. It may be called by several at
// once and for a box that is gone already.
func (p *Provider) discard(ctx context.Context, id string, what fate) error {
	r, err := p.readRecord(id)
	if err == nil {
		if err := p.endKeeper(ctx, r); err != nil {
			return fmt.Errorf("ending sandbox %s: %w", r.Name, err)
		}
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r, err = p.readRecord(id) // as it is now that nobody changes it
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(p.boxDir(id)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if what == giveBack && r.Parker != nil && r.Parker.alive() {
		return nil // its filesystem is about to be moved
	}
	p.forgetURLs(id)
	if what == giveBack {
		if err := errors.Join(p.restoreParked(r), p.leave(r)); err != nil {
			return err
		}
		p.bury(r)
	}
	return p.trashLocked(id)
}

func (p *Provider) endKeeper(ctx context.Context, r record) error {
	if p.unisolated { // only the keeper knows what belongs to the box
		return (&box{p: p, record: r}).stop(ctx, 0)
	}
	return r.Keeper.kill(ctx)
}

// restoreParked gives the filesystem of a dead box back to the parked name that
// it continues.
func (p *Provider) restoreParked(r record) error {
	if r.Continues == "" {
		return nil
	}
	files := filepath.Join(p.boxDir(r.ID), "fs")
	if _, err := os.Stat(files); errors.Is(err, fs.ErrNotExist) {
		return nil // it had not moved yet, or has been parked again
	}
	place := filepath.Join(p.dir, "saved", r.Continues)
	if _, err := os.Readlink(place); err == nil { // parking was begun and not finished
		if err := os.Remove(place); err != nil {
			return fmt.Errorf("giving back %s: %w", r.Continues, err)
		}
	}
	if err := os.Rename(files, place); err != nil {
		return fmt.Errorf("giving back %s: %w", r.Continues, err)
	}
	return nil
}

// bury notes why a box ended. It is for people: an error is not worth failing for.
func (p *Provider) bury(r record) {
	raw, err := json.Marshal(tombstone{Name: r.Name, Ended: time.Now().UTC(), Log: logTail(p.boxDir(r.ID))})
	if err == nil {
		err = replaceFile(filepath.Join(p.dir, "gone", r.ID+".json"), raw, 0o600)
	}
	if err != nil {
		p.log.Warn("noting why a sandbox ended", "sandbox", r.Name, "error", err)
	}
}

// gone returns ErrGone with what is known of the box's end.
func (p *Provider) gone(id string) error {
	log := logTail(p.boxDir(id))
	if raw, err := os.ReadFile(filepath.Join(p.dir, "gone", id+".json")); err == nil {
		var t tombstone
		if json.Unmarshal(raw, &t) == nil {
			log = t.Log
		}
	}
	return &sandbox.Gone{ID: id, Log: log}
}

func (p *Provider) forgetTombstones() error {
	dir := filepath.Join(p.dir, "gone")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("tidying sandboxes: %w", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > tombstoneTime {
			os.Remove(filepath.Join(dir, e.Name())) // another process may have been faster
		}
	}
	return nil
}

// trashLocked takes the box's directory out of sight, in an instant.
func (p *Provider) trashLocked(id string) error {
	if err := os.Rename(p.boxDir(id), filepath.Join(p.dir, "trash", newID())); err != nil {
		return fmt.Errorf("removing sandbox %s: %w", id, err)
	}
	return nil
}

// emptyTrash removes what is out of sight. Several may do it at once.
func (p *Provider) emptyTrash() error {
	dir := filepath.Join(p.dir, "trash")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("removing files of sandboxes: %w", err)
	}
	for _, e := range entries {
		if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("removing files of sandboxes: %w", err)
		}
	}
	return nil
}

// removeTree removes a tree in which directories may be closed to their owner,
// as those of Go's module cache are.
func removeTree(path string) error {
	if os.RemoveAll(path) == nil {
		return nil
	}
	filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o700) // what still fails, RemoveAll reports
		}
		return nil
	})
	return os.RemoveAll(path)
}
