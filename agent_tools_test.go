package main

import (
	"bytes"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// toolScripts use the agent's tools as OpenCode offers them, one after the other.
var toolScripts = scriptFS{
	"10-paint.txt": `match paint the greeting
step
say
	I look at it first.
call set_title
	title: Paint the greeting
call post_update
	text: The greeting is **grey** so far.
step
call bash
	description: Draw it
	command: printf '<body style="margin:0;background:#00aa00"><h1>Hello</h1>' > greeting.html && echo painted > painted.txt
step
call screenshot
	file: greeting.html
	title: The greeting after
	width = 320
	height = 200
call upload_artifact
	path: painted.txt
	title: Report
step
call create_pull_request
	title: Paint the greeting
	body: ![After](artifact:{{find "artifact:([0-9a-f-]{36})" (.Result "screenshot")}})
call start_session
	repository: acme/website
	task: say hello from below
	title: Greet on the website
step
call get_checks
	wait_seconds = 0
step
say
	It can be darker still. The tools said: {{.Result "screenshot"}} {{.Result "create_pull_request"}} {{.Result "start_session"}} {{.Result "get_checks"}}
call ask
	question: Shall it be darker?
	options = ["Yes, darker", "No, leave it"]
step
say
	This is never said.
`,
	"11-below.txt": `match ^say hello from below
step
say
	Hello from below.
`,
	"12-report.txt": `match ^Session [a-z2-7]{10}
step
say
	The other session said: {{find "(Hello from below)" .Prompt}}.
`,
	"13-darker.txt": `match ^Yes, darker
step
say
	Darker it is.
`}

func TestTheAgentShowsAsksAndDelegatesWithRealOpenCode(t *testing.T) {
	r := startRig(t, func(p *practice) { p.scripts = toolScripts.write(t) })
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect paint the greeting in acme/greeter")
	r.waitMessage(channel, thread, 2*time.Minute, "grey")
	r.waitMessage(channel, thread, time.Minute, "It can be darker still", "is open", "works on acme/website", "No check has reported")
	question := r.waitMessage(channel, thread, time.Minute, "Shall it be darker?", "Yes, darker")
	r.waitMessage(channel, thread, time.Minute, "Greet on the website", "acme/website")
	answer := r.waitMessage(channel, thread, time.Minute, "It can be darker still")
	files := 0
	for _, m := range r.practice.slack.Messages(channel, thread) {
		files += len(m.Files)
	}
	if files != 2 {
		t.Errorf("%d files were shared in the thread, want the picture and the report; the agent says %s", files, answer.Text)
	}
	if session := r.promptsOf(thread)[0].Session; len(r.pullsOf(session)) != 1 || r.pullsOf(session)[0].GetUser().GetLogin() != "alice" {
		t.Errorf("the pull requests are %+v", r.pullsOf(session))
	} else {
		r.checkPicture(r.pullsOf(session)[0].GetBody())
	}
	var order []string
	if err := r.db.Select(&order, `select kind from events where session_id = (select id from sessions where thread = $1)
		and (body->>'text' in ('I look at it first.', 'The greeting is **grey** so far.', 'Shall it be darker?') or body->>'text' like 'It can be darker still%'
			or body->>'tool' = 'openinspect_post_update' and body->>'state' = 'running') order by seq`, thread); err != nil ||
		!slices.Equal(order, []string{"text", "tool", "update", "text", "question"}) {
		t.Errorf("people read in the order %q (%v)", order, err)
	}
	// Bob decides, and what he chose is the next request. The child's answer comes as
	// one, too.
	if err := r.practice.slack.ClickAs(r.user("bob").ID, channel, question.TS, "answer_question:0", ""); err != nil {
		t.Fatal(err)
	}
	r.waitMessage(channel, thread, time.Minute, "answered: Yes, darker")
	r.waitMessage(channel, thread, time.Minute, "Darker it is.")
	r.waitMessage(channel, thread, 2*time.Minute, "The other session said: Hello from below.")
	if prompts := r.waitSettled(thread, 3, time.Minute); prompts[0].State != "completed" {
		t.Errorf("the prompts are %+v", prompts)
	}
	for _, m := range r.thread(channel, thread) {
		if strings.Contains(m.shows(), "never said") {
			t.Error("the agent went on without the answer")
		}
	}
	var title string
	if err := r.db.Get(&title, `select title from sessions where thread = $1`, thread); err != nil || title != "Paint the greeting" {
		t.Errorf("the session is called %q (%v)", title, err)
	}
}

// checkPicture reads the picture that a pull request shows, as GitHub does.
func (r *rig) checkPicture(body string) {
	r.Helper()
	link := regexp.MustCompile(`^!\[After\]\((` + regexp.QuoteMeta(r.info.URL) + `/pictures/[a-z0-9]+)\)`).FindStringSubmatch(body)
	if link == nil {
		r.Errorf("the pull request says %q", body)
		return
	}
	resp, err := http.Get(link[1])
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(data))
	if err != nil || fmt.Sprint(picture.Bounds().Size()) != "(320,200)" {
		r.Errorf("the picture is %s with %d bytes: %v", resp.Status, len(data), err)
	}
}
