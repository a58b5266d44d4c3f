package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"openinspect/sandbox"
)

// TestWithoutIsolationOnlyIfAskedFor runs a control plane where bubblewrap is
// there and forbidden to work, as in an unprivileged container: in a sandbox.
func TestWithoutIsolationOnlyIfAskedFor(t *testing.T) {
	t.Parallel()
	args := []string{"--unshare-user", "--uid", "0", "--gid", "0", "--disable-userns", "--unshare-pid", "--die-with-parent",
		"--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
		"--ro-bind", os.Args[0], "/local.test", "--setenv", envScript, "unisolated", "--setenv", envScriptDir, "/tmp/state"}
	for _, dir := range []string{"bin", "lib", "lib64", "sbin"} {
		if to, err := os.Readlink("/" + dir); err == nil {
			args = append(args, "--symlink", to, "/"+dir)
		}
	}
	out, err := exec.CommandContext(t.Context(), "bwrap", append(args, "/local.test")...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "lived without isolation") {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "SANDBOXES ARE NOT ISOLATED") {
		t.Errorf("no warning in\n%s", out)
	}
}

// unisolatedLife is a script: what a session needs of a box. That the caller
// could open a provider at all is checked by opening it anew both ways.
func unisolatedLife(ctx context.Context, p *Provider) error {
	if _, err := New(ctx, Options{Dir: p.dir + "-isolated"}); err == nil || !strings.Contains(err.Error(), "sysctl") {
		return fmt.Errorf("opened with isolation: %v", err)
	}
	spec := sandbox.Spec{Name: "one", Command: []string{"sleep", "600"}}
	b, err := p.Start(ctx, spec)
	if err != nil {
		return err
	}
	if _, err := p.Start(ctx, sandbox.Spec{Name: "two", Command: []string{"sleep", "600"}}); !errors.Is(err, sandbox.ErrCapacity) {
		return fmt.Errorf("a second box: %v", err)
	}
	if err := say(ctx, b, "pwd; setsid sleep 602.5 >/dev/null 2>&1 & echo kept >/workspace/file; cat ~/none 2>&1", "/home/agent\n"); err != nil {
		return err
	}
	for range 2 {
		ref, err := b.Snapshot(ctx, 0)
		if err != nil {
			return err
		}
		if spec.From, err = b.Park(ctx); err != nil {
			return err
		}
		if left := hostProcesses("602.5"); len(left) > 0 {
			return fmt.Errorf("left after Park: %v", left)
		}
		if err := p.Delete(ctx, ref); err != nil {
			return err
		}
		if b, err = p.Start(ctx, spec); err != nil {
			return err
		}
		if err := say(ctx, b, "cat /workspace/file; setsid sleep 602.5 >/dev/null 2>&1 &", "kept\n"); err != nil {
			return err
		}
	}
	if err := b.Kill(ctx); err != nil {
		return err
	}
	if left := hostProcesses("602.5"); len(left) > 0 {
		return fmt.Errorf("left after Kill: %v", left)
	}
	fmt.Println("lived without isolation")
	return nil
}

func say(ctx context.Context, b sandbox.Box, script, want string) error {
	var out bytes.Buffer
	if _, err := b.Exec(ctx, sandbox.Cmd{Args: []string{"bash", "-c", script}, Stdout: &out}); err != nil {
		return err
	}
	if !strings.HasPrefix(out.String(), want) {
		return fmt.Errorf("%s printed %q, want %q", script, out.String(), want)
	}
	return nil
}
