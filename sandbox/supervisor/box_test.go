package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sandbox/supervisor/opencodetest"
)

// box is a supervisor's process with folders of its own.
type box struct {
	t      testing.TB
	config boxConfig
	tmp    string   // its temporary directory
	env    []string // what the supervisor is given besides its own
	cmd    *exec.Cmd
	done   chan struct{}
	err    error
	stdout bytes.Buffer
	stderr *tailWriter
}

// newBox prepares a box that talks to the plane.
func (p *plane) newBox() *box {
	p.t.Helper()
	dir := p.t.TempDir()
	tmp, err := os.MkdirTemp("", "box-") // short, for the sockets in it
	if err != nil {
		p.t.Fatal(err)
	}
	home := filepath.Join(dir, "home")
	p.t.Cleanup(func() {
		os.RemoveAll(tmp) // OpenCode unpacks libraries there and leaves them
		// Only root can empty the folder that prepareConfig closes.
		if err := os.Chmod(filepath.Join(home, ".config", "opencode"), 0o755); err != nil && !os.IsNotExist(err) {
			p.t.Error(err)
		}
	})
	return &box{t: p.t, tmp: tmp, config: boxConfig{
		Control: p.control, Token: testToken, OpenCode: opencodetest.Binary(p.t),
		Home: home, Workspace: filepath.Join(dir, "workspace"),
	}}
}

// start starts the supervisor; the test's end kills it.
func (b *box) start() {
	b.t.Helper()
	raw, err := json.Marshal(b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	b.cmd = exec.Command(exe)
	b.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SUPERVISOR_UNDER_TEST=" + string(raw),
		sandbox.EnvToken + "=" + testToken, "TMPDIR=" + b.tmp}
	b.cmd.Env = append(b.cmd.Env, b.env...)
	log := &tailWriter{}
	b.cmd.Stderr, b.stderr = log, log
	b.cmd.Stdout = &b.stdout
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.done = make(chan struct{})
	go func() { b.err = b.cmd.Wait(); close(b.done) }()
	b.t.Cleanup(func() {
		b.kill()
		if b.t.Failed() {
			b.t.Logf("the supervisor's log:\n%s", log)
		}
	})
}

// kill ends the box as a provider does: the supervisor and all below it at once.
func (b *box) kill() {
	all := append(descendants(processes(), b.cmd.Process.Pid), b.cmd.Process.Pid)
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-b.done
}

// checkout is the working tree.
func (b *box) checkout() string { return filepath.Join(b.config.Workspace, "greeter") }

// below lists the command lines of the processes in the box.
func (b *box) below() []string {
	var lines []string
	for _, pid := range descendants(processes(), b.cmd.Process.Pid) {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		lines = append(lines, strings.ReplaceAll(strings.TrimRight(string(data), "\x00"), "\x00", " "))
	}
	return lines
}

// gone waits until no process of the box has the text in its command line.
func (b *box) gone(text string, within time.Duration) {
	b.t.Helper()
	b.eventually("the end of "+text, within, func() bool { return !strings.Contains(strings.Join(b.below(), "\n"), text) })
}

// eventually waits for something that only /proc shows, which tells nobody.
func (b *box) eventually(what string, within time.Duration, ok func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; !ok(); <-tick.C {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s did not come within %s; these run: %q", what, within, b.below())
		}
	}
}
