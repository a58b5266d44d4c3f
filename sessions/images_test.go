package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// gallery is a world whose replica builds images, one at a time.
func gallery(t *testing.T) (*sessionstest.World, *sessions.Engine) {
	t.Helper()
	w := sessionstest.New(t)
	return w, replicaWithImages(w)
}

func replicaWithImages(w *sessionstest.World) *sessions.Engine {
	e := w.Engine(func(c *sessions.Config) {
		c.ImageBuilds = 1
		c.Scrub = []string{"a-secret-of-the-operator"}
	})
	sessions.Hasten(e)
	return e
}

// used has somebody work on acme/greeter in a new session and returns where its box began.
func used(t *testing.T, w *sessionstest.World, e *sessions.Engine, ts string) (sandbox.Ref, sessions.Accepted) {
	t.Helper()
	acc := w.Ask(e, w.Person(e, "Alice").ID, ts, "acme/greeter: one")
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Fatalf("the request ended as %s: %s", p.State, p.Reason)
	}
	specs := w.Provider.Specs()
	for i := len(specs) - 1; ; i-- {
		if specs[i].Tags["session"] == acc.Session.ID {
			return specs[i].From, acc
		}
	}
}

// built waits until a repository's newest build is as wanted, and returns it.
func built(t *testing.T, e *sessions.Engine, what string, ok func(sessions.Build) bool) sessions.Build {
	t.Helper()
	var newest sessions.Build
	sessionstest.Eventually(t, what, func() bool {
		all, err := e.Builds(bg, "acme/greeter")
		if err != nil || len(all) == 0 {
			return false
		}
		newest = all[0]
		return ok(newest)
	})
	return newest
}

func succeeded(b sessions.Build) bool { return b.State == sessions.BuildSucceeded }
func failed(b sessions.Build) bool    { return b.State == sessions.BuildFailed }

// quiet waits until nothing is being built and no box of a build lives.
func quiet(t *testing.T, w *sessionstest.World) {
	t.Helper()
	sessionstest.Eventually(t, "no build and no box of one is left", func() bool {
		var open int
		err := w.DB.Get(&open, `select count(*) from images where state in ('queued', 'building', 'saving')`)
		return err == nil && open == 0 && !slices.ContainsFunc(w.Provider.Boxes(), func(b *sessionstest.Box) bool {
			return b.Spec().Tags["build"] != ""
		})
	})
}

const secondCommit = "2222222222222222222222222222222222222222"

// onBranch has boxes prepare whatever the default branch is at.
func onBranch(commit *atomic.Pointer[string]) func(context.Context, *sessionstest.Box, sandbox.Cmd) (int, error) {
	return func(_ context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: *commit.Load()})
	}
}

func TestASessionBeginsFromItsRepositorysImage(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	var asked sandbox.Preparation
	var grant sessions.Grant
	var token string
	w.Provider.Prepare = func(ctx context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		data, err := io.ReadAll(c.Stdin)
		if err == nil {
			err = json.Unmarshal(data, &asked)
		}
		if err != nil {
			return 0, err
		}
		token = c.Env[sandbox.EnvToken]
		if grant, err = e.Authenticate(ctx, token); err != nil {
			return 0, err
		}
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
	}
	w.Run(e)
	if from, _ := used(t, w, e, "1.0"); from != "" {
		t.Errorf("the first session began from %q", from)
	}
	b := built(t, e, "an image is built", succeeded)
	if !b.Usable || b.Commit != sessionstest.FirstCommit {
		t.Errorf("the image is %+v", b)
	}
	quiet(t, w)
	if from, _ := used(t, w, e, "2.0"); len(w.Provider.Saved()) != 1 || from != w.Provider.Saved()[0] {
		t.Errorf("the second session began from %q; saved are %q", from, w.Provider.Saved())
	}
	if asked.Repository != "acme/greeter" || asked.Branch != "main" || !strings.HasSuffix(asked.RemoteURL, "/acme/greeter.git") {
		t.Errorf("the box was asked to prepare %+v", asked)
	}
	if grant.Repository != "acme/greeter" || grant.DefaultBranch != "main" || grant.Branch != "" || grant.Session == "" {
		t.Errorf("the build's box may %+v", grant) // I7, I8: read, and nothing else
	}
	if _, err := e.Authenticate(bg, token); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("the token of a build that has ended: %v", err)
	}
}

