package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"openinspect/internal/doors"
	"openinspect/internal/seal"
	"openinspect/sessions"
	"openinspect/web"
)

// check finds values that are set but cannot work.
func (c *Config) check() []error {
	var p []error
	complain := func(format string, args ...any) { p = append(p, fmt.Errorf(format, args...)) }
	for _, id := range c.Admins {
		if !strings.HasPrefix(id, "U") && !strings.HasPrefix(id, "W") {
			complain("ADMINS names %q, which is no Slack id of a person: these begin with U or W, and a profile's menu has them under \"Copy member ID\"", id)
		}
	}
	if c.PortsURL != "" {
		if err := web.CheckPortsURL(c.PortsURL, c.PublicURL); err != nil {
			complain("PORTS_URL %w", err)
		}
	}
	for name, value := range map[string]string{
		"PUBLIC_URL": c.PublicURL, "SLACK_API_URL": c.SlackAPIURL, "SLACK_ISSUER": c.SlackIssuer,
		"GITHUB_API_URL": c.GitHubAPIURL, "GITHUB_URL": c.GitHubURL, "MODEL_BASE_URL": c.ModelBaseURL,
		"MODAL_SERVER_URL": c.ModalServerURL, "ANTHROPIC_BASE_URL": c.AnthropicURL, "OPENAI_BASE_URL": c.OpenAIURL, "OPENROUTER_BASE_URL": c.OpenRouterURL,
	} {
		if u, err := url.Parse(value); value != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
			complain("%s is %q: give a URL such as https://inspect.example.org", name, value)
		}
	}
	if c.SecretKey != "" {
		if _, err := seal.Parse(c.SecretKey); err != nil {
			complain("SECRET_KEY: %v (make one with: openssl rand -base64 32)", err)
		}
	}
	if new(slog.LevelVar).UnmarshalText([]byte(c.LogLevel)) != nil {
		complain("LOG_LEVEL is %q: give debug, info, warn or error", c.LogLevel)
	}
	c.checkForms(complain)
	c.checkProvider(complain)
	if c.LocalUnisolated != "" && c.LocalUnisolated != "yes" {
		complain("LOCAL_UNISOLATED is %q: only yes has a meaning", c.LocalUnisolated)
	}
	if err := doors.AllowList(c.EgressAllow).Check(); err != nil {
		complain("EGRESS_ALLOW: %w", err)
	}
	if c.SlackConnections < 1 || c.SlackConnections > 5 {
		complain("SLACK_CONNECTIONS is %d: give 1 to 5 (Slack allows ten for all replicas)", c.SlackConnections)
	}
	if _, err := c.newForge(); err != nil && c.GitHubPrivateKey != "" {
		complain("GitHub App: %w", err)
	}
	route, err := c.modelRoute()
	if err != nil {
		p = append(p, err)
	}
	return append(p, c.checkPrices(route)...)
}

// budgeted says whether spending is limited.
func (c *Config) budgeted() bool {
	return c.SessionBudget > 0 || c.PersonDayBudget > 0 || c.DayBudget > 0
}

// checkPrices finds configured models that no budget could count.
func (c *Config) checkPrices(route modelRoute) (problems []error) {
	own, err := modelPrices(c.ModelPrices)
	if err != nil {
		problems = append(problems, err)
	}
	prices := doors.NewPrices(own)
	for _, model := range []string{route.Model, route.Small} {
		if _, known := prices.Find(model); model != "" && !known && c.budgeted() {
			problems = append(problems, fmt.Errorf("MODEL_PRICES lacks %s: a budget is set, and what it costs is not known", model))
		}
	}
	return problems
}

// checkForms finds values that cannot be what they should be by their form alone.
func (c *Config) checkForms(complain func(format string, args ...any)) {
	for name, v := range map[string][2]string{
		"SLACK_BOT_TOKEN": {c.SlackBotToken, "xoxb-"}, "SLACK_APP_TOKEN": {c.SlackAppToken, "xapp-"}, "SLACK_TEAM_ID": {c.SlackTeamID, "T"},
	} {
		if v[0] != "" && !strings.HasPrefix(v[0], v[1]) {
			complain("%s does not begin with %s: %s", name, v[1], describe(name))
		}
	}
	if _, err := strconv.ParseInt(c.GitHubAppID, 10, 64); c.GitHubAppID != "" && err != nil {
		complain("GITHUB_APP_ID is %q: give the App's id, a number", c.GitHubAppID)
	}
	for name, address := range map[string]string{"LISTEN": c.Listen, "MACHINE_LISTEN": c.MachineListen} {
		if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			complain("%s is %q: give an address and a port, such as 127.0.0.1:8080", name, address)
		}
	}
	for name, d := range map[string]time.Duration{
		"PROMPT_TIMEOUT": c.PromptTimeout, "MODEL_SILENCE": c.ModelSilence, "SETUP_TIMEOUT": c.SetupTimeout,
		"BOOT_TIMEOUT": c.BootTimeout, "PARK_AFTER": c.ParkAfter, "SHUTDOWN_GRACE": c.ShutdownGrace,
		"ARCHIVE_DELETE_AFTER": c.ArchiveDelete,
	} {
		if d <= 0 {
			complain("%s is %s: give a time such as 10m", name, d)
		}
	}
	if p := c.PullRequestPictures; p != sessions.PicturesLink && p != sessions.PicturesNone {
		complain("PULL_REQUEST_PICTURES is %q: give link or none", p)
	}
	for name, d := range map[string]time.Duration{"SNAPSHOT_AFTER": c.SnapshotAfter, "ARCHIVE_AFTER": c.ArchiveAfter} {
		if d < 0 {
			complain("%s is %s: give a time such as 10m, or 0s for never", name, d)
		}
	}
	for name, n := range map[string]int{"MAX_SANDBOXES": c.MaxSandboxes, "MAX_QUEUE": c.MaxQueue} {
		if n < 1 {
			complain("%s is %d: give at least 1", name, n)
		}
	}
}
