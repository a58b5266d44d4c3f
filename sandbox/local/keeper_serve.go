package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openinspect/sandbox"
)

// accept serves connections of the control plane for as long as the box lives.
func (k *keeper) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			k.finish("its keeper cannot listen: " + err.Error())
			return
		}
		go k.answerOne(c)
	}
}

func (k *keeper) answerOne(c *net.UnixConn) {
	defer c.Close()
	var r request
	files, err := receive(c, &r)
	defer func() { closeAll(files) }()
	if err != nil {
		return // a control plane that went away, or that this keeper does not understand
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch r.Op {
	case opExec:
		go cancelAtEnd(c, cancel)
		send(c, k.exec(ctx, r, files))
	case opOpen:
		replyWithFile(c, func() (*os.File, error) { return openRegular(r.Path) })
	case opCreate:
		createFile(c, r.Path)
	case opDial:
		replyWithFile(c, func() (*os.File, error) { return dialInside(ctx, r.Port) })
	case opMeasure:
		send(c, k.measure())
	case opStop:
		go cancelAtEnd(c, cancel)
		k.stop(context.WithoutCancel(ctx), r.Grace)
	default:
		send(c, reply{Error: "unknown request " + strconv.Quote(r.Op), Invalid: true})
	}
}

// cancelAtEnd cancels when the other side closes its end.
func cancelAtEnd(c *net.UnixConn, cancel context.CancelFunc) {
	io.Copy(io.Discard, c)
	cancel()
}

// exec runs one command to its end. Its process group is killed when its time
// is over or when nobody waits for it any more.
func (k *keeper) exec(ctx context.Context, r request, files []*os.File) reply {
	if len(files) != maxDescriptors || len(r.Args) == 0 {
		return reply{Error: "a command needs arguments and three descriptors", Invalid: true}
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	dir := r.Dir
	if dir == "" {
		dir = sandbox.Home
	}
	c, err := k.children.start(r.Args, dir, environ(dir, r.Env), files...)
	if err != nil {
		return failure(err)
	}
	closeAll(files) // now the command's alone, so that they end with it
	select {
	case <-c.done:
		return reply{Exit: exitStatus(c.status)}
	case <-ctx.Done():
		c.killGroup()
		<-c.done
		return reply{Exit: exitStatus(c.status), TimedOut: errors.Is(ctx.Err(), context.DeadlineExceeded)}
	}
}

// exitStatus is a process's end as a shell tells it: 128 and the signal if it was killed.
func exitStatus(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

func failure(err error) reply {
	return reply{Error: err.Error(), Missing: errors.Is(err, fs.ErrNotExist), Invalid: errors.Is(err, errNotRegular)}
}

var errNotRegular = errors.New("not a regular file")

func replyWithFile(c *net.UnixConn, open func() (*os.File, error)) {
	f, err := open()
	if err != nil {
		send(c, failure(err))
		return
	}
	defer f.Close()
	send(c, reply{}, f)
}

// openRegular opens a file for the control plane to read. A FIFO, on which that
// would block, and a device are refused.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("reading %s: %w", path, errNotRegular)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// createFile gives out a new file and renames it to path when told so, so that
// nobody in the box reads half of it. Directories above are made.
func createFile(c *net.UnixConn, path string) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		send(c, failure(fmt.Errorf("writing %s: %w", path, errNotRegular)))
		return
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // write through a link, as a shell would
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		send(c, failure(err))
		return
	}
	half := filepath.Join(filepath.Dir(path), ".openinspect-"+rand.Text())
	f, err := os.OpenFile(half, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		send(c, failure(err))
		return
	}
	defer os.Remove(half) // nothing is there after the rename
	err = send(c, reply{}, f)
	f.Close()
	if err != nil {
		return
	}
	var next request
	more, err := receive(c, &next)
	closeAll(more)
	if err != nil || next.Op != opCommit {
		return
	}
	if info, err := os.Stat(path); err == nil {
		os.Chmod(half, info.Mode().Perm()) // a script stays executable
	}
	if err := os.Rename(half, path); err != nil {
		send(c, failure(err))
		return
	}
	send(c, reply{})
}

// dialTimeout bounds a connection on the box's own loopback.
const dialTimeout = 5 * time.Second

func dialInside(ctx context.Context, port int) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*net.TCPConn).File()
}
