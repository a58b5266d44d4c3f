package supervisor

import (
	"context"
	"io/fs"
	"path/filepath"
	"sync"
	"time"
)

// usage measures what the box uses: memory often, disk seldom, because a walk
// over a large checkout takes a while.
type usage struct {
	family *family
	dirs   []string

	mu           sync.Mutex
	memory, disk int64
}

const (
	memoryEvery = 5 * time.Second
	firstDisk   = 15 * time.Second
	diskEvery   = 2 * time.Minute
)

func (u *usage) last() (memory, disk int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.memory, u.disk
}

// run measures until ctx ends.
func (u *usage) run(ctx context.Context) error {
	// The first look at the disk comes after the boot, which has better use for it.
	memory, disk := time.NewTicker(memoryEvery), time.NewTicker(firstDisk)
	defer memory.Stop()
	defer disk.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-memory.C:
			n := u.family.memory()
			u.mu.Lock()
			u.memory = n
			u.mu.Unlock()
		case <-disk.C:
			disk.Reset(diskEvery)
			n := u.onDisk(ctx)
			u.mu.Lock()
			u.disk = n
			u.mu.Unlock()
		}
	}
}

// onDisk adds up the sizes of all files. What cannot be read counts nothing.
func (u *usage) onDisk(ctx context.Context) int64 {
	var total int64
	for _, dir := range u.dirs {
		_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return fs.SkipAll
			}
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					total += info.Size()
				}
			}
			return nil
		})
	}
	return total
}
