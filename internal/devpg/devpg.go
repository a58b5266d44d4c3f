// Package devpg runs a private Postgres from the system's own binaries.
//
// It is what the control plane uses when DATABASE_URL is unset, and what tests
// use. The cluster listens on a Unix socket in a directory that only its own
// account (and root) can enter, and ends with the program that started it, even
// if that is killed: Postgres gets SIGINT, its fast shutdown.
//
// Postgres refuses to run as root. Started by root, it runs as the account
// postgres, or nobody where there is none. That account has to be able to reach
// the data: where the folder lies below a directory that it cannot enter (root's
// home, say), the data is kept in /var/lib/openinspect instead, under a name
// that is written into the folder, so that the next start finds it there and a
// folder that was deleted means a new database.
//
// At most one program at a time uses a folder. A cluster that is still shutting
// down after its program was killed is waited for.
package devpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// user is the database's superuser. There is no password: who can reach the
// socket is the account itself or root.
const user = "openinspect"

// Waits for Postgres.
const (
	startWait = 60 * time.Second // recovery after a crash included
	stopWait  = 10 * time.Second // a fast shutdown, before it is made an immediate one
	pollEvery = 2 * time.Millisecond
)

// Cluster is a running Postgres.
type Cluster struct {
	URL string // of its database postgres, as libpq reads it

	log    *slog.Logger
	proc   *os.Process
	exited chan struct{} // closed when Postgres has ended
	data   string
}

// Start starts the cluster in dir, making it if there is none. settings are
// further ones of postgresql.conf, such as "fsync=off". Errors say what to do.
func Start(ctx context.Context, dir string, log *slog.Logger, settings ...string) (*Cluster, error) {
	who, err := findAccount()
	if err != nil {
		return nil, err
	}
	dir, err = prepareFolder(dir, who, log)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	bin, err := findBinaries(data)
	if err != nil {
		return nil, err
	}
	if err := waitForPredecessor(ctx, data); err != nil {
		return nil, err
	}
	if err := initialise(ctx, bin, dir, data, who); err != nil {
		return nil, err
	}
	socket, err := socketDir(data, who)
	if err != nil {
		return nil, err
	}
	logPath := filepath.Join(dir, "postgres.log")
	deadline := time.Now().Add(predecessorWait)
	for {
		c := &Cluster{log: log, exited: make(chan struct{}), data: data, URL: connectionURL(socket)}
		cmd := exec.Command(filepath.Join(bin, "postgres"), arguments(data, socket, settings)...)
		if err := c.launch(cmd, who, logPath); err != nil {
			return nil, err
		}
		err := c.awaitReady(ctx)
		if err == nil {
			return c, nil
		}
		if said := tail(logPath); !strings.Contains(said, orphansSaid) || time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("starting Postgres: %w%s", err, said), c.Stop())
		}
		<-c.exited
	}
}

// orphansSaid is what Postgres says and ends with while processes of one that was
// killed still run: they have not noticed yet.
const orphansSaid = "pre-existing shared memory block"

// Stop shuts the cluster down and waits for it. It may be called twice.
func (c *Cluster) Stop() error {
	select {
	case <-c.exited:
		return nil
	default:
	}
	if err := c.proc.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping Postgres: %w", err)
	}
	select {
	case <-c.exited:
		return nil
	case <-time.After(stopWait):
	}
	c.log.Warn("Postgres does not shut down; ending it at once", "data", c.data)
	if err := c.proc.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping Postgres: %w", err)
	}
	<-c.exited
	return nil
}

func connectionURL(socket string) string {
	u := url.URL{Scheme: "postgres", User: url.User(user), Path: "/postgres",
		RawQuery: url.Values{"host": {socket}, "sslmode": {"disable"}}.Encode()}
	return u.String()
}

func arguments(data, socket string, settings []string) []string {
	args := []string{"-D", data}
	for _, s := range append([]string{
		"listen_addresses=", // the socket only
		"unix_socket_directories=" + socket,
		"unix_socket_permissions=0700",
		"max_connections=200",
		"log_min_messages=warning",
	}, settings...) {
		args = append(args, "-c", s)
	}
	return args
}

// launch starts Postgres so that it ends with this program. The signal of a
// parent's death follows the thread that forked, so a goroutine keeps that
// thread for as long as Postgres runs.
func (c *Cluster) launch(cmd *exec.Cmd, who account, logPath string) error {
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening Postgres's log: %w", err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	cmd.Env = environment()
	// A process group of its own: Ctrl-C is for the program, which then stops us in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who.credential, Pdeathsig: syscall.SIGINT, Setpgid: true}
	started := make(chan error)
	go c.watch(cmd, started)
	if err := <-started; err != nil {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	return nil
}

// watch starts cmd and waits for its end on one thread.
func (c *Cluster) watch(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	c.proc = cmd.Process
	started <- err
	if err != nil {
		close(c.exited)
		return
	}
	err = cmd.Wait()
	c.log.Debug("Postgres has ended", "data", c.data, "err", err)
	close(c.exited)
}

// awaitReady waits until postmaster.pid says that our own child is ready. A
// ping would also be answered by somebody else's server on the same socket.
func (c *Cluster) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startWait, errors.New("not ready in time"))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if p, err := readPostmaster(c.data); err == nil && p.pid == c.proc.Pid && p.status == "ready" {
			return nil
		}
		select {
		case <-c.exited:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// environment is the child's: nothing of ours but the time zone and the path.
func environment() []string {
	env := []string{"LC_ALL=C.UTF-8"}
	for _, name := range []string{"PATH", "TZ"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// tail returns the end of Postgres's log, for an error.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil || len(data) == 0 {
		return ""
	}
	const most = 1000
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return ": " + strings.TrimSpace(string(data))
}
