package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// visitor is a person who is signed in to the product's pages.
type visitor struct {
	*rig
	client *http.Client
}

// signIn signs a person in to the pages, the way of a browser.
func (r *rig) signIn(person string) visitor {
	r.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		r.Fatal(err)
	}
	workspace, err := url.Parse(r.info.Slack.WorkspaceURL)
	if err != nil {
		r.Fatal(err)
	}
	jar.SetCookies(workspace, []*http.Cookie{{Name: "practice_as", Value: r.user(person).Token, Path: "/"}})
	v := visitor{r, &http.Client{Jar: jar, Timeout: 20 * time.Second}}
	resp, err := v.client.Get(r.info.URL + "/signin/slack?return=/settings")
	if err != nil {
		r.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Request.URL.Path != "/settings" {
		r.Fatalf("signing in ended at %s with %s", resp.Request.URL, resp.Status)
	}
	return v
}

// apiAnswer is what the JSON API answers, as far as these tests look at it.
type apiAnswer struct {
	status  int
	Session string `json:"session"`
	Prompt  string `json:"prompt"`
	Stopped string `json:"stopped"`
	Error   struct {
		Code string `json:"code"`
		Text string `json:"text"`
	} `json:"error"`
}

// post calls the page's JSON API.
func (v visitor) post(path string, body any) apiAnswer {
	v.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		v.Fatal(err)
	}
	resp, err := v.client.Post(v.info.URL+path, "application/json", bytes.NewReader(data))
	if err != nil {
		v.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.Fatal(err)
	}
	answer := apiAnswer{status: resp.StatusCode}
	if err := json.Unmarshal(text, &answer); err != nil {
		v.Fatalf("%s answers %s: %.200s", path, resp.Status, text)
	}
	return answer
}

// click uses an element of a message as a person does.
func (r *rig) click(person, channel, ts, action, value string) {
	r.Helper()
	form := url.Values{"channel": {channel}, "ts": {ts}, "action_id": {action}, "value": {value}}
	req, err := http.NewRequest(http.MethodPost, r.info.Slack.WorkspaceURL+"practice/click", strings.NewReader(form.Encode()))
	if err != nil {
		r.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer "+r.user(person).Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || !answer.OK {
		r.Fatalf("clicking %s: %s %v", action, answer.Error, err)
	}
}

// whispered waits for what only one person is shown in a thread.
func (r *rig) whispered(person, channel, thread string, within time.Duration, texts ...string) {
	r.Helper()
	deadline := time.After(within)
	for {
		changed := r.practice.slack.Changed()
		heard := r.practice.slack.Ephemerals(r.user(person).ID, channel)
		for _, m := range heard {
			if m.ThreadTS == thread && containsAll(m.Text+readable.Replace(string(m.Blocks)), texts) {
				return
			}
		}
		select {
		case <-changed:
		case <-deadline:
			r.Fatalf("%s is not shown %q within %v, but %+v", person, texts, within, heard)
		}
	}
}

func containsAll(s string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(s, text) {
			return false
		}
	}
	return true
}

// cardOf waits for the card of a prompt.
func (r *rig) cardOf(channel, thread, prompt string) slackMessage {
	r.Helper()
	var card slackMessage
	r.eventually("the card of "+prompt, time.Minute, func() error {
		for _, m := range r.thread(channel, thread) {
			if m.Metadata.Payload.Key == "card:"+prompt {
				card = m
				return nil
			}
		}
		return fmt.Errorf("it is not in the thread")
	})
	return card
}

func TestStoppingEndsTheCommandAndTheQueueGoesOn(t *testing.T) {
	t.Parallel()
	r := faultRig(t)
	channel, page := r.channel("greeter"), r.signIn("bob")
	ways := []struct {
		name string
		stop func(r *rig, thread string, running promptRow)
	}{
		{"by a word in the thread", func(r *rig, thread string, _ promptRow) { r.say("bob", channel, thread, "stop") }},
		{"by the card's button", func(r *rig, thread string, running promptRow) {
			r.click("bob", channel, r.cardOf(channel, thread, running.ID).TS, "stop_prompt", running.ID)
		}},
		{"by the page", func(r *rig, _ string, running promptRow) {
			if got := page.post("/api/sessions/"+running.Session+"/stop", map[string]string{"prompt": running.ID}); got.Stopped != running.ID {
				r.Errorf("the page answers %+v", got)
			}
		}},
	}
	var threads []string
	for range ways {
		threads = append(threads, r.runningPrompt())
	}
	for _, thread := range threads { // sessions of different threads work at the same time
		if p := r.promptsOf(thread); p[0].State != "running" {
			t.Errorf("%s is %s while others run", p[0].ID, p[0].State)
		}
	}
	for i, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			r := r.in(t)
			r.stopsAtOnce(channel, threads[i], func(running promptRow) { way.stop(r, threads[i], running) })
		})
	}
}

