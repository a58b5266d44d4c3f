package local

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"openinspect/sandbox"
)

// bind shows a path of the host in a box.
type bind struct {
	Host, Inside string
	Writable     bool
	Fixed        bool // readable for everybody: needs no staging
}

// Users inside a box, whatever they are outside.
const (
	insideUID  = 1000
	insideName = "agent"
)

// systemBinds are what every box sees of the machine itself: programs,
// libraries and the few files of /etc that they cannot do without.
func (p *Provider) systemBinds() []bind {
	binds := []bind{{Host: "/usr", Inside: "/usr", Fixed: true}}
	for _, path := range etcFiles {
		if _, err := os.Stat(path); err == nil {
			binds = append(binds, bind{Host: path, Inside: path, Fixed: true})
		}
	}
	for _, path := range etcConfigurations {
		if harmless(path) {
			binds = append(binds, bind{Host: path, Inside: path, Fixed: true})
		}
	}
	for _, path := range usrConfigurations {
		if _, err := os.Stat(path); err == nil && !harmless(path) {
			binds = append(binds, bind{Host: filepath.Join(p.dir, "etc", "empty"), Inside: path})
		}
	}
	// Tools that were installed to /opt, known by a bin directory.
	bins, _ := filepath.Glob("/opt/*/bin") // the pattern is well formed
	for _, bin := range bins {
		if dir := filepath.Dir(bin); dir != sandbox.Tools {
			binds = append(binds, bind{Host: dir, Inside: dir, Fixed: true})
		}
	}
	return binds
}

// confinement returns bubblewrap's arguments up to the command. Sources are as
// given: who runs as root passes staged ones. Files in memory get three quarters
// of the box's memory at most, so that they alone never exceed its bound.
func (p *Provider) confinement(binds []bind, memory int64) []string {
	args := []string{p.bwrap,
		"--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
		"--uid", strconv.Itoa(insideUID), "--gid", strconv.Itoa(insideUID),
		"--hostname", "box", "--new-session", "--cap-drop", "ALL", "--clearenv", "--as-pid-1",
	}
	if p.noUserns {
		args = append(args, "--disable-userns")
	}
	for _, dir := range []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"} {
		if to, err := os.Readlink("/" + dir); err == nil {
			args = append(args, "--symlink", to, "/"+dir)
		} else if _, err := os.Stat("/" + dir); err == nil {
			args = append(args, "--ro-bind", "/"+dir, "/"+dir) // a system that has not merged it into /usr
		}
	}
	args = append(args, "--proc", "/proc", "--dev", "/dev",
		// Bubblewrap covers /proc/sys only when it could write there; a box never needs to.
		"--ro-bind", "/proc/sys", "/proc/sys",
		"--size", megabytes(memory/2), "--perms", "1777", "--tmpfs", "/tmp",
		"--size", megabytes(memory/8), "--perms", "1777", "--tmpfs", "/dev/shm",
		"--size", megabytes(memory/16), "--perms", "1777", "--tmpfs", "/run",
		"--dir", "/var", "--symlink", "/tmp", "/var/tmp", "--symlink", "/run", "/var/run")
	for _, b := range binds {
		how := "--ro-bind"
		if b.Writable {
			how = "--bind"
		}
		args = append(args, how, b.Host, b.Inside)
	}
	return append(args, "--remount-ro", "/")
}

func megabytes(n int64) string { return strconv.FormatInt(max(n>>20, 1)<<20, 10) }

// stagePlan turns binds and a command into the stage's work. As root,
// everything that is not readable for everybody goes by way of the stage.
func (p *Provider) stagePlan(binds []bind, memory int64, command ...string) plan {
	pl := plan{UID: p.uid}
	binds = slices.Concat(p.systemBinds(), binds)
	if p.uid != 0 {
		for i := range binds {
			if !binds[i].Fixed {
				pl.Staged = append(pl.Staged, binds[i].Host)
				binds[i].Host = stagedPath(len(pl.Staged) - 1)
			}
		}
	}
	pl.Args = append(p.confinement(binds, memory), command...)
	return pl
}
