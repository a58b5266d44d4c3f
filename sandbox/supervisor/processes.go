package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// family is the supervisor's view of all processes below it. The supervisor is
// a subreaper, so whatever the agent starts stays its descendant even when the
// parents in between end. Three kinds of descendants are told apart: those the
// supervisor started itself (own: OpenCode, git, hooks), declared services
// (alive when .openinspect/start.sh ended), and everything else, which belongs
// to the prompt that runs and ends with it.
type family struct {
	log *slog.Logger
	// tasks are goroutines that end when the processes do which they watch.
	tasks sync.WaitGroup

	// mu is held while a child is started, so that the reaper never takes the
	// exit status of a child that it does not know yet.
	mu       sync.Mutex
	own      map[int]bool
	services map[int]uint64 // pid to start time, in clock ticks since boot
	sessions map[int]bool   // ids of sessions that belong to services
}

// process is one line of /proc/<pid>/stat.
type process struct {
	pid, parent, session int
	started              uint64
	zombie               bool
}

func newFamily(log *slog.Logger) (*family, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("becoming the reaper of orphans: %w", err)
	}
	return &family{
		log: log, own: make(map[int]bool),
		services: make(map[int]uint64), sessions: make(map[int]bool),
	}, nil
}

// start starts a child in a session of its own. end must be called with it.
func (f *family) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	if cmd.Cancel != nil {
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	}
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = 2 * time.Second
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	f.own[cmd.Process.Pid] = true
	return nil
}

// end waits for a child that start started.
func (f *family) end(cmd *exec.Cmd) error {
	err := cmd.Wait()
	f.mu.Lock()
	delete(f.own, cmd.Process.Pid)
	f.mu.Unlock()
	return err
}

// run is start and end.
func (f *family) run(cmd *exec.Cmd) error {
	if err := f.start(cmd); err != nil {
		return err
	}
	return f.end(cmd)
}

// reap collects orphans that ended, until ctx does. Only children that start
// did not start are waited for.
func (f *family) reap(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.collect()
		}
	}
}

func (f *family) collect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range processes() {
		if p.zombie && p.parent == os.Getpid() && !f.own[p.pid] {
			_, _ = syscall.Wait4(p.pid, nil, syscall.WNOHANG, nil)
		}
	}
}

// processes reads /proc. A process that ends meanwhile is left out.
func processes() map[int]process {
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	all := make(map[int]process, len(names))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if p, ok := parseStat(string(data)); ok {
			all[p.pid] = p
		}
	}
	return all
}

// parseStat reads a line as proc_pid_stat(5) describes it. The command's name
// is in parentheses and may hold anything, parentheses too.
func parseStat(line string) (process, bool) {
	open, shut := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || shut < open {
		return process{}, false
	}
	fields := strings.Fields(line[shut+1:])
	if len(fields) < 20 {
		return process{}, false
	}
	var p process
	var err error
	if p.pid, err = strconv.Atoi(strings.TrimSpace(line[:open])); err != nil {
		return process{}, false
	}
	p.zombie = fields[0] == "Z" || fields[0] == "X"
	p.parent, _ = strconv.Atoi(fields[1])
	p.session, _ = strconv.Atoi(fields[3])
	p.started, _ = strconv.ParseUint(fields[19], 10, 64)
	return p, true
}

// descendants returns the pids below root, not root itself, that live.
func descendants(all map[int]process, root int) []int {
	children := make(map[int][]int)
	for _, p := range all {
		children[p.parent] = append(children[p.parent], p.pid)
	}
	var below []int
	queue := []int{root}
	for len(queue) > 0 {
		for _, pid := range children[queue[0]] {
			queue = append(queue, pid)
			if !all[pid].zombie {
				below = append(below, pid)
			}
		}
		queue = queue[1:]
	}
	return below
}

// declare makes services of everything that a hook left running. At that moment
// no prompt has run, so nothing else can be a stray; a session of its own does
// not hide a process, nor does the end of its parent.
func (f *family) declare() {
	strays := f.strays(0) // spares what OpenCode started: it may be reading already
	f.mu.Lock()
	defer f.mu.Unlock()
	all := processes()
	for _, pid := range strays {
		if p, ok := all[pid]; ok {
			f.services[pid] = p.started
			f.sessions[p.session] = true
		}
	}
}

// strays returns what a prompt started: descendants that are neither children
// of the supervisor's making (except below agent, the pid of OpenCode) nor
// services.
func (f *family) strays(agent int) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := processes()
	spared := make(map[int]bool)
	spare := func(pid int) {
		spared[pid] = true
		for _, below := range descendants(all, pid) {
			spared[below] = true
		}
	}
	for pid := range f.own {
		if pid == agent {
			spared[pid] = true
		} else {
			spare(pid)
		}
	}
	for _, p := range all {
		if started, ok := f.services[p.pid]; ok && started == p.started || f.sessions[p.session] {
			spare(p.pid)
		}
	}
	var strays []int
	for _, pid := range descendants(all, os.Getpid()) {
		if !spared[pid] {
			strays = append(strays, pid)
		}
	}
	return strays
}

// endStrays ends what a prompt started: asks first, then insists, until nothing
// is left or ctx ends. It returns how many it found at first.
func (f *family) endStrays(ctx context.Context, agent int) (int, error) {
	const polite = 700 * time.Millisecond
	began := time.Now()
	first := -1
	for {
		strays := f.strays(agent)
		if first < 0 {
			first = len(strays)
		}
		if len(strays) == 0 {
			f.collect()
			return first, nil
		}
		signal := syscall.SIGTERM
		if time.Since(began) > polite {
			signal = syscall.SIGKILL
		}
		for _, pid := range strays {
			_ = syscall.Kill(pid, signal) // it may have ended
		}
		select {
		case <-ctx.Done():
			return first, fmt.Errorf("%d processes did not end: %w", len(strays), ctx.Err())
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// endAll kills everything below the supervisor.
func (f *family) endAll() {
	deadline := time.Now().Add(5 * time.Second)
	for {
		below := descendants(processes(), os.Getpid())
		if len(below) == 0 || time.Now().After(deadline) {
			return
		}
		for _, pid := range below {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond) // /proc offers nothing to wait on
	}
}

// memory is the resident memory in bytes of the supervisor and all below it.
func (f *family) memory() int64 {
	page := int64(os.Getpagesize())
	var total int64
	for _, pid := range append(descendants(processes(), os.Getpid()), os.Getpid()) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		if fields := strings.Fields(string(data)); len(fields) > 1 {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			total += n * page
		}
	}
	return total
}