func TestARepositoryThatChangedGetsANewImageAndLosesTheOldOne(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	commit := &atomic.Pointer[string]{}
	first, second := sessionstest.FirstCommit, secondCommit
	commit.Store(&first)
	w.Provider.Prepare = onBranch(commit)
	w.Run(e)
	used(t, w, e, "1.0")
	old := built(t, e, "an image is built", succeeded)
	quiet(t, w)
	before := w.Forge.HeadsAsked()
	if err := e.RepositoryChanged(bg, "acme/greeter"); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the branch is looked at", func() bool { return w.Forge.HeadsAsked() > before })
	quiet(t, w)
	if all, err := e.Builds(bg, "acme/greeter"); err != nil || len(all) != 1 {
		t.Errorf("though nothing changed there are the builds %+v, %v", all, err)
	}
	w.Forge.Commit("acme/greeter", second)
	commit.Store(&second)
	if err := e.RepositoryChanged(bg, "acme/greeter"); err != nil {
		t.Fatal(err)
	}
	b := built(t, e, "another image is built", func(b sessions.Build) bool { return succeeded(b) && b.ID != old.ID })
	if b.Commit != second || !strings.Contains(b.Why, second[:8]) {
		t.Errorf("the new image is %+v", b)
	}
	sessionstest.Eventually(t, "the old image is removed", func() bool { return len(w.Provider.Saved()) == 1 })
	if from, _ := used(t, w, e, "2.0"); from != w.Provider.Saved()[0] {
		t.Errorf("the session began from %q; saved is %q", from, w.Provider.Saved())
	}
	all, err := e.Builds(bg, "acme/greeter")
	if err != nil || len(all) != 2 || all[1].Image != "gone" || all[1].Usable || !all[0].Usable {
		t.Errorf("the builds are shown as %+v, %v", all, err)
	}
}

func TestAFailingBuildKeepsTheLastGoodImageAndSaysSo(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	var broken atomic.Bool
	w.Provider.Prepare = func(_ context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		fmt.Fprintln(c.Stderr, "npm ERR! missing script")
		if broken.Load() {
			return sessionstest.Prepared(c, sandbox.Prepared{Error: ".openinspect/setup.sh failed (exit status 1)"})
		}
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
	}
	w.Run(e)
	used(t, w, e, "1.0")
	built(t, e, "an image is built", succeeded)
	broken.Store(true)
	w.Forge.Commit("acme/greeter", secondCommit)
	change := func() {
		t.Helper()
		before := w.Forge.HeadsAsked()
		if err := e.RepositoryChanged(bg, "acme/greeter"); err != nil {
			t.Fatal(err)
		}
		sessionstest.Eventually(t, "the branch is looked at", func() bool { return w.Forge.HeadsAsked() > before })
	}
	change()
	b := built(t, e, "the build fails", failed)
	if b.Reason != ".openinspect/setup.sh failed (exit status 1)." {
		t.Errorf("the reason is %q", b.Reason)
	}
	if log, err := e.BuildLog(bg, "acme/greeter", b.ID); err != nil || !strings.Contains(log, "npm ERR! missing script") {
		t.Errorf("the log is %q, %v", log, err)
	}
	if failing, err := e.FailingBuilds(bg); err != nil || len(failing) != 1 || failing[0].ID != b.ID {
		t.Errorf("failing are %+v, %v", failing, err)
	}
	if from, _ := used(t, w, e, "2.0"); from == "" {
		t.Error("the session did not begin from the last good image")
	}
	change() // the same again does not become better by itself
	quiet(t, w)
	if all, err := e.Builds(bg, "acme/greeter"); err != nil || len(all) != 2 {
		t.Errorf("the builds are %+v, %v", all, err)
	}
	broken.Store(false)
	age(t, w, `update images set ended_at = ended_at - interval '31 minutes' where state = 'failed'`)
	change()
	built(t, e, "it is tried again after half an hour", succeeded)
	if failing, err := e.FailingBuilds(bg); err != nil || len(failing) != 0 {
		t.Errorf("failing are %+v, %v", failing, err)
	}
}