// stopsAtOnce checks one way for Bob to stop what runs in a thread.
func (r *rig) stopsAtOnce(channel, thread string, stop func(running promptRow)) {
	r.Helper()
	shell := r.boxProcess(thread, "seq 1 600")
	r.say("carol", channel, thread, "say hello")
	r.eventually("the queued prompt", 30*time.Second, func() error {
		if n := len(r.promptsOf(thread)); n != 2 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	stop(r.promptsOf(thread)[0])
	r.eventually("the command's processes end", 30*time.Second, func() error {
		if err := syscall.Kill(shell, 0); err == nil {
			return fmt.Errorf("process %d lives", shell)
		}
		return nil
	})
	prompts := r.waitSettled(thread, 2, time.Minute)
	if prompts[0].State != "stopped" || prompts[1].State != "completed" {
		r.Errorf("the prompts ended as %s and %s", prompts[0].State, prompts[1].State)
	}
	if !strings.Contains(prompts[0].Reason, "Bob") {
		r.Errorf("the reason does not say who stopped it: %q", prompts[0].Reason)
	}
	r.checkThread(channel, thread, prompts)
	r.checkLog(prompts[0].Session)
}

// waitPrompt waits until the message with that ts is a prompt of the session, of
// that text and state.
func (r *rig) waitPrompt(session, ts, text, state string) {
	r.Helper()
	r.eventually("the prompt "+text, 30*time.Second, func() error {
		var p promptRow
		err := r.db.Get(&p, `select id, session_id, state, reason, text from prompts where message_ts = $1`, ts)
		if err == nil && (p.Text != text || p.State != state || p.Session != session) {
			err = fmt.Errorf("it is %+v", p)
		}
		return err
	})
}

// rewrite edits a person's message.
func (r *rig) rewrite(person, channel, ts, text string) {
	r.Helper()
	args := url.Values{"channel": {channel}, "ts": {ts}, "text": {text}}
	if err := r.slack(r.user(person).Token, "chat.update", args, nil); err != nil {
		r.Fatal(err)
	}
}

func TestAThreadThatHasASessionTakesMentionsEditsDeletesAndThePagesPrompts(t *testing.T) {
	r := faultRig(t)
	channel := r.channel("greeter")
	thread := r.runningPrompt()
	session := r.promptsOf(thread)[0].Session
	carol := r.user("carol")
	t.Run("a mention is queued in the same session", func(t *testing.T) {
		r := r.in(t)
		r.waitPrompt(session, r.say("bob", channel, thread, "@inspect say hello once more"), "say hello once more", "queued")
		r.waitMessage(channel, thread, 30*time.Second, "Queued, 1 ahead", "say hello once more")
	})
	t.Run("an edit changes a queued prompt", func(t *testing.T) {
		r := r.in(t)
		ts := r.say("bob", channel, thread, "say hello wrongly")
		r.waitPrompt(session, ts, "say hello wrongly", "queued")
		r.rewrite("bob", channel, ts, "say hello rightly")
		r.waitPrompt(session, ts, "say hello rightly", "queued")
		r.waitMessage(channel, thread, 30*time.Second, "say hello rightly")
	})
	t.Run("a deleted message cancels its prompt", func(t *testing.T) {
		r := r.in(t)
		ts := r.say("carol", channel, thread, "say hello, or rather not")
		r.waitPrompt(session, ts, "say hello, or rather not", "queued")
		if err := r.slack(carol.Token, "chat.delete", url.Values{"channel": {channel}, "ts": {ts}}, nil); err != nil {
			t.Fatal(err)
		}
		r.waitPrompt(session, ts, "say hello, or rather not", "cancelled")
		r.waitMessage(channel, thread, 30*time.Second, "Cancelled", "The message was deleted.")
	})
	t.Run("an edit of what runs is answered", func(t *testing.T) {
		r := r.in(t)
		r.rewrite("alice", channel, thread, "<@"+r.info.Slack.BotUserID+"> work for long in acme/website")
		r.whispered("alice", channel, thread, 10*time.Second, "the edit does not reach it")
	})
	t.Run("a prompt of the page appears in the thread", func(t *testing.T) {
		r := r.in(t)
		got := r.signIn("carol").post("/api/sessions/"+session+"/prompts", map[string]string{"text": "say hello from the page"})
		if got.status != http.StatusCreated {
			t.Fatalf("the page answers %+v", got)
		}
		r.waitMessage(channel, thread, 30*time.Second, "Queued", "say hello from the page", "<@"+carol.ID+"> on the web")
	})

	r.say("alice", channel, thread, "stop")
	prompts := r.waitSettled(thread, 5, 2*time.Minute)
	var states []string
	for _, p := range prompts {
		states = append(states, p.State)
	}
	if got := strings.Join(states, " "); got != "stopped completed completed cancelled completed" {
		t.Errorf("the prompts ended as %s", got)
	}
	r.checkLog(session)
	r.checkThread(channel, thread, slices.DeleteFunc(prompts, func(p promptRow) bool {
		return p.State == "cancelled" // its card says so; there is nothing to answer
	}))
}
