package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// predecessorWait is how long a cluster that shuts down is waited for.
const predecessorWait = 15 * time.Second

// postmaster is what postmaster.pid says of a running server.
type postmaster struct {
	pid    int
	status string // starting, ready, stopping
}

// readPostmaster reads postmaster.pid: line 1 is the process, line 8 the status.
func readPostmaster(data string) (postmaster, error) {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return postmaster{}, err
	}
	lines := strings.Split(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil {
		return postmaster{}, fmt.Errorf("reading postmaster.pid: %w", err)
	}
	p := postmaster{pid: pid}
	if len(lines) >= 8 {
		p.status = strings.TrimSpace(lines[7])
	}
	return p, nil
}

// waitForPredecessor waits until no server uses the data. A file that a crash
// left behind is removed if its process is gone or is something else by now:
// Postgres itself would refuse to start because of the reused number.
func waitForPredecessor(ctx context.Context, data string) error {
	ctx, cancel := context.WithTimeout(ctx, predecessorWait)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		p, err := readPostmaster(data)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && !serves(p.pid, data) {
			if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("removing what a crashed Postgres left: %w", err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the database in %s is in use by another program (Postgres is process %d): stop that first", data, p.pid)
		case <-tick.C:
		}
	}
}

// serves says whether the process is a Postgres on the data folder.
func serves(pid int, data string) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(string(cmdline), "\x00")
	return filepath.Base(args[0]) == "postgres" && slices.Contains(args, data)
}

// findBinaries returns the directory of Postgres's programs: those of the data's
// own major version, or the newest for new data.
func findBinaries(data string) (string, error) {
	wanted := ""
	if v, err := os.ReadFile(filepath.Join(data, "PG_VERSION")); err == nil {
		wanted = strings.TrimSpace(string(v))
	}
	var newest, newestMajor string
	for _, dir := range candidates() {
		major := majorVersion(dir)
		if major == "" {
			continue
		}
		if wanted == major {
			return dir, nil
		}
		if newest == "" || number(major) > number(newestMajor) {
			newest, newestMajor = dir, major
		}
	}
	switch {
	case newest == "":
		return "", errors.New("no Postgres is installed: run apt-get install postgresql (or your system's equivalent), or set DATABASE_URL")
	case wanted != "":
		return "", fmt.Errorf("the data in %s was made by Postgres %s, but only Postgres %s is installed: install postgresql-%s, or delete the folder to begin anew",
			data, wanted, newestMajor, wanted)
	}
	return newest, nil
}

// candidates lists directories that may hold Postgres's programs.
func candidates() []string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
	} {
		found, _ := filepath.Glob(pattern) // the patterns are well formed
		dirs = append(dirs, found...)
	}
	return dirs
}

// majorVersion returns the major version of the Postgres in a directory, or ""
// if it has not both of the programs that are needed.
func majorVersion(dir string) string {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return ""
		}
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(out)) // postgres (PostgreSQL) 15.18 (Debian …)
	if len(fields) < 3 {
		return ""
	}
	major, _, _ := strings.Cut(fields[2], ".")
	return major
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // a beta's "19beta1" counts as oldest
	return n
}
