package bot

import (
	"context"
	"strings"
	"testing"
	"time"

	practice "openinspect/internal/practice/slack"
)

// become changes what a person is in the workspace.
func (tw *town) become(who string, to practice.Standing) {
	tw.T.Helper()
	if err := tw.slack.SetStanding(who, to); err != nil {
		tw.T.Fatal(err)
	}
}

// unasked is a Bot that does not run, as the page may find it at the start.
func (tw *town) unasked() *Bot {
	tw.T.Helper()
	b, err := New(tw.Log, tw.engine, tw.cfg)
	if err != nil {
		tw.T.Fatal(err)
	}
	tw.T.Cleanup(b.http.CloseIdleConnections)
	return b
}

func TestThePageRefusesWhomTheBotRefuses(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, noSandboxes)
	tw.become(tw.bob, practice.Guest)
	tw.become(tw.carol, practice.Deactivated)
	b := tw.unasked()
	for who, want := range map[string]string{
		tw.alice: "", tw.bob: "Ask a full member", tw.carol: "deactivated", tw.seed.BotUserID: "Only people", "U0NOBODY": "Only members",
	} {
		got, err := b.Refusal(context.Background(), who, 0)
		if err != nil || (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, %v; want %q", who, got, err, want)
		}
	}
	b.cfg.TeamID = "T0OTHER"
	if got, err := b.Refusal(context.Background(), tw.alice, time.Hour); err != nil || !strings.Contains(got, "Only members") {
		t.Errorf("somebody of another workspace: %q, %v", got, err)
	}
}

func TestThePageIsToldWhatIsFreshEnough(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, noSandboxes)
	b := tw.unasked()
	ask := func(within time.Duration) string {
		t.Helper()
		refusal, err := b.Refusal(context.Background(), tw.alice, within)
		if err != nil {
			t.Fatal(err)
		}
		return refusal
	}
	ask(time.Minute)
	tw.become(tw.alice, practice.Guest)
	if got := ask(time.Hour); got != "" {
		t.Errorf("asked again although the answer is fresh: %q", got)
	}
	tw.slack.FailNext("users.info", 1, practice.Fault{Drop: true})
	if _, err := b.Refusal(context.Background(), tw.alice, 0); err == nil {
		t.Error("an old answer stands in for one that Slack does not give")
	}
	if got := ask(0); got == "" {
		t.Error("a new guest is not refused")
	}
	if got := ask(time.Hour); got == "" {
		t.Error("what was learnt is not remembered")
	}
}

func TestAGuestIsToldWhyNothingBegins(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, noSandboxes)
	tw.become(tw.bob, practice.Guest)
	tw.Run(tw.engine)
	tw.startBot()
	ts := tw.say(tw.bob, "", tw.mention("fix acme/greeter"))
	tw.see(ts, "guests of this workspace")
}
