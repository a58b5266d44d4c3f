package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// imageScripts read a file of the repository before they change one.
var imageScripts = scriptFS{
	"hello.txt": `match ^say hello
step
say
	Hello.
`,
	"look.txt": `match ^look and leave
step
call read
	filePath: README.md

step
call bash
	command: cat prepared.txt; echo left > left.txt

step
say
	Looked and left.
`,
}

// imageRig is a practice in which a repository's setup takes its time.
func imageRig(t testing.TB) *rig {
	r := startRig(t, func(p *practice) {
		p.scripts = imageScripts.write(t)
		p.extraEnv = append(p.extraEnv, "MAX_SPARES=0") // a session that takes one shows nothing of images
	})
	r.pushFile(r.remoteAs("alice", "greeter"), ".openinspect/setup.sh", "echo setting up\nsleep 2\necho prepared > prepared.txt\n")
	return r
}

// imageBuilt waits until a repository's newest build has ended, and returns its id.
func (r *rig) imageBuilt(repository string, within time.Duration) (id string) {
	r.Helper()
	r.eventually("the image of "+repository, within, func() error {
		var b struct{ ID, State, Reason, Log string }
		err := r.db.Get(&b, `select id, state, reason, log from images where repository = $1 order by queued_at desc limit 1`, repository)
		switch {
		case err != nil:
			return err
		case b.State == "failed":
			r.Fatalf("the build failed: %s\n%s", b.Reason, b.Log)
		case b.State != "succeeded":
			return fmt.Errorf("it is %s", b.State)
		}
		id = b.ID
		return nil
	})
	return id
}

func TestTheSecondSessionOnARepositoryStartsFromItsImage(t *testing.T) {
	r := imageRig(t)
	channel := r.channel("greeter")
	first := r.say("alice", channel, "", "@inspect look and leave in acme/greeter")
	if p := r.waitSettled(first, 1, 3*time.Minute); p[0].State != "completed" {
		t.Fatalf("the first request ended as %s: %s", p[0].State, p[0].Reason)
	}
	image := r.imageBuilt("acme/greeter", 3*time.Minute)
	r.pushFile(r.remoteAs("alice", "greeter"), "newer.txt", "after the image\n")
	second := r.say("bob", channel, "", "@inspect look and leave in acme/greeter")
	if p := r.waitSettled(second, 1, 3*time.Minute); p[0].State != "completed" {
		t.Fatalf("the second request ended as %s: %s", p[0].State, p[0].Reason)
	}
	var got struct {
		Image, Output string
		Setups        int
	}
	err := r.db.Get(&got, `select b.image,
		(select count(*) from events e where e.session_id = s.id and e.kind = 'phase' and e.body->>'phase' = 'setup') as setups,
		coalesce((select e.body->>'output' from events e where e.session_id = s.id and e.kind = 'tool' and e.body->>'tool' = 'bash' and e.body->>'state' = 'completed'), '') as output
		from sessions s join sandboxes b on b.session_id = s.id where s.thread = $1`, second)
	if err != nil || got.Image != image || got.Setups != 0 || !strings.Contains(got.Output, "prepared") {
		t.Errorf("the second session started from %q, want %q; setup ran %d times, what it prepared is %q, %v", got.Image, image, got.Setups, got.Output, err)
	}
	for thread, want := range map[string]string{first: "left.txt", second: "left.txt"} {
		var session string
		if err := r.db.Get(&session, `select id from sessions where thread = $1`, thread); err != nil {
			t.Fatal(err)
		}
		r.eventually("the pushed branch", time.Minute, func() error {
			_, err := r.fileAt("alice", "acme", "greeter", want, "inspect/"+session)
			return err
		})
		if thread == second {
			if _, err := r.fileAt("alice", "acme", "greeter", "newer.txt", "inspect/"+session); err != nil {
				t.Errorf("the second session lacks what was pushed after the image: %v", err)
			}
			if _, err := r.fileAt("alice", "acme", "greeter", "prepared.txt", "inspect/"+session); err == nil {
				t.Error("what the setup left was committed")
			}
		}
	}
}

// buildMoments are the points of a build at which the control plane is killed, for
// the build in $1.
var buildMoments = []moment{
	{"claimed", `select epoch > 0 from images where id = $1`},
	{"box recorded", `select box <> '' or state not in ('queued', 'building') from images where id = $1`},
	{"cloning", `select log like '%Cloning%' from images where id = $1`},
	{"setting up", `select log like '%setting up%' from images where id = $1`},
	{"saving", `select state in ('saving', 'succeeded') from images where id = $1`},
	{"saved", `select state = 'succeeded' from images where id = $1`},
}

func TestAControlPlaneKilledAtAnyMomentOfABuildLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	r := imageRig(t)
	for i, m := range buildMoments {
		id := fmt.Sprintf("killed%d", i)
		if _, err := r.db.Exec(`insert into images (id, repository, why) values ($1, 'acme/greeter', 'testing')`, id); err != nil {
			t.Fatal(err)
		}
		r.eventually("the moment: "+m.name, 2*time.Minute, func() error {
			var come bool
			if err := r.db.Get(&come, m.sql, id); err != nil || come {
				return err
			}
			return fmt.Errorf("it has not come")
		})
		r.Logf("killing the control plane at %q", m.name)
		r.killServe()
		if built := r.imageBuilt("acme/greeter", 3*time.Minute); built != id {
			t.Fatalf("%s was built, not %s", built, id)
		}
	}
	r.eventually("one image, and no box of a build", time.Minute, func() error {
		saved, err := os.ReadDir(filepath.Join(r.practice.dir, "sandboxes", "saved"))
		if err != nil {
			return err
		}
		if boxes := r.buildBoxes(); len(saved) != 1 || len(boxes) != 0 {
			return fmt.Errorf("there are %d saved filesystems and the boxes %q", len(saved), boxes)
		}
		return nil
	})
}

// buildBoxes are the names of local boxes in which images are built.
func (r *rig) buildBoxes() (names []string) {
	records, err := filepath.Glob(filepath.Join(r.practice.dir, "sandboxes", "boxes", "*", "box.json"))
	if err != nil {
		r.Fatal(err)
	}
	for _, path := range records {
		data, err := os.ReadFile(path)
		var record struct {
			Name string
			Tags map[string]string
		}
		if err == nil && json.Unmarshal(data, &record) == nil && record.Tags["build"] != "" {
			names = append(names, record.Name)
		}
	}
	return names
}
