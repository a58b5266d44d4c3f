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
	"time"

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
		c.ImageBuilds, c.Admins = 1, []string{"U1"} // the first person of the world
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
	begun := make(chan struct{})
	w.Provider.Prepare = func(ctx context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		select {
		case <-begun:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
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
	close(begun)
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
	var builds atomic.Int32
	again := make(chan struct{})
	letBuild := sync.OnceFunc(func() { close(again) })
	t.Cleanup(letBuild)
	w.Provider.Prepare = func(_ context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		if builds.Add(1) > 1 {
			<-again // else the session may take the new one
		}
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
	}
	w.Run(e)
	used(t, w, e, "1.0")
	old := built(t, e, "an image is built", succeeded)
	quiet(t, w)
	w.Provider.Forget()
	from, acc := used(t, w, e, "2.0")
	letBuild()
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
	var broken atomic.Bool
	w.Provider.Boot = func(ctx context.Context, b *sessionstest.Box) {
		if b.Spec().From != "" && broken.Load() {
			b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseSync, State: "failed", Detail: "object file is empty"})
			return
		}
		sessionstest.Ready(ctx, b)
	}
	w.Run(e)
	used(t, w, e, "1.0")
	built(t, e, "an image is built", succeeded)
	broken.Store(true)
	acc := w.Ask(e, w.Person(e, "Bob").ID, "2.0", "acme/greeter: one")
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Failed {
		t.Fatalf("the request ended as %s: %s", p.State, p.Reason)
	}
	w.Provider.Fail(sandbox.ErrCapacity) // the first try settles nothing
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

func TestARepositoryWhoseImagesAreSwitchedOffHasNoneAndBeginsWithAClone(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	alice := w.Person(e, "Alice")
	building := make(chan struct{}, 1)
	var hang atomic.Bool
	w.Provider.Prepare = func(ctx context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		if hang.Load() {
			building <- struct{}{}
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
	}
	w.Run(e)
	used(t, w, e, "1.0")
	built(t, e, "an image is built", succeeded)
	hang.Store(true)
	w.Forge.Commit("acme/greeter", secondCommit)
	if err := e.RepositoryChanged(bg, "acme/greeter"); err != nil {
		t.Fatal(err)
	}
	<-building
	change(t, e, alice, "acme/greeter", sessions.Settings{Images: sessions.No})
	if list, err := e.Builds(bg, "acme/greeter"); err != nil || slices.ContainsFunc(list, func(b sessions.Build) bool { return b.Usable }) {
		t.Errorf("sessions still begin from one of %+v (%v)", list, err)
	}
	if b := built(t, e, "the build ends", failed); b.Reason != "Images were switched off." {
		t.Errorf("the build failed because: %s", b.Reason)
	}
	quiet(t, w)
	sessionstest.Eventually(t, "the image is removed", func() bool { return len(w.Provider.Saved()) == 0 })
	if from, _ := used(t, w, e, "2.0"); from != "" {
		t.Errorf("a session began from %s", from)
	}
	if _, err := e.RebuildImage(bg, "acme/greeter", alice.ID); !strings.Contains(problem(err), "switched off in the settings") {
		t.Errorf("a rebuild: %v", err)
	}
	if _, err := e.RebuildImage(bg, "acme/billing", alice.ID); err != nil {
		t.Errorf("a rebuild of another repository's: %v", err)
	}
	<-building
	hang.Store(false)
	if list, err := e.FailingBuilds(bg); err != nil || len(list) != 0 {
		t.Errorf("administrators are told of %+v (%v)", list, err)
	}
	asked := w.Forge.HeadsAsked()
	if err := e.RepositoryChanged(bg, "acme/greeter"); err != nil {
		t.Fatal(err)
	}
	change(t, e, alice, sessions.ForAll, sessions.Settings{Images: sessions.No})
	used(t, w, e, "3.0")
	if n := w.Forge.HeadsAsked(); n != asked {
		t.Errorf("the code host was asked %d times", n-asked)
	}
	quiet(t, w) // what was being built of the other one is over, too
	// On again for this one, it has one at once, although a build has failed just now.
	change(t, e, alice, "acme/greeter", sessions.Settings{Images: sessions.Yes})
	built(t, e, "an image is built again", succeeded)
}

func TestABuildGivesScriptsTheTimeThatIsSetForTheRepository(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	given := make(chan sandbox.Preparation, 1)
	w.Provider.Prepare = func(_ context.Context, _ *sessionstest.Box, c sandbox.Cmd) (int, error) {
		var p sandbox.Preparation
		if err := json.NewDecoder(c.Stdin).Decode(&p); err != nil {
			return 0, err
		}
		given <- p
		return sessionstest.Prepared(c, sandbox.Prepared{Commit: sessionstest.FirstCommit})
	}
	change(t, e, w.Person(e, "Alice"), "acme/greeter", sessions.Settings{SetupMinutes: 90})
	w.Run(e)
	used(t, w, e, "1.0")
	if p := <-given; p.SetupTimeout != 90*time.Minute {
		t.Errorf("a script may run for %s", p.SetupTimeout)
	}
	built(t, e, "an image is built", succeeded)
	for _, s := range w.Provider.Specs() {
		if s.Tags["build"] != "" && s.Lifetime < 3*time.Hour {
			t.Errorf("the box of the build ends after %s", s.Lifetime)
		}
	}
}

func TestOnlyAdministratorsHaveAnImageBuiltAnew(t *testing.T) {
	t.Parallel()
	w, e := gallery(t)
	w.Run(e)
	alice, bob := w.Person(e, "Alice"), w.Person(e, "Bob")
	_, err := e.RebuildImage(bg, "acme/billing", bob.ID)
	if p, ok := errors.AsType[*sessions.Problem](err); !ok || p.Code != "not_admin" {
		t.Errorf("a rebuild by Bob: %v", err)
	}
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
