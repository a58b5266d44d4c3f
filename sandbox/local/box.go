package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"time"

	"openinspect/sandbox"
)

// box is a handle of one box; several may exist of the same.
type box struct {
	p      *Provider
	record record
}

func (b *box) ID() string  { return b.record.ID }
func (b *box) dir() string { return b.p.boxDir(b.record.ID) }

func (r record) info() sandbox.Info {
	return sandbox.Info{ID: r.ID, Name: r.Name, Tags: maps.Clone(r.Tags), Born: r.Born, Alive: r.Keeper.alive()}
}

// Attach implements sandbox.Provider. The error of a box that died by itself
// holds the end of what it printed.
func (p *Provider) Attach(ctx context.Context, id string) (sandbox.Box, error) {
	if !isID(id) {
		return nil, fmt.Errorf("%w: %q", sandbox.ErrGone, id)
	}
	r, err := p.readRecord(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, p.gone(id)
	}
	if err == nil && r.Keeper.alive() {
		return &box{p: p, record: r}, nil
	}
	if err == nil && r.live() {
		return nil, p.gone(id) // still being made: nobody can know its id
	}
	if err := p.discard(ctx, id, giveBack); err != nil {
		return nil, err
	}
	return nil, p.gone(id)
}

// isID says whether a text that came from outside may be a box's id.
func isID(id string) bool { return filepath.IsLocal(id) && filepath.Base(id) == id }

// List implements sandbox.Provider. It measures neither memory nor disk.
func (p *Provider) List(ctx context.Context, tags map[string]string) iter.Seq2[sandbox.Info, error] {
	return func(yield func(sandbox.Info, error) bool) {
		all, err := p.records()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield(sandbox.Info{}, err)
			return
		}
		for _, r := range all {
			if r.Keeper.alive() && carries(r.Tags, tags) && !yield(r.info(), nil) {
				return
			}
		}
	}
}

func carries(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Info implements sandbox.Box. A dead box is described with Alive false.
func (b *box) Info(ctx context.Context) (sandbox.Info, error) {
	info := b.record.info()
	if !info.Alive {
		return info, nil
	}
	var measured reply
	err := b.ask(ctx, request{Op: opMeasure}, &measured)
	if errors.Is(err, sandbox.ErrGone) {
		info.Alive = false
		return info, nil
	}
	info.Memory, info.Disk = measured.Memory, measured.Disk
	return info, err
}

// dial connects to the keeper.
func (b *box) dial() (*net.UnixConn, error) {
	if !b.record.Keeper.alive() {
		return nil, b.p.gone(b.record.ID)
	}
	dir, err := os.Open(b.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, b.p.gone(b.record.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("opening sandbox %s: %w", b.record.Name, err)
	}
	defer dir.Close()
	c, err := net.DialUnix("unix", nil, keeperSocket(dir))
	if err != nil {
		return nil, b.broken(err)
	}
	return c, nil
}

// brokenWait is how long a keeper that broke off may take to be seen dead.
const brokenWait = 2 * time.Second

// broken explains an error on the way to the keeper: mostly, the box has ended.
func (b *box) broken(err error) error {
	held, ok, holdErr := b.record.Keeper.hold()
	if holdErr != nil {
		return errors.Join(err, holdErr)
	}
	if ok {
		defer held.Close()
		ctx, cancel := context.WithTimeout(context.Background(), brokenWait)
		defer cancel()
		if waitEnd(ctx, held) != nil {
			return fmt.Errorf("asking sandbox %s: %w", b.record.Name, err)
		}
	}
	return b.p.gone(b.record.ID)
}

// ask makes one request that needs no descriptors back.
func (b *box) ask(ctx context.Context, q request, r *reply) error {
	c, err := b.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	files, err := b.talk(ctx, c, q, r)
	closeAll(files)
	return err
}

// talk sends a request and waits for its reply or for ctx.
func (b *box) talk(ctx context.Context, c *net.UnixConn, q request, r *reply, with ...*os.File) ([]*os.File, error) {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := send(c, q, with...)
	var files []*os.File
	if err == nil {
		files, err = receive(c, r)
	}
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, b.broken(err)
	}
	if r.Error == "" {
		return files, nil
	}
	closeAll(files)
	switch {
	case r.Missing:
		return nil, fmt.Errorf("%w: %s", fs.ErrNotExist, r.Error)
	case r.Invalid:
		return nil, sandbox.Invalid("%s", r.Error)
	}
	return nil, fmt.Errorf("sandbox %s: %s", b.record.Name, r.Error)
}

// ReadFile implements sandbox.Box. A missing file is fs.ErrNotExist, a
// directory or a device ErrInvalid.
func (b *box) ReadFile(ctx context.Context, name string, w io.Writer) error {
	if !path.IsAbs(name) {
		return sandbox.Invalid("%q is not an absolute path", name)
	}
	f, err := b.fetch(ctx, request{Op: opOpen, Path: name})
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, cancelled{ctx, f})
	return err
}

// fetch makes a request whose reply is one descriptor.
func (b *box) fetch(ctx context.Context, q request) (*os.File, error) {
	c, err := b.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return b.fetchOver(ctx, c, q)
}

func (b *box) fetchOver(ctx context.Context, c *net.UnixConn, q request) (*os.File, error) {
	files, err := b.talk(ctx, c, q, &reply{})
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		closeAll(files)
		return nil, fmt.Errorf("sandbox %s sent %d descriptors", b.record.Name, len(files))
	}
	return files[0], nil
}

// cancelled reads until ctx is done.
type cancelled struct {
	ctx context.Context // of the one call that this reader exists for
	r   io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// WriteFile implements sandbox.Box. The file is there whole or not at all;
// directories above it are made, and the mode of one that it replaces is kept.
func (b *box) WriteFile(ctx context.Context, name string, r io.Reader) error {
	if !path.IsAbs(name) {
		return sandbox.Invalid("%q is not an absolute path", name)
	}
	c, err := b.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := b.fetchOver(ctx, c, request{Op: opCreate, Path: name})
	if err != nil {
		return err
	}
	_, err = io.Copy(f, cancelled{ctx, r})
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	files, err := b.talk(ctx, c, request{Op: opCommit}, &reply{})
	closeAll(files)
	return err
}

// stop ends the main program politely and the box in any case.
func (b *box) stop(ctx context.Context, grace time.Duration) error {
	held, ok, err := b.record.Keeper.hold()
	if err != nil || !ok {
		return err
	}
	defer held.Close()
	c, err := b.dial()
	if err == nil {
		defer c.Close()
		err = send(c, request{Op: opStop, Grace: grace})
	}
	if err == nil {
		wait, cancel := context.WithTimeout(ctx, grace+brokenWait)
		defer cancel()
		if waitEnd(wait, held) == nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return b.record.Keeper.kill(ctx)
}

// Kill implements sandbox.Box.
func (b *box) Kill(ctx context.Context) error {
	if err := b.p.discard(ctx, b.record.ID, forget); err != nil {
		return err
	}
	return b.p.emptyTrash()
}
