package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"openinspect/sandbox"
)

// testEnvironment looks at what the agent would see.
func testEnvironment(t *testing.T, s *suite) {
	spec := s.spec()
	spec.Env = map[string]string{sandbox.EnvToken: "box-token"}
	b := s.start(spec)
	if got := s.sh(b, `echo "$HOME $PWD"`); got != sandbox.Home+" "+sandbox.Home {
		t.Errorf("home and current directory are %q", got)
	}
	if got := s.sh(b, "env"); strings.Contains(got, "box-token") {
		t.Errorf("a command inherits what is meant for the main program:\n%s", got)
	}
	s.sh(b, "test -w "+sandbox.Home+" && test -w "+sandbox.Workspace+" && test -w /tmp")
}

func testExec(t *testing.T, s *suite) {
	b := s.start(s.spec())
	var out, errs bytes.Buffer
	exit, err := b.Exec(s.ctx, sandbox.Cmd{
		Args: []string{"sh", "-c", `cat; echo "$A in $PWD" >&2; exit 7`}, Dir: "/tmp", Env: map[string]string{"A": "b c"},
		Stdin: strings.NewReader("input"), Stdout: &out, Stderr: &errs,
	})
	if err != nil || exit != 7 || out.String() != "input" || errs.String() != "b c in /tmp\n" {
		t.Errorf("got exit %d, %v, out %q, err %q", exit, err, out.String(), errs.String())
	}
	for script, want := range map[string]int{"exit 0": 0, "exit 255": 255, "kill -9 $$": 137, "no-such-program": 127} {
		if exit, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"sh", "-c", script}}); err != nil || exit != want {
			t.Errorf("%s: exit %d, %v; want %d", script, exit, err, want)
		}
	}
	if exit, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"no-such-program"}}); err == nil && exit == 0 {
		t.Error("a program that does not exist succeeded")
	}
	_, err = b.Exec(s.ctx, sandbox.Cmd{})
	s.want("a command without arguments", err, sandbox.ErrInvalid)
	// 4 MiB each way at once: no side may wait for the other.
	big := strings.Repeat("0123456789abcdef", 1<<18)
	out.Reset()
	exit, err = b.Exec(s.ctx, sandbox.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &out})
	if err != nil || exit != 0 || out.String() != big {
		t.Errorf("4 MiB through cat: exit %d, %v, %d bytes", exit, err, out.Len())
	}
	testExecTogether(t, s, b)
}

func testExecTogether(t *testing.T, s *suite, b sandbox.Box) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var out bytes.Buffer
			exit, err := b.Exec(s.ctx, sandbox.Cmd{
				Args: []string{"sh", "-c", "cat; exit $0", fmt.Sprint(i)}, Stdin: strings.NewReader(fmt.Sprint(i)), Stdout: &out,
			})
			if err != nil || exit != i || out.String() != fmt.Sprint(i) {
				t.Errorf("command %d of many: exit %d, %v, out %q", i, exit, err, out.String())
			}
		})
	}
	wg.Wait()
}

// testExecEnds ends commands in every way but their own.
func testExecEnds(t *testing.T, s *suite) {
	b := s.start(s.spec())
	began := time.Now()
	_, err := b.Exec(s.ctx, sandbox.Cmd{
		Args: []string{"sh", "-c", "sleep 601 & sleep 602"}, Timeout: 300 * time.Millisecond,
	})
	s.want("a command over its time", err, context.DeadlineExceeded)
	ctx, cancel := context.WithCancel(s.ctx)
	exec := make(chan error, 1)
	go func() {
		_, err := b.Exec(ctx, sandbox.Cmd{Args: []string{"sh", "-c", "sleep 603 & touch /tmp/up; sleep 604"}})
		exec <- err
	}()
	s.sh(b, "until [ -e /tmp/up ]; do sleep 0.01; done")
	cancel()
	s.want("a command whose caller went away", <-exec, context.Canceled)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("ending two commands took %s", took)
	}
	s.until("the commands' processes to be gone", func() bool {
		return s.sh(b, `cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' ' | grep -c "sleep 60[1234]" || true`) == "0"
	})
	// A child left behind that holds the output must not hold the caller.
	var out bytes.Buffer
	exit, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"sh", "-c", "echo done; sleep 605 &"}, Stdout: &out})
	if err != nil || exit != 0 || out.String() != "done\n" {
		t.Errorf("a command that leaves a child: exit %d, %v, out %q", exit, err, out.String())
	}
	// Neither may an input that never ends, or a writer that fails.
	silent, end := io.Pipe()
	defer end.Close()
	if exit, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"true"}, Stdin: silent}); err != nil || exit != 0 {
		t.Errorf("a command that does not read its input: exit %d, %v", exit, err)
	}
	if _, err := b.Exec(s.ctx, sandbox.Cmd{Args: []string{"echo", "x"}, Stdout: brokenWriter{}}); !errors.Is(err, errBroken) {
		t.Errorf("a writer that fails: got %v", err)
	}
	endless := []string{"sh", "-c", "while echo x; do sleep 0.1; done"}
	if _, err := b.Exec(s.ctx, sandbox.Cmd{Args: endless, Stdout: brokenWriter{}, Timeout: time.Minute}); !errors.Is(err, errBroken) {
		t.Errorf("a writer that fails of a command without an end: got %v", err)
	}
}

