// Package pgtest gives each test a database of its own on a real Postgres.
//
// One cluster serves a test binary: in memory where /dev/shm has room for it,
// without fsync. A template is migrated once, and each test gets a copy in
// about ten milliseconds. The cluster ends with the test binary, however that
// ends, and its folder is removed.
package pgtest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq" // the driver
	"go.uber.org/goleak"

	"openinspect/internal/devpg"
	"openinspect/internal/postgres"
	"openinspect/migrations"
)

// cluster is the binary's one, started by the first test that needs it.
var cluster struct {
	once    sync.Once
	err     error
	running *devpg.Cluster
	dir     string
	janitor io.Closer
	creator *sqlx.DB   // connected to the database postgres
	making  sync.Mutex // a template is copied by one at a time
	made    int
}

// Main is for TestMain: it runs the tests, ends the cluster and reports
// goroutines that were left running. It does not return.
func Main(m *testing.M) {
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// New returns a new migrated database, which is dropped after the test.
func New(t testing.TB) *sqlx.DB {
	t.Helper()
	return Open(t, NewURL(t))
}

// Open connects to a database of NewURL once more, as another replica would.
func Open(t testing.TB, url string) *sqlx.DB {
	t.Helper()
	db, err := postgres.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(20)
	t.Cleanup(func() { db.Close() })
	return db
}

// NewURL makes a new migrated database and returns its URL.
func NewURL(t testing.TB) string {
	t.Helper()
	cluster.once.Do(func() { cluster.err = start() })
	if cluster.err != nil {
		t.Fatal(cluster.err)
	}
	cluster.making.Lock()
	defer cluster.making.Unlock()
	cluster.made++
	name := fmt.Sprintf("test_%d", cluster.made)
	if _, err := cluster.creator.Exec(`create database ` + name + ` template template_test strategy file_copy`); err != nil {
		t.Fatalf("making a test's database: %v", err)
	}
	t.Cleanup(func() {
		if _, err := cluster.creator.Exec(`drop database ` + name + ` with (force)`); err != nil {
			t.Errorf("dropping a test's database: %v", err)
		}
	})
	return databaseURL(name)
}

func databaseURL(name string) string {
	u, err := url.Parse(cluster.running.URL)
	if err != nil {
		panic(err) // devpg made it
	}
	u.Path = "/" + name
	return u.String()
}

// memoryNeeded is the room in /dev/shm, in bytes, for which it is taken: Postgres
// keeps up to 1 GB of its log there, and 8 MB for each test that runs.
const memoryNeeded = 2 << 30

// place is where the cluster's folder is made. Containers often have a /dev/shm
// of 64 MB, which the second database would fill.
func place() string {
	var shm syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &shm); err == nil && shm.Bavail*uint64(shm.Bsize) >= memoryNeeded {
		return "/dev/shm"
	}
	return os.TempDir()
}

func start() error {
	dir, err := os.MkdirTemp(place(), "openinspect-pgtest-")
	if err != nil {
		return fmt.Errorf("making the cluster's folder: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres's account has to enter it
		return err
	}
	cluster.dir = dir
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if cluster.running, err = devpg.Start(ctx, dir, log,
		"fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=500", "autovacuum=off"); err != nil {
		return err
	}
	if cluster.janitor, err = startJanitor(dir); err != nil {
		return err
	}
	if cluster.creator, err = sqlx.Open("postgres", cluster.running.URL); err != nil {
		return err
	}
	return makeTemplate(ctx)
}

func makeTemplate(ctx context.Context) error {
	if _, err := cluster.creator.ExecContext(ctx, `create database template_test`); err != nil {
		return fmt.Errorf("making the template: %w", err)
	}
	db, err := sqlx.Open("postgres", databaseURL("template_test"))
	if err != nil {
		return err
	}
	defer db.Close()
	return migrations.Up(ctx, db.DB)
}

// startJanitor starts a small process that removes the folder when this one has
// ended, even if it was killed: it waits for the end of a pipe, then for
// Postgres to be gone.
func startJanitor(dir string) (io.Closer, error) {
	script := `cat; while [ -e "$1/data/postmaster.pid" ] && kill -0 "$2" 2>/dev/null; do sleep 0.05; done; rm -rf "$1"`
	pid, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(pid), "\n")
	cmd := exec.Command("sh", "-c", script, "sh", dir, first)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the janitor: %w", err)
	}
	return stdin, cmd.Process.Release()
}

func stop() error {
	if cluster.running == nil {
		return os.RemoveAll(cluster.dir) // what a failed start left, or nothing
	}
	cluster.creator.Close()
	if err := cluster.running.Stop(); err != nil {
		return err
	}
	cluster.janitor.Close()
	return os.RemoveAll(cluster.dir)
}
