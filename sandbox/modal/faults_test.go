package modal

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"

	practicemodal "openinspect/internal/practice/modal"
	"openinspect/sandbox"
)

// startBox starts a box that does nothing.
func startBox(t *testing.T, p *Provider, change ...func(*sandbox.Spec)) sandbox.Box {
	t.Helper()
	s := sandbox.Spec{Name: "box", Command: []string{"sleep", "600"}, Tags: map[string]string{"session": "s1"}}
	for _, c := range change {
		c(&s)
	}
	b, err := p.Start(t.Context(), s)
	if err != nil {
		t.Fatalf("starting: %v", err)
	}
	return b
}

// live counts the sandboxes that run.
func live(s *practicemodal.Server) (n int) {
	for _, b := range s.Sandboxes() {
		if b.Ended.IsZero() {
			n++
		}
	}
	return n
}

func TestAStartWithoutAnAnswerMakesOneSandboxOrNone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault practicemodal.Fault
		want  error
		live  int
	}{
		"the connection breaks once, before":    {practicemodal.Fault{Kind: practicemodal.Unavailable, Times: 1}, nil, 1},
		"the connection breaks once, after":     {practicemodal.Fault{Kind: practicemodal.Unavailable, Times: 1, AfterEffect: true}, nil, 1},
		"the connection breaks for good":        {practicemodal.Fault{Kind: practicemodal.Unavailable}, nil, 0},
		"it breaks for good after the effect":   {practicemodal.Fault{Kind: practicemodal.Unavailable, AfterEffect: true}, nil, 1},
		"Modal never answers":                   {practicemodal.Fault{Kind: practicemodal.Hang}, sandbox.ErrCapacity, 0},
		"Modal never answers but starts it":     {practicemodal.Fault{Kind: practicemodal.Hang, AfterEffect: true}, sandbox.ErrCapacity, 0},
		"there is no room":                      {practicemodal.Fault{Kind: practicemodal.NoCapacity}, sandbox.ErrCapacity, 0},
		"too many starts for a moment":          {practicemodal.Fault{Kind: practicemodal.RateLimited, RetryAfter: 50 * time.Millisecond, Times: 2}, nil, 1},
		"too many starts, for longer than that": {practicemodal.Fault{Kind: practicemodal.RateLimited}, sandbox.ErrCapacity, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := server(t)
			o := options(s)
			o.StartTime = 5 * time.Second
			p := open(t, o)
			if _, err := p.base(t.Context()); err != nil {
				t.Fatal(err)
			}
			tc.fault.Method = "SandboxCreateV2"
			s.Inject(tc.fault)
			_, err := p.Start(t.Context(), sandbox.Spec{Name: "box", Command: []string{"sleep", "600"}})
			if tc.live == 1 && err != nil || tc.live == 0 && err == nil {
				t.Errorf("got error %v", err)
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got error %v, want %v", err, tc.want)
			}
			if errors.Is(err, sandbox.ErrGone) || errors.Is(err, sandbox.ErrInvalid) {
				t.Errorf("what may go well another time is taken for final: %v", err)
			}
			if got := live(s); got != tc.live {
				t.Errorf("%d sandboxes run, want %d", got, tc.live)
			}
			s.Clear()
			if tc.live == 0 {
				startBox(t, p) // the name is free
			}
		})
	}
}

func TestAStartWithoutAnAnswerSparesAnothersBoxOfTheName(t *testing.T) {
	t.Parallel()
	s := server(t)
	o := options(s)
	o.StartTime = time.Second
	p := open(t, o)
	b := startBox(t, p)
	s.Inject(practicemodal.Fault{Kind: practicemodal.Hang, Method: "SandboxCreateV2"})
	if _, err := p.Start(t.Context(), sandbox.Spec{Name: "box", Command: []string{"true"}}); !errors.Is(err, sandbox.ErrCapacity) {
		t.Errorf("a start without an answer: %v", err)
	}
	run(t, b, "true")
}

func TestACommandEndsWithItsBoxEvenIfModalNeverSaysSo(t *testing.T) {
	t.Parallel()
	s := server(t)
	b := startBox(t, open(t, options(s)))
	s.Inject(practicemodal.Fault{Kind: practicemodal.Hang, Method: "TaskExecWait"})
	done := make(chan error, 1)
	go func() {
		_, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"sleep", "600"}})
		done <- err
	}()
	if _, err := s.WaitCalls(t.Context(), "TaskExecStart", 1); err != nil {
		t.Fatal(err)
	}
	if err := s.KillBox(t.Context(), b.ID()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("got error %v, want %v", err, sandbox.ErrGone)
		}
	case <-time.After(time.Minute):
		t.Error("the command is still waited for")
	}
}

