package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"openinspect/bot"
	"openinspect/internal/devpg"
	"openinspect/internal/github"
	"openinspect/internal/postgres"
	"openinspect/sandbox"
	"openinspect/sandbox/image"
	"openinspect/sandbox/local"
)

// diagnosis is one thing that doctor looks at. check returns what it found, or
// what is wrong and what to do.
type diagnosis struct {
	name  string
	check func(context.Context) (string, error)
}

// toolsMissing is what local sandboxes lack of the base image: not wrong for
// everybody, so a warning.
type toolsMissing []string

func (m toolsMissing) Error() string { return strings.Join(m, "\n") }

// checkTools looks for the base image's tools on this machine, whose /usr local sandboxes see.
func checkTools(context.Context) (string, error) {
	if missing := image.Missing(); len(missing) > 0 {
		return "", toolsMissing(missing)
	}
	return "local sandboxes have all that the base image has", nil
}

// checks lists what there is to look at in a configuration.
func (c *Config) checks(log *slog.Logger) []diagnosis {
	all := []diagnosis{
		{"database", c.checkDatabase},
		{"Slack bot", c.checkSlackBot},
		{"Slack socket", c.checkSlackSocket},
		{"Slack sign-in", c.checkSlackSignIn},
		{"GitHub App", c.checkGitHub},
		{"model", c.checkModel},
	}
	if c.SandboxProvider == providerModal {
		return append(all, diagnosis{"sandboxes", func(ctx context.Context) (string, error) { return c.checkModal(ctx, log) }})
	}
	return append(all,
		diagnosis{"OpenCode", c.checkOpenCode},
		diagnosis{"ripgrep", checkRipgrep},
		diagnosis{"tools", checkTools},
		diagnosis{"sandboxes", func(ctx context.Context) (string, error) { return checkSandboxes(ctx, log, c.LocalUnisolated) }},
	)
}

func (c *Config) checkOpenCode(ctx context.Context) (string, error) {
	if c.OpenCodePath == "" {
		return ensureOpenCode(ctx)
	}
	info, err := os.Stat(c.OpenCodePath)
	if err == nil && (info.IsDir() || info.Mode()&0o111 == 0) {
		err = errors.New("it is no program")
	}
	if err != nil {
		return "", fmt.Errorf("OPENCODE_PATH: %w", err)
	}
	return c.OpenCodePath, nil
}

// checkRipgrep looks for what OpenCode searches with. Without it OpenCode would
// fetch a program from the internet, which no sandbox may.
func checkRipgrep(context.Context) (string, error) {
	path, err := exec.LookPath("rg")
	if err != nil {
		return "", errors.New("install ripgrep: the agent finds nothing in a repository without it")
	}
	return path, nil
}

