package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openinspect/sandbox"
)

// keeper is PID 1 of a box. Everything that it is told comes from the control
// plane; programs of the box can neither reach its socket nor trace it.
type keeper struct {
	children children
	main     *child
	log      *boundedLog
	end      sync.Once
	// unisolated: it is an ordinary process, see unisolated.go
	unisolated bool
}

// maxProcesses bounds processes and threads of one box, so that a fork bomb
// stays inside. Since Linux 5.14 the limit counts per user namespace.
const maxProcesses = 8192

// startGrace is how long a main program has to fail before Start calls it
// started, so that a wrong flag is an error of Start.
const startGrace = 25 * time.Millisecond

func runKeeper() error {
	if err := closeOnExec(); err != nil {
		return err
	}
	unix.Close(fdLog) // here the number of fdReportRead, whose purpose is past
	in, out := os.NewFile(fdOrders, "orders"), os.NewFile(fdReport, "report")
	unisolated := len(os.Args) > 2 && os.Args[2] == argUnisolated
	if unisolated { // nobody else reports it
		if err := answer(out, report{ChildPID: os.Getpid()}); err != nil {
			return err
		}
	}
	var o orders
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return fmt.Errorf("the control plane ended before it gave orders: %w", err)
	}
	in.Close()
	if err := harden(unisolated); err != nil {
		return refuse(out, err)
	}
	k := &keeper{unisolated: unisolated, log: newBoundedLog(os.Stdout), children: children{waiting: map[int]*child{}}}
	// Go's runtime handles signals that PID 1 would otherwise never get from its
	// own namespace, and ends at some. Asked for, they end nothing; ignored, they
	// would be ignored by the children too. Nobody reads these.
	signal.Notify(make(chan os.Signal, 1))
	go k.children.reap(notify(unix.SIGCHLD))
	var err error
	if k.main, err = k.startMain(o); err != nil {
		return refuse(out, err)
	}
	deadline := time.AfterFunc(o.Lifetime, func() { k.finish(fmt.Sprintf("its lifetime of %s is over", o.Lifetime)) })
	defer deadline.Stop()
	select {
	case <-k.main.done:
		k.log.drained()
		k.killRest()
		return refuse(out, fmt.Errorf("its main program ended at once: %s", describe(k.main.status)))
	case <-time.After(startGrace):
	}
	if err := answer(out, report{Started: true}); err != nil {
		return err
	}
	out.Close()
	return k.serve(o)
}

// serve answers the control plane until the main program ends.
func (k *keeper) serve(o orders) error {
	socket := os.NewFile(fdListen, "keeper.sock")
	listener, err := net.FileListener(socket)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	socket.Close()
	go k.accept(listener.(*net.UnixListener))
	if o.Memory > 0 {
		go k.boundMemory(o.Memory)
	}
	<-k.main.done
	k.log.drained()
	k.finish("its main program ended: " + describe(k.main.status))
	return nil
}

func notify(s os.Signal) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, s)
	return c
}

func refuse(out *os.File, why error) error {
	if err := answer(out, report{Error: why.Error()}); err != nil {
		return errors.Join(why, err)
	}
	return why
}

func answer(out *os.File, r report) error {
	if err := json.NewEncoder(out).Encode(r); err != nil {
		return fmt.Errorf("reporting to the control plane: %w", err)
	}
	return nil
}

// finish ends the box: when PID 1 exits the kernel kills the rest.
func (k *keeper) finish(why string) {
	k.end.Do(func() {
		k.log.note("sandbox ended: " + why)
		k.killRest()
		syscall.Exit(0)
	})
}

// killRest ends what the kernel would not end with the keeper.
func (k *keeper) killRest() {
	if k.unisolated {
		killDescendants()
	}
}

// harden makes the keeper untouchable for the programs of its box, and sets
// what they inherit.
func harden(unisolated bool) error {
	if unisolated {
		return adoptOrphans()
	}
	// Under memory pressure of the machine boxes go before the control plane (proc(5)).
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0); err != nil {
		return fmt.Errorf("setting the order of the out-of-memory killer: %w", err)
	}
	limit := unix.Rlimit{Cur: maxProcesses, Max: maxProcesses}
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &limit); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("bounding processes: %w", err) // EPERM: the machine's own limit is lower
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	syscall.Umask(0o022)
	// Not dumpable: not traceable, and descriptors not to be taken, by the same user (prctl(2)).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("closing the keeper to tracing: %w", err)
	}
	return nil
}

