package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"openinspect/sandbox"
)

const (
	// pipeWait is how long the output of an ended command is waited for when a
	// child that it left behind still holds its pipe and is silent.
	pipeWait = 250 * time.Millisecond
	// pipeMost bounds that wait when the child is not silent.
	pipeMost = 5 * time.Second
	// exitMissing is what a shell returns for a program that does not exist.
	exitMissing = 127
)

// Exec implements sandbox.Box. The command leads a process group, which is
// killed with it when its time is over or ctx ends; the error then wraps
// context.DeadlineExceeded or is that of ctx. A command killed by a signal exits
// with 128 and the signal, one that does not exist with 127, as in a shell. It
// inherits nothing of Spec.Env. A Stdin that is an *os.File is the command's own
// standard input, as with os/exec: nothing is copied, and no reader of it is left
// waiting when the command ends.
func (b *box) Exec(ctx context.Context, c sandbox.Cmd) (int, error) {
	if err := c.Check(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	conn, err := b.dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	s, err := openStreams(c)
	if err != nil {
		return 0, err
	}
	q := request{Op: opExec, Args: c.Args, Dir: c.Dir, Env: c.Env, Timeout: c.Timeout}
	r, err := b.await(ctx, conn, q, s)
	if copyErr := s.finish(); err == nil && r.Error == "" && !r.TimedOut {
		err = copyErr
	}
	return execResult(c, r, err)
}

func execResult(c sandbox.Cmd, r reply, err error) (int, error) {
	switch {
	case err != nil:
		return 0, err
	case r.TimedOut:
		return r.Exit, fmt.Errorf("running %s for %s: %w", c.Args[0], c.Timeout, context.DeadlineExceeded)
	case r.Missing:
		if c.Stderr != nil {
			if _, err := fmt.Fprintln(c.Stderr, r.Error); err != nil {
				return 0, err
			}
		}
		return exitMissing, nil
	case r.Invalid:
		return 0, sandbox.Invalid("%s", r.Error)
	case r.Error != "":
		return 0, errors.New(r.Error)
	}
	return r.Exit, nil
}

// await sends the command and waits for its end. When ctx ends first, the
// command is killed, and its end is waited for a little longer.
func (b *box) await(ctx context.Context, conn *net.UnixConn, q request, s *streams) (reply, error) {
	err := send(conn, q, s.theirs...)
	closeAll(s.theirs)
	s.start()
	if err != nil {
		return reply{}, b.broken(err)
	}
	stop := context.AfterFunc(ctx, func() {
		conn.SetReadDeadline(time.Now().Add(brokenWait))
		conn.CloseWrite() // the keeper kills the command and answers
	})
	defer stop()
	var r reply
	files, err := receive(conn, &r)
	closeAll(files)
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err != nil {
		return r, b.broken(err)
	}
	return r, nil
}

// streams carries the three streams of a command over pipes.
type streams struct {
	theirs []*os.File // the command's ends, in order
	stdin  *os.File   // our end; nil if there is no input
	input  io.Reader
	out    []*outStream
	ended  atomic.Bool // the command has

	stdinDone chan error
	outDone   chan error
}

type outStream struct {
	read *os.File
	to   io.Writer
}

func openStreams(c sandbox.Cmd) (_ *streams, err error) {
	s := &streams{input: c.Stdin, stdinDone: make(chan error, 1), outDone: make(chan error, 2)}
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	if file, ok := c.Stdin.(*os.File); ok {
		own, err := duplicate(file)
		if err == nil { // a pipe of Go's does not block, which programs do not expect
			err = unix.SetNonblock(int(own.Fd()), false)
		}
		if err != nil {
			return nil, err
		}
		s.theirs = append(s.theirs, own)
	} else if c.Stdin == nil {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, fmt.Errorf("opening no input: %w", err)
		}
		s.theirs = append(s.theirs, null)
	} else {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("making a pipe: %w", err)
		}
		s.theirs, s.stdin = append(s.theirs, read), write
	}
	for _, to := range []io.Writer{c.Stdout, c.Stderr} {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("making a pipe: %w", err)
		}
		if to == nil {
			to = io.Discard
		}
		s.theirs, s.out = append(s.theirs, write), append(s.out, &outStream{read: read, to: to})
	}
	return s, nil
}

func (s *streams) abandon() {
	closeAll(s.theirs)
	if s.stdin != nil {
		s.stdin.Close()
	}
	for _, o := range s.out {
		o.read.Close()
	}
}

// start copies until finish, which waits for it.
func (s *streams) start() {
	if s.stdin == nil {
		s.stdinDone <- nil
	} else {
		go func() {
			_, err := io.Copy(s.stdin, s.input)
			s.stdin.Close()
			s.stdinDone <- err
		}()
	}
	for _, o := range s.out {
		go func() { s.outDone <- s.copyOut(o) }()
	}
}

// copyOut copies one output to its writer, until its end or until it was
// silent for pipeWait after the command ended.
func (s *streams) copyOut(o *outStream) error {
	buf := make([]byte, 32<<10)
	var most time.Time
	for {
		if s.ended.Load() {
			now := time.Now()
			if most.IsZero() {
				most = now.Add(pipeMost)
			}
			if now.After(most) {
				return nil
			}
			o.read.SetReadDeadline(now.Add(pipeWait))
		}
		n, err := o.read.Read(buf)
		if n > 0 {
			if _, err := o.to.Write(buf[:n]); err != nil {
				o.read.Close() // so that the command notices, as with os/exec
				return fmt.Errorf("passing on a command's output: %w", err)
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
	}
}

// finish ends the copying after the command. A reader of input that blocks is
// left behind after pipeWait, as os/exec does after its WaitDelay.
func (s *streams) finish() error {
	s.ended.Store(true)
	for _, o := range s.out {
		o.read.SetReadDeadline(time.Now().Add(pipeWait))
	}
	var errs []error
	for range s.out {
		errs = append(errs, <-s.outDone)
	}
	for _, o := range s.out {
		o.read.Close()
	}
	if s.stdin != nil {
		s.stdin.Close() // ends a copy that waits for the command to read
	}
	select {
	case err := <-s.stdinDone:
		// A command need not read its input to the end.
		if err != nil && !isBrokenPipe(err) {
			errs = append(errs, fmt.Errorf("passing input to a command: %w", err))
		}
	case <-time.After(pipeWait):
	}
	return errors.Join(errs...)
}

func isBrokenPipe(err error) bool {
	var p *fs.PathError
	return errors.Is(err, os.ErrClosed) || errors.As(err, &p) && p.Op == "write"
}
