package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-github/v62/github"
)

func TestTheMainJobOfTwoPeopleEndsInAPullRequest(t *testing.T) {
	r := startRig(t, nil)
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect fix the failing test in acme/greeter")

	card := r.waitMessage(channel, thread, 30*time.Second, "acme/greeter", r.info.URL+"/sessions/")
	if !strings.Contains(card.shows(), "named in the message") {
		t.Errorf("the card does not say why this repository: %s", card.shows())
	}
	r.eventually("the first prompt runs", time.Minute, func() error {
		if p := r.promptsOf(thread); len(p) != 1 || p[0].State != "running" {
			return fmt.Errorf("prompts: %+v", p)
		}
		return nil
	})
	r.say("bob", channel, thread, "add a usage section to the README")
	r.waitMessage(channel, thread, 30*time.Second, "Queued")

	prompts := r.waitSettled(thread, 2, 3*time.Minute)
	for _, p := range prompts {
		if p.State != "completed" {
			t.Errorf("%q ended as %s: %s", p.Text, p.State, p.Reason)
		}
	}
	r.checkThread(channel, thread, prompts)
	r.checkPullRequest(prompts[0].Session)
	r.checkLog(prompts[0].Session)
}

// checkThread checks that each prompt has exactly one card and one answer, and
// that no card still says that it works.
func (r *rig) checkThread(channel, thread string, prompts []promptRow) {
	r.Helper()
	r.eventually("one final card and one answer per prompt", 30*time.Second, func() error {
		var pending int
		if err := r.db.Get(&pending, `select count(*) from outbox where state = 'pending' and session_id = $1`, prompts[0].Session); err != nil {
			return err
		}
		if pending > 0 {
			return fmt.Errorf("%d deliveries are pending", pending)
		}
		return nil
	})
	messages := r.thread(channel, thread)
	for _, p := range prompts {
		cards, answers := 0, 0
		for _, m := range messages {
			switch m.Metadata.Payload.Key {
			case "card:" + p.ID:
				cards++
				if !strings.Contains(m.shows(), stateWord(p.State)) {
					r.Errorf("the card of %q does not say that it is %s: %s", p.Text, p.State, m.shows())
				}
			case "answer:" + p.ID:
				answers++
			}
		}
		if cards != 1 || answers != 1 {
			r.Errorf("%q has %d cards and %d answers in the thread:\n%s", p.Text, cards, answers, threadText(messages))
		}
	}
}

// stateWord is what a final card says.
func stateWord(state string) string {
	return map[string]string{"completed": "Done", "failed": "Failed", "stopped": "Stopped", "cancelled": "Cancelled"}[state]
}

// checkLog checks that the session's log is dense, that every prompt ended
// exactly once in it, and that nothing is left being written.
func (r *rig) checkLog(session string) {
	r.Helper()
	var log struct {
		Count int64 `db:"count"`
		Last  int64 `db:"last"`
		Seq   int64 `db:"seq"`
	}
	err := r.db.Get(&log, `select count(*), coalesce(max(e.seq), 0) as last, max(s.last_seq) as seq
		from events e join sessions s on s.id = e.session_id where s.id = $1`, session)
	if err != nil {
		r.Fatal(err)
	}
	if log.Count != log.Last || log.Last != log.Seq {
		r.Errorf("the log of %s has a gap: %+v", session, log)
	}
	var ends []struct {
		Prompt string `db:"id"`
		Ends   int    `db:"ends"`
		Starts int    `db:"starts"`
	}
	err = r.db.Select(&ends, `select p.id, count(*) filter (where e.kind = 'prompt.ended') as ends,
			count(*) filter (where e.kind = 'prompt.started') as starts
		from prompts p left join events e on e.session_id = p.session_id and e.prompt_id = p.id
		where p.session_id = $1 group by p.id`, session)
	if err != nil {
		r.Fatal(err)
	}
	for _, e := range ends {
		if e.Ends != 1 || e.Starts > 1 {
			r.Errorf("prompt %s started %d times and ended %d times", e.Prompt, e.Starts, e.Ends)
		}
	}
	var parts int
	if err := r.db.Get(&parts, `select count(*) from running_parts where session_id = $1`, session); err != nil {
		r.Fatal(err)
	}
	if parts != 0 {
		r.Errorf("%d parts are still being written", parts)
	}
}

