package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	practicemodel "openinspect/internal/practice/model"
	practiceslack "openinspect/internal/practice/slack"
)

// faultScripts are what the scripted model does in these tests: prompts that
// take long enough to be disturbed, and prompts that are over at once.
var faultScripts = scriptFS{
	"long.txt": `match work for long
step
say
	I begin.
call bash
	description: Work for long
	command: for i in $(seq 1 600); do echo "second $i"; sleep 1; done
	timeout = 900000
step
say
	It is done.
`,
	"short.txt": `match say hello
step
say
	Hello from the sandbox.
`,
}

// in is the same practice for a part of the test.
func (r *rig) in(t testing.TB) *rig {
	part := *r
	part.TB = t
	return &part
}

// faultRig is a practice for a fault test, with settings of its own, and with a
// Slack that lets no minutes pass between two tries to deliver an event.
func faultRig(t *testing.T, settings ...string) *rig {
	t.Helper()
	return startRig(t, func(p *practice) {
		p.scripts = faultScripts.write(t)
		p.extraEnv = append(p.extraEnv, settings...)
		p.slackOpt.Retries = []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}
	})
}

// runningPrompt asks for long work and waits until its command runs.
func (r *rig) runningPrompt() (thread string) {
	r.Helper()
	thread = r.say("alice", r.channel("greeter"), "", "@inspect work for long in acme/greeter")
	r.eventually("the command runs", 2*time.Minute, func() error {
		var n int
		err := r.db.Get(&n, `select count(*) from events e join sessions s on s.id = e.session_id
			where s.thread = $1 and e.kind = 'tool'`, thread)
		if err == nil && n == 0 {
			err = fmt.Errorf("prompts: %+v", r.promptsOf(thread))
		}
		return err
	})
	return thread
}

// endsFailed waits for a thread's prompt to end as failed with a reason that a
// person is shown in the thread, and then has the session work again.
func (r *rig) endsFailed(thread, reason string, within time.Duration) {
	r.Helper()
	prompts := r.waitSettled(thread, 1, within)
	if prompts[0].State != "failed" || !strings.Contains(prompts[0].Reason, reason) {
		r.Errorf("the prompt ended as %s: %q, want failed with %q", prompts[0].State, prompts[0].Reason, reason)
	}
	channel := r.channel("greeter")
	r.waitMessage(channel, thread, time.Minute, "Failed", reason)
	r.checkThread(channel, thread, prompts)
	r.checkLog(prompts[0].Session)
}

// stillWorks asks for something short in the same thread.
func (r *rig) stillWorks(thread string, before int) {
	r.Helper()
	r.say("bob", r.channel("greeter"), thread, "say hello")
	prompts := r.waitSettled(thread, before+1, 90*time.Second)
	if last := prompts[before]; last.State != "completed" {
		r.Errorf("the next prompt ended as %s: %s", last.State, last.Reason)
	}
}

// boxProcess finds a process in the sandbox of a thread's session by a part of
// its command line; the sandbox's keeper if that is empty.
func (r *rig) boxProcess(thread, part string) int {
	r.Helper()
	var box string
	if err := r.db.Get(&box, `select b.box from sandboxes b join sessions s on s.id = b.session_id where s.thread = $1`, thread); err != nil {
		r.Fatal(err)
	}
	keeper, err := keeperOf(filepath.Join(r.practice.dir, "sandboxes", "boxes", box))
	if err != nil {
		r.Fatal(err)
	}
	if part == "" {
		return keeper
	}
	pid := 0
	r.eventually("a process of the sandbox with "+part, 30*time.Second, func() error {
		if pid = descendant(keeper, part); pid == 0 {
			return fmt.Errorf("none below %d", keeper)
		}
		return nil
	})
	return pid
}

// keeperOf reads which process keeps the sandbox of a folder.
func keeperOf(box string) (pid int, err error) {
	data, err := os.ReadFile(filepath.Join(box, "box.json"))
	if err != nil {
		return 0, err
	}
	var record struct {
		Keeper struct {
			PID int `json:"pid"`
		} `json:"keeper"`
	}
	err = json.Unmarshal(data, &record)
	return record.Keeper.PID, err
}

