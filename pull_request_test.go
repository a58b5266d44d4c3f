package main

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-github/v62/github"
)

// pullScripts changes a file and asks for a pull request.
var pullScripts = scriptFS{"pull.txt": `match leave a note
step
say
	I leave a note.
call bash
	description: Leave a note
	command: date +%N >> notes.txt
step
call create_pull_request
	title: Leave a note
	body: Somebody asked for a note.
step
say
	The tool said: {{.Result "create_pull_request"}}
`}

func TestThePullRequestOfAPersonWithoutGitHubWaitsUntilTheyConnectIt(t *testing.T) {
	t.Parallel()
	r := startRig(t, func(p *practice) { p.scripts = pullScripts.write(t) })
	channel := r.channel("greeter")
	ask := func(r *rig) (thread, session string) {
		r.Helper()
		thread = r.say("carol", channel, "", "@inspect leave a note in acme/greeter")
		prompts := r.waitSettled(thread, 1, time.Minute)
		if prompts[0].State != "completed" {
			r.Fatalf("the prompt ended as %s: %s", prompts[0].State, prompts[0].Reason)
		}
		return thread, prompts[0].Session
	}
	thread, session := ask(r)
	link := r.info.URL + "/link/github?session=" + session
	compare := r.info.GitHub.GitURL + "acme/greeter/compare/main...inspect/" + session
	r.whispered("carol", channel, thread, 10*time.Second, "has not connected a GitHub account", link, compare, "Leave+a+note")
	r.waitMessage(channel, thread, 30*time.Second, "no pull request was opened", compare)
	if pulls := r.pullsOf(session); len(pulls) != 0 {
		t.Errorf("there is a pull request: %+v", pulls)
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.practice.linkPerson(ctx, r.user("carol").Token, "carol"); err != nil {
		t.Fatal(err)
	}
	t.Run("who may write has the waiting one opened in their name", func(t *testing.T) {
		r := r.in(t)
		r.eventually("Carol's pull request", time.Minute, func() error {
			if pulls := r.pullsOf(session); len(pulls) != 1 || pulls[0].GetUser().GetLogin() != "carol" {
				return fmt.Errorf("the pull requests are %+v", pulls)
			}
			return nil
		})
		r.waitMessage(channel, thread, 30*time.Second, fmt.Sprintf("/pull/%d", r.pullsOf(session)[0].GetNumber()))
	})
	t.Run("who may only read is told so", func(t *testing.T) {
		r := r.in(t)
		if err := r.practice.github.SetRole("acme/greeter", "carol", "read"); err != nil {
			t.Fatal(err)
		}
		thread, session := ask(r)
		r.waitMessage(channel, thread, time.Minute, "may not open pull requests", "acme/greeter")
		if pulls := r.pullsOf(session); len(pulls) != 0 {
			t.Errorf("there is a pull request: %+v", pulls)
		}
	})
}

// pullsOf lists the pull requests of a session's branch.
func (r *rig) pullsOf(session string) []*github.PullRequest {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	pulls, _, err := r.octocat("alice").PullRequests.List(ctx, "acme", "greeter",
		&github.PullRequestListOptions{State: "all", Head: "acme:inspect/" + session})
	if err != nil {
		r.Fatal(err)
	}
	return pulls
}

// historyScripts are an agent that has its own ideas of git.
var historyScripts = scriptFS{"10-remove.txt": `match begin the history anew
step
call bash
	description: Begin anew
	command: rm -rf .git && git init -q -b main && echo one > one.txt && git add . && git -c user.name=A -c user.email=a@example.com commit -qm "A fresh start"
step
call create_pull_request
	title: One
	body: The first file.
step
say
	The tool said: {{.Result "create_pull_request"}}
`, "11-remove.txt": `match without any history
step
call bash
	description: Remove it
	command: rm -rf .git && echo two > two.txt
step
say
	Now there are two.
`}

func TestAnAgentThatRemovesTheHistoryHasItsWorkInThePullRequestAllTheSame(t *testing.T) {
	t.Parallel()
	r := startRig(t, func(p *practice) { p.scripts = historyScripts.write(t) })
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect begin the history anew in acme/greeter")
	first := r.waitSettled(thread, 1, time.Minute)
	r.say("bob", channel, thread, "and now without any history")
	for _, p := range r.waitSettled(thread, 2, time.Minute) {
		if p.State != "completed" {
			t.Errorf("a prompt ended as %s: %s", p.State, p.Reason)
		}
	}
	r.eventually("the work of both", time.Minute, func() error {
		pulls := r.pullsOf(first[0].Session)
		if len(pulls) != 1 {
			return fmt.Errorf("the pull requests are %+v", pulls)
		}
		files, _, err := r.octocat("alice").PullRequests.ListFiles(t.Context(), "acme", "greeter", pulls[0].GetNumber(), nil)
		if err != nil {
			return err
		}
		var names []string
		for _, f := range files {
			names = append(names, f.GetFilename())
		}
		if want := []string{"one.txt", "two.txt"}; !slices.Equal(names, want) {
			return fmt.Errorf("it changes %q, want %q", names, want)
		}
		return nil
	})
}
