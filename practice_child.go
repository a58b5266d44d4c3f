package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// child keeps `openinspect serve` running as a process of its own, configured by
// nothing but its environment, and starts it again when it dies.
type child struct {
	log    *slog.Logger
	binary string
	env    []string
	out    io.Writer
	ready  string // URL that answers 200 when the child serves

	restarts atomic.Int64

	mu      sync.Mutex
	pid     int
	changed func(pid int) // called after each start
}

// onStart calls f with the child's process id, now and after each new start.
func (c *child) onStart(f func(pid int)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = f
	f(c.pid)
}

func (c *child) started(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
	if c.changed != nil {
		c.changed(pid)
	}
}

// run keeps the child running until ctx ends, then asks it to stop and waits.
func (c *child) run(ctx context.Context) error {
	// The kernel's parent-death signal follows the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.restarts.Add(1)
		c.log.Warn("the control plane ended; starting it again", "err", err)
		if time.Since(began) > 10*time.Second {
			pause = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
	return nil
}

// once starts the child and waits for its end.
func (c *child) once(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, c.binary, "serve")
	cmd.Env = c.env
	cmd.Stdout, cmd.Stderr = c.out, c.out
	// A group of its own: the terminal's Ctrl-C reaches practice alone, which
	// then stops the child in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 40 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the control plane: %w", err)
	}
	c.started(cmd.Process.Pid)
	return cmd.Wait()
}

// waitReady waits until the child answers that it is ready.
func (c *child) waitReady(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.ready, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if c.restarts.Load() >= 3 {
			return fmt.Errorf("the control plane does not start: see its messages above")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the control plane: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// passEnv is what the child inherits of this process's environment.
func passEnv() []string {
	var out []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "XDG_CACHE_HOME", "GOFLAGS", "GOPROXY", "GOCACHE", "GOMODCACHE",
		"npm_config_cache", "npm_config_registry", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY",
		"https_proxy", "http_proxy", "no_proxy", "LOCAL_UNISOLATED",
		"OPENCODE_PATH", "EGRESS_ALLOW", "LOG_LEVEL", "PARK_AFTER", "SNAPSHOT_AFTER", "ARCHIVE_AFTER", "ARCHIVE_DELETE_AFTER", "PROMPT_TIMEOUT", "SETUP_TIMEOUT", "MODEL_SILENCE", "BOOT_TIMEOUT",
		"MAX_SANDBOXES", "MAX_QUEUE", "BOT_PULL_REQUESTS", "AGENT_INSTRUCTIONS", "BUDGET_SESSION_USD", "BUDGET_PERSON_DAY_USD",
		"BUDGET_DAY_USD", "SMALL_MODEL", "MODEL_PRICES"} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return out
}
