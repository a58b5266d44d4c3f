package github

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
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// installing lets one test install at a time, so that the others find it done.
var installing sync.Mutex

// octokit installs the scripts' packages, once for each lock file, into the
// cache and returns a folder with the scripts from which they are found.
func octokit(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("OPENINSPECT_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(base, "openinspect-test")
	}
	lock, err := os.ReadFile("testdata/octokit/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(cache, fmt.Sprintf("octokit-%.8x", sha256.Sum256(lock)))
	installing.Lock()
	defer installing.Unlock()
	if _, err := os.Stat(filepath.Join(installed, "node_modules")); errors.Is(err, fs.ErrNotExist) {
		installOctokit(t, installed)
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"script.mjs", "described.mjs", "tools.mjs"} {
		copyFile(t, dir, name)
	}
	return dir
}

// installOctokit installs beside the place and moves there, so that test runs
// that meet do not see each other's halves.
func installOctokit(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), "octokit-new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(made)
	copyFile(t, made, "package.json")
	copyFile(t, made, "package-lock.json")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = made
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("installing Octokit with npm (Node 20 or newer is needed): %v\n%s", err, out)
	}
	dropUnread(t, filepath.Join(made, "node_modules/@octokit/openapi/generated"))
	if err := os.Rename(made, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, other := os.Stat(filepath.Join(dir, "node_modules")); other != nil {
			t.Fatal(err)
		}
	}
}

// dropUnread removes GitHub's descriptions of other products, 400 MB.
func dropUnread(t *testing.T, dir string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if filepath.Base(file) != "api.github.com.json" {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func copyFile(t *testing.T, dir, name string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/octokit", name))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, name), string(data))
}

// runScript runs a script with the stand-in's address and reads what it prints.
func (p *practice) runScript(name string, got any, env ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join(octokit(p.t), name))
	cmd.Env = append(os.Environ(), append(env, "GITHUB_API="+p.http.URL+"/api/v3")...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			p.t.Fatalf("%v\n%s", err, exit.Stderr)
		}
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(out, got); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
}

func TestScriptWrittenWithOctokitRuns(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	var got map[string]any
	p.runScript("script.mjs", &got, "GITHUB_TOKEN="+p.token("alice"))
	want := map[string]any{
		"repositories":  []any{"acme/greeter", "acme/website"},
		"defaultBranch": "main",
		"pull":          map[string]any{"number": 1.0, "author": "alice", "files": 1.0, "additions": 1.0},
		"listed":        []any{"From Octokit"},
		"comments":      []any{"Well done."},
		"again":         map[string]any{"status": 422.0, "message": "A pull request already exists for acme:octokit/try."},
		"draft":         true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
