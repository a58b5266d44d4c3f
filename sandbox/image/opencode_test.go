package image

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tarball writes a package as npm packs it, with one program.
func tarball(t *testing.T, program string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "package.tgz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz := gzip.NewWriter(f)
	files := tar.NewWriter(gz)
	for _, file := range []struct{ name, text string }{{"package/package.json", "{}"}, {"package/bin/opencode", program}} {
		if err := files.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := files.Write([]byte(file.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAProgramThatIsNotThePinnedOneIsRefused(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("right"))
	want := hex.EncodeToString(sum[:])
	path := filepath.Join(t.TempDir(), "opencode")
	if err := unpackProgram(tarball(t, "wrong"), path, want); err == nil || !strings.Contains(err.Error(), "not "+want) {
		t.Errorf("a wrong program: %v", err)
	}
	path = filepath.Join(t.TempDir(), "opencode")
	if err := unpackProgram(tarball(t, "right"), path, want); err != nil || !installed(path) {
		t.Errorf("the right program: %v", err)
	}
}

func TestWhatIsInstalledIsNotFetchedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := OpenCodePath(dir)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("here"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a fetch would fail at once
	if got, err := EnsureOpenCode(ctx, dir); err != nil || got != path {
		t.Errorf("%s, %v", got, err)
	}
}
