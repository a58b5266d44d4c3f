package devpg_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	_ "github.com/lib/pq" // the driver
	"go.uber.org/goleak"

	"openinspect/internal/devpg"
)

// childVar makes the test binary a program that starts a cluster in the named
// folder, says so, and waits to be killed.
const childVar = "DEVPG_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		c, err := devpg.Start(context.Background(), dir, slog.New(slog.DiscardHandler))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.URL)
		select {}
	}
	goleak.VerifyTestMain(m)
}

func log(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// folder returns a folder that other accounts can enter, unlike testing's own.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "devpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "pg")
}

func start(t *testing.T, dir string) *devpg.Cluster {
	t.Helper()
	c, err := devpg.Start(t.Context(), dir, log(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// query runs one statement and returns its one value.
func query(t *testing.T, url, statement string) string {
	t.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var s string
	if err := db.QueryRow(statement).Scan(&s); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return s
}

func postgresPID(t *testing.T, url string) int {
	t.Helper()
	first, _, _ := strings.Cut(query(t, url, `select pg_read_file('postmaster.pid')`), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestDataSurvivesAStopAndAKill(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	c := start(t, dir)
	if got := query(t, c.URL, `create table kept (id text); insert into kept values ('yes') returning id`); got != "yes" {
		t.Fatalf("inserted %q", got)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil { // twice is allowed
		t.Fatal(err)
	}
	c = start(t, dir)
	if err := syscall.Kill(postgresPID(t, c.URL), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c = start(t, dir) // recovers
	if got := query(t, c.URL, `select id from kept`); got != "yes" {
		t.Errorf("after a kill the table has %q", got)
	}
}

func TestAKilledClusterIsStartedAgainWhenItsLastProcessHasNoticed(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	c := start(t, dir)
	slow, err := strconv.Atoi(query(t, c.URL, `select pid::text from pg_stat_activity where backend_type = 'checkpointer'`))
	if err != nil {
		t.Fatal(err)
	}
	postgres := postgresPID(t, c.URL)
	for _, kill := range []struct {
		pid    int
		signal syscall.Signal
	}{{slow, syscall.SIGSTOP}, {postgres, syscall.SIGKILL}} {
		if err := syscall.Kill(kill.pid, kill.signal); err != nil {
			t.Fatal(err)
		}
	}
	noticed := make(chan error, 1)
	go func() {
		said := []byte{}
		for !bytes.Contains(said, []byte("still in use")) && t.Context().Err() == nil {
			said, _ = os.ReadFile(filepath.Join(dir, "postgres.log"))
		}
		noticed <- syscall.Kill(slow, syscall.SIGCONT)
	}()
	again := start(t, dir)
	if err := <-noticed; err != nil {
		t.Error(err)
	}
	if postgresPID(t, again.URL) == postgres {
		t.Error("it is the killed one")
	}
}

func TestTheClusterEndsWithItsKilledProgramAndTheNextOneWaitsForIt(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVar+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(url, "postgres://") {
		t.Fatalf("the child said %q, %v", url, err)
	}
	pid := postgresPID(t, strings.TrimSpace(url))
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	c := start(t, dir)
	if got := postgresPID(t, c.URL); got == pid {
		t.Error("the killed program's Postgres is still the one that serves")
	}
	if err := syscall.Kill(pid, 0); err == nil {
		if cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(cmd), dir) {
			t.Error("the killed program's Postgres still runs")
		}
	}
}

func TestAnInterruptedSetUpIsDoneAgain(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	// What a killed initdb leaves: a folder beside the place, half full.
	if err := os.MkdirAll(filepath.Join(dir, "new-123", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := query(t, start(t, dir).URL, `select 'up'`); got != "up" {
		t.Errorf("got %q", got)
	}
}

func TestAReusedProcessNumberDoesNotBlockTheStart(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	c := start(t, dir)
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	// A crash left the file behind, and the number is now ours.
	pid := filepath.Join(dir, "data", "postmaster.pid")
	if err := os.WriteFile(pid, fmt.Appendf(nil, "%d\n%s\n", os.Getpid(), filepath.Dir(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
}

func TestOtherVersionsOfTheDataAreRefusedInASentence(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := devpg.Start(t.Context(), dir, log(t))
	if err == nil || !strings.Contains(err.Error(), "was made by Postgres 9, but only Postgres") {
		t.Errorf("error %v", err)
	}
}

func TestAPrivateHomeOfRootDoesNotMatter(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not root: Postgres runs as ourselves, in our own home")
	}
	home, err := os.MkdirTemp("", "devpg-home-") // 0700
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	dir := filepath.Join(home, strings.Repeat("long-", 20), "pg")
	c := start(t, dir)
	query(t, c.URL, `create table kept (id text); insert into kept values ('yes') returning id`)
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if location, err := os.ReadFile(filepath.Join(dir, "location")); err == nil {
		t.Cleanup(func() { os.RemoveAll(strings.TrimSpace(string(location))) })
	}
	if got := query(t, start(t, dir).URL, `select id from kept`); got != "yes" {
		t.Errorf("after a restart the table has %q", got)
	}
}

func TestATemporaryFolderThatIsDeletedLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	private := func() string { // a folder in a home that other accounts cannot enter
		home, err := os.MkdirTemp("", "devpg-gone-") // 0700
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(home) })
		return filepath.Join(home, "pg")
	}
	gone, kept := private(), private()
	data := func(dir string) string {
		location, err := os.ReadFile(filepath.Join(dir, "location"))
		if err != nil { // not root: the data lies in the folder itself
			return filepath.Join(dir, "data")
		}
		return strings.TrimSpace(string(location))
	}
	for _, dir := range []string{gone, kept} {
		if err := start(t, dir).Stop(); err != nil {
			t.Fatal(err)
		}
	}
	goneData, keptData := data(gone), data(kept)
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	start(t, private())
	if _, err := os.Stat(goneData); !os.IsNotExist(err) {
		t.Errorf("the deleted folder's data is still in %s: %v", goneData, err)
	}
	if _, err := os.Stat(keptData); err != nil {
		t.Errorf("the other folder's data is gone: %v", err)
	}
}

func BenchmarkSecondStart(b *testing.B) {
	dir, err := os.MkdirTemp("", "devpg-bench-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		b.Fatal(err)
	}
	once := func() {
		c, err := devpg.Start(b.Context(), filepath.Join(dir, "pg"), slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Stop(); err != nil {
			b.Fatal(err)
		}
	}
	once() // makes the data
	for b.Loop() {
		once()
	}
}
