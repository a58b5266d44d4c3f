package modal

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// soon is a time in which nothing that hangs is answered.
const soon = 300 * time.Millisecond

func TestThereIsNoCapacityForAWhile(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	s.Inject(Fault{Kind: NoCapacity, Times: 2})
	for range 2 {
		_, err := s.client.Sandboxes.Create(s.ctx, s.app, i, &sdk.SandboxCreateParams{Name: "wanted"})
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "Insufficient capacity") {
			t.Errorf("got %v, want ResourceExhausted", err)
		}
	}
	s.createFrom(i, &sdk.SandboxCreateParams{Name: "wanted"})
}

func TestTooManyBoxesAreNoCapacity(t *testing.T) {
	t.Parallel()
	o := Options{}
	o.Boxes.MaxBoxes = 1
	s := open(t, o)
	b := s.create(nil)
	_, err := s.client.Sandboxes.Create(s.ctx, s.app, s.image(), &sdk.SandboxCreateParams{Name: "second"})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a second sandbox: %v", err)
	}
	if _, err := b.Terminate(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	s.create(&sdk.SandboxCreateParams{Name: "second"})
}

func TestARateLimitIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	s.Inject(Fault{Kind: RateLimited, Method: "SandboxCreateV2", Times: 1, RetryAfter: 200 * time.Millisecond})
	s.createFrom(i, nil) // the SDK obeys
	if calls := s.Calls("SandboxCreateV2"); len(calls) != 2 || calls[1].Time.Sub(calls[0].Time) < 200*time.Millisecond {
		t.Errorf("calls: %v", calls)
	}
	s.Inject(Fault{Kind: RateLimited, Method: "SandboxCreateV2", Times: 1})
	if _, err := s.client.Sandboxes.Create(s.ctx, s.app, i, nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("without a time: %v", err)
	}
}

func TestACreateThatIsNeverScheduledHangs(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	s.Inject(Fault{Kind: Hang, Method: "SandboxCreateV2", Sandbox: "stuck"})
	ctx, cancel := context.WithTimeout(s.ctx, soon)
	defer cancel()
	_, err := s.client.Sandboxes.Create(ctx, s.app, i, &sdk.SandboxCreateParams{Name: "stuck"})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	s.createFrom(i, &sdk.SandboxCreateParams{Name: "free"}) // only the one is stuck
	s.Clear()
	s.createFrom(i, &sdk.SandboxCreateParams{Name: "stuck"})
}

func TestACreateOfUnknownOutcomeIsFoundByName(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	s.Inject(Fault{Kind: Hang, Method: "SandboxCreateV2", AfterEffect: true, Times: 1})
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	created := make(chan error, 1)
	go func() {
		_, err := s.client.Sandboxes.Create(ctx, s.app, i, &sdk.SandboxCreateParams{Name: "mine"})
		created <- err
	}()
	s.until("the sandbox lives", func() bool { return len(s.Sandboxes()) == 1 && s.Sandboxes()[0].Box != "" })
	cancel()
	if err := <-created; err == nil {
		t.Fatal("the create was answered")
	}
	_, err := s.client.Sandboxes.Create(s.ctx, s.app, i, &sdk.SandboxCreateParams{Name: "mine"})
	if !errors.As(err, new(sdk.AlreadyExistsError)) {
		t.Errorf("a second create: %v", err)
	}
	found, err := s.client.Sandboxes.FromName(s.ctx, "inspect", "mine", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Detach()
	if got := s.sh(found, "echo here"); got != "here\n" {
		t.Errorf("got %q", got)
	}
}

// until waits for something that comes about by itself.
func (s *stand) until(what string, ok func() bool) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.t.Fatalf("waiting in vain: %s", what)
		}
	}
}

func TestASnapshotTimesOut(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	s.Inject(Fault{Kind: Hang, Method: "TaskSnapshotFilesystem", Sandbox: b.SandboxID, Times: 1})
	_, err := b.SnapshotFilesystem(s.ctx, &sdk.SandboxSnapshotFilesystemParams{Timeout: soon})
	if !errors.As(err, new(sdk.TimeoutError)) {
		t.Errorf("got %T %v, want a TimeoutError", err, err)
	}
	if _, err := b.SnapshotFilesystem(s.ctx, nil); err != nil {
		t.Errorf("the next snapshot: %v", err)
	}
}

