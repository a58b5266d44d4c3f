package main

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	practicemodal "openinspect/internal/practice/modal"
)

// atModal has sandboxes run at the stand-in for Modal.
func atModal(p *practice) {
	p.sandboxes = providerModal
	p.extraEnv = append(p.extraEnv, "PARK_AFTER=2s")
}

// The whole way at Modal: an image is built, a session begins from it, its sandbox is
// saved while it is quiet, parked and restored, and ends in a pull request.
func TestASessionAtModalGoesFromAnImageOverASnapshotAndAPauseToAPullRequest(t *testing.T) {
	r := startRig(t, func(p *practice) {
		atModal(p)
		p.extraEnv = append(p.extraEnv, "PARK_AFTER=8s", "SNAPSHOT_AFTER=500ms")
	})
	channel := r.channel("greeter")
	r.waitSettled(r.say("alice", channel, "", "@inspect explain acme/greeter"), 1, 3*time.Minute)
	image := r.imageBuilt("acme/greeter", 3*time.Minute)

	thread := r.say("alice", channel, "", "@inspect fix the failing test in acme/greeter")
	first := r.waitSettled(thread, 1, 3*time.Minute)[0]
	var from string
	if err := r.db.Get(&from, `select image from sandboxes where session_id = $1`, first.Session); err != nil || from != image {
		t.Errorf("the session began from image %q, want %s (%v)", from, image, err)
	}
	r.eventually("a snapshot of the quiet sandbox", time.Minute, func() error {
		var snapshots int
		err := r.db.Get(&snapshots, `select count(*) from saved where session_id = $1 and kind = 'snapshot' and ref <> ''`, first.Session)
		if err == nil && snapshots == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	before := r.parked(first.Session)
	sandboxes := r.sandboxesOf(first.Session)
	if len(sandboxes) != 1 || sandboxes[0].Ended.IsZero() {
		t.Fatalf("after parking Modal has the sandboxes %+v, want one that has ended", sandboxes)
	}
	r.say("bob", channel, thread, "add a usage section to the README")
	prompts := r.waitSettled(thread, 2, 3*time.Minute)
	for _, p := range prompts {
		if p.State != "completed" {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	sandboxes = r.sandboxesOf(first.Session)
	if len(sandboxes) != 2 || sandboxes[1].Image != before && sandboxes[0].Image != before {
		t.Errorf("the session did not go on from the image %s: %+v", before, sandboxes)
	}
	r.checkThread(channel, thread, prompts)
	r.checkPullRequest(first.Session)
	r.checkLog(first.Session)
	after := r.parked(first.Session)
	r.eventually("only the last saved filesystem is kept", time.Minute, func() error {
		for _, saved := range r.practice.modal.Images() {
			of := slices.IndexFunc(sandboxes, func(s practicemodal.Sandbox) bool { return s.ID == saved.Sandbox })
			if of >= 0 && saved.ID != after {
				return fmt.Errorf("image %s is there", saved.ID)
			}
		}
		return nil
	})
}

// parked waits until a session's sandbox is parked and returns what it was saved as.
func (r *rig) parked(session string) (ref string) {
	r.Helper()
	r.eventually("the sandbox is parked", time.Minute, func() error {
		var state string
		row := r.db.QueryRow(`select state, ref from sandboxes where session_id = $1`, session)
		if err := row.Scan(&state, &ref); err != nil {
			return err
		}
		if state != "parked" || ref == "" {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
	return ref
}

func TestDoctorNamesAWrongTokenOfModals(t *testing.T) {
	r := startRig(t, atModal)
	env := r.practice.childEnv("/bin/true")
	doctor := func(env []string) (string, error) {
		cmd := exec.CommandContext(t.Context(), r.practice.binary, "doctor")
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := doctor(env); err != nil || !strings.Contains(out, "Modal takes the token") {
		t.Errorf("doctor on a healthy configuration: %v\n%s", err, out)
	}
	env = append(env, "MODAL_TOKEN_SECRET=as-wrong")
	var exit *exec.ExitError
	if out, err := doctor(env); !errors.As(err, &exit) || !strings.Contains(out, "✗ sandboxes") || !strings.Contains(out, "MODAL_TOKEN_SECRET") {
		t.Errorf("doctor with a wrong token: %v\n%s", err, out)
	}
}

// TestAControlPlaneKilledWhileModalWorksLeaksNothing kills it where only Modal
// knows what was done: a sandbox is started, a filesystem is being saved, a
// parked sandbox is not terminated yet.
func TestAControlPlaneKilledWhileModalWorksLeaksNothing(t *testing.T) {
	r := startRig(t, func(p *practice) {
		atModal(p)
		p.scripts = killScript.write(t)
		p.pace = 5 * time.Millisecond
	})
	modal := r.practice.modal
	killed := func(where string, come func() bool) {
		t.Helper()
		r.eventually(where, time.Minute, func() error {
			if !come() {
				return errors.New("not yet")
			}
			return nil
		})
		r.killServe() // and with it the call that hangs, which has no effect any more
		modal.Clear() // it may have been killed just before that call
	}
	channel := r.channel("greeter")
	modal.Inject(practicemodal.Fault{Kind: practicemodal.Hang, Method: "SandboxCreateV2", AfterEffect: true, Times: 1})
	thread := r.say("alice", channel, "", "@inspect leave trace first0 in acme/greeter")
	killed("a sandbox is started and nobody was told", func() bool { return slices.ContainsFunc(modal.Sandboxes(), isSessions) })

	session := r.waitSettled(thread, 1, 3*time.Minute)[0].Session
	hang := func(method string) { // builds of images make the same calls
		for _, s := range r.sandboxesOf(session) {
			if s.Ended.IsZero() {
				modal.Inject(practicemodal.Fault{Kind: practicemodal.Hang, Method: method, Sandbox: s.ID, Times: 1})
			}
		}
	}
	hang("TaskSnapshotFilesystem")
	killed("the sandbox is being saved", func() bool { return r.sandboxState(session) == "parking" })
	r.parked(session)

	r.say("bob", channel, thread, "leave trace second0")
	prompts := r.waitSettled(thread, 2, 3*time.Minute)
	hang("SandboxTerminateV2")
	killed("the sandbox is saved and runs", func() bool {
		return r.sandboxState(session) == "parking" && slices.ContainsFunc(modal.Images(), func(i practicemodal.Image) bool {
			return slices.ContainsFunc(modal.Sandboxes(), func(s practicemodal.Sandbox) bool { return s.ID == i.Sandbox && s.Ended.IsZero() })
		})
	})
	last := r.parked(session)

	for _, p := range prompts {
		if p.State != "completed" {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	r.checkThread(channel, thread, prompts)
	r.checkLog(session)
	r.checkPullRequest(session)
	r.checkTraces(session, 0)
	if all := r.sandboxesOf(session); len(all) != 2 || all[0].Ended.IsZero() || all[1].Ended.IsZero() {
		t.Errorf("the sandboxes are %+v, want two that have ended", all)
	}
	kept := map[string]bool{}
	for _, image := range modal.Images() {
		kept[image.ID] = true
		if image.Snapshot != "" && image.Expires.IsZero() {
			t.Errorf("image %s is kept for ever", image.ID)
		}
	}
	if !kept[last] {
		t.Errorf("what the session goes on from, %s, is not there: %v", last, kept)
	}
}

// isSessions says whether a sandbox at Modal works on a session.
func isSessions(s practicemodal.Sandbox) bool { return s.Tags["session"] != "" }

// sandboxesOf are the sandboxes that Modal was asked for on behalf of a session.
func (r *rig) sandboxesOf(session string) (all []practicemodal.Sandbox) {
	for _, s := range r.practice.modal.Sandboxes() {
		if s.Tags["session"] == session {
			all = append(all, s)
		}
	}
	return all
}

// sandboxState is the state of a session's sandbox.
func (r *rig) sandboxState(session string) (state string) {
	r.Helper()
	if err := r.db.Get(&state, `select state from sandboxes where session_id = $1`, session); err != nil {
		r.Fatal(err)
	}
	return state
}
