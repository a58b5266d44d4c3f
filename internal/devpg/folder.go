package devpg

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is who Postgres runs as.
type account struct {
	uid, gid   int
	credential *syscall.Credential // nil: as ourselves
}

// findAccount chooses the account: ourselves unless we are root.
func findAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := osuser.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr != nil || gidErr != nil || uid == 0 {
			continue
		}
		return account{uid, gid, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
	}
	return account{}, errors.New("the private Postgres does not run as root, and there is neither an account postgres nor nobody: start this program as another user, or set DATABASE_URL")
}

// prepareFolder makes the folder, or the one that stands for it, and returns
// its absolute path.
func prepareFolder(dir string, who account, log *slog.Logger) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding the database's folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("making the database's folder: %w", err)
	}
	if who.credential == nil {
		return dir, nil
	}
	if err := os.Chmod(dir, 0o711); err != nil { // whatever the umask says
		return "", fmt.Errorf("letting the database's account into its folder: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("finding the database's folder: %w", err)
	}
	if reachable(real, who) {
		return real, nil
	}
	return moveElsewhere(dir, log)
}

// reachable says whether the account can enter the folder and all above it.
func reachable(dir string, who account) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		st := info.Sys().(*syscall.Stat_t)
		need := os.FileMode(0o001)
		switch {
		case int(st.Uid) == who.uid:
			need = 0o100
		case int(st.Gid) == who.gid:
			need = 0o010
		}
		if info.Mode().Perm()&need == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// initialise makes the cluster if there is none. It is made beside its place and
// moved there, so that a killed initdb leaves nothing half made.
func initialise(ctx context.Context, bin, dir, data string, who account) error {
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return nil
	}
	fresh, err := os.MkdirTemp(dir, "new-")
	if err != nil {
		return fmt.Errorf("making the database's folder: %w", err)
	}
	defer os.RemoveAll(fresh) // gone already when all went well
	if err := os.Chown(fresh, who.uid, who.gid); err != nil {
		return fmt.Errorf("giving the database's folder to its account: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", fresh, "-U", user, "-A", "trust",
		"-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who.credential, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making the database: initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	syscall.Sync() // initdb was told not to: once for all files is faster
	if err := os.Rename(fresh, data); err != nil {
		return fmt.Errorf("putting the new database in its place: %w", err)
	}
	return nil
}

// longestSocketDir leaves room for "/.s.PGSQL.5432" in the 107 bytes of a
// Unix socket's address.
const longestSocketDir = 90

// socketDir is where the socket lies: in the data folder, which only the account
// may enter, or, if that path is too long, in a private folder of the system's
// temporary directory.
func socketDir(data string, who account) (string, error) {
	if len(data) <= longestSocketDir {
		return data, nil
	}
	sum := sha256.Sum256([]byte(data))
	dir := filepath.Join(os.TempDir(), "openinspect-pg-"+hex.EncodeToString(sum[:8]))
	err := os.Mkdir(dir, 0o700)
	switch {
	case err == nil:
		err = os.Chown(dir, who.uid, who.gid)
	case errors.Is(err, os.ErrExist):
		err = nil
	}
	if err != nil {
		return "", fmt.Errorf("making the folder of Postgres's socket: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("making the folder of Postgres's socket: %w", err)
	}
	if st := info.Sys().(*syscall.Stat_t); !info.IsDir() || int(st.Uid) != who.uid || info.Mode().Perm() != 0o700 {
		return "", fmt.Errorf("%s belongs to somebody else: remove it, or choose a data folder with a shorter path", dir)
	}
	return dir, nil
}
