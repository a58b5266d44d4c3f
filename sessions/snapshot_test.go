package sessions_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// soon makes snapshots almost at once.
func soon(c *sessions.Config) { c.SnapshotAfter = 20 * time.Millisecond }

// snapped waits until a session continues from a snapshot of this prompt, and returns it.
func snapped(t *testing.T, w *sessionstest.World, prompt string) (ref sandbox.Ref) {
	t.Helper()
	sessionstest.Eventually(t, "a snapshot of "+prompt+" is kept", func() bool {
		return w.DB.Get(&ref, `select b.ref from saved v join sandboxes b on b.session_id = v.session_id and b.ref = v.ref
			where v.prompt_id = $1 and v.kind = 'snapshot' and v.state = 'kept'`, prompt) == nil
	})
	return ref
}

func TestALostSandboxGoesOnFromItsLastSnapshot(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, soon)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	ended(t, e, first.Prompt.ID)
	before := snapped(t, w, first.Prompt.ID)
	second := w.Ask(e, alice.ID, "1.0", "two")
	ended(t, e, second.Prompt.ID)
	ref := snapped(t, w, second.Prompt.ID)
	w.Provider.Boxes()[0].Crash()
	third := w.Ask(e, alice.ID, "1.0", "three")
	if p := ended(t, e, third.Prompt.ID); p.State != sessions.Completed && p.Reason != "The sandbox was lost while this ran." {
		t.Errorf("the request after the loss ended as %s: %s", p.State, p.Reason)
	}
	fourth := w.Ask(e, alice.ID, "1.0", "four")
	if p := ended(t, e, fourth.Prompt.ID); p.State != sessions.Completed {
		t.Fatalf("the next request ended as %s: %s", p.State, p.Reason)
	}
	specs := w.Provider.Specs()
	if len(specs) != 2 || specs[1].From != ref {
		t.Errorf("%d sandboxes were started, the last from %q, want the second from %q", len(specs), specs[len(specs)-1].From, ref)
	}
	if files := w.Provider.Boxes()[0].Files(); len(files) < 3 || files[0] != "acme/greeter: one" || files[1] != "two" {
		t.Errorf("the new sandbox knows of %q", files)
	}
	sessionstest.Eventually(t, "the replaced snapshot is deleted", func() bool { return !slices.Contains(w.Provider.Saved(), before) })
}

func TestQuickRequestsCauseOneSnapshot(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, func(c *sessions.Config) { c.SnapshotAfter = time.Hour })
	alice := w.Person(e, "Alice")
	var last sessions.Accepted
	for i := range 10 {
		last = w.Ask(e, alice.ID, "1.0", fmt.Sprint("acme/greeter: ", i))
		ended(t, e, last.Prompt.ID)
	}
	sessionstest.Eventually(t, "an hour to pass after the last one became quiet", func() bool {
		res, err := w.DB.Exec(`update sandboxes set quiet_at = quiet_at - interval '1 hour' where quiet_prompt = $1`, last.Prompt.ID)
		if err != nil {
			t.Fatal(err)
		}
		n, err := res.RowsAffected()
		return err == nil && n == 1
	})
	snapped(t, w, last.Prompt.ID)
	var taken int
	if err := w.DB.Get(&taken, `select count(*) from saved`); err != nil || taken != 1 {
		t.Errorf("%d snapshots were taken of ten quick requests (%v), want 1", taken, err)
	}
}

// hanging makes one call of the provider hang, before or after its effect, until
// it is let go or its caller gives up.
type hanging struct {
	call  string
	after bool
	fails error         // what the call ends with once it is let go
	hangs chan struct{} // closed when it hangs
	let   chan struct{}
	once  sync.Once
}

func newHanging(call string, after bool) *hanging {
	return &hanging{call: call, after: after, hangs: make(chan struct{}), let: make(chan struct{})}
}

// await waits until the call hangs.
func (h *hanging) await(t *testing.T) {
	t.Helper()
	sessionstest.Eventually(t, "the provider is asked to "+h.call, func() bool {
		select {
		case <-h.hangs:
			return true
		default:
			return false
		}
	})
}

func (h *hanging) interfere(ctx context.Context, call string, after bool) (err error) {
	if call != h.call || after != h.after {
		return nil
	}
	h.once.Do(func() {
		close(h.hangs)
		select {
		case <-h.let:
			err = h.fails
		case <-ctx.Done():
			err = ctx.Err()
		}
	})
	return err
}