// A park that breaks off leaves a box that another control plane parks: nothing
// is lost. What was saved and could not be noted ends by itself.
func TestParkingThatBreaksOffIsTakenUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault practicemodal.Fault
		most  int // images that there may be in the end
	}{
		"before the program is told":       {practicemodal.Fault{Method: "TaskExecStart"}, 1},
		"while it ends":                    {practicemodal.Fault{Method: "TaskExecWait"}, 1},
		"before the filesystem is saved":   {practicemodal.Fault{Method: "TaskSnapshotFilesystem"}, 2},
		"before the saved one is noted":    {practicemodal.Fault{Method: "SandboxTagsSetV2"}, 2},
		"after it was noted":               {practicemodal.Fault{Method: "SandboxTagsSetV2", AfterEffect: true}, 1},
		"before the sandbox is terminated": {practicemodal.Fault{Method: "SandboxTerminateV2"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := server(t)
			first, second := open(t, options(s)), open(t, options(s))
			b := startBox(t, first, func(s *sandbox.Spec) {
				s.Command = []string{"sh", "-c", `trap 'echo saved >>$HOME/saved; exit' TERM; touch $HOME/ready; while :; do sleep 0.01; done`}
			})
			run(t, b, "until [ -e ready ]; do sleep 0.01; done")
			tc.fault.Kind = practicemodal.Hang
			s.Inject(tc.fault)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if ref, err := b.Park(ctx); err == nil {
				t.Fatalf("parked as %s although Modal does not answer", ref)
			}
			s.Clear()
			again, err := second.Attach(t.Context(), b.ID())
			if err != nil {
				t.Fatalf("attaching to a box that is half parked: %v", err)
			}
			ref, err := again.Park(t.Context())
			if err != nil {
				t.Fatalf("parking again: %v", err)
			}
			if n := live(s); n != 0 {
				t.Errorf("%d sandboxes run after parking", n)
			}
			if got := snapshots(t, s); len(got) > tc.most || !slices.Contains(got, string(ref)) {
				t.Errorf("saved are %q, want %s and no more than %d", got, ref, tc.most)
			}
			next := startBox(t, second, func(s *sandbox.Spec) { s.From = ref })
			if got := run(t, next, "cat saved"); got != "saved" {
				t.Errorf("the main program saved %q, want it once", got)
			}
		})
	}
}

// snapshots are the images that were saved of sandboxes and are there. Each has
// to end by itself.
func snapshots(t *testing.T, s *practicemodal.Server) (ids []string) {
	t.Helper()
	for _, i := range s.Images() {
		if i.Snapshot == "" {
			continue
		}
		if ids = append(ids, i.ID); i.Expires.IsZero() {
			t.Errorf("image %s is kept for ever", i.ID)
		}
	}
	return ids
}

