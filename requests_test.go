package main

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// noSession checks that a thread has begun nothing.
func (r *rig) noSession(thread string) {
	r.Helper()
	var n int
	if err := r.db.Get(&n, `select count(*) from sessions where thread = $1`, thread); err != nil {
		r.Fatal(err)
	}
	if n != 0 {
		r.Errorf("the thread has begun %d sessions", n)
	}
}

func TestARequestThatCannotBeTakenIsAnsweredWithASentence(t *testing.T) {
	r := faultRig(t)
	channel := r.channel("greeter")
	for _, c := range []struct {
		name, text string
		shows      []string
	}{
		{"a mention alone", "@inspect", []string{"What shall I do?", "fix the failing test"}},
		{"a mention with spaces", "@inspect   ", []string{"What shall I do?"}},
		{"no such repository", "@inspect say hello in acme/greter", []string{"There is no repository acme/greter", "Did you mean acme/greeter?"}},
		{"stop without a session", "@inspect stop", []string{"There is nothing to stop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.in(t)
			thread := r.say("alice", channel, "", c.text)
			r.waitMessage(channel, thread, 30*time.Second, c.shows...)
			r.noSession(thread)
		})
	}
	t.Run("a mention by an app", func(t *testing.T) {
		r := r.in(t)
		thread, err := r.practice.slack.PostAsOtherBot("Deploys", channel, "", "<@"+r.info.Slack.BotUserID+"> say hello in acme/greeter")
		if err != nil {
			t.Fatal(err)
		}
		r.waitMessage(channel, thread, 30*time.Second, "I only take requests from people")
		r.noSession(thread)
	})
	t.Run("200 kB on the page", func(t *testing.T) {
		r := r.in(t)
		page := r.signIn("alice")
		long := "say hello " + strings.Repeat("and on ", 200_000/7)
		got := page.post("/api/sessions", map[string]string{"prompt": long, "repository": "acme/greeter"})
		if got.status != http.StatusRequestEntityTooLarge || got.Error.Code != "too_long" ||
			!strings.Contains(got.Error.Text, "at most 100000 are taken") || !strings.Contains(got.Error.Text, "Shorten it") {
			t.Errorf("the page answers %+v", got)
		}
	})
}

func TestTheLargestSlackMessageIsWorkedOn(t *testing.T) {
	r := faultRig(t)
	channel := r.channel("greeter")
	const most = 40_000 // characters; Slack cuts what is longer
	head := "<@" + r.info.Slack.BotUserID + "> say hello in acme/greeter "
	thread := r.say("alice", channel, "", head+strings.Repeat("語", most-len(head)))
	prompts := r.waitSettled(thread, 1, time.Minute)
	if prompts[0].State != "completed" || strings.Count(prompts[0].Text, "語") != most-len(head) {
		t.Errorf("a prompt of %d bytes ended as %s: %s", len(prompts[0].Text), prompts[0].State, prompts[0].Reason)
	}
	r.checkThread(channel, thread, prompts)
	r.checkLog(prompts[0].Session)
}

func TestAPersonIsAskedWhichRepositoryAndChoosesIt(t *testing.T) {
	r := faultRig(t)
	channel := r.channel("general")
	thread := r.say("alice", channel, "", "@inspect say hello")
	menu := r.waitMessage(channel, thread, time.Minute, "choose_repository", "acme/greeter", "acme/website")
	r.click("bob", channel, menu.TS, "choose_repository", "acme/website")
	prompts := r.waitSettled(thread, 1, time.Minute)
	if prompts[0].State != "completed" {
		t.Errorf("the prompt ended as %s: %s", prompts[0].State, prompts[0].Reason)
	}
	r.waitMessage(channel, thread, 30*time.Second, "Bob Brandt chose acme/website.")
	r.waitMessage(channel, thread, 30*time.Second, "*acme/website* (chosen by Bob")
	r.checkThread(channel, thread, prompts)
	r.checkLog(prompts[0].Session)

	next := r.say("carol", channel, "", "@inspect say hello again")
	r.waitMessage(channel, next, 30*time.Second, "*acme/website* (this channel's repository)")
	r.waitSettled(next, 1, time.Minute)
}
