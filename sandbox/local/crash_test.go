package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"openinspect/sandbox"
)

// The test binary is its own control plane in another process: TestMain runs
// one of these if the environment says so.
const (
	envScript    = "LOCAL_TEST_SCRIPT"
	envScriptDir = "LOCAL_TEST_DIR"
)

var scripts = map[string]func(context.Context, *Provider) error{
	// starts a box and says its id; waits to be killed.
	"start": func(ctx context.Context, p *Provider) error {
		b, err := p.Start(ctx, sandbox.Spec{Name: "orphan", Command: []string{"sleep", "600"}})
		if err != nil {
			return err
		}
		fmt.Println(b.ID())
		<-ctx.Done()
		return nil
	},
	// parks a box that takes a second to end once it was asked to, which its
	// workspace shows; waits to be killed.
	"park": func(ctx context.Context, p *Provider) error {
		program := `trap 'touch /workspace/asked; sleep 1; exit' TERM; while :; do sleep 0.1; done`
		b, err := p.Start(ctx, sandbox.Spec{Name: "slow to end", Command: []string{"/bin/sh", "-c", program}})
		if err != nil {
			return err
		}
		fmt.Println(b.ID())
		_, err = b.Park(ctx)
		return err
	},
	// goes through everything again and again; its killer picks the moment.
	"everything": func(ctx context.Context, p *Provider) error {
		fmt.Println("begun")
		for {
			if err := everything(ctx, p); err != nil {
				return err
			}
		}
	},
	"unisolated": unisolatedLife,
	// tries to take a name that others want too.
	"race": func(ctx context.Context, p *Provider) error {
		_, err := p.Start(ctx, sandbox.Spec{Name: "wanted", Command: []string{"sleep", "600"}})
		if errors.Is(err, sandbox.ErrInvalid) {
			fmt.Println("lost")
			return nil
		}
		fmt.Println("won")
		return err
	},
}

func everything(ctx context.Context, p *Provider) error {
	spec := sandbox.Spec{Name: "busy", Command: []string{"sleep", "600"}}
	b, err := p.Start(ctx, spec)
	if err != nil {
		return err
	}
	snapshot, err := b.Snapshot(ctx, 0)
	if err != nil {
		return err
	}
	parked, err := b.Park(ctx)
	if err != nil {
		return err
	}
	spec.From = parked
	if b, err = p.Start(ctx, spec); err != nil {
		return err
	}
	if err := b.Kill(ctx); err != nil {
		return err
	}
	built, err := p.Build(ctx, snapshot, []string{"touch x"}, io.Discard)
	if err != nil {
		return err
	}
	return errors.Join(p.Delete(ctx, built), p.Delete(ctx, snapshot))
}

func runScript(name string) error {
	ctx := context.Background()
	p, err := New(ctx, Options{Dir: os.Getenv(envScriptDir), Unisolated: name == "unisolated"})
	if err != nil {
		return err
	}
	return scripts[name](ctx, p)
}

// controlPlane starts a script in another process and returns its first word.
func controlPlane(t *testing.T, script, dir string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envScript+"="+script, envScriptDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	word, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the other control plane said %q, %v", word, err)
	}
	return cmd, strings.TrimSpace(word)
}

func TestABoxOutlivesItsControlPlane(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "sandboxes")
	cmd, id := controlPlane(t, "start", dir)
	cmd.Process.Kill()
	cmd.Wait()
	p := open(t, Options{Dir: dir})
	found, err := p.Attach(t.Context(), id)
	if err != nil {
		t.Fatalf("attaching after the control plane was killed: %v", err)
	}
	b := found.(*box)
	if out, exit := sh(t, b, "echo alive"); exit != 0 || out != "alive" {
		t.Errorf("exit %d, %q", exit, out)
	}
	var names []string
	for info, err := range p.List(t.Context(), nil) {
		names = append(names, info.Name)
		if err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(names, []string{"orphan"}) {
		t.Errorf("boxes: %q", names)
	}
	if err := b.Kill(t.Context()); err != nil {
		t.Errorf("killing: %v", err)
	}
	wantNothing(t, p)
}

// TestAKilledControlPlaneLeaksNothing kills one at many moments of its work. All
// that may remain is a live box, which is found and killed, and saved
// filesystems whose names the killed one may have told somebody.
func TestAKilledControlPlaneLeaksNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "sandboxes")
	for i := range 12 {
		cmd, _ := controlPlane(t, "everything", dir)
		died := time.NewTimer(time.Duration(i*37) * time.Millisecond) // the moment, not a wait for something
		<-died.C
		cmd.Process.Kill()
		cmd.Wait()
		p, err := New(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatalf("opening after kill %d: %v", i, err)
		}
		for info, err := range p.List(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			b, err := p.Attach(t.Context(), info.ID)
			if err != nil {
				t.Fatalf("attaching to a listed box: %v", err)
			}
			if err := b.Kill(t.Context()); err != nil {
				t.Fatalf("killing a listed box: %v", err)
			}
		}
		tidyOnce(t, p)
		wantNothing(t, p)
	}
}