// age lets time pass in the database.
func age(t *testing.T, w *sessionstest.World, statement string, args ...any) {
	t.Helper()
	if _, err := w.DB.Exec(statement, args...); err != nil {
		t.Fatal(err)
	}
}

func TestAnImageThatTheProviderLostIsReplacedByACloneAndBuiltAnew(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	w.Run(e)
	used(t, w, e, "1.0")
	old := built(t, e, "an image is built", succeeded)
	quiet(t, w)
	w.Provider.Forget()
	from, acc := used(t, w, e, "2.0")
	if from != "" {
		t.Errorf("the session began from %q in the end", from)
	}
	if !slices.ContainsFunc(log(t, e, acc.Session.ID), func(ev sessions.Event) bool {
		return ev.Kind == sessions.KindSandbox && strings.Contains(string(ev.Body), "image is gone")
	}) {
		t.Error("nobody was told that the image is gone")
	}
	built(t, e, "the image is built anew", func(b sessions.Build) bool { return succeeded(b) && b.ID != old.ID })
}

func TestASessionWhoseBootFromTheImageFailedBeginsWithoutItTheNextTime(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		if b.Spec().From != "" {
			b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseSync, State: "failed", Detail: "object file is empty"})
			return
		}
		sessionstest.Ready(ctx, b)
	}
	w.Run(e)
	used(t, w, e, "1.0")
	built(t, e, "an image is built", succeeded)
	acc := w.Ask(e, w.Person(e, "Bob").ID, "2.0", "acme/greeter: one")
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Failed {
		t.Fatalf("the request ended as %s: %s", p.State, p.Reason)
	}
	next := w.Ask(e, acc.Session.CreatedBy, "2.0", "two")
	if p := ended(t, e, next.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request after it ended as %s: %s", p.State, p.Reason)
	}
}

func TestAnImageIsNotRemovedUnderAStart(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	w.Run(e)
	_, acc := used(t, w, e, "1.0")
	old := built(t, e, "an image is built", succeeded)
	quiet(t, w)
	// Somebody is just starting a box from it, and takes their time.
	age(t, w, `insert into sessions (id, repository, created_by) values ('slow', 'acme/greeter', $1)`, acc.Session.CreatedBy)
	age(t, w, `insert into sandboxes (session_id, state, image, box, claimed_at, held_until, looked_at)
		values ('slow', 'starting', $1, '', now(), now() + interval '1 hour', now())`, old.ID)
	age(t, w, `update images set queued_at = queued_at - interval '6 days', ended_at = ended_at - interval '6 days 1 minute'`)
	age(t, w, `update sandboxes set claimed_at = now() - interval '3 minutes' where session_id = 'slow'`) // builds wait for younger ones
	if err := e.RepositoryChanged(bg, "acme/greeter"); err != nil {
		t.Fatal(err)
	}
	b := built(t, e, "the image is renewed before its week is over", func(b sessions.Build) bool { return succeeded(b) && b.ID != old.ID })
	if !strings.Contains(b.Why, "nearly a week old") {
		t.Errorf("it was built because %s", b.Why)
	}
	sessionstest.Eventually(t, "the builder has looked for old images since", func() bool {
		var idle bool
		return w.DB.Get(&idle, `select now() > ended_at + interval '300 milliseconds' from images where id = $1`, b.ID) == nil && idle
	})
	if n := len(w.Provider.Saved()); n != 2 {
		t.Fatalf("there are %d images while one is in use", n)
	}
	age(t, w, `update sandboxes set state = 'ready', held_until = now() + interval '1 hour' where session_id = 'slow'`)
	sessionstest.Eventually(t, "the old image is removed", func() bool { return len(w.Provider.Saved()) == 1 })
}