var errBroken = errors.New("broken on purpose")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func testFiles(t *testing.T, s *suite) {
	b := s.start(s.spec())
	for _, text := range []string{"", "short", strings.Repeat("long \x00\xff", 1<<18)} {
		path := sandbox.Workspace + "/new/folder/file name"
		s.write(b, path, text)
		if got := s.read(b, path); got != text {
			t.Errorf("wrote %d bytes, read %d", len(text), len(got))
		}
	}
	s.sh(b, "test -O '/workspace/new/folder/file name' && echo more >>'/workspace/new/folder/file name'")
	s.sh(b, "echo '#!/bin/sh' >script; chmod 755 script")
	s.write(b, sandbox.Home+"/script", "#!/bin/sh\necho ran\n")
	if got := s.sh(b, "./script"); got != "ran" {
		t.Errorf("a replaced script printed %q", got)
	}
	s.want("a missing file", b.ReadFile(s.ctx, sandbox.Home+"/none", io.Discard), fs.ErrNotExist)
	s.want("a relative path", b.ReadFile(s.ctx, "script", io.Discard), sandbox.ErrInvalid)
	s.want("writing to a relative path", b.WriteFile(s.ctx, "x", strings.NewReader("")), sandbox.ErrInvalid)
	if b.ReadFile(s.ctx, sandbox.Home, io.Discard) == nil {
		t.Error("a directory was read as a file")
	}
	if b.WriteFile(s.ctx, sandbox.Workspace, strings.NewReader("x")) == nil {
		t.Error("a directory was written as a file")
	}
	err := b.WriteFile(s.ctx, sandbox.Home+"/half", io.MultiReader(strings.NewReader("half"), brokenReader{}))
	s.want("a source that breaks", err, errBroken)
	s.want("what is left of it", b.ReadFile(s.ctx, sandbox.Home+"/half", io.Discard), fs.ErrNotExist)
	if got := s.sh(b, "ls -A"); got != "script" {
		t.Errorf("left in the home directory: %q", got)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

// server answers each request on port 8080 with what it was asked for.
const server = `use IO::Socket::INET; $SIG{CHLD} = "IGNORE";
my $l = IO::Socket::INET->new(Listen => 16, LocalAddr => "127.0.0.1", LocalPort => 8080, ReuseAddr => 1) or die $!;
while (my $c = $l->accept) { next if fork; my $asked = <$c>; while (<$c>) { last if /^\r?\n$/ }
print $c "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nyou asked: $asked"; close $c; exit }`

func testURL(t *testing.T, s *suite) {
	spec := s.spec()
	spec.Command, spec.Ports = []string{"perl", "-e", server}, []int{8080}
	b := s.start(spec)
	url, header, err := b.URL(s.ctx, 8080)
	if err != nil {
		t.Fatalf("asking for the URL: %v", err)
	}
	var body string
	s.until("the server in the box to answer", func() bool {
		body, err = get(s.ctx, url+"/path?q=1", header)
		return err == nil
	})
	if !strings.HasPrefix(body, "you asked: GET /path?q=1 HTTP/1.1") {
		t.Errorf("the server in the box answered %q", body)
	}
	if again, _, err := b.URL(s.ctx, 8080); err != nil || again == "" {
		t.Errorf("asking again: %q, %v", again, err)
	}
	_, _, err = b.URL(s.ctx, 0)
	s.want("port 0", err, sandbox.ErrInvalid)
	kill(t, b)
	s.until("the address to end with the box", func() bool {
		_, err := get(s.ctx, url, header)
		return err != nil
	})
}

func get(ctx context.Context, url string, header http.Header) (string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	q.Header = header.Clone()
	q.Close = true
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// furnish fills a box with what a filesystem has to keep.
const furnish = `echo home >$HOME/file; mkdir -p /workspace/repo/deep; echo work >/workspace/repo/deep/file
ln -s deep/file /workspace/repo/link; ln -s /workspace/repo/deep /workspace/repo/absolute
chmod 750 /workspace/repo/deep; echo run >$HOME/run; chmod 755 $HOME/run; touch -d 2001-02-03T04:05:06Z $HOME/file
ln $HOME/file $HOME/hard; mkdir $HOME/closed; echo x >$HOME/closed/x; chmod 555 $HOME/closed`

// describe prints what furnish made.
const describe = `cd / && find home/agent workspace ! -type d -printf '%p %m %l %n ' -exec cat {} \; | sort; stat -c '%n %a' workspace/repo/deep home/agent/closed; stat -c %Y home/agent/file`

func testSnapshot(t *testing.T, s *suite) {
	b := s.start(s.spec())
	s.sh(b, furnish)
	want := s.sh(b, describe)
	ref, err := b.Snapshot(s.ctx, time.Hour)
	if err != nil {
		t.Fatalf("taking a snapshot: %v", err)
	}
	s.deleted(ref)
	_, err = b.Snapshot(s.ctx, -time.Second)
	s.want("saving it for less than no time", err, sandbox.ErrInvalid)
	s.sh(b, "echo later >/workspace/later; rm $HOME/file") // the box goes on
	for range 2 {
		spec := s.spec()
		spec.From = ref
		copied := s.start(spec)
		if diff := cmp.Diff(want, s.sh(copied, describe)); diff != "" {
			t.Errorf("a box from the snapshot (-want +got):\n%s", diff)
		}
		s.sh(copied, "echo changed >/workspace/repo/deep/file") // and the next must not see it
	}
	kill(t, b)
	spec := s.spec()
	spec.From = ref
	s.start(spec) // the snapshot outlives its box
	for range 2 {
		if err := s.p.Delete(s.ctx, ref); err != nil {
			t.Errorf("deleting the snapshot: %v", err)
		}
	}
	spec.Name += " again"
	_, err = s.p.Start(s.ctx, spec)
	s.want("starting from a deleted snapshot", err, sandbox.ErrGone, sandbox.ErrInvalid)
}

func testPark(t *testing.T, s *suite) {
	spec := s.spec()
	spec.Tags = map[string]string{"run": spec.Name}
	spec.Command = []string{"sh", "-c", `trap 'echo saved >$HOME/saved; exit' TERM; touch $HOME/ready; while :; do sleep 0.01; done`}
	b := s.start(spec)
	s.sh(b, "until [ -e ready ]; do sleep 0.01; done")
	s.sh(b, furnish)
	want := s.sh(b, describe)
	ref, err := b.Park(s.ctx)
	if err != nil {
		t.Fatalf("parking: %v", err)
	}
	s.deleted(ref)
	if got := s.list(spec.Tags); len(got) != 0 {
		t.Errorf("boxes after Park: %q", got)
	}
	askDead(s, "parked", b)
	kill(t, b) // and does not harm what is parked
	for range 2 {
		spec.From, spec.Command = ref, []string{"sleep", "600"}
		next := s.start(spec)
		if got := s.sh(next, "cat saved && rm saved"); got != "saved" {
			t.Errorf("the main program could not save its state: %q", got)
		}
		if diff := cmp.Diff(want, s.sh(next, describe)); diff != "" {
			t.Errorf("after parking (-want +got):\n%s", diff)
		}
		s.sh(next, "echo saved >saved")
		if ref, err = next.Park(s.ctx); err != nil {
			t.Fatalf("parking again: %v", err)
		}
		s.deleted(ref)
	}
}

// testParkStubborn parks a box whose main program does not want to end.
func testParkStubborn(t *testing.T, s *suite) {
	spec := s.spec()
	spec.Command = []string{"sh", "-c", `trap '' TERM; touch $HOME/ready; while :; do sleep 0.1; done`}
	b := s.start(spec)
	s.sh(b, "until [ -e ready ]; do sleep 0.01; done; echo work >work")
	ref, err := b.Park(s.ctx)
	if err != nil {
		t.Fatalf("parking: %v", err)
	}
	s.deleted(ref)
	askDead(s, "parked", b)
	spec.From, spec.Command = ref, []string{"sleep", "600"}
	if got := s.sh(s.start(spec), "cat work"); got != "work" {
		t.Errorf("what was parked has %q", got)
	}
}

func testBuild(t *testing.T, s *suite) {
	if !s.p.Caps().Builds {
		b, err := s.p.Build(s.ctx, "", []string{"true"}, io.Discard)
		if err == nil {
			t.Errorf("a provider without builds built %s", b)
		}
		return
	}
	var log bytes.Buffer
	first, err := s.p.Build(s.ctx, "", []string{"echo one >file; echo making", "echo two >>file"}, &log)
	if err != nil {
		t.Fatalf("building: %v", err)
	}
	s.deleted(first)
	if !strings.Contains(log.String(), "making") {
		t.Errorf("the log is %q", log.String())
	}
	second, err := s.p.Build(s.ctx, first, []string{"echo three >>file"}, &log)
	if err != nil {
		t.Fatalf("building on a build: %v", err)
	}
	s.deleted(second)
	for ref, want := range map[sandbox.Ref]string{first: "one two", second: "one two three"} {
		for range 2 {
			spec := s.spec()
			spec.From = ref
			if got := s.sh(s.start(spec), "echo $(cat /workspace/file)"); got != want {
				t.Errorf("built %q, want %q", got, want)
			}
		}
	}
	log.Reset()
	_, err = s.p.Build(s.ctx, "", []string{"true", "echo the reason >&2; exit 3", "touch never"}, &log)
	if err == nil || !strings.Contains(log.String(), "the reason") {
		t.Errorf("a build that fails: %v, log %q", err, log.String())
	}
}
