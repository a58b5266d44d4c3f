package slack

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	slackgo "github.com/slack-go/slack"
)

func TestWorkspaceIsTheSameAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := Options{Retries: []time.Duration{time.Second, time.Second, 5 * time.Second}}
	var was Seed
	var messages []Message
	t.Run("before", func(t *testing.T) {
		b := serve(t, dir, o)
		was = b.seed
		general, alice := b.seed.Channels[0].ID, b.seed.Users[0].ID
		ts, err := b.PostAs(alice, general, "", "first")
		if err != nil {
			t.Fatal(err)
		}
		_, card, err := b.client().PostMessage(general, slackgo.MsgOptionTS(ts), slackgo.MsgOptionBlocks(cardBlocks()...),
			slackgo.MsgOptionMetadata(slackgo.SlackMetadata{EventType: "card", EventPayload: map[string]any{"k": "v"}}))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := b.client().UpdateMessage(general, card, slackgo.MsgOptionText("second", false)); err != nil {
			t.Fatal(err)
		}
		if err := b.ReactAs(alice, general, card, "tada"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.client().SetAgentSessionStatus(slackgo.AgentSessionSetStatusParameters{
			Status: "processing", ChannelID: general, ThreadTS: ts, Title: "A title"}); err != nil {
			t.Fatal(err)
		}
		messages = b.Messages(general, ts)
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("a second Open of the directory: %v", err)
		}
	})
	b := serve(t, dir, o)
	if diff := cmp.Diff(was, b.seed); diff != "" {
		t.Errorf("the seed changed (-was +is):\n%s", diff)
	}
	general, root := b.seed.Channels[0].ID, messages[0].TS
	if diff := cmp.Diff(messages, b.Messages(general, root)); diff != "" {
		t.Errorf("the thread changed (-was +is):\n%s", diff)
	}
	if status, title := b.SessionStatus(general, root); status != "processing" || title != "A title" {
		t.Errorf("the session is %q, %q", status, title)
	}
	a := connect(t, b, ackAll)
	a.wait(t, 1, ofType("message")) // nobody was there to acknowledge them before
	next, err := b.PostAs(b.seed.Users[0].ID, general, "", "third")
	if err != nil || next <= messages[len(messages)-1].TS {
		t.Errorf("timestamp %s after %s, %v", next, messages[len(messages)-1].TS, err)
	}
}

// TestKilledWorkspaceKeepsWhatItAnswered runs a workspace in a process of its
// own that posts and says so, and kills it in the middle.
func TestKilledWorkspaceKeepsWhatItAnswered(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "workspace")
	child := exec.Command(os.Args[0], "-test.run=^TestHelperPostsForEver$")
	child.Env = append(os.Environ(), "POST_FOREVER_IN="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var told []string
	lines := bufio.NewScanner(out)
	for len(told) < 200 && lines.Scan() {
		if ts, ok := strings.CutPrefix(lines.Text(), "posted "); ok {
			told = append(told, ts)
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		if ts, ok := strings.CutPrefix(lines.Text(), "posted "); ok && len(ts) == 17 {
			told = append(told, ts)
		}
	}
	if err := child.Wait(); err == nil {
		t.Fatal("the process ended by itself")
	}
	b := serve(t, dir, Options{})
	kept := map[string]bool{}
	for _, m := range b.Messages(b.seed.Channels[0].ID, "") {
		kept[m.TS] = true
	}
	for _, ts := range told {
		if !kept[ts] {
			t.Fatalf("message %s was answered and is gone", ts)
		}
	}
	if len(told) < 200 {
		t.Errorf("the process posted %d messages only", len(told))
	}
}

// TestHelperPostsForEver is the process of the test above; alone it posts once.
func TestHelperPostsForEver(t *testing.T) {
	dir := os.Getenv("POST_FOREVER_IN")
	if dir == "" {
		dir = t.TempDir()
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	seed := s.Seed()
	for {
		ts, err := s.PostAs(seed.Users[0].ID, seed.Channels[0].ID, "", "again")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("posted %s\n", ts)
		if os.Getenv("POST_FOREVER_IN") == "" {
			return
		}
	}
}

func TestJournalSurvivesATornLastLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	seed := s.Seed()
	if _, err := s.PostAs(seed.Users[0].ID, seed.Channels[0].ID, "", "whole"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"k":"message","i":"C0CHANNEL01/17000`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b := serve(t, dir, Options{})
	if list := b.Messages(seed.Channels[0].ID, ""); len(list) != 1 || list[0].Text != "whole" {
		t.Errorf("messages = %+v", list)
	}
}
