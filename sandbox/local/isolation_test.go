package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"openinspect/sandbox"
)

// start starts a box that sleeps and ends with the test.
func start(t *testing.T, p *Provider, change ...func(*sandbox.Spec)) *box {
	t.Helper()
	s := sandbox.Spec{Name: "test " + newID(), Command: []string{"sleep", "600"}}
	for _, c := range change {
		c(&s)
	}
	b, err := p.start(t.Context(), s, nil)
	if err != nil {
		t.Fatalf("starting a box: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Kill(context.Background()); err != nil { // the test's own context has ended
			t.Errorf("killing: %v", err)
		}
	})
	return b
}

// sh runs a script in the box and returns all it printed and its exit status.
func sh(t *testing.T, b *box, script string, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	exit, err := b.Exec(t.Context(), sandbox.Cmd{
		Args: append([]string{"bash", "-c", script, "bash"}, args...), Stdout: &out, Stderr: &out, Timeout: time.Minute,
	})
	if err != nil {
		t.Fatalf("running %q: %v", script, err)
	}
	return strings.TrimSpace(out.String()), exit
}

func TestWhatABoxMayNotDo(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p)
	for what, script := range map[string]string{
		"write to /usr":                 "touch /usr/x",
		"write to the root":             "touch /x",
		"write to /etc":                 "touch /etc/x || echo x >>/etc/passwd",
		"change its program":            "echo x >>" + Program,
		"write kernel settings":         "echo x >/proc/sys/kernel/core_pattern",
		"write its own limits":          "echo 1 >/proc/sys/user/max_user_namespaces",
		"write to sysrq":                "echo h >/proc/sysrq-trigger",
		"remount":                       "mount -o remount,rw /usr",
		"mount":                         "mount -t tmpfs tmpfs /tmp",
		"make a user namespace":         "unshare --user --map-root-user true",
		"make a network namespace":      "unshare --net true",
		"make a device":                 "mknod /tmp/disk b 8 0",
		"see block devices":             "test -n \"$(find /dev -type b)\"",
		"see /sys":                      "test -e /sys/kernel",
		"become root":                   "setpriv --reuid 0 true",
		"become root by su":             "echo | su -c true",
		"lower its nice value":          "nice -n -5 true 2>&1 | grep -q denied && false",
		"trace its keeper":              "cat /proc/1/mem || cat /proc/1/environ",
		"see its keeper's descriptors":  "ls -l /proc/1/fd/3",
		"enter its keeper's namespaces": "nsenter -t 1 -m true",
		"see root's home":               "ls /root",
		"see other homes":               "test \"$(ls /home)\" != agent",
		"see host keys":                 "ls /etc/ssl/private || cat /etc/shadow",
		"see the sandboxes' directory":  "ls '" + p.dir + "'",
		"have more than 8192 processes": "test $(ulimit -u) = unlimited || test $(ulimit -u) -gt 8192",
		"raise that":                    "ulimit -u unlimited",
		"have another interface":        "test $(tail -n +3 /proc/net/dev | wc -l) -gt 1",
		"reach the internet":            "exec 3<>/dev/tcp/192.0.2.1/80",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if out, exit := sh(t, b, script); exit == 0 {
				t.Errorf("%q succeeded and printed %q", script, out)
			}
		})
	}
}

func TestABoxHasNoPrivileges(t *testing.T) {
	t.Parallel()
	b := start(t, open(t, Options{}))
	status, _ := sh(t, b, "cat /proc/self/status")
	for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if got := statusField([]byte(status), name+":"); got != "0000000000000000" {
			t.Errorf("%s is %s", name, got)
		}
	}
	if got := statusField([]byte(status), "NoNewPrivs:"); got != "1" {
		t.Errorf("NoNewPrivs is %s", got)
	}
	if out, _ := sh(t, b, "id"); out != "uid=1000(agent) gid=1000(agent) groups=1000(agent)" {
		t.Errorf("it is %s", out)
	}
	// On the host too: root without capabilities could still write to files of root.
	keeper, err := os.ReadFile("/proc/" + strconv.Itoa(b.record.Keeper.PID) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	uid := strings.Fields(statusField(keeper, "Uid:"))
	if want := strconv.Itoa(os.Getuid()); uid[0] == "0" || want != "0" && uid[0] != want {
		t.Errorf("on the host its user is %v", uid)
	}
	if groups := statusField(keeper, "Groups:"); os.Getuid() == 0 && groups != "" && groups != uid[0] {
		t.Errorf("on the host it has the groups %s", groups)
	}
}

