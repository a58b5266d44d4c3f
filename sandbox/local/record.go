package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// record is what is known of a box, at boxes/<id>/box.json.
type record struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Tags    map[string]string `json:"tags,omitempty"`
	Born    time.Time         `json:"born"`
	Starter process           `json:"starter"` // who makes it; matters until Keeper is known
	Keeper  process           `json:"keeper"`
	// Continues is the parked filesystem that moved into this box. It goes
	// back there if the box dies by itself.
	Continues string `json:"continues,omitempty"`
	// Owner, if any, is the process without which the box has no use.
	Owner *process `json:"owner,omitempty"`
	// Parker, if any, is the process that ends the box to keep its filesystem. As
	// long as it lives nobody else disposes of that.
	Parker *process `json:"parker,omitempty"`
}

// live reports whether the box runs or somebody is making it.
func (r record) live() bool {
	if r.Owner != nil && !r.Owner.alive() {
		return false
	}
	if r.Keeper.PID != 0 {
		return r.Keeper.alive()
	}
	return r.Starter.alive()
}

func (p *Provider) boxDir(id string) string { return filepath.Join(p.dir, "boxes", id) }

func (p *Provider) readRecord(id string) (record, error) {
	return readRecord(p.boxDir(id))
}

func readRecord(dir string) (record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "box.json"))
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return record{}, fmt.Errorf("reading %s: %w", filepath.Join(dir, "box.json"), err)
	}
	return r, nil
}

// writeRecord replaces the record in dir; a reader sees the old or the new one.
func writeRecord(dir string, r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the record of box %s: %w", r.ID, err)
	}
	return replaceFile(filepath.Join(dir, "box.json"), raw, 0o600)
}

// replaceFile writes a file beside its place and renames it there.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// lock takes the lock of the state directory, which holders keep for
// milliseconds: it guards renames and small writes, never copies.
func (p *Provider) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(p.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the sandboxes: %w", err)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking the sandboxes: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("locking the sandboxes: %w", ctx.Err())
		}
	}
}

// records returns all boxes on disk, dead ones too. The order is that of ids.
func (p *Provider) records() ([]record, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "boxes"))
	if err != nil {
		return nil, fmt.Errorf("listing sandboxes: %w", err)
	}
	all := make([]record, 0, len(entries))
	for _, e := range entries {
		r, err := p.readRecord(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // ended meanwhile
		}
		if err != nil {
			// The machine went down while it was written: no box is alive behind it.
			r = record{ID: e.Name()}
		}
		all = append(all, r)
	}
	return all, nil
}
