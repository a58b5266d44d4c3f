package local

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// preflightTime bounds the trial box of New.
const preflightTime = 20 * time.Second

// preflight finds bubblewrap and runs a box that does nothing.
func (p *Provider) preflight(ctx context.Context) error {
	path, err := exec.LookPath("bwrap")
	if err != nil {
		return errors.New("sandboxes need bubblewrap, which is not installed: apt-get install bubblewrap " +
			"(or, only to try it out, set LOCAL_UNISOLATED=yes)")
	}
	p.bwrap = path
	ctx, cancel := context.WithTimeout(ctx, preflightTime)
	defer cancel()
	help, err := exec.CommandContext(ctx, path, "--help").CombinedOutput()
	if err != nil {
		return fmt.Errorf("asking bubblewrap what it can do: %w", err)
	}
	if !strings.Contains(string(help), "--as-pid-1") || !strings.Contains(string(help), "--size") {
		return errors.New("sandboxes need bubblewrap 0.5 or newer: apt-get install bubblewrap")
	}
	p.noUserns = strings.Contains(string(help), "--disable-userns")
	if !p.noUserns {
		p.log.WarnContext(ctx, "this bubblewrap cannot forbid user namespaces inside sandboxes; 0.8 can")
	}
	out, err := p.confined(ctx, nil, "/usr/bin/env", "true")
	if err != nil {
		return fmt.Errorf("running a trial sandbox: %w (%s)", explain(out, err), out)
	}
	return nil
}

// explain turns what bubblewrap prints where it is not allowed to work into what to do about it.
func explain(out string, err error) error {
	switch {
	case errors.Is(err, syscall.EPERM), // root of a container that may not mount
		strings.Contains(out, "operation not permitted"), // the stage's words, not bubblewrap's
		strings.Contains(out, "No permissions to create new namespace"),
		strings.Contains(out, "Creating new namespace failed"),
		strings.Contains(out, "setting up uid map"),
		strings.Contains(out, "loopback: Failed RTM_NEWADDR"):
		return errors.New("this system does not let unprivileged users make namespaces; as root, run sysctl -w with whichever exists of " +
			"kernel.unprivileged_userns_clone=1, user.max_user_namespaces=65536 and kernel.apparmor_restrict_unprivileged_userns=0; " +
			"in a container, start that with --privileged; or, only to try it out, set LOCAL_UNISOLATED=yes")
	case strings.Contains(out, "Can't mount proc"):
		return errors.New("this container does not let programs mount /proc; start it with " +
			"--security-opt systempaths=unconfined (Docker) or procMount: Unmasked (Kubernetes)")
	}
	return err
}
