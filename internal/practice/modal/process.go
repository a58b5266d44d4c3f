package modal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

// process is one command in a sandbox.
type process struct {
	out   [2]*spool
	stdin *os.File      // our end of the pipe
	done  chan struct{} // closed when it has ended; exit is set then
	exit  int

	writing chan struct{} // held by the one writer
	mu      sync.Mutex    // guards what follows
	written uint64
	closed  bool
}

// maxProcesses is how many commands of a sandbox are remembered; ended ones go first.
const maxProcesses = 64

// exec starts a command under an id, if there is none of that id yet.
func (s *Server) exec(b *box, in sandbox.Box, id string, cmd sandbox.Cmd, keep [2]bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.execs[id] != nil {
		return nil
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	p := &process{stdin: write, done: make(chan struct{}), writing: make(chan struct{}, 1)}
	for fd := range p.out {
		if p.out[fd], err = newSpool(filepath.Join(s.dir, "tmp")); err != nil {
			return errors.Join(err, read.Close(), write.Close())
		}
	}
	cmd.Stdin = read
	if keep[0] {
		cmd.Stdout = p.out[0]
	}
	if keep[1] {
		cmd.Stderr = p.out[1]
	}
	b.execs[id] = p
	b.order = append(b.order, id)
	b.forgetOld()
	s.work.Go(func() {
		defer b.work()()
		p.run(s.ctx, in, cmd, read)
	})
	return nil
}

// forgetOld drops ended commands beyond maxProcesses; b.mu is held.
func (b *box) forgetOld() {
	for i := 0; i < len(b.order) && len(b.order) > maxProcesses; {
		p := b.execs[b.order[i]]
		select {
		case <-p.done:
			delete(b.execs, b.order[i])
			b.order = append(b.order[:i:i], b.order[i+1:]...)
		default:
			i++
		}
	}
}

// exitKilled is the exit status of a command that was killed, with its sandbox
// or by its timeout.
const exitKilled = 128 + 9

func (p *process) run(ctx context.Context, in sandbox.Box, cmd sandbox.Cmd, stdin *os.File) {
	exit, err := in.Exec(ctx, cmd)
	if err != nil {
		exit = exitKilled
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sandbox.ErrGone) && ctx.Err() == nil {
			fmt.Fprintln(p.out[1], err)
		}
	}
	p.exit = exit
	stdin.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stdin.Close() // ends a writer that waits for the command to read
	p.out[0].finish()
	p.out[1].finish()
	close(p.done)
}

// write passes input on, leaving out what was written already.
func (p *process) write(ctx context.Context, offset uint64, data []byte) error {
	select {
	case p.writing <- struct{}{}:
		defer func() { <-p.writing }()
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	p.mu.Lock()
	written, closed := p.written, p.closed
	p.mu.Unlock()
	if offset > written {
		return status.Errorf(codes.FailedPrecondition, "Input at %d, but %d bytes were written.", offset, written)
	}
	fresh := data[min(written-offset, uint64(len(data))):]
	if len(fresh) == 0 {
		return nil
	}
	if closed {
		return status.Error(codes.FailedPrecondition, "The standard input is closed.")
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		p.stdin.SetWriteDeadline(time.Unix(1, 0))
		close(stopped)
	})
	n, err := p.stdin.Write(fresh)
	if !stop() {
		<-stopped // or the next write would meet the deadline of this one
		p.stdin.SetWriteDeadline(time.Time{})
	}
	p.mu.Lock()
	p.written += uint64(n)
	p.mu.Unlock()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Errorf(codes.FailedPrecondition, "The command has exited: %v", err)
}

func (p *process) closeInput() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return status.Error(codes.FailedPrecondition, "The command has exited.")
	default:
	}
	if p.closed {
		return nil
	}
	p.closed = true
	p.stdin.Close()
	return nil
}

// spool keeps the whole output of a command in a file without a name.
type spool struct {
	mu      sync.Mutex
	file    *os.File
	size    int64
	done    bool
	changed chan struct{}
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "output-*")
	if err != nil {
		return nil, fmt.Errorf("keeping output: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("keeping output: %w", err)
	}
	// The file is closed when nobody holds the spool any more (os.NewFile).
	return &spool{file: f, changed: make(chan struct{})}, nil
}

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.file.WriteAt(p, s.size)
	s.size += int64(n)
	close(s.changed)
	s.changed = make(chan struct{})
	return n, err
}

func (s *spool) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	close(s.changed)
	s.changed = make(chan struct{})
}

// copyTo sends everything from an offset until the end of the output.
func (s *spool) copyTo(ctx context.Context, offset uint64, send func([]byte) error) error {
	buf := make([]byte, maxFrame)
	for at := int64(offset); ; {
		s.mu.Lock()
		size, done, changed := s.size, s.done, s.changed
		s.mu.Unlock()
		if at >= size {
			if done {
				return nil
			}
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return status.FromContextError(ctx.Err()).Err()
			}
		}
		n, err := s.file.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return status.Error(codes.Internal, err.Error())
		}
		if err := send(buf[:n]); err != nil {
			return err
		}
		at += int64(n)
	}
}
