package modal

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestScriptWrittenWithModalsLibraryForJavaScriptRuns runs a program on the
// library from npm as it is.
func TestScriptWrittenWithModalsLibraryForJavaScriptRuns(t *testing.T) {
	t.Parallel()
	dir := library(t)
	s := open(t, Options{})
	cmd := exec.CommandContext(s.ctx, "node", filepath.Join(dir, "script.mjs"))
	cmd.Env = append(os.Environ(), "MODAL_SERVER_URL="+s.URL(), "MODAL_TOKEN_ID="+TokenID, "MODAL_TOKEN_SECRET="+TokenSecret)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := map[string]any{
		"exec":        []any{"hello green\n", "oops\n", 3.0},
		"stdin":       []any{"typed in", 0.0},
		"entrypoint":  "entry input\n",
		"timeout":     "no error",
		"timeoutCode": 137.0,
		"files": map[string]any{
			"text": "kept", "list": []any{[]any{"file.txt", "file"}, []any{"sub", "directory"}}, "size": 4.0,
			"missing": "SandboxFilesystemNotFoundError", "notEmpty": "SandboxFilesystemDirectoryNotEmptyError",
		},
		"taken":      true,
		"restored":   "kept",
		"listed":     2.0,
		"byTag":      true,
		"byName":     true,
		"tags":       map[string]any{"session": "s2"},
		"terminated": 137.0,
		"polled":     []any{137.0, nil},
		"left":       1.0,
		"gone":       true,
		"deleted":    "NotFoundError",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	first := s.Sandboxes()[1]
	asked := []any{first.CPU, first.MemMiB, first.Timeout, first.Network}
	wanted := []any{1.5, 1024, 10 * time.Minute, Network{Type: "ALLOWLIST", Domains: []string{"example.com"}}}
	if diff := cmp.Diff(wanted, asked); diff != "" {
		t.Errorf("what was asked for: %s", diff)
	}
}

// library installs the script's package, once for each lock file, into the
// cache and returns the folder to run it in.
func library(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("OPENINSPECT_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(base, "openinspect-test")
	}
	lock, err := os.ReadFile("testdata/sdk/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, fmt.Sprintf("modal-%.8x", sha256.Sum256(lock)))
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); errors.Is(err, fs.ErrNotExist) {
		installLibrary(t, dir)
	}
	copyTestdata(t, dir, "script.mjs")
	return dir
}

// installLibrary installs beside the place and moves there, so that test runs
// that meet do not see each other's halves.
func installLibrary(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), "modal-new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(made)
	copyTestdata(t, made, "package.json")
	copyTestdata(t, made, "package-lock.json")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = made
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("installing Modal's library with npm (Node 20 or newer is needed): %v\n%s", err, out)
	}
	if err := os.Rename(made, dir); err != nil {
		if _, other := os.Stat(filepath.Join(dir, "node_modules")); other != nil {
			t.Fatal(err)
		}
	}
}

func copyTestdata(t *testing.T, dir, name string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/sdk", name))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
