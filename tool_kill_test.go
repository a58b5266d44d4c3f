package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// toolMoments are the points at which the control plane is killed while an agent
// shows and asks something: the call is a row, its effect is, Slack has it.
var toolMoments = []moment{
	eventMoment("the agent works", "tool", ""),
	{"the update is recorded", "select exists (select from calls where session_id = $1 and tool = 'post_update')"},
	{"the update is posted", "select exists (select from outbox where session_id = $1 and kind = 'update' and state = 'done')"},
	{"the file has arrived", "select exists (select from artifact_files where session_id = $1)"},
	{"the file is recorded", "select exists (select from outbox where session_id = $1 and kind = 'file')"},
	{"the file is shared", "select exists (select from outbox where session_id = $1 and kind = 'file' and state = 'done')"},
	{"the question is recorded", "select exists (select from questions where session_id = $1)"},
	{"the request has ended", "select exists (select from prompts where session_id = $1 and state = 'completed')"},
	{"the question is posted", "select exists (select from outbox where session_id = $1 and kind = 'question' and remote <> '{}')"},
}

var toolKillScripts = scriptFS{
	"0.txt": `match show (\w+)
step
call bash
	description: Draw
	command: echo painted > report.txt; sleep 0.3
step
call post_update
	text: Update {{find "show (\\w+)" .Prompt}}.
step
call upload_artifact
	path: report.txt
	title: Report
step
call ask
	question: Question {{find "show (\\w+)" .Prompt}}?
	options = ["Yes, go on", "No, leave it"]
step
say
	This is never said.
`,
	"1.txt": `match ^Yes, go on
step
say
	It goes on.
`}

func TestAControlPlaneKilledWhileTheAgentShowsAndAsksShowsAllOfItOnce(t *testing.T) { // I5, I6
	r := startRig(t, func(p *practice) { p.scripts, p.pace = toolKillScripts.write(t), 5*time.Millisecond })
	const jobs = 3
	for job := range jobs {
		channel := r.channel("greeter")
		name := fmt.Sprintf("thing%d", job)
		thread := r.say("alice", channel, "", "@inspect show "+name+" in acme/greeter")
		var session string
		r.eventually("the session", time.Minute, func() error {
			return r.db.Get(&session, "select id from sessions where thread = $1", thread)
		})
		for i := job; i < len(toolMoments); i += jobs {
			m := toolMoments[i]
			r.eventually("the moment: "+m.name, 2*time.Minute, func() error {
				var come bool
				if err := r.db.Get(&come, m.sql, session); err != nil || come {
					return err
				}
				return fmt.Errorf("prompts: %+v", r.promptsOf(thread))
			})
			r.killServe()
		}
		question := r.waitMessage(channel, thread, time.Minute, "Question "+name+"?", "Yes, go on")
		r.eventually("the outbox is empty", time.Minute, func() error {
			var open int
			if err := r.db.Get(&open, `select count(*) from outbox where session_id = $1 and kind in ('update', 'file') and state <> 'done'`, session); err != nil || open > 0 {
				return fmt.Errorf("%d open (%v)", open, err)
			}
			return nil
		})
		r.eventually("the click is taken", time.Minute, func() error { // while nobody serves, Slack says so to Bob
			return r.practice.slack.ClickAs(r.user("bob").ID, channel, question.TS, "answer_question:0", "")
		})
		r.waitMessage(channel, thread, time.Minute, "It goes on.")
		for _, p := range r.waitSettled(thread, 2, time.Minute) {
			if p.State != "completed" {
				t.Errorf("job %d: %q ended as %s: %s", job, p.Text, p.State, p.Reason)
			}
		}
		shown := map[string]int{}
		for _, m := range r.practice.slack.Messages(channel, thread) {
			shown["file"] += len(m.Files)
		}
		for _, m := range r.thread(channel, thread) {
			for what, text := range map[string]string{"update": "Update " + name + ".", "question": "Question " + name + "?"} {
				if strings.Contains(m.shows(), text) {
					shown[what]++
				}
			}
		}
		if shown["file"] != 1 || shown["update"] != 1 || shown["question"] != 1 {
			t.Errorf("job %d: the thread shows %v", job, shown)
		}
		var logged int
		if err := r.db.Get(&logged, `select count(*) from events where session_id = $1 and kind in ('update', 'artifact', 'question') and (kind <> 'artifact' or body->>'kind' = 'file')`, session); err != nil || logged != 3 {
			t.Errorf("job %d: the log has %d such events (%v)", job, logged, err)
		}
	}
}