func TestOnlyRepositoriesInUseGetImages(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	w.Run(e)
	used(t, w, e, "1.0")
	old := built(t, e, "an image is built", succeeded)
	quiet(t, w)
	w.Forge.Commit("acme/greeter", secondCommit)
	age(t, w, `update sessions set updated_at = now() - interval '15 days'`)
	asked := w.Forge.HeadsAsked()
	for _, repository := range []string{"acme/greeter", "acme/billing", "acme/unknown"} {
		if err := e.RepositoryChanged(bg, repository); err != nil {
			t.Fatal(err)
		}
	}
	age(t, w, `update images set ended_at = now() - interval '7 days'`) // so that there is something to wait for
	sessionstest.Eventually(t, "the unused image is removed in the end", func() bool { return len(w.Provider.Saved()) == 0 })
	if all, err := e.Builds(bg, "acme/greeter"); err != nil || len(all) != 1 || all[0].ID != old.ID {
		t.Errorf("the builds are %+v, %v", all, err)
	}
	if n := w.Forge.HeadsAsked(); n != asked {
		t.Errorf("the code host was asked %d times", n-asked)
	}
	if _, err := e.Builds(bg, "acme/unknown"); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("the builds of an unknown repository: %v", err)
	}
}

func TestOnlyAdministratorsHaveAnImageBuiltAnew(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	w.Run(e)
	alice := w.Person(e, "Alice")
	_, err := e.RebuildImage(bg, "acme/billing", alice.ID)
	if p, ok := errors.AsType[*sessions.Problem](err); !ok || p.Code != "not_admin" {
		t.Errorf("a rebuild by Alice: %v", err)
	}
	age(t, w, `update people set admin = true where id = $1`, alice.ID)
	b, err := e.RebuildImage(bg, "acme/billing", alice.ID)
	if err != nil || !b.Open() || b.Why != "asked for by Alice" {
		t.Fatalf("%+v, %v", b, err)
	}
	sessionstest.Eventually(t, "the image is built", func() bool {
		all, err := e.Builds(bg, "acme/billing")
		return err == nil && len(all) > 0 && succeeded(all[0])
	})
	if _, err := e.RebuildImage(bg, "acme/nothing", alice.ID); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("a rebuild of nothing: %v", err)
	}
}

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

// TestABuildWhoseReplicaDiedIsBegunAgain leaves what a killed replica leaves at
// each step of a build: the row, and a box that knows nothing of it.
func TestABuildWhoseReplicaDiedIsBegunAgain(t *testing.T) {
	t.Parallel()
	for _, left := range []struct {
		name, state string
		box, noted  bool
	}{
		{"before the box is started", "building", false, false},
		{"before the box is recorded", "building", true, false},
		{"while the box prepares", "building", true, true},
		{"while the box is saved", "saving", true, true},
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

func TestAPromptThatReadsFailsWithItsSandboxWhenTheRepositoryCannotBeReached(t *testing.T) { // I3
	t.Parallel()
	w, e := gallery(t)
	reading := make(chan struct{})
	var reached atomic.Bool
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		sessionstest.Ready(ctx, b)
		if reached.Load() {
			return
		}
		select {
		case <-reading:
			b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseSync, State: "failed", Detail: "git fetch: 403"})
		case <-ctx.Done():
		}
	}
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		if reached.Load() {
			sessionstest.Answer(ctx, b, p)
			return
		}
		close(reading)
		<-ctx.Done()
	}
	w.Run(e)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: read")
	next := w.Ask(e, acc.Session.CreatedBy, "1.0", "and then")
	for _, id := range []string{acc.Prompt.ID, next.Prompt.ID} {
		if p := ended(t, e, id); p.State != sessions.Failed || !strings.Contains(p.Reason, "could not be brought up to date: git fetch: 403") {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	reached.Store(true)
	last := w.Ask(e, acc.Session.CreatedBy, "1.0", "once more")
	if p := ended(t, e, last.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("the request after it ended as %s: %s", p.State, p.Reason)
	}
	log(t, e, acc.Session.ID) // each prompt ended once
}
