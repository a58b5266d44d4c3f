package modal

import (
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestEverythingIsFoundAgainAfterARestart(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	if _, err := s.client.Images.FromRegistry("debian:12", nil).DockerfileCommands([]string{"ENV A=b"}, nil).Build(s.ctx, s.app, nil); err != nil {
		t.Fatal(err)
	}
	b := s.create(&sdk.SandboxCreateParams{
		Name: "lasting", Tags: map[string]string{"session": "s"}, Env: map[string]string{"GREETING": "hello"},
		Command: []string{"sh", "-c", "echo before; read line; echo got $line; exit 4"},
	})
	s.sh(b, "echo kept > /workspace/file; echo volatile > /tmp/file")
	saved, err := b.SnapshotFilesystem(s.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	dead := s.create(&sdk.SandboxCreateParams{Name: "dead", Command: []string{"sh", "-c", "echo last words"}})
	if _, err := dead.Wait(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	app, images, sandboxes := s.app.AppID, s.Images(), s.Sandboxes()
	s.end()
	s.start(Options{})

	if s.app.AppID != app {
		t.Errorf("the app is %s, was %s", s.app.AppID, app)
	}
	if diff := cmp.Diff(images, s.Images()); diff != "" {
		t.Errorf("images: %s", diff)
	}
	if diff := cmp.Diff(sandboxes, s.Sandboxes()); diff != "" {
		t.Errorf("sandboxes: %s", diff)
	}
	again, err := s.client.Sandboxes.FromName(s.ctx, "inspect", "lasting", nil)
	if err != nil || again.SandboxID != b.SandboxID {
		t.Fatalf("by name: %v, %v", again, err)
	}
	defer again.Detach()
	if got := s.sh(again, "cat /workspace/file /tmp/file; echo $GREETING"); got != "kept\nvolatile\nhello\n" {
		t.Errorf("the same sandbox: %q", got)
	}
	if _, err := io.WriteString(again.Stdin, "typed\n"); err != nil {
		t.Fatal(err)
	}
	if out, err := io.ReadAll(again.Stdout); err != nil || string(out) != "before\ngot typed\n" {
		t.Errorf("the same entrypoint: %q, %v", out, err)
	}
	if exit, err := again.Wait(s.ctx, nil); err != nil || exit != 4 {
		t.Errorf("exit %d, %v; want 4", exit, err)
	}
	if got := s.sh(s.createFrom(saved, &sdk.SandboxCreateParams{Name: "lasting"}), "cat /workspace/file"); got != "kept\n" {
		t.Errorf("from the snapshot: %q", got)
	}
	old, err := s.client.Sandboxes.FromID(s.ctx, dead.SandboxID, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Detach()
	if out, err := io.ReadAll(old.Stdout); err != nil || string(out) != "last words\n" {
		t.Errorf("of the one that had ended: %q, %v", out, err)
	}
}

func TestWhatEndsDuringARestartIsSeenAfterIt(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Name: "ends", Command: []string{"sh", "-c", "read line; exit 9"}})
	lost := s.create(&sdk.SandboxCreateParams{Name: "lost"})
	record := s.Sandboxes()[0]
	if record.ID != lost.SandboxID {
		t.Fatal("not the newest")
	}
	if _, err := io.WriteString(b.Stdin, "go\n"); err != nil { // it may end before or after the stand-in
		t.Fatal(err)
	}
	box, err := s.boxes.Attach(s.ctx, record.Box)
	if err != nil {
		t.Fatal(err)
	}
	s.end()
	if err := box.Kill(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.start(Options{})
	for id, want := range map[string]int{b.SandboxID: 9, lost.SandboxID: 137} {
		again, err := s.client.Sandboxes.FromID(s.ctx, id, nil)
		if err != nil {
			t.Fatal(err)
		}
		if exit, err := again.Wait(s.ctx, nil); err != nil || exit != want {
			t.Errorf("exit %d, %v; want %d", exit, err, want)
		}
	}
}

func TestABuildDoesNotOutliveTheStandIn(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	base := s.layered()
	built := make(chan error, 1)
	client := s.client
	go func() {
		_, err := base.DockerfileCommands([]string{"RUN echo started; sleep 600"}, nil).Build(s.ctx, s.app, nil)
		built <- err
	}()
	s.until("the build runs", func() bool { return strings.Contains(strings.Join(s.Images()[0].Log, ""), "started\n") })
	s.end()
	if err := <-built; err == nil {
		t.Error("the build succeeded")
	}
	client.Close()
	s.start(Options{})
	s.noBuildBoxes()
	if record := s.Images()[0]; record.Result.Why != "The build was shut down" {
		t.Errorf("the image: %+v", record)
	}
}

func TestABoxWithoutASandboxIsKilledAtTheStart(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Timeout: time.Hour})
	s.end()
	// As if the process had died between recording the end and killing the box.
	stranger, err := Open(s.ctx, s.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.change(stranger.boxByID(b.SandboxID), func(r *Sandbox) { r.Ended = time.Now() }); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Close(); err != nil {
		t.Fatal(err)
	}
	s.start(Options{})
	var left []string
	for info, err := range s.boxes.List(s.ctx, nil) {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, info.Name)
	}
	if slices.Contains(left, b.SandboxID) {
		t.Errorf("boxes are left: %v", left)
	}
}

func TestWhatEndedLongAgoIsForgotten(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Name: "old", Command: []string{"echo", "words"}})
	if _, err := b.Wait(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	live := s.create(nil)
	if err := s.dropOld(time.Now().Add(endedTime)); err != nil {
		t.Fatal(err)
	}
	if left := s.Sandboxes(); len(left) != 1 || left[0].ID != live.SandboxID {
		t.Errorf("left: %+v", left)
	}
	if _, err := b.Poll(s.ctx, nil); status.Code(err) != codes.NotFound {
		t.Errorf("asking for it: %v", err)
	}
	for _, kind := range []string{"sandboxes", "output"} {
		files, err := filepath.Glob(filepath.Join(s.dir, kind, b.SandboxID+"*"))
		if err != nil || len(files) > 0 {
			t.Errorf("files are left: %v, %v", files, err)
		}
	}
}