// run runs a shell command that has to succeed and returns its output.
func run(t *testing.T, b sandbox.Box, command string) string {
	t.Helper()
	var out, errs strings.Builder
	exit, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"sh", "-c", command}, Stdout: &out, Stderr: &errs, Timeout: time.Minute})
	if err != nil || exit != 0 {
		t.Fatalf("running %q: exit %d, %v\n%s", command, exit, err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

func TestASnapshotHasMinutesAndEndsByItself(t *testing.T) {
	t.Parallel()
	s := server(t)
	o := options(s)
	p := open(t, o)
	b := startBox(t, p)
	for keep, want := range map[time.Duration]time.Duration{
		0: sandbox.KeepSession, sandbox.KeepImage: sandbox.KeepImage, 1500 * time.Millisecond: 2 * time.Second,
	} {
		before := len(s.Calls("TaskSnapshotFilesystem"))
		if _, err := b.Snapshot(t.Context(), keep); err != nil {
			t.Fatalf("saving: %v", err)
		}
		call := s.Calls("TaskSnapshotFilesystem")[before]
		if got := call.Request.(*pb.TaskSnapshotFilesystemRequest).GetTtlSeconds(); got != int64(want/time.Second) {
			t.Errorf("to be kept for %s, it is for %d seconds", keep, got)
		}
	}
	if _, err := b.Snapshot(t.Context(), -1); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("to be kept for less than nothing: %v", err)
	}
	ref, err := b.Snapshot(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Expire(string(ref)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Start(t.Context(), sandbox.Spec{Name: "late", From: ref, Command: []string{"true"}}); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("starting from what has expired: %v", err)
	}
}

func TestABaseImageThatIsGoneIsBuiltAgain(t *testing.T) {
	t.Parallel()
	s := server(t)
	p := open(t, options(s))
	startBox(t, p)
	base, err := p.base(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.client.Images.Delete(t.Context(), base, nil); err != nil {
		t.Fatal(err)
	}
	startBox(t, p, func(s *sandbox.Spec) { s.Name = "next" })
}

func TestAWrongTokenIsSaidToBeOneAndLosesNothing(t *testing.T) {
	t.Parallel()
	o := options(server(t))
	o.TokenSecret = "as-wrong"
	p := open(t, o)
	calls := map[string]func() error{
		"Check": func() error { _, err := p.Check(t.Context()); return err },
		"Start": func() error {
			_, err := p.Start(t.Context(), sandbox.Spec{Name: "box", From: "im-1", Command: []string{"true"}})
			return err
		},
		"Attach": func() error { _, err := p.Attach(t.Context(), "sb-1234"); return err },
		"Delete": func() error { return p.Delete(t.Context(), "im-1") },
		"List": func() (err error) {
			for _, err = range p.List(t.Context(), nil) {
			}
			return err
		},
	}
	for name, call := range calls {
		err := call()
		if err == nil || !strings.Contains(err.Error(), "MODAL_TOKEN_SECRET") {
			t.Errorf("%s: got error %v", name, err)
		}
		for _, final := range []error{sandbox.ErrGone, sandbox.ErrInvalid, sandbox.ErrCapacity} {
			if errors.Is(err, final) {
				t.Errorf("%s: a wrong token is taken for %q", name, final)
			}
		}
	}
}

func TestAFileIsWrittenWholeOrNotAtAllThoughItsInputIsLost(t *testing.T) {
	t.Parallel()
	s := server(t)
	b := startBox(t, open(t, options(s)))
	s.Inject(practicemodal.Fault{Kind: practicemodal.RateLimited, Method: "TaskExecStdinWrite", Times: 1}) // which the SDK does not repeat
	err := b.WriteFile(t.Context(), sandbox.Home+"/file", strings.NewReader(strings.Repeat("x", 3*inputChunk)))
	if err == nil || errors.Is(err, sandbox.ErrGone) {
		t.Errorf("a write that lost some of its input: %v", err)
	}
	if got := run(t, b, "ls -A"); got != "" {
		t.Errorf("left of it: %s", got)
	}
}

func TestABoxIsReachedThoughItsMachinesTokenIsRevoked(t *testing.T) {
	t.Parallel()
	s := server(t)
	b := startBox(t, open(t, options(s)))
	for _, call := range []struct {
		name string
		do   func() error
	}{
		{"Exec", func() error {
			_, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"true"}})
			return err
		}},
		{"Snapshot", func() error {
			_, err := b.Snapshot(t.Context(), time.Hour)
			return err
		}},
		{"Park", func() error {
			_, err := b.Park(t.Context())
			return err
		}},
	} {
		run(t, b, "true") // asks for a token
		s.RevokeRouterTokens()
		if err := call.do(); err != nil {
			t.Errorf("%s: %v", call.name, err)
		}
	}
}

func TestABuildThatModalBreaksOffIsJoinedAgain(t *testing.T) {
	t.Parallel()
	s := server(t)
	p := open(t, options(s))
	s.Inject(practicemodal.Fault{Kind: practicemodal.Unavailable, Method: "ImageJoinStreaming", Times: 2})
	startBox(t, p)
	for status, final := range map[pb.GenericResult_GenericStatus]bool{
		pb.GenericResult_GENERIC_STATUS_FAILURE: true, pb.GenericResult_GENERIC_STATUS_TERMINATED: false,
		pb.GenericResult_GENERIC_STATUS_TIMEOUT: false,
	} {
		w := watchedBuild{status: status}
		if err := w.explain(sdk.RemoteError{Exception: "why"}); errors.Is(err, sandbox.ErrInvalid) != final {
			t.Errorf("a build that ended with %s: %v", status, err)
		}
	}
}

func TestWhatModalWouldNotTakeIsRefusedInASentence(t *testing.T) {
	t.Parallel()
	o := options(server(t))
	p := open(t, o)
	for _, name := range []string{"our inspect", "ap-" + strings.Repeat("a", 22), strings.Repeat("a", 65)} {
		o.App = name
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), "MODAL_APP") {
			t.Errorf("an app %q: %v", name, err)
		}
	}
	for want, change := range map[string]func(*sandbox.Spec){
		"tag note=":       func(s *sandbox.Spec) { s.Tags = map[string]string{"note": strings.Repeat("x", 64)} },
		"count as three":  func(s *sandbox.Spec) { s.Name = strings.Repeat("a b", 20) },
		"64 KiB together": func(s *sandbox.Spec) { s.Command = []string{"echo", strings.Repeat("x", maxArguments)} },
	} {
		s := sandbox.Spec{Name: "box", Command: []string{"true"}}
		change(&s)
		if _, err := p.Start(t.Context(), s); !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
	b := startBox(t, p)
	if _, err := b.Exec(t.Context(), sandbox.Cmd{Args: []string{"echo", strings.Repeat("x", maxArguments)}}); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("a command with too long arguments: %v", err)
	}
}
