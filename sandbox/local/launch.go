package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stageCommand makes the stage. Its first role argument starts our program
// again (see role.go).
func (p *Provider) stageCommand(ctx context.Context, pl plan) (*exec.Cmd, error) {
	raw, err := json.Marshal(pl)
	if err != nil {
		return nil, fmt.Errorf("planning a sandbox: %w", err)
	}
	cmd := exec.CommandContext(ctx, p.program, roleStage, string(raw))
	cmd.Env = []string{} // nothing of ours, least of all its secrets
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if len(pl.Staged) > 0 {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	return cmd, nil
}

// confined runs a command to its end in a box without keeper and network that
// sees only the system and binds, and returns what it printed.
func (p *Provider) confined(ctx context.Context, binds []bind, command ...string) (string, error) {
	pl := p.stagePlan(binds, smallMemory, append([]string{"--die-with-parent", "--"}, command...)...)
	cmd, err := p.stageCommand(ctx, pl)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = killWait
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return strings.TrimSpace(out.String()), err
}

// smallMemory bounds the files in memory of a box that runs one trusted command.
const smallMemory = 16 << 20

// launch is a box on its way up.
type launch struct {
	orders io.WriteCloser // pipe to the keeper
	report *os.File       // pipe from the keeper and bubblewrap
	docs   *json.Decoder
}

func (l *launch) close() {
	l.orders.Close()
	l.report.Close()
}

// launch starts the keeper of the box in dir. It waits for orders.
func (p *Provider) launch(ctx context.Context, dir string, memory int64) (_ *launch, err error) {
	var theirs []*os.File // in the order of fdOrders and so on
	defer func() { closeAll(theirs) }()
	ordersRead, ordersWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	reportRead, reportWrite, err := os.Pipe()
	if err != nil {
		ordersRead.Close()
		ordersWrite.Close()
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	l := &launch{orders: ordersWrite, report: reportRead, docs: json.NewDecoder(reportRead)}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	theirs = append(theirs, ordersRead, reportWrite)
	socket, err := listenKeeper(dir)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, socket, reportWrite)
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the sandbox's log: %w", err)
	}
	theirs = append(theirs, log)
	reader, err := duplicate(reportRead)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, reader)
	cmd, err := p.stageCommand(ctx, p.keeperPlan(dir, memory))
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = theirs
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("starting a sandbox: %w: %s", err, bytes.TrimSpace(out))
	}
	return l, nil
}

func (p *Provider) keeperPlan(dir string, memory int64) plan {
	if p.unisolated {
		return plan{Args: []string{p.program, roleKeeper, argUnisolated}, Detach: true}
	}
	pl := p.stagePlan(append(p.shared(), inside(filepath.Join(dir, "fs"))...), memory,
		"--json-status-fd", fmt.Sprint(fdStatus), "--", Program, roleKeeper)
	pl.Detach = true
	return pl
}

// duplicate makes a second descriptor of f. It does without f.Fd, after which
// reads of f would heed no deadline.
func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicating a pipe: %w", err)
	}
	var copied int
	var dupErr error
	err = conn.Control(func(fd uintptr) { copied, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(err, dupErr); err != nil {
		return nil, fmt.Errorf("duplicating a pipe: %w", err)
	}
	return os.NewFile(uintptr(copied), f.Name()), nil
}

// listenKeeper makes the socket that the keeper inherits.
func listenKeeper(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the sandbox's directory: %w", err)
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", keeperSocket(d))
	if err != nil {
		return nil, fmt.Errorf("making the keeper's socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	return l.File()
}

// startTime bounds the wait for a keeper. A loaded machine is slow, not dead.
const startTime = 30 * time.Second

// next waits for the next word of bubblewrap or the keeper.
func (l *launch) next(ctx context.Context) (report, error) {
	stop := context.AfterFunc(ctx, func() { l.report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var r report
	err := l.docs.Decode(&r)
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		return r, errors.New("it ended before it began")
	}
	return r, err
}

// pid waits for the keeper's pid, which bubblewrap reports first.
func (l *launch) pid(ctx context.Context) (process, error) {
	r, err := l.next(ctx)
	if err != nil {
		return process{}, err
	}
	if r.ChildPID == 0 {
		return process{}, fmt.Errorf("bubblewrap reported no process, but %+v", r)
	}
	return identify(r.ChildPID)
}

// command gives the keeper its orders and waits until the main program runs.
func (l *launch) command(ctx context.Context, o orders) error {
	stop := context.AfterFunc(ctx, func() { l.orders.(*os.File).SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(l.orders).Encode(o); err != nil {
		return fmt.Errorf("giving orders: %w", err)
	}
	l.orders.Close()
	for {
		r, err := l.next(ctx)
		switch {
		case err != nil:
			return err
		case r.Started:
			return nil
		case r.Error != "":
			return errors.New(r.Error)
		}
	}
}
