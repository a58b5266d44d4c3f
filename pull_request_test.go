package main

import (
	"context"
	"fmt"
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
