package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestAControlPlaneThatSlackRefusesEndsAndSaysSo(t *testing.T) {
	r := startRig(t, nil)
	cmd := exec.CommandContext(t.Context(), r.practice.binary, "serve")
	for _, v := range r.practice.childEnv("/bin/true") {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "SLACK_BOT_TOKEN":
			v = name + "=xoxb-revoked"
		case "LISTEN":
			v = name + "=127.0.0.1:0"
		case "DATA_DIR":
			v = name + "=" + t.TempDir()
		}
		cmd.Env = append(cmd.Env, v)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(out.String(), "invalid_auth") {
			t.Errorf("it ended with %v and said:\n%s", err, out.String())
		}
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill() // it may have ended by now
		t.Errorf("it goes on without a bot:\n%s", <-ended)
	}
}

func TestTheAgentsToolsWork(t *testing.T) {
	r := startRig(t, nil)
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect explain acme/greeter")
	prompts := r.waitSettled(thread, 1, 2*time.Minute)
	if prompts[0].State != "completed" {
		t.Errorf("the prompt ended as %s: %s", prompts[0].State, prompts[0].Reason)
	}
	var calls []struct{ Tool, Error string }
	err := r.db.Select(&calls, `select body->>'tool' as tool, coalesce(body->>'error', '') as error from events
		where session_id = $1 and kind = 'tool' and body->>'state' in ('completed', 'error')`, prompts[0].Session)
	if err != nil {
		t.Fatal(err)
	}
	searched := false
	for _, c := range calls {
		searched = searched || c.Tool == "glob" || c.Tool == "grep"
		if c.Error != "" {
			t.Errorf("%s failed: %s", c.Tool, c.Error)
		}
	}
	if !searched {
		t.Errorf("nothing was searched for: %+v", calls)
	}
}