// baseEnv is what every program in a box gets.
func baseEnv() map[string]string {
	return map[string]string{
		"HOME": sandbox.Home, "USER": insideName, "LOGNAME": insideName, "SHELL": "/bin/bash", "LANG": "C.UTF-8",
		"PATH": "/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
}

// environ is baseEnv with extra and, as shells keep it, the directory by the name it was asked for.
func environ(dir string, extra map[string]string) []string {
	all := baseEnv()
	all["PWD"] = dir
	maps.Copy(all, extra)
	list := make([]string, 0, len(all))
	for name, value := range all {
		list = append(list, name+"="+value)
	}
	return list
}

func (k *keeper) startMain(o orders) (*child, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	go k.log.copyFrom(read)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return k.children.start(o.Command, sandbox.Home, environ(sandbox.Home, o.Env), null, write, write)
}

// child is a process that the keeper started.
type child struct {
	pid    int
	done   chan struct{} // closed when it ended
	status syscall.WaitStatus
}

// killGroup kills the child and the process group that it leads.
func (c *child) killGroup() {
	select {
	case <-c.done: // the pid may be another's by now
	default:
		syscall.Kill(-c.pid, syscall.SIGKILL)
	}
}

// children are the processes that the keeper started and waits for. The keeper
// also reaps orphans of the box, so it waits for any process, which os/exec
// cannot share.
type children struct {
	mu      sync.Mutex // held from fork to entry, so that no end comes before its entry
	waiting map[int]*child
}

func (cs *children) start(args []string, dir string, env []string, files ...*os.File) (*child, error) {
	path, err := findProgram(args[0], dir, env)
	if err != nil {
		return nil, err
	}
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir: dir, Env: env, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s in %s: %w", args[0], dir, err)
	}
	c := &child{pid: pid, done: make(chan struct{})}
	cs.waiting[pid] = c
	return c, nil
}

// reap collects ended processes each time one of them says so. Signals
// coalesce; so it takes all there are.
func (cs *children) reap(ended <-chan os.Signal) {
	for range ended {
		cs.mu.Lock()
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			if c := cs.waiting[pid]; c != nil {
				delete(cs.waiting, pid)
				c.status = status
				close(c.done)
			}
		}
		cs.mu.Unlock()
	}
}

// findProgram looks a name up in the PATH of the environment that the program will have.
func findProgram(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, d := range filepath.SplitList(list) {
			if !filepath.IsAbs(d) {
				d = filepath.Join(dir, d)
			}
			path := filepath.Join(d, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("starting %s: %w", name, syscall.ENOENT)
}

// describe says how a process ended.
func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "killed by signal " + s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

// stop asks the main program to end and insists after grace.
func (k *keeper) stop(ctx context.Context, grace time.Duration) {
	syscall.Kill(k.main.pid, syscall.SIGTERM)
	select {
	case <-k.main.done: // serve ends the box
	case <-time.After(grace):
		k.finish("it was stopped, and its main program did not end in " + grace.String())
	case <-ctx.Done():
		k.finish("it was stopped")
	}
}

// boundedLog keeps the end of what the main program prints.
type boundedLog struct {
	mu   sync.Mutex
	file *os.File
	size int64
	idle chan struct{} // closed when the program's output has ended
}

// maxLog is the size at which the older half of a log is dropped.
const maxLog = 1 << 20

func newBoundedLog(f *os.File) *boundedLog { return &boundedLog{file: f, idle: make(chan struct{})} }

func (l *boundedLog) copyFrom(r *os.File) {
	defer close(l.idle)
	defer r.Close()
	io.Copy(l, r) // ends with the pipe: its writers are the program and its children
}

// drained waits for the output that an ended program left in the pipe. A child
// that it left behind may hold the pipe open for ever; that is not waited for.
func (l *boundedLog) drained() {
	select {
	case <-l.idle:
	case <-time.After(startGrace):
	}
}

// Write implements io.Writer. An error of the disk loses text of the log but
// must not stop the program that prints it, so it is not returned.
func (l *boundedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(p)) > maxLog {
		l.halve()
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

func (l *boundedLog) note(text string) {
	fmt.Fprintf(l, "%s %s\n", time.Now().UTC().Format(time.RFC3339), text)
}

func (l *boundedLog) halve() {
	kept := make([]byte, maxLog/2)
	n, _ := l.file.ReadAt(kept, max(0, l.size-maxLog/2))
	if l.file.Truncate(0) != nil {
		return
	}
	n, _ = l.file.Write(kept[:n])
	l.size = int64(n)
}
