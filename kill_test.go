package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// moment is a point of the main job, recognised in the database.
type moment struct {
	name string
	// sql says whether it has come, for the session in $1.
	sql string
}

func eventMoment(name, kind, where string) moment {
	return moment{name, "select exists(select 1 from events where session_id = $1 and kind = '" + kind + "' " + where + ")"}
}

// Moments are recognised by what stays: a state that lasts for milliseconds may
// be over when the test looks.
func sandboxMoment(state string) moment {
	return eventMoment("sandbox "+state, "sandbox.state", "and body->>'state' = '"+state+"'")
}

// moments are the points at which the control plane is killed, in the order in
// which a job comes to them.
var moments = []moment{
	eventMoment("accepted", "prompt.queued", ""),
	sandboxMoment("starting"),
	sandboxMoment("booting"),
	eventMoment("cloning", "phase", "and body->>'phase' = 'sync'"),
	eventMoment("cloned", "phase", "and body->>'phase' = 'sync' and body->>'state' = 'done'"),
	eventMoment("agent starting", "phase", "and body->>'phase' = 'agent'"),
	sandboxMoment("ready"),
	eventMoment("first prompt started", "prompt.started", ""),
	{"writing", `select exists(select 1 from running_parts where session_id = $1)
		or exists(select 1 from events where session_id = $1 and kind in ('text', 'reasoning'))`},
	eventMoment("first tool runs", "tool", ""),
	eventMoment("first tool ended", "tool", "and body->>'state' = 'completed'"),
	eventMoment("pushed", "push", ""),
	{"pull request recorded", "select exists(select 1 from outbox where session_id = $1 and surface = 'forge')"},
	eventMoment("pull request opened", "artifact", ""),
	{"first prompt ended", "select exists(select 1 from prompts where session_id = $1 and state = 'completed')"},
	{"answer posted", "select exists(select 1 from outbox where session_id = $1 and kind = 'answer' and state = 'done')"},
	{"second prompt runs", "select count(*) > 1 from prompts where session_id = $1 and started_at is not null"},
	{"second prompt's tool", "select count(distinct prompt_id) > 1 from events where session_id = $1 and kind = 'tool'"},
	{"second prompt ended", "select count(*) > 1 from prompts where session_id = $1 and state = 'completed'"},
	{"second prompt's commit", "select count(distinct prompt_id) > 1 from events where session_id = $1 and kind = 'commit'"},
	{"second answer posted", "select count(*) > 1 from outbox where session_id = $1 and kind = 'answer' and state = 'done'"},
	{"card finished", "select exists(select 1 from outbox where session_id = $1 and kind = 'card' and state = 'done')"},
}

// killScript leaves a line for every time that it is run, so that a prompt that
// ran twice shows.
var killScript = scriptFS{"kill.txt": `# Leaves a trace for each run.
match leave trace (\w+)

step
think
	One line, and then a pull request.
say
	I leave the trace now and open the pull request.
call bash
	description: Leave the trace
	command: |
		for i in 1 2 3; do echo "step $i"; sleep 0.2; done; echo "{{find "leave trace (\\w+)" .Prompt}}" >> traces.txt

step
call create_pull_request
	title: Leave traces
	body: Each prompt leaves one line.

step
say
	The trace is left.
`}

func TestAControlPlaneKilledAtAnyMomentLosesAndRepeatsNothing(t *testing.T) {
	r := startRig(t, func(p *practice) {
		p.scripts = killScript.write(t)
		p.pace = 5 * time.Millisecond
	})
	const perJob = 3
	jobs := (len(moments) + perJob - 1) / perJob
	for job := range jobs {
		var kills []moment
		for i := job; i < len(moments); i += jobs {
			kills = append(kills, moments[i])
		}
		r.killedJob(job, kills)
		if t.Failed() {
			return
		}
	}
}

// killedJob runs a job of two people while the control plane is killed at some moments.
func (r *rig) killedJob(job int, kills []moment) {
	r.Helper()
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", fmt.Sprintf("@inspect leave trace first%d in acme/greeter", job))
	var session string
	r.eventually("the session", time.Minute, func() error {
		return r.db.Get(&session, "select id from sessions where thread = $1", thread)
	})
	r.say("bob", channel, thread, fmt.Sprintf("leave trace second%d", job))
	for _, m := range kills {
		r.eventually("the moment: "+m.name, 2*time.Minute, func() error {
			var come bool
			if err := r.db.Get(&come, m.sql, session); err != nil || come {
				return err
			}
			return fmt.Errorf("prompts: %+v", r.promptsOf(thread))
		})
		r.Logf("job %d: killing the control plane at %q", job, m.name)
		r.killServe()
	}
	prompts := r.waitSettled(thread, 2, 3*time.Minute)
	for _, p := range prompts {
		if p.State != "completed" {
			r.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	r.checkThread(channel, thread, prompts)
	r.checkLog(session)
	r.checkPullRequest(session)
	r.checkTraces(session, job)
}

// checkTraces checks in the pushed branch that each prompt ran exactly once.
func (r *rig) checkTraces(session string, job int) {
	r.Helper()
	want := fmt.Sprintf("first%d\nsecond%d\n", job, job)
	r.eventually("both traces in the pushed branch", 30*time.Second, func() error {
		file, err := r.fileAt("alice", "acme", "greeter", "traces.txt", "inspect/"+session)
		if err != nil {
			return err
		}
		if !strings.HasSuffix(file, want) || len(file) != len(want) {
			return fmt.Errorf("traces are %q, want %q", file, want)
		}
		return nil
	})
}