func TestABoxSeesNothingOfTheHostsProcessesAndNetwork(t *testing.T) {
	t.Parallel()
	b := start(t, open(t, Options{}))
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	port := strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port)
	if out, exit := sh(t, b, "exec 3<>/dev/tcp/127.0.0.1/$1", port); exit == 0 {
		t.Errorf("a box reached a listener on the host's loopback: %s", out)
	}
	abstract, err := net.Listen("unix", "@local-test-"+newID())
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	connect := `use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); exit(connect(S, pack("S a*", AF_UNIX, "\0" . $ARGV[0])) ? 0 : 1)`
	if _, exit := sh(t, b, `perl -e "$1" "$2"`, connect, strings.TrimPrefix(abstract.Addr().String(), "@")); exit == 0 {
		t.Error("a box reached an abstract socket of the host")
	}
	unique := "600." + strconv.Itoa(os.Getpid())
	host := exec.Command("sleep", unique)
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { host.Process.Kill(); host.Wait() }()
	if out, _ := sh(t, b, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ls -d /proc/[0-9]* | wc -l"); strings.Contains(out, unique) {
		t.Errorf("a box sees a process of the host: %s", out)
	}
}

func TestABoxSeesNothingOfAnotherBox(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	mark := "mark" + newID()
	one := start(t, p, func(s *sandbox.Spec) { s.Env = map[string]string{"SECRET": mark} })
	two := start(t, p)
	if err := one.WriteFile(t.Context(), sandbox.Home+"/"+mark, strings.NewReader(mark)); err != nil {
		t.Fatal(err)
	}
	// In two halves, so that the search does not find itself.
	look := `find / -name "*$1$2*" -print -quit 2>/dev/null
all=$(cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' '); [[ $all == *"$1$2"* ]] && echo "$all"`
	if out, _ := sh(t, one, look, mark[:10], mark[10:]); !strings.Contains(out, mark) {
		t.Fatalf("the search does not work: %q", out)
	}
	if out, _ := sh(t, two, look, mark[:10], mark[10:]); out != "" {
		t.Errorf("a box sees of another: %s", out)
	}
}

func TestSecretsOfTheControlPlaneStayOut(t *testing.T) {
	t.Parallel()
	token := "token" + newID()
	b := start(t, open(t, Options{}), func(s *sandbox.Spec) { s.Env = map[string]string{sandbox.EnvToken: token} })
	if out, _ := sh(t, b, "cat /proc/1/environ /proc/self/environ 2>/dev/null | tr '\\0' '\\n'"); strings.Contains(out, controlSecret) {
		t.Errorf("the control plane's environment is in the box: %s", out)
	}
	// The box's own token is nobody else's business either: arguments are public.
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(token)) {
			t.Errorf("the box's token is in the arguments of %s", path)
		}
	}
	filepath.WalkDir(b.p.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(token)) {
			t.Errorf("the box's token is in %s", path)
		}
		return nil
	})
}

func TestDescriptorsOfTheControlPlaneStayOut(t *testing.T) {
	t.Parallel()
	file, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inherited, err := unix.Dup(int(file.Fd())) // without the flag that Go sets
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	b := start(t, open(t, Options{}), func(s *sandbox.Spec) {
		s.Command = []string{"sh", "-c", "ls /proc/self/fd >fds; exec sleep 600"}
	})
	// 3 is the directory that ls reads.
	if out, _ := sh(t, b, "until [ -s fds ]; do sleep 0.01; done; echo $(cat fds); echo $(ls /proc/self/fd)"); out != "0 1 2 3\n0 1 2 3" {
		t.Errorf("descriptors of the main program and of a command: %q", out)
	}
	for _, pid := range []int{b.record.Keeper.PID, parentOf(t, b.record.Keeper.PID)} {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && to == "/etc/hostname" {
				t.Errorf("process %d has it as %s", pid, fd)
			}
		}
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	parent, err := strconv.Atoi(statusField(status, "PPid:"))
	if err != nil {
		t.Fatal(err)
	}
	return parent
}