func (c *Config) checkDatabase(ctx context.Context) (string, error) {
	if c.DatabaseURL == "" {
		return checkPrivateDatabase(ctx)
	}
	db, err := postgres.Open(c.DatabaseURL)
	if err != nil {
		return "", fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer db.Close()
	var version string
	if err := db.GetContext(ctx, &version, "show server_version"); err != nil {
		return "", fmt.Errorf("DATABASE_URL: %w", err)
	}
	return "Postgres " + version, nil
}

// checkPrivateDatabase starts one for a moment.
func checkPrivateDatabase(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "inspect-doctor-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	cluster, err := devpg.Start(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	return "a private one can be started", cluster.Stop()
}

func (c *Config) checkSlackBot(ctx context.Context) (string, error) {
	var who struct {
		Team   string `json:"team"`
		TeamID string `json:"team_id"`
		User   string `json:"user"`
	}
	header, err := c.askSlack(ctx, "auth.test", c.SlackBotToken, &who)
	if err != nil {
		return "", fmt.Errorf("SLACK_BOT_TOKEN: %w", err)
	}
	if who.TeamID != c.SlackTeamID {
		return "", fmt.Errorf("SLACK_TEAM_ID is %s, but the bot is installed in %s (%s)", c.SlackTeamID, who.TeamID, who.Team)
	}
	if scopes := header.Get("X-OAuth-Scopes"); scopes != "" {
		have := strings.Split(strings.ReplaceAll(scopes, " ", ""), ",")
		missing := slices.DeleteFunc(slices.Clone(bot.Scopes), func(s string) bool { return slices.Contains(have, s) })
		if len(missing) > 0 {
			return "", fmt.Errorf("the bot token lacks the scopes %s: add them in the app's settings and install it again", strings.Join(missing, ", "))
		}
	}
	return "@" + who.User + " in " + who.Team, nil
}

func (c *Config) checkSlackSocket(ctx context.Context) (string, error) {
	if _, err := c.askSlack(ctx, "apps.connections.open", c.SlackAppToken, nil); err != nil {
		return "", fmt.Errorf("SLACK_APP_TOKEN (an app-level token with connections:write): %w", err)
	}
	return "Socket Mode answers", nil
}

// askSlack calls a method without arguments.
func (c *Config) askSlack(ctx context.Context, method, token string, into any) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.SlackAPIURL+method, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	header, body, err := ask(req)
	if err != nil {
		return nil, err
	}
	var answer struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%s did not answer as Slack does: %w", c.SlackAPIURL, err)
	}
	if !answer.OK {
		return nil, fmt.Errorf("the answer of Slack is %s", answer.Error)
	}
	if into == nil {
		return header, nil
	}
	return header, json.Unmarshal(body, into)
}

func (c *Config) checkSlackSignIn(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.SlackIssuer+"/.well-known/openid-configuration", nil)
	if err != nil {
		return "", err
	}
	if _, _, err := ask(req); err != nil {
		return "", fmt.Errorf("SLACK_ISSUER: %w", err)
	}
	return "return address to enter in the app's settings: " + strings.TrimSuffix(c.PublicURL, "/") + "/signin/slack/callback", nil
}

func (c *Config) checkGitHub(ctx context.Context) (string, error) {
	app, err := c.newForge()
	if err != nil {
		return "", err
	}
	repositories, err := app.Repositories(ctx)
	if err != nil {
		return "", err
	}
	if len(repositories) == 0 {
		return "", errors.New("the App is not installed on any repository: install it on those that it may work on")
	}
	return fmt.Sprintf("installed on %d repositories", len(repositories)), nil
}

func (c *Config) newForge() (*github.App, error) {
	return github.NewApp(github.AppConfig{
		AppID: c.GitHubAppID, PrivateKey: []byte(c.GitHubPrivateKey),
		ClientID: c.GitHubClientID, ClientSecret: c.GitHubClientSecret,
		APIURL: c.GitHubAPIURL, WebURL: c.GitHubURL,
	})
}

func (c *Config) checkModel(ctx context.Context) (string, error) {
	route, err := c.modelRoute()
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(route.BaseURL, "/")+"/models", nil)
	if err != nil {
		return "", err
	}
	if route.Protocol == "anthropic" {
		req.Header.Set("X-Api-Key", route.Key)
		req.Header.Set("Anthropic-Version", "2023-06-01")
	} else if route.Key != "" {
		req.Header.Set("Authorization", "Bearer "+route.Key)
	}
	if _, _, err := ask(req); err != nil {
		return "", fmt.Errorf("%s: %w", route.Setting, err)
	}
	return route.Model + " by " + route.Provider, nil
}

func checkSandboxes(ctx context.Context, log *slog.Logger, unisolated string) (string, error) {
	if unisolated == "yes" {
		return "local, without isolation: only for trying it out", nil
	}
	dir, err := os.MkdirTemp("", "inspect-doctor-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if _, err := local.New(ctx, local.Options{Dir: dir, Log: log}); err != nil {
		return "", err
	}
	return "local, confined by bubblewrap; inside, the control plane is at " + sandbox.Gateway, nil
}

// ask sends a request whose answer is small, and wants a 200.
func ask(req *http.Request) (http.Header, []byte, error) {
	client := &http.Client{Timeout: 20 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answers %s", req.URL.Host, resp.Status)
	}
	return resp.Header, body, nil
}
