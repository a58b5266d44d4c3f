package sessions_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestABuildWaitsForRoomAndThenSucceeds(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	w.Run(e)
	used(t, w, e, "1.0")
	old := built(t, e, "an image is built", succeeded)
	quiet(t, w)
	w.Provider.Fail(sandbox.ErrCapacity, sandbox.ErrCapacity, sandbox.ErrCapacity, sandbox.ErrCapacity)
	w.Forge.Commit("acme/greeter", secondCommit)
	if err := e.RepositoryChanged(bg, "acme/greeter"); err != nil {
		t.Fatal(err)
	}
	built(t, e, "the build succeeds", func(b sessions.Build) bool { return succeeded(b) && b.ID != old.ID })
}

func TestTheLogOfABuildIsBoundedAndHoldsNoSecret(t *testing.T) { // I10
	t.Parallel()
	w, e := gallery(t)
	halfway, finish := make(chan string), make(chan struct{})
	w.Provider.Prepare = func(_ context.Context, b *sessionstest.Box, c sandbox.Cmd) (int, error) {
		for i := range 20_000 {
			fmt.Fprintf(c.Stderr, "line %d of what the setup prints\n", i)
		}
		fmt.Fprintf(c.Stderr, "my token is %s\nthe password is a-secret-of", c.Env[sandbox.EnvToken])
		halfway <- b.Spec().Tags["build"]
		<-finish
		fmt.Fprint(c.Stderr, "-the-operator\nthe end\n")
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
	}
	w.Run(e)
	used(t, w, e, "1.0")
	id := <-halfway
	var shown string
	sessionstest.Eventually(t, "the log is shown while the build runs", func() bool {
		var err error
		shown, err = e.BuildLog(bg, "acme/greeter", id)
		return err == nil && strings.Contains(shown, "my token is")
	})
	if strings.Contains(shown, "a-secret-of") || !strings.Contains(shown, "my token is [redacted]") {
		t.Errorf("the log ends in %q", shown[len(shown)-200:])
	}
	close(finish)
	b := built(t, e, "the image is built", succeeded)
	whole, err := e.BuildLog(bg, "acme/greeter", id)
	if err != nil || !strings.Contains(whole, "the password is [redacted]\nthe end\n") || len(whole) > 600_000 || b.LogCut == 0 {
		t.Errorf("the log has %d bytes, %d are cut, %v; it ends in %q", len(whole), b.LogCut, err, whole[max(0, len(whole)-200):])
	}
}

func TestALongLogIsNotCutInTheMiddleOfASecret(t *testing.T) { // I10
	t.Parallel()
	w, e := gallery(t)
	secret := strings.Repeat("0123456789", 5) + "unguessable"
	if err := e.SetVariable(bg, w.Person(e, "Alice").ID, "acme/greeter", "KEY", secret, sessions.SecretInside); err != nil {
		t.Fatal(err)
	}
	w.Provider.Prepare = func(_ context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		fmt.Fprint(c.Stderr, strings.Repeat(secret, 10_000)) // one line, more than is kept
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
	}
	w.Run(e)
	used(t, w, e, "1.0")
	b := built(t, e, "the image is built", succeeded)
	log, err := e.BuildLog(bg, "acme/greeter", b.ID)
	if err != nil || b.LogCut == 0 || strings.Contains(log, "unguessable") {
		t.Errorf("of the log %d bytes are cut (%v); it begins with %q", b.LogCut, err, log[:min(len(log), 300)])
	}
}

