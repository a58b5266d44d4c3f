package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

const commitTokenScript = `match commit the token
step
call bash
	description: Commit it
	command: echo hello > a.txt && git add a.txt && git commit -qm "Add a" && echo "TOKEN=$NPM_TOKEN" > config.env && git add config.env && git commit -qm "Add the configuration"
step
call create_pull_request
	title: Configure it
	body: It is configured.
step
say
	Opening it says: {{.Result "create_pull_request"}}
`

const amendTokenScript = `match take it out
step
call bash
	description: Take it out
	command: echo "TOKEN comes from the environment" > config.env && git commit -qa --amend --no-edit
step
call create_pull_request
	title: Configure it
	body: It is configured.
step
say
	Opening it says: {{.Result "create_pull_request"}}
`

// What an agent commits by mistake does not reach GitHub. It is told, people are
// told, and once it is taken out the rest is pushed.
func TestACommittedSecretDoesNotReachGitHubAndTheRestDoesLater(t *testing.T) { // I7
	t.Parallel()
	const secret = "npm_8Kd2mQ0xYr5Wn7Tb"
	r := startRig(t, func(p *practice) {
		p.scripts = scriptFS{"00-commit.txt": commitTokenScript, "01-amend.txt": amendTokenScript}.write(t)
	})
	alice := r.signIn("alice")
	alice.put("/api/repositories/acme/greeter/variables/NPM_TOKEN", `{"value":"`+secret+`","kind":"secret"}`)
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect commit the token in acme/greeter")
	session := r.waitSettled(thread, 1, 3*time.Minute)[0].Session
	r.waitMessage(channel, thread, 30*time.Second, "Opening it says:", "has in config.env the value of NPM_TOKEN", "git commit --amend")
	r.waitMessage(channel, thread, 30*time.Second, "The branch was not pushed: commit", "has in config.env the value of NPM_TOKEN", "12 hours")
	history := func() string {
		t.Helper()
		dir := t.TempDir()
		out, err := exec.Command("git", "clone", "-q", "--bare", r.remoteAs("alice", "greeter"), dir).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		out, err = exec.Command("git", "-C", dir, "log", "--all", "-p").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got := history(); strings.Contains(got, secret) || strings.Contains(got, "Add a\n") || len(r.pullsOf(session)) != 0 {
		t.Errorf("GitHub has\n%s\nand %d pull requests", got, len(r.pullsOf(session)))
	}
	r.say("alice", channel, thread, "@inspect take it out")
	r.waitSettled(thread, 2, 2*time.Minute)
	r.waitMessage(channel, thread, 30*time.Second, "Opening it says:", "is open")
	if got := history(); strings.Contains(got, secret) || !strings.Contains(got, "Add a\n") || !strings.Contains(got, "comes from the environment") || len(r.pullsOf(session)) != 1 {
		t.Errorf("GitHub has\n%s\nand %d pull requests", got, len(r.pullsOf(session)))
	}
	r.checkNowhere(secret)
	alice.openAs("/sessions/"+session).sees("has in config.env the value of NPM_TOKEN", 30*time.Second)
}