func TestASandboxDiesWhileItIsAskedFor(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for method, act := range map[string]func(*stand, *sdk.Sandbox) error{
			"TaskExecStart":          func(s *stand, b *sdk.Sandbox) error { return second(b.Exec(s.ctx, []string{"true"}, nil)) },
			"TaskSnapshotFilesystem": func(s *stand, b *sdk.Sandbox) error { return second(b.SnapshotFilesystem(s.ctx, nil)) },
			"SandboxWaitV2":          func(s *stand, b *sdk.Sandbox) error { return second(b.Poll(s.ctx, nil)) },
		} {
			s := open(t, Options{})
			b := s.create(&sdk.SandboxCreateParams{Name: "doomed"})
			s.Inject(Fault{Kind: BoxDies, Method: method, Sandbox: "doomed", AfterEffect: after})
			err := act(s, b)
			if answered := after || method == "SandboxWaitV2"; answered != (err == nil) {
				t.Errorf("%s, after its effect %v: %v", method, after, err)
			}
			if exit, err := b.Wait(s.ctx, nil); err != nil || exit != 137 {
				t.Errorf("%s: exit %d, %v; want 137", method, exit, err)
			}
		}
	}
}

func TestASandboxDiesAtACreate(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	s.Inject(Fault{Kind: BoxDies, Method: "SandboxCreateV2", AfterEffect: true, Times: 1})
	b := s.create(nil)
	if _, err := b.Exec(s.ctx, []string{"true"}, nil); status.Code(err) != codes.NotFound {
		t.Errorf("its first command: %v", err)
	}
}

func TestACommandEndsWithItsSandbox(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	cmd, err := b.Exec(s.ctx, []string{"sh", "-c", "echo ready; exec sleep 600"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(cmd.Stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if err := s.KillBox(s.ctx, b.SandboxID); err != nil {
		t.Fatal(err)
	}
	if exit, err := cmd.Wait(s.ctx, nil); err != nil || exit != 137 {
		t.Errorf("exit %d, %v; want 137", exit, err)
	}
	if rest, err := io.ReadAll(cmd.Stdout); err != nil || len(rest) > 0 {
		t.Errorf("then it printed %q, %v", rest, err)
	}
}

func TestASandboxWhoseProcessesAreKilledIsSeenDead(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Command: []string{"sleep", "600"}})
	s.exec(b, nil, "sh", "-c", "kill -9 -1") // all but the shell itself
	if exit, err := b.Wait(s.ctx, nil); err != nil || exit != 137 {
		t.Errorf("exit %d, %v; want 137", exit, err)
	}
}

func TestUnavailableIsHiddenByTheSDKUntilItLasts(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	s.Inject(Fault{Kind: Unavailable, Times: 3})
	b := s.createFrom(i, nil)
	s.Inject(Fault{Kind: Unavailable, Method: "SandboxTagsGetV2"})
	if _, err := b.GetTags(s.ctx, nil); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
	s.Clear()
	if _, err := b.GetTags(s.ctx, nil); err != nil {
		t.Error(err)
	}
}

func TestAnExpiredTokenIsRenewed(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	s.Inject(Fault{Kind: ExpiredToken, Times: 1})
	b := s.createFrom(i, nil)
	if got := s.sh(b, "echo fine"); got != "fine\n" {
		t.Errorf("got %q", got)
	}
	if calls := s.Calls("TaskExecStart"); len(calls) != 2 || calls[0].Code != codes.Unauthenticated || calls[1].Code != codes.OK {
		t.Errorf("calls: %v", calls)
	}
}

func TestOutputIsReadOnceThoughItsStreamBreaks(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	s.Inject(Fault{Kind: Unavailable, Method: "TaskExecStdioRead", Times: 1})
	s.Inject(Fault{Kind: Unavailable, Method: "TaskExecStdioRead", Times: 1, AfterEffect: true})
	if got := s.sh(b, "echo once"); got != "once\n" {
		t.Errorf("got %q", got)
	}
	if calls, err := s.WaitCalls(s.ctx, "TaskExecStdioRead", 4); err != nil || len(calls) != 4 { // two of them for standard error
		t.Errorf("calls: %v, %v", calls, err)
	}
}

func TestASlowStreamComesWhole(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	s.Inject(Fault{Kind: SlowStream, Method: "TaskExecStdioRead", Delay: soon, Times: 1})
	begin := time.Now()
	if got := s.sh(b, "echo slow"); got != "slow\n" || time.Since(begin) < soon {
		t.Errorf("got %q after %s", got, time.Since(begin))
	}
}