// TestABuildWhoseReplicaDiedIsBegunAgain leaves what a killed replica leaves at
// each step of a build: the row, and a box that knows nothing of it.
func TestABuildWhoseReplicaDiedIsBegunAgain(t *testing.T) {
	t.Parallel()
	for _, left := range []struct {
		name, state       string
		box, noted, saved bool
	}{
		{"before the box is started", "building", false, false, false},
		{"before the box is recorded", "building", true, false, false},
		{"while the box prepares", "building", true, true, false},
		{"while the box is saved", "saving", true, true, false},
		{"before what was saved is recorded", "saving", true, true, true},
	} {
		t.Run(left.name, func(t *testing.T) {
			t.Parallel()
			w := sessionstest.New(t)
			e := replicaWithImages(w)
			w.Provider.Prepare = func(_ context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
				if n := len(w.Provider.Boxes()); n != 1 {
					t.Errorf("it is begun again beside %d other boxes", n-1)
				}
				return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
			}
			id := ""
			if left.box {
				box, err := w.Provider.Start(bg, sandbox.Spec{Name: "image-b1-1", Tags: map[string]string{"build": "b1", "build-epoch": "1"}})
				if err != nil {
					t.Fatal(err)
				}
				if left.noted {
					id = box.ID()
					age(t, w, `insert into image_boxes (box) values ($1)`, id)
				}
				if left.saved {
					if _, err := box.Snapshot(bg, sandbox.KeepImage); err != nil {
						t.Fatal(err)
					}
				}
			}
			age(t, w, `insert into images (id, repository, why, state, epoch, attempts, holder, held_until, box, token_hash, started_at)
				values ('b1', 'acme/greeter', 'testing', $1, 1, 1, 'a replica that died', now() - interval '1 second', $2, '\x00', now())`, left.state, id)
			w.Run(e)
			b := built(t, e, "the image is built", succeeded)
			if b.ID != "b1" {
				t.Errorf("%+v", b)
			}
			quiet(t, w)
			if boxes := w.Provider.Boxes(); len(boxes) != 0 {
				t.Errorf("%d boxes are left", len(boxes))
			}
			sessionstest.Eventually(t, "one image is kept", func() bool { return len(w.Provider.Saved()) == 1 })
		})
	}
}

// TestABuilderThatLostItsLeaseRecordsNothing takes the build away from a replica
// that hangs at each step.
func TestABuilderThatLostItsLeaseRecordsNothing(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"prepare", "save"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w, e := gallery(t)
			reached, hung := make(chan struct{}), make(chan struct{})
			resume := sync.OnceFunc(func() { close(hung) })
			t.Cleanup(resume)
			var hangs atomic.Bool
			hang := func() { // whoever builds first hangs, and does not notice that its time is over
				if !hangs.Swap(true) {
					close(reached)
					<-hung
				}
			}
			w.Provider.Prepare = func(_ context.Context, b *sessionstest.Box, c sandbox.Cmd) (int, error) {
				if step == "prepare" {
					hang()
				}
				return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
			}
			w.Provider.Save = func(context.Context, *sessionstest.Box) error {
				if step == "save" {
					hang()
				}
				return nil
			}
			w.Run(e)
			used(t, w, e, "1.0")
			<-reached
			other := replicaWithImages(w)
			age(t, w, `update images set epoch = epoch + 1, holder = 'another', held_until = now() - interval '1 second'`)
			w.Run(other)
			b := built(t, e, "the other replica builds the image", succeeded)
			resume()
			quiet(t, w)
			sessionstest.Eventually(t, "what the first one made is removed", func() bool { return len(w.Provider.Saved()) == 1 })
			if all, err := e.Builds(bg, "acme/greeter"); err != nil || len(all) != 1 || !all[0].Usable || all[0].ID != b.ID {
				t.Errorf("the builds are %+v, %v", all, err)
			}
		})
	}
}

func TestABuildThatAReplicaLeftAtItsEndGoesOnAtTheNext(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := replicaWithImages(w)
	reached := make(chan struct{})
	var begun atomic.Bool
	w.Provider.Prepare = func(ctx context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		if !begun.Swap(true) {
			close(reached)
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
	}
	stop := w.Run(e)
	used(t, w, e, "1.0")
	<-reached
	stop()
	quietBoxes := func() bool {
		return !slices.ContainsFunc(w.Provider.Boxes(), func(b *sessionstest.Box) bool { return b.Spec().Tags["build"] != "" })
	}
	if !quietBoxes() {
		t.Error("the box of the build lives on")
	}
	next := replicaWithImages(w)
	w.Run(next)
	built(t, next, "the image is built", succeeded)
	quiet(t, w)
}

func TestBoxesOfBuildsThatHaveEndedAreEnded(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	w.Run(e)
	used(t, w, e, "1.0")
	b := built(t, e, "an image is built", succeeded)
	quiet(t, w)
	start := func(name string, tags map[string]string) sandbox.Box {
		t.Helper()
		box, err := w.Provider.Start(bg, sandbox.Spec{Name: name, Tags: tags})
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	start("left", map[string]string{"build": b.ID, "build-epoch": "1"})
	others := start("others", map[string]string{"build": "of-another-database", "build-epoch": "1"})
	quietBut := func() bool {
		boxes := w.Provider.Boxes()
		return !slices.ContainsFunc(boxes, func(x *sessionstest.Box) bool { return x.Spec().Name == "left" })
	}
	sessionstest.Eventually(t, "the box is ended", quietBut)
	if _, err := w.Provider.Attach(bg, others.ID()); err != nil {
		t.Errorf("somebody else's box: %v", err)
	}
}
