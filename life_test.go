package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// saved lists the filesystems that the provider keeps on disk.
func (r *rig) saved() []string {
	r.Helper()
	entries, err := os.ReadDir(filepath.Join(r.practice.dir, "sandboxes", "saved"))
	if err != nil {
		r.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Somebody presses Ctrl-C: in the middle of the very first boot, with a snapshot
// taken, and with a sandbox that continues a parked one.
func TestCtrlCLosesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	r := startRig(t, func(p *practice) { p.extraEnv = append(p.extraEnv, "SNAPSHOT_AFTER=1s") })
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect explain acme/greeter")
	r.eventually("the sandbox boots", time.Minute, func() error {
		var booting bool
		if err := r.db.Get(&booting, `select exists (select from sandboxes where state = 'booting')`); err != nil || booting {
			return err
		}
		return fmt.Errorf("it does not boot yet")
	})
	r.stop()
	if left := r.saved(); len(left) != 0 {
		t.Errorf("a stop in the first boot leaves %q", left)
	}
	r.start()
	first := r.waitSettled(thread, 1, 3*time.Minute)
	if first[0].State != "completed" {
		t.Errorf("the request ended as %s: %s", first[0].State, first[0].Reason)
	}
	r.checkSaved("a snapshot", first[0].Session, func(kind, ref string, saved []string) bool {
		return kind == "snapshot" && len(saved) == 1 && saved[0] == ref
	})
	r.stop()
	r.start()
	r.checkSaved("a parked sandbox in its place", first[0].Session, func(kind, ref string, saved []string) bool {
		return kind == "park" && len(saved) == 1 && saved[0] == ref
	})
	r.say("bob", channel, thread, "explain it again")
	second := r.waitSettled(thread, 2, 3*time.Minute)
	if second[1].State != "completed" {
		t.Errorf("the reply ended as %s: %s", second[1].State, second[1].Reason)
	}
	r.checkLog(first[0].Session)
}

// checkSaved waits until the provider keeps what it should: kind and ref are what
// the session goes on from.
func (r *rig) checkSaved(what, session string, ok func(kind, ref string, saved []string) bool) {
	r.Helper()
	r.eventually(what, time.Minute, func() error {
		var row struct{ Kind, Ref string }
		err := r.db.Get(&row, `select v.kind, v.ref from saved v join sandboxes b on b.session_id = v.session_id and b.ref = v.ref
			where v.session_id = $1 and v.state = 'kept'`, session)
		if err != nil {
			return err
		}
		var images []string // of repositories
		if err := r.db.Select(&images, `select ref from images where ref <> ''`); err != nil {
			return err
		}
		saved := slices.DeleteFunc(r.saved(), func(name string) bool { return slices.Contains(images, name) })
		if !ok(row.Kind, row.Ref, saved) {
			return fmt.Errorf("the session goes on from %s %s, and %q are kept", row.Kind, row.Ref, saved)
		}
		return nil
	})
}