// endSandboxes ends what a practice left running: after a test that failed while
// a prompt ran, a sandbox waits for a control plane that never comes.
func endSandboxes(dir string) {
	boxes, _ := filepath.Glob(filepath.Join(dir, "sandboxes", "boxes", "*"))
	atModal, _ := filepath.Glob(filepath.Join(dir, "modal", "boxes", "boxes", "*"))
	for _, box := range append(boxes, atModal...) {
		if pid, err := keeperOf(box); err == nil && isKeeper(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// isKeeper says whether a process lives and keeps a sandbox.
func isKeeper(pid int) bool {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Contains(string(cmdline), "local-box-keeper")
}

// descendant finds a process below another by a part of its command line.
func descendant(ancestor int, part string) int {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	parents, found := map[int]int{}, []int{}
	for _, dir := range entries {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // it has ended meanwhile
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parents[pid], _ = strconv.Atoi(fields[1])
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		if strings.Contains(strings.ReplaceAll(string(cmdline), "\x00", " "), part) {
			found = append(found, pid)
		}
	}
	for _, pid := range found {
		for p := pid; p > 1; p = parents[p] {
			if p == ancestor {
				return pid
			}
		}
	}
	return 0
}

func (r *rig) kill(pid int) {
	r.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.Fatalf("killing %d: %v", pid, err)
	}
}

func TestABrokenSandboxIsToldAndTheNextPromptWorks(t *testing.T) {
	t.Parallel()
	r := faultRig(t)
	for _, c := range []struct{ name, kill, reason string }{
		{"OpenCode is killed", "opencode serve", "The agent's program ended unexpectedly"},
		{"the supervisor is killed", "openinspect supervise", "sandbox was lost"},
		{"the sandbox is gone", "", "sandbox was lost"}, // its keeper ends, and all with it
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.in(t)
			thread := r.runningPrompt()
			r.kill(r.boxProcess(thread, c.kill))
			r.endsFailed(thread, c.reason, time.Minute)
			r.stillWorks(thread, 1)
		})
	}
}

func TestAPracticeThatIsStoppedLeavesNothingRunningAndGoesOnLater(t *testing.T) {
	t.Parallel()
	r := faultRig(t)
	channel := r.channel("greeter")
	running := r.runningPrompt()
	booting := r.say("bob", channel, "", "@inspect say hello in acme/greeter")
	r.eventually("the second sandbox begins", time.Minute, func() error {
		var n int
		err := r.db.Get(&n, `select count(*) from sandboxes where state <> 'none'`)
		if err == nil && n != 2 {
			err = fmt.Errorf("there are %d", n)
		}
		return err
	})
	r.stop()
	boxes, err := filepath.Glob(filepath.Join(r.practice.dir, "sandboxes", "boxes", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, box := range boxes {
		if pid, err := keeperOf(box); err == nil && isKeeper(pid) {
			t.Errorf("the sandbox in %s is still there, kept by %d", box, pid)
		}
	}
	r.start()
	r.eventually("the request goes on in the next sandbox", 2*time.Minute, func() error {
		var began []string // in which boots
		err := r.db.Select(&began, `select distinct e.body->>'boot' from events e join sessions s on s.id = e.session_id
			where s.thread = $1 and e.kind = 'prompt.started'`, running)
		if err == nil && len(began) != 2 {
			err = fmt.Errorf("it began in %q; prompts: %+v", began, r.promptsOf(running))
		}
		return err
	})
	r.say("alice", channel, running, "stop")
	if p := r.waitSettled(running, 1, time.Minute); p[0].State != "stopped" {
		t.Errorf("the request that went on ended as %s: %s", p[0].State, p[0].Reason)
	}
	prompts := r.waitSettled(booting, 1, time.Minute)
	if prompts[0].State != "completed" {
		t.Errorf("the prompt that waited ended as %s: %s", prompts[0].State, prompts[0].Reason)
	}
	r.checkThread(channel, booting, prompts)
	r.stillWorks(running, 1)
}

func TestAModelThatDoesNotWorkEndsThePromptWithItsReason(t *testing.T) {
	t.Parallel()
	r := faultRig(t, "MODEL_SILENCE=15s")
	for _, c := range []struct {
		kind   practicemodel.FaultKind
		while  string // what the card says before the end
		reason string
	}{
		{practicemodel.Unauthorized, "", "refused the key (401)"},
		{practicemodel.Unavailable, "Try 2 follows", "its provider said: The server is overloaded"},
		{practicemodel.Hang, "", "did not answer for 15s"},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			r := r.in(t)
			r.practice.model.Inject(practicemodel.Fault{Kind: c.kind, Match: "say hello"})
			thread := r.say("alice", r.channel("greeter"), "", "@inspect say hello in acme/greeter")
			if c.while != "" {
				r.waitMessage(r.channel("greeter"), thread, time.Minute, c.while)
			}
			r.endsFailed(thread, c.reason, 2*time.Minute)
			r.practice.model.Clear()
			r.stillWorks(thread, 1)
		})
	}
}

