package slack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAppWrittenWithBoltRunsUnmodified drives an app written with Slack's own
// library for JavaScript: mention, answer, button, modal, update.
func TestAppWrittenWithBoltRunsUnmodified(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	startBolt(t, b, installBolt(t))
	general, alice := b.seed.Channels[0].ID, b.seed.Users[0].ID

	ts, err := b.PostAs(alice, general, "", "<@"+b.seed.BotUserID+"> hello")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := b.WaitMessage(within(t), general, ts, func(m Message) bool { return m.Text == "Hello <@"+alice+">" })
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ClickAs(alice, general, answer.TS, "rename", ""); err != nil {
		t.Fatal(err)
	}
	modal := waitModal(t, b, alice)
	if wrong, err := b.SubmitAs(alice, modal.ID, Choice{ActionID: "text", Value: "ab"}); err != nil || wrong["name"] == "" {
		t.Fatalf("a name too short: %v, %v; want a complaint about it", wrong, err)
	}
	if wrong, err := b.SubmitAs(alice, modal.ID, Choice{ActionID: "text", Value: "greeter"}); err != nil || len(wrong) > 0 {
		t.Fatalf("submitting: %v, %v", wrong, err)
	}
	if _, err := b.WaitMessage(within(t), general, ts, func(m Message) bool {
		return m.TS == answer.TS && m.Text == "Renamed to greeter" && m.Blocks == nil
	}); err != nil {
		t.Errorf("%v; the thread: %+v", err, b.Messages(general, ts))
	}
}

func waitModal(t *testing.T, b *bench, user string) View {
	t.Helper()
	ctx := within(t)
	for {
		changed := b.Changed()
		if views := b.Views(user); len(views) > 0 {
			return views[len(views)-1]
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("no modal was opened")
		}
	}
}

// installBolt installs the app's dependencies into a cache outside of the tree
// and returns the folder to run it in.
func installBolt(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is needed to run an app written with Bolt: %v", tool, err)
		}
	}
	cache := os.Getenv("OPENINSPECT_CACHE")
	if cache == "" {
		own, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(own, "openinspect-test")
	}
	lock := read(t, "testdata/bolt-app/package-lock.json")
	sum := sha256.Sum256(append(read(t, "testdata/bolt-app/package.json"), lock...))
	dir := filepath.Join(cache, "bolt-"+hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock := lockCache(t, dir)
	defer unlock()
	for _, name := range []string{"package.json", "package-lock.json", "app.js"} {
		if err := os.WriteFile(filepath.Join(dir, name), read(t, "testdata/bolt-app/"+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	done := filepath.Join(dir, "node_modules", ".complete")
	if _, err := os.Stat(done); err == nil {
		return dir
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lockCache keeps two test runs from installing at the same time.
func lockCache(t *testing.T, dir string) func() {
	t.Helper()
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// startBolt runs the app until the test ends and waits until it says that it
// is running.
func startBolt(t *testing.T, b *bench, dir string) {
	t.Helper()
	node := exec.Command("node", "app.js")
	node.Dir = dir
	node.Env = append(os.Environ(), "SLACK_API_URL="+b.url+"/api/", "SLACK_BOT_TOKEN="+b.seed.BotToken, "SLACK_APP_TOKEN="+b.seed.AppToken)
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var problems bytes.Buffer
	node.Stderr = &problems
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		node.Process.Kill() // it may have ended by itself
		io.Copy(io.Discard, out)
		if err := node.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Errorf("node: %v", err)
		}
		if t.Failed() {
			t.Logf("the app wrote:\n%s", problems.String())
		}
	})
	timer := time.AfterFunc(30*time.Second, func() { node.Process.Kill() })
	defer timer.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "running" {
		t.Fatalf("the app did not start: %q, %v\n%s", line, err, problems.String())
	}
}
