package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An unisolated box is for trying the product out where bubblewrap cannot work,
// such as an unprivileged container: the keeper and its processes run beside
// the control plane as the same user, and see and may do what it can. Paths of
// a box are links on the machine itself, and its ports the machine's, so there
// is one box at a time.

// argUnisolated tells the keeper that it is not PID 1 of anything.
const argUnisolated = "unisolated"

// giveUpIsolation is what Options.Unisolated allows when the trial box failed.
func (p *Provider) giveUpIsolation(ctx context.Context, why error) {
	p.log.WarnContext(ctx, "SANDBOXES ARE NOT ISOLATED: the agent and the code it runs can read and change "+
		"everything that this program can, its secrets included; there is one sandbox at a time", "reason", why)
	p.unisolated, p.uid, p.maxBoxes = true, 0, 1
}

// linkPaths makes the constant paths of boxes lead to one box.
func (p *Provider) linkPaths(dir string) error {
	for _, b := range append(p.shared(), inside(filepath.Join(dir, "fs"))...) {
		if strings.HasPrefix(b.Inside, "/etc/") {
			continue // the machine's own will do
		}
		if err := p.linkPath(b); err != nil {
			return fmt.Errorf("a sandbox without isolation needs the path %s for itself: %w", b.Inside, err)
		}
	}
	return nil
}

func (p *Provider) linkPath(b bind) error {
	target, err := os.Readlink(b.Inside)
	switch {
	case err == nil && target == b.Host:
		return nil
	case err == nil:
		_, missing := os.Stat(b.Inside)
		if !strings.HasPrefix(target, p.dir+"/") && missing == nil {
			return fmt.Errorf("it is a link to %s", target)
		}
		if err := os.Remove(b.Inside); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return errors.New("something is there that is not a link")
	}
	if err := os.MkdirAll(filepath.Dir(b.Inside), 0o755); err != nil {
		return err
	}
	return os.Symlink(b.Host, b.Inside)
}

// copyUnisolated is cp without a box around it.
func copyUnisolated(ctx context.Context, source, target string) (string, error) {
	cmd := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", "--sparse=auto", "--", source+"/.", target+"/")
	cmd.Env = []string{"LC_ALL=C", "PATH=" + baseEnv()["PATH"]}
	cmd.WaitDelay = killWait
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// adoptOrphans makes the keeper the parent of what its children leave behind,
// so that it can find them.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopting orphans: %w", err)
	}
	return nil
}

// killDescendants kills all processes below the keeper, which the kernel does
// where the keeper is PID 1. The children's reaper runs meanwhile.
func killDescendants() {
	deadline := time.After(killWait)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		below := descendants(os.Getpid())
		if len(below) == 0 {
			return
		}
		for _, pid := range below {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-tick.C:
		case <-deadline:
			return
		}
	}
}

func descendants(of int) []int {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		rest := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if len(rest) > 1 {
			parents[pid], _ = strconv.Atoi(rest[1])
		}
	}
	var below []int
	for pid := range parents {
		for up := parents[pid]; up > 1; up = parents[up] {
			if up == of {
				below = append(below, pid)
				break
			}
		}
	}
	return below
}