func TestASetupScriptThatDoesNotWorkIsTold(t *testing.T) {
	r := faultRig(t, "SETUP_TIMEOUT=5s")
	for _, c := range []struct{ name, script, reason, shows string }{
		{"it fails", "echo installing the impossible\nexit 7\n", "exit status 7", "installing the impossible"},
		{"it hangs", "echo waiting for nothing\nsleep 1000\n", "did not end within 5s", "waiting for nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.in(t)
			r.commitFile("website", ".openinspect/setup.sh", "#!/bin/sh\n"+c.script)
			thread := r.say("alice", r.channel("greeter"), "", "@inspect say hello in acme/website")
			r.endsFailed(thread, c.reason, time.Minute)
			r.waitMessage(r.channel("greeter"), thread, 30*time.Second, "setup.sh", c.shows)
		})
	}
}

func TestSlackRefusingAndFailingIsNotSeenInTheThread(t *testing.T) {
	t.Parallel()
	r := faultRig(t)
	channel := r.channel("greeter")
	s := r.practice.slack
	t.Run("429, 500 and cut answers", func(t *testing.T) {
		r := r.in(t)
		s.FailNext("chat.postMessage", 1, practiceslack.Fault{Status: 429, RetryAfter: 1})
		s.FailNext("chat.postMessage", 1, practiceslack.Fault{Status: 500, AfterEffect: true})
		s.FailNext("chat.postMessage", 1, practiceslack.Fault{Drop: true, AfterEffect: true})
		s.FailNext("chat.update", 2, practiceslack.Fault{Status: 500})
		s.FailNext("chat.update", 1, practiceslack.Fault{Status: 429, RetryAfter: 1})
		// Alice's own client would meet the faults as well if she posted over HTTP.
		thread, err := s.PostAs(r.user("alice").ID, channel, "", "<@"+r.info.Slack.BotUserID+"> say hello in acme/greeter")
		if err != nil {
			t.Fatal(err)
		}
		prompts := r.waitSettled(thread, 1, time.Minute)
		r.waitMessage(channel, thread, time.Minute, "Hello from the sandbox.")
		r.checkThread(channel, thread, prompts)
	})
	t.Run("Socket Mode is cut while people write", func(t *testing.T) {
		r := r.in(t)
		thread := r.say("alice", channel, "", "@inspect say hello in acme/greeter")
		r.waitSettled(thread, 1, time.Minute)
		for i := range 3 {
			s.DropSockets()
			r.say("bob", channel, thread, fmt.Sprintf("say hello again, %d", i))
		}
		prompts := r.waitSettled(thread, 4, 2*time.Minute)
		r.checkThread(channel, thread, prompts)
		r.checkLog(prompts[0].Session)
	})
	t.Run("the same event four times and on both connections", func(t *testing.T) {
		r := r.in(t)
		s.RepeatEvents(2, 4) // a mention is two events
		thread := r.say("alice", channel, "", "@inspect say hello in acme/greeter")
		prompts := r.waitSettled(thread, 1, time.Minute)
		r.checkThread(channel, thread, prompts)
	})
}

// commitFile puts a file into a repository's default branch, as Alice.
func (r *rig) commitFile(repo, path, text string) {
	r.Helper()
	for _, u := range r.info.GitHub.Users {
		if u.Login == "alice" {
			remote, err := url.Parse(r.info.GitHub.GitURL + "acme/" + repo + ".git")
			if err != nil {
				r.Fatal(err)
			}
			remote.User = url.UserPassword("alice", u.Token)
			r.pushFile(remote.String(), path, text)
		}
	}
}