// checkPullRequest checks who opened the session's pull request and whose commits are in it.
func (r *rig) checkPullRequest(session string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := r.octocat("alice")
	var pulls []*github.PullRequest
	r.eventually("the pull request", 30*time.Second, func() (err error) {
		pulls, _, err = client.PullRequests.List(ctx, "acme", "greeter", &github.PullRequestListOptions{State: "all", Head: "acme:inspect/" + session})
		if err == nil && len(pulls) != 1 {
			err = fmt.Errorf("there are %d", len(pulls))
		}
		return err
	})
	if login := pulls[0].GetUser().GetLogin(); login != "alice" {
		r.Errorf("the pull request was opened by %s", login)
	}
	r.eventually("both people's commits", time.Minute, func() error {
		commits, _, err := client.PullRequests.ListCommits(ctx, "acme", "greeter", pulls[0].GetNumber(), nil)
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, c := range commits {
			seen[c.GetCommit().GetAuthor().GetEmail()] = true
			if m := c.GetCommit().GetMessage(); !strings.Contains(m, r.info.URL+"/sessions/"+session) || !strings.Contains(m, "Co-authored-by: ") {
				return fmt.Errorf("a commit without the trailers:\n%s", m)
			}
		}
		for _, login := range []string{"alice", "bob"} {
			if !seen[r.noreply(login)] {
				return fmt.Errorf("no commit of %s: %v", login, seen)
			}
		}
		return nil
	})
}

// noreply is the GitHub address under which a person's commits are credited.
func (r *rig) noreply(login string) string {
	for _, u := range r.info.GitHub.Users {
		if u.Login == login {
			return fmt.Sprintf("%d+%s@users.noreply.github.com", u.ID, u.Login)
		}
	}
	return "nobody"
}

// octocat is GitHub's own Go client, as one of the people.
func (r *rig) octocat(login string) *github.Client {
	r.Helper()
	for _, u := range r.info.GitHub.Users {
		if u.Login == login {
			client := github.NewClient(&http.Client{Timeout: 10 * time.Second}).WithAuthToken(u.Token)
			base, err := client.BaseURL.Parse(r.info.GitHub.APIURL)
			if err != nil {
				r.Fatal(err)
			}
			client.BaseURL = base
			return client
		}
	}
	r.Fatalf("there is no %s", login)
	return nil
}

func TestPracticeJSONSaysWhatToolsNeed(t *testing.T) {
	r := startRig(t, nil)
	data, err := json.Marshal(r.info)
	if err != nil {
		t.Fatal(err)
	}
	var generic map[string]any
	if err := json.Unmarshal(data, &generic); err != nil {
		t.Fatal(err)
	}
	if r.info.PID == 0 || r.info.ServePID == 0 || len(r.info.Slack.Users) < 3 || len(r.info.GitHub.Users) < 3 || len(r.info.GitHub.Repositories) < 2 {
		t.Errorf("practice.json is incomplete: %s", data)
	}
	for _, u := range r.info.Slack.Users {
		var who struct {
			UserID string `json:"user_id"`
		}
		if err := r.slack(u.Token, "auth.test", nil, &who); err != nil || who.UserID != u.ID {
			t.Errorf("%s's token is that of %q: %v", u.Name, who.UserID, err)
		}
	}
}

// fileAt reads a file of a branch from GitHub.
func (r *rig) fileAt(login, owner, repo, path, ref string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	file, _, _, err := r.octocat(login).Repositories.GetContents(ctx, owner, repo, path, &github.RepositoryContentGetOptions{Ref: ref})
	if err != nil {
		return "", err
	}
	return file.GetContent()
}

func TestDoctorFindsNothingWrongWithAPracticeAndNamesAWrongToken(t *testing.T) {
	r := startRig(t, nil)
	env := r.practice.childEnv(os.Getenv("OPENCODE_PATH"))
	doctor := func(env []string) (string, error) {
		cmd := exec.Command(r.practice.binary, "doctor")
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := doctor(env); err != nil || strings.Contains(out, "✗") {
		t.Errorf("doctor on a healthy configuration: %v\n%s", err, out)
	}
	for i, v := range env {
		if strings.HasPrefix(v, "SLACK_APP_TOKEN=") {
			env[i] = "SLACK_APP_TOKEN=xapp-wrong"
		}
	}
	if out, err := doctor(env); err == nil || !strings.Contains(out, "✗ Slack socket") || strings.Count(out, "✗") != 1 {
		t.Errorf("doctor with a wrong app token: %v\n%s", err, out)
	}
}
