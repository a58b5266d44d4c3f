package bot

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestWrongCredentialsEndTheBotWithASentence(t *testing.T) {
	t.Parallel()
	tw := quietTown(t, noSandboxes)
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"bot token": {func(c *Config) { c.BotToken = "xoxb-wrong" }, "invalid_auth"},
		"app token": {func(c *Config) { c.AppToken = "xapp-wrong" }, "slack refuses Socket Mode"},
		"workspace": {func(c *Config) { c.TeamID = "T0OTHER" }, "not to the configured T0OTHER"},
	} {
		cfg := tw.cfg
		c.change(&cfg)
		b, err := New(tw.Log, tw.engine, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx := soon(t)
		if err := b.Run(ctx); ctx.Err() != nil || !strings.Contains(errorText(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := New(tw.Log, tw.engine, Config{BotToken: "xapp-1", AppToken: "xoxb-1"}); err == nil {
		t.Error("tokens may be swapped")
	}
}

func TestAStoppedBotEndsWithoutAnError(t *testing.T) {
	t.Parallel()
	tw := newTown(t, noSandboxes)
	b, err := New(tw.Log, tw.engine, tw.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTheManifestAsksForWhatTheBotNeeds(t *testing.T) {
	t.Parallel()
	manifest, err := os.ReadFile("../manifest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var entries []string
	for line := range strings.Lines(string(manifest)) {
		line, _, _ = strings.Cut(line, " #")
		if entry, is := strings.CutPrefix(strings.TrimSpace(line), "- "); is {
			entries = append(entries, entry)
		}
	}
	events := []string{"agent_session_stopped", "app_home_opened", "app_mention", "member_joined_channel",
		"message.channels", "message.groups", "message.im", "message.mpim"}
	for _, want := range append(events, Scopes...) {
		if !slices.Contains(entries, want) {
			t.Errorf("manifest.yaml does not list %s", want)
		}
	}
	if !strings.Contains(string(manifest), "socket_mode_enabled: true") {
		t.Error("manifest.yaml does not enable Socket Mode")
	}
}