func TestARequestDoesNotWaitForASnapshotThatHangs(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]bool{"before it is taken": false, "after it was taken": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e, began, leave := world(t, soon)
			h := newHanging("snapshot", after)
			w.Provider.Interfere(h.interfere)
			alice := w.Person(e, "Alice")
			first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
			heard(t, began)
			leave <- struct{}{}
			ended(t, e, first.Prompt.ID)
			h.await(t)
			second := w.Ask(e, alice.ID, "1.0", "two")
			heard(t, began) // it runs, and the snapshot goes on
			close(h.let)
			sessionstest.Eventually(t, "the snapshot is not kept: half of what the second request wrote may be in it", func() bool {
				var state string
				err := w.DB.Get(&state, `select state from saved where prompt_id = $1`, first.Prompt.ID)
				return err == nil && (state == "unwanted" || state == "gone")
			})
			close(leave)
			ended(t, e, second.Prompt.ID)
			snapped(t, w, second.Prompt.ID)
			sessionstest.Eventually(t, "only the good snapshot is left", func() bool { return len(w.Provider.Saved()) == 1 })
		})
	}
}

// Who asks for something all the time leaves no pause as long as the one before a
// snapshot.
func TestAfterASnapshotThatARequestCutOffTheNextIsTakenAtOnce(t *testing.T) {
	t.Parallel()
	w, e, began, leave := world(t, func(c *sessions.Config) { c.SnapshotAfter = time.Hour })
	h := newHanging("snapshot", false)
	w.Provider.Interfere(h.interfere)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	leave <- struct{}{}
	ended(t, e, first.Prompt.ID)
	sessionstest.Eventually(t, "it has been quiet for long", func() bool {
		res, err := w.DB.Exec(`update sandboxes set quiet_at = now() - interval '2 hours' where quiet_prompt = $1`, first.Prompt.ID)
		if err != nil {
			t.Fatal(err)
		}
		n, err := res.RowsAffected()
		return err == nil && n == 1
	})
	h.await(t)
	second := w.Ask(e, alice.ID, "1.0", "two")
	heard(t, began)
	close(h.let)
	leave <- struct{}{}
	ended(t, e, second.Prompt.ID)
	snapped(t, w, second.Prompt.ID)
	third := w.Ask(e, alice.ID, "1.0", "three")
	close(leave)
	ended(t, e, third.Prompt.ID)
	var soon bool
	if err := w.DB.Get(&soon, `select snap_soon from sandboxes`); err != nil || soon {
		t.Errorf("after one that is kept the next is taken at once too (%v)", err)
	}
}

func TestASnapshotThatFailsIsTriedAgainAfterTheNextRequest(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	var mu sync.Mutex
	asked := 0
	w.Provider.Interfere(func(_ context.Context, call string, after bool) error {
		mu.Lock()
		defer mu.Unlock()
		if call != "snapshot" || after {
			return nil
		}
		if asked++; asked == 1 {
			return fmt.Errorf("the disk is busy")
		}
		return nil
	})
	e := w.Engine(soon)
	sessions.Hasten(e)
	w.Run(e)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	ended(t, e, first.Prompt.ID)
	sessionstest.Eventually(t, "the failed snapshot is given up", func() bool {
		var gone bool
		return w.DB.Get(&gone, `select state = 'gone' from saved`) == nil && gone
	})
	second := w.Ask(e, alice.ID, "1.0", "two")
	ended(t, e, second.Prompt.ID)
	snapped(t, w, second.Prompt.ID)
	mu.Lock()
	defer mu.Unlock()
	if asked != 2 {
		t.Errorf("the provider was asked for %d snapshots, want one after each request", asked)
	}
}

func TestAnExpiredFilesystemIsLetGo(t *testing.T) {
	t.Parallel()
	w, e, acc := keeping(t, nil)
	ref := sandbox.Ref(parked(t, w, acc.Session.ID))
	if _, err := w.DB.Exec(`update saved set expires_at = now() - interval '1 day'`); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the provider is told", func() bool { return !slices.Contains(w.Provider.Saved(), ref) })
	next := w.Ask(e, acc.Session.CreatedBy, "1.0", "two")
	if p := ended(t, e, next.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request ended as %s: %s", p.State, p.Reason)
	}
	if specs := w.Provider.Specs(); specs[len(specs)-1].From != "" {
		t.Errorf("it began from %q, which had expired", specs[len(specs)-1].From)
	}
}

func TestPeopleAreToldWhenSavedFilesAreGone(t *testing.T) {
	t.Parallel()
	w, e, acc := keeping(t, nil)
	w.Provider.Forget()
	next := w.Ask(e, acc.Session.CreatedBy, "1.0", "two")
	if p := ended(t, e, next.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request ended as %s: %s", p.State, p.Reason)
	}
	told := false
	for _, ev := range log(t, e, acc.Session.ID) {
		told = told || ev.Kind == sandbox.KindNote && ev.Prompt == next.Prompt.ID
	}
	if !told {
		t.Error("the log does not say that the session began anew from its branch")
	}
}
