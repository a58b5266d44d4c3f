package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// OpenCodeVersion is the release of OpenCode that the supervisor is written for.
const OpenCodeVersion = "1.18.33"

// openCodeBuild is one platform's package on npm and the checksum of its program.
type openCodeBuild struct {
	pkg, sha256 string
}

// openCodeBuilds is by GOARCH. The package for arm64 lacks this release, so
// there is nothing to pin for it.
var openCodeBuilds = map[string]openCodeBuild{
	"amd64": {"opencode-linux-x64", "0abbb7c32ab0294c0a7bfa2705f9ff0df5dce5ab721d1f00cccfe393f2a11427"},
}

// OpenCodePath is where EnsureOpenCode keeps the program below cacheDir.
func OpenCodePath(cacheDir string) string {
	return filepath.Join(cacheDir, "opencode-"+OpenCodeVersion, "opencode")
}

// CacheDir is OPENINSPECT_CACHE's value if given, else the user's cache folder
// for this product.
func CacheDir(fromEnv string) (string, error) {
	if fromEnv != "" {
		return filepath.Abs(fromEnv)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(dir, "openinspect"), nil
}

// EnsureOpenCode returns the path of the pinned OpenCode below cacheDir,
// fetching it with npm if it is not there. Several processes may call it at
// once; one of them fetches. What is found is trusted, because it got there by
// a rename after its checksum was compared.
func EnsureOpenCode(ctx context.Context, cacheDir string) (string, error) {
	path := OpenCodePath(cacheDir)
	if installed(path) {
		return path, nil
	}
	build, ok := openCodeBuilds[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		return "", fmt.Errorf("no OpenCode is pinned for %s/%s: only for linux/amd64", runtime.GOOS, runtime.GOARCH)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("making OpenCode's folder: %w", err)
	}
	unlock, err := lockFile(filepath.Join(filepath.Dir(path), ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if installed(path) { // by whoever held the lock
		return path, nil
	}
	if err := fetchOpenCode(ctx, build, path); err != nil {
		return "", fmt.Errorf("fetching OpenCode %s: %w", OpenCodeVersion, err)
	}
	return path, nil
}

func installed(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// lockFile holds an exclusive lock of the file until the returned function is called.
func lockFile(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// fetchOpenCode lets npm fetch the platform's package, which is one program in
// a tarball, and installs the program at path. npm is asked rather than the
// registry, because npm knows how this machine reaches it.
func fetchOpenCode(ctx context.Context, build openCodeBuild, path string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", build.pkg+"@"+OpenCodeVersion)
	cmd.Dir = tmp
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("npm is not installed: install Node.js with npm")
		}
		return fmt.Errorf("npm pack: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	lines := strings.Fields(out.String())
	if len(lines) == 0 {
		return errors.New("npm pack named no file")
	}
	program := filepath.Join(tmp, "opencode")
	if err := unpackProgram(filepath.Join(tmp, filepath.Base(lines[len(lines)-1])), program, build.sha256); err != nil {
		return err
	}
	return os.Rename(program, path)
}

// unpackProgram writes the tarball's program to path and compares its checksum.
func unpackProgram(tarball, path, want string) error {
	f, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("reading the package: %w", err)
	}
	files := tar.NewReader(gz)
	for {
		h, err := files.Next()
		if err != nil {
			return fmt.Errorf("looking for the program in the package: %w", err)
		}
		if h.Name == "package/bin/opencode" {
			return writeChecked(path, files, want)
		}
	}
}

func writeChecked(path string, r io.Reader, want string) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, sum), r)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("unpacking the program: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("the program's SHA-256 is %s, not %s as pinned", got, want)
	}
	return nil
}