func TestLinksLeadNowhereOutside(t *testing.T) {
	t.Parallel()
	b := start(t, open(t, Options{}))
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, target := range map[string]string{
		"absolute": secret, "relative": strings.Repeat("../", 20) + secret, "through /proc": "/proc/1/root" + secret,
	} {
		if _, exit := sh(t, b, `ln -sfn "$1" $HOME/link`, target); exit != 0 {
			t.Fatal("making a link")
		}
		var out bytes.Buffer
		if err := b.ReadFile(t.Context(), sandbox.Home+"/link", &out); err == nil {
			t.Errorf("%s link: read %q", what, out.String())
		}
		// Writing may fail or stay inside; it must not arrive.
		if err := b.WriteFile(t.Context(), sandbox.Home+"/link", strings.NewReader("overwritten")); err != nil {
			t.Logf("%s link: %v", what, err)
		}
		if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
			t.Errorf("%s link: the host's file is %q, %v", what, text, err)
		}
	}
	sh(t, b, `rm -rf $HOME/link; ln -s / $HOME/dir; mkfifo $HOME/fifo; ln -s /dev/zero $HOME/zero`)
	for _, path := range []string{"/dir" + secret, "/fifo", "/zero"} {
		if err := b.ReadFile(t.Context(), sandbox.Home+path, io.Discard); err == nil {
			t.Errorf("read %s", path)
		}
	}
	if err := b.WriteFile(t.Context(), sandbox.Home+"/fifo", strings.NewReader("x")); err == nil {
		t.Error("wrote to a FIFO as to a file")
	}
	if err := b.WriteFile(t.Context(), "/usr/bin/x", strings.NewReader("x")); err == nil {
		t.Error("wrote to /usr/bin")
	}
}

// TestASnapshotCannotBeTrickedOutside swaps a directory for a link to a
// directory of the host while copies are made.
func TestASnapshotCannotBeTrickedOutside(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	b := start(t, p)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "loot"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, b, `cd $HOME; mkdir real; for i in $(seq 300); do mkdir d$i; done
(while :; do mv d150 aside; ln -s "$1" d150; rm d150; mv aside d150; done) >/dev/null 2>&1 &`, outside)
	for range 5 {
		ref, err := b.Snapshot(t.Context(), 0)
		if err != nil {
			t.Fatalf("taking a snapshot: %v", err)
		}
		saved := filepath.Join(p.dir, "saved", string(ref))
		filepath.WalkDir(saved, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Name() == "loot" {
				t.Errorf("a file of the host is in the snapshot: %s", path)
			}
			return nil
		})
		if err := p.Delete(t.Context(), ref); err != nil {
			t.Errorf("deleting: %v", err)
		}
	}
}

func TestTheKeeperCannotBeStoppedFromInside(t *testing.T) {
	t.Parallel()
	b := start(t, open(t, Options{}))
	sh(t, b, "for s in $(seq 1 64); do kill -$s 1 2>/dev/null; done")
	if out, exit := sh(t, b, "echo alive"); exit != 0 || out != "alive" {
		t.Errorf("after signals from inside: exit %d, %q", exit, out)
	}
}

func TestDaemonsDieWithTheirBox(t *testing.T) {
	t.Parallel()
	p := open(t, Options{})
	unique := fmt.Sprintf("601.%d", os.Getpid())
	b := start(t, p)
	sh(t, b, "for i in 1 2 3; do setsid sh -c '(trap \"\" TERM HUP; sleep $0) & exit' $1; done >/dev/null 2>&1 </dev/null", unique)
	// One that is about to become sleep has no arguments for a moment.
	eventually(t, "all three daemons run", func() bool { return len(hostProcesses(unique)) == 3 })
	if err := b.Kill(t.Context()); err != nil {
		t.Fatalf("killing: %v", err)
	}
	if left := hostProcesses(unique); len(left) > 0 {
		t.Errorf("daemons left after Kill: %v", left)
	}
	if _, err := os.Stat(b.dir()); err == nil {
		t.Error("files left after Kill")
	}
}

// hostProcesses finds processes by a word in their arguments.
func hostProcesses(word string) []string {
	var found []string
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.HasSuffix(line, []byte("\x00"+word+"\x00")) {
			found = append(found, path)
		}
	}
	return found
}
