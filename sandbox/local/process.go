package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process identifies one process of this machine beyond the reuse of pids.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // ticks since boot, field 22 of /proc/PID/stat (proc(5))
	Boot  string `json:"boot"`
}

var bootID = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
})

// identify looks up the process that has a pid now.
func identify(pid int) (process, error) {
	start, _, err := readStat(pid)
	if err != nil {
		return process{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	return process{PID: pid, Start: start, Boot: bootID()}, nil
}

// readStat returns when a process started and the letter of its state.
func readStat(pid int) (start uint64, state byte, err error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The second field is the program's name in parentheses, and may hold any byte.
	rest := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(rest) < 20 || len(rest[0]) != 1 {
		return 0, 0, errors.New("stat is not as proc(5) says")
	}
	start, err = strconv.ParseUint(string(rest[19]), 10, 64)
	return start, rest[0][0], err
}

// alive reports whether the process still runs. A zombie does not.
func (p process) alive() bool {
	if p.PID <= 0 || p.Boot != bootID() {
		return false
	}
	start, state, err := readStat(p.PID)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// hold returns a descriptor that means this very process, whatever happens to
// its pid. ok is false when it is gone. The file becomes readable at its end.
func (p process) hold() (f *os.File, ok bool, err error) {
	if !p.alive() {
		return nil, false, nil
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("holding process %d: %w", p.PID, err)
	}
	f = os.NewFile(uintptr(fd), "pidfd")
	if !p.alive() { // the pid passed on between the look and the open
		f.Close()
		return nil, false, nil
	}
	return f, true, nil
}

// waitEnd waits until a held process has ended or ctx is done.
func waitEnd(ctx context.Context, held *os.File) error {
	conn, err := held.SyscallConn()
	if err != nil {
		return fmt.Errorf("waiting for a process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { held.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// kill ends the process and waits until it is gone. The keeper's end is the
// end of all processes of its box: the kernel lets PID 1 of a namespace go only
// after the others (pid_namespaces(7)).
func (p process) kill(ctx context.Context) error {
	held, ok, err := p.hold()
	if err != nil || !ok {
		return err
	}
	defer held.Close()
	conn, err := held.SyscallConn()
	if err != nil {
		return fmt.Errorf("killing process %d: %w", p.PID, err)
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if err = errors.Join(err, sent); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing process %d: %w", p.PID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	if err := waitEnd(ctx, held); err != nil {
		return fmt.Errorf("waiting for the end of process %d: %w", p.PID, err)
	}
	return nil
}

// killWait bounds the wait for a killed box: its processes end at once unless
// one of them hangs in the kernel.
const killWait = 10 * time.Second