// TestABoxThatEndsAfterTheOneWhoParkedItIsTidied is a control plane that is killed
// between its order to end and the end: the next one finds the box alive.
func TestABoxThatEndsAfterTheOneWhoParkedItIsTidied(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "sandboxes")
	cmd, id := controlPlane(t, "park", dir)
	eventually(t, "the box is asked to end", func() bool {
		_, err := os.Stat(filepath.Join(dir, "boxes", id, "fs", "workspace", "asked"))
		return err == nil
	})
	cmd.Process.Kill()
	cmd.Wait()
	p := open(t, Options{Dir: dir})
	tidyOnce(t, p)
	wantNothing(t, p)
	ref, err := p.Salvage(t.Context(), id)
	if err != nil {
		t.Fatalf("salvaging what was to be parked: %v", err)
	}
	b := start(t, p, func(s *sandbox.Spec) { s.From = ref })
	if _, exit := sh(t, b, "test -e /workspace/asked"); exit != 0 {
		t.Error("the files of the box are lost")
	}
	if err := b.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// tidyOnce is what Run does every minute, once all boxes have ended that are about to.
func tidyOnce(t *testing.T, p *Provider) {
	t.Helper()
	wantNoProcess(t, p)
	if err := errors.Join(p.tidy(t.Context()), p.emptyTrash()); err != nil {
		t.Fatal(err)
	}
}

// TestABoxWithoutOrdersEnds is a control plane that dies while bubblewrap
// starts: nobody reads its report, and nobody gives orders.
func TestABoxWithoutOrdersEnds(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	for range 5 {
		dir := filepath.Join(p.dir, "tmp", newID())
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := p.makeFilesystem(filepath.Join(dir, "fs")); err != nil {
			t.Fatal(err)
		}
		l, err := p.launch(t.Context(), dir, smallMemory)
		if err != nil {
			t.Fatal(err)
		}
		l.close()
		defer os.RemoveAll(dir)
	}
	program, err := os.Stat(p.program)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of boxes without orders", func() bool { return len(processesOf(p.dir, program)) == 0 })
}

// wantNothing fails if a process of a box or a directory of one is left.
func wantNothing(t *testing.T, p *Provider) {
	t.Helper()
	wantNoProcess(t, p)
	for _, name := range []string{"boxes", "tmp", "trash"} {
		left, err := os.ReadDir(filepath.Join(p.dir, name))
		if err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", name, left, err)
		}
	}
}

// wantNoProcess waits for the end of all processes of boxes: a keeper without orders,
// or one that has to end, is on its way out.
func wantNoProcess(t *testing.T, p *Provider) {
	t.Helper()
	program, err := os.Stat(p.program)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of all processes of boxes", func() bool { return len(processesOf(p.dir, program)) == 0 })
}

// processesOf finds processes that run the program of boxes or hold a file of
// theirs open: keepers, and bubblewrap on its way to one.
func processesOf(dir string, program os.FileInfo) []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		line, _ := os.ReadFile(proc + "/cmdline")
		exe, err := os.Stat(proc + "/exe")
		if err == nil && os.SameFile(exe, program) || bytes.Contains(line, []byte(dir+"/")) {
			found = append(found, proc)
			continue
		}
		fds, _ := filepath.Glob(proc + "/fd/*")
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir+"/") {
				found = append(found, proc)
				break
			}
		}
	}
	return found
}

func TestControlPlanesOverOneDirectoryShareNames(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	var mu sync.Mutex
	var words []string
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, word := controlPlane(t, "race", p.dir)
			mu.Lock()
			defer mu.Unlock()
			words = append(words, word)
		})
	}
	wg.Wait()
	slices.Sort(words)
	if !slices.Equal(words, []string{"lost", "lost", "lost", "won"}) {
		t.Errorf("racing for a name: %q", words)
	}
	for info := range p.List(t.Context(), nil) {
		if b, err := p.Attach(t.Context(), info.ID); err != nil {
			t.Error(err)
		} else if err := b.Kill(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestAnUnprivilegedControlPlane runs the other tests as a user that has
// nothing. Where they already run as one there is nothing left to do as root.
func TestAnUnprivilegedControlPlane(t *testing.T) {
	if os.Getuid() != 0 {
		return
	}
	t.Parallel()
	const uid = 12345
	dir, err := os.MkdirTemp("", "local") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary := filepath.Join(dir, "local.test")
	// By another process: a child that a test starts meanwhile would hold our own file open for writing.
	if out, err := exec.CommandContext(t.Context(), "cp", os.Args[0], binary).CombinedOutput(); err != nil {
		t.Fatalf("copying the tests: %v\n%s", err, out)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(binary, 0o755), os.Chown(dir, uid, uid)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.timeout=5m")
	cmd.Dir = dir
	cmd.Env = []string{"TMPDIR=" + dir, "PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as user %d: %v\n%s", uid, err, out)
	}
}
