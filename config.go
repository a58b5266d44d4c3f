package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"openinspect/internal/doors"
)

// Config is the configuration of `openinspect serve`: environment variables
// only. Every variable whose desc begins with "(secret)" may be given as
// NAME_FILE instead. README's table is checked against these fields.
type Config struct {
	DatabaseURL   string `env:"DATABASE_URL" desc:"Postgres; unset: a private cluster in the data folder"`
	DataDir       string `env:"DATA_DIR" envDefault:".data" desc:"what the control plane keeps on disk (local sandboxes, the private database)"`
	Listen        string `env:"LISTEN" envDefault:"127.0.0.1:8080" desc:"the people's listener"`
	MachineListen string `env:"MACHINE_LISTEN" desc:"a TCP address for the sandboxes' doors and bridge besides the Unix socket that local ones use"`
	PublicURL     string `env:"PUBLIC_URL" envDefault:"http://127.0.0.1:8080" desc:"how people reach the page"`
	SecretKey     string `env:"SECRET_KEY,required,notEmpty" desc:"(secret) 32 random bytes in base64; seals people's tokens in the database"`
	LogLevel      string `env:"LOG_LEVEL" envDefault:"info" desc:"debug, info, warn or error"`

	Admins   []string `env:"ADMINS" desc:"Slack ids of the people who may change settings, U…, comma-separated; unset: nobody may"`
	PortsURL string   `env:"PORTS_URL" desc:"how people reach ports of sandboxes: a URL whose host begins with *., e.g. https://*.ports.example.com, with DNS and certificate for all names below; unset: http://*.localhost where PUBLIC_URL is this machine, otherwise ports are not offered"`

	SlackBotToken     string `env:"SLACK_BOT_TOKEN,required,notEmpty" desc:"(secret) xoxb-…"`
	SlackAppToken     string `env:"SLACK_APP_TOKEN,required,notEmpty" desc:"(secret) xapp-…, with connections:write"`
	SlackClientID     string `env:"SLACK_CLIENT_ID,required,notEmpty" desc:"for signing in with Slack"`
	SlackClientSecret string `env:"SLACK_CLIENT_SECRET,required,notEmpty" desc:"(secret) for signing in with Slack"`
	SlackTeamID       string `env:"SLACK_TEAM_ID,required,notEmpty" desc:"the workspace whose members may sign in, T…"`
	SlackAPIURL       string `env:"SLACK_API_URL" envDefault:"https://slack.com/api/" desc:"Slack's Web API"`
	SlackIssuer       string `env:"SLACK_ISSUER" envDefault:"https://slack.com" desc:"the OpenID issuer of signing in with Slack"`

	GitHubAppID         string `env:"GITHUB_APP_ID,required,notEmpty" desc:"the GitHub App's id"`
	GitHubPrivateKey    string `env:"GITHUB_PRIVATE_KEY,required,notEmpty" desc:"(secret) the App's private key, PEM"`
	GitHubClientID      string `env:"GITHUB_CLIENT_ID,required,notEmpty" desc:"the App's client id, for connecting people's accounts"`
	GitHubClientSecret  string `env:"GITHUB_CLIENT_SECRET,required,notEmpty" desc:"(secret) the App's client secret"`
	GitHubAPIURL        string `env:"GITHUB_API_URL" envDefault:"https://api.github.com/" desc:"GitHub's REST API"`
	GitHubURL           string `env:"GITHUB_URL" envDefault:"https://github.com/" desc:"GitHub's pages and git"`
	BotPullRequests     bool   `env:"BOT_PULL_REQUESTS" envDefault:"false" desc:"let the App open pull requests, change them and answer reviewers for people who have not connected GitHub"`
	PullRequestPictures string `env:"PULL_REQUEST_PICTURES" envDefault:"link" desc:"pictures in pull requests: link (whoever has a picture's unguessable link sees it, until it is revoked) or none"`

	Model           string  `env:"MODEL" desc:"the agent's model: a name for MODEL_BASE_URL, else anthropic/…, openai/… or openrouter/…"`
	SmallModel      string  `env:"SMALL_MODEL" desc:"the model for small questions (which repository?); unset: MODEL"`
	ModelBaseURL    string  `env:"MODEL_BASE_URL" desc:"any OpenAI-compatible server, ending in /v1"`
	ModelAPIKey     string  `env:"MODEL_API_KEY" desc:"(secret) for MODEL_BASE_URL"`
	AnthropicKey    string  `env:"ANTHROPIC_API_KEY" desc:"(secret) for anthropic/… models"`
	AnthropicURL    string  `env:"ANTHROPIC_BASE_URL" envDefault:"https://api.anthropic.com/v1" desc:"Anthropic's API"`
	OpenAIKey       string  `env:"OPENAI_API_KEY" desc:"(secret) for openai/… models"`
	OpenAIURL       string  `env:"OPENAI_BASE_URL" envDefault:"https://api.openai.com/v1" desc:"OpenAI's API"`
	OpenRouterKey   string  `env:"OPENROUTER_API_KEY" desc:"(secret) for openrouter/… models"`
	OpenRouterURL   string  `env:"OPENROUTER_BASE_URL" envDefault:"https://openrouter.ai/api/v1" desc:"OpenRouter's API"`
	ModelPrices     string  `env:"MODEL_PRICES" desc:"prices of models that are not built in, JSON: {\"name\": {\"input\": 3, \"output\": 15}} in USD per million tokens"`
	SessionBudget   float64 `env:"BUDGET_SESSION_USD" envDefault:"0" desc:"what one session may cost, models and sandboxes together where the provider charges; 0: no limit"`
	PersonDayBudget float64 `env:"BUDGET_PERSON_DAY_USD" envDefault:"0" desc:"what one person's requests may cost in 24 hours, likewise; 0: no limit"`
	DayBudget       float64 `env:"BUDGET_DAY_USD" envDefault:"0" desc:"what everybody together may cost in 24 hours, likewise, with the images and warm sandboxes of repositories; 0: no limit"`

	SandboxProvider  string        `env:"SANDBOX_PROVIDER" envDefault:"local" desc:"who runs sandboxes: local or modal"`
	SandboxCPU       float64       `env:"SANDBOX_CPU" envDefault:"2" desc:"cores of a sandbox; local ones share the machine's"`
	SandboxMemory    int           `env:"SANDBOX_MEMORY_MIB" envDefault:"4096" desc:"memory of a sandbox, in MiB"`
	SandboxLifetime  time.Duration `env:"SANDBOX_LIFETIME" envDefault:"0s" desc:"the longest that a sandbox lives before its session goes on in another one; 0s: what the provider gives (local 12h, modal 24h, its most)"`
	MachineURL       string        `env:"MACHINE_URL" desc:"how sandboxes at Modal reach the machine listener: https://name, or a URL with an address"`
	ModalTokenID     string        `env:"MODAL_TOKEN_ID" desc:"Modal's token, ak-…"`
	ModalTokenSecret string        `env:"MODAL_TOKEN_SECRET" desc:"(secret) of Modal's token, as-…"`
	ModalEnvironment string        `env:"MODAL_ENVIRONMENT" desc:"the environment of Modal's workspace; unset: its default one"`
	ModalApp         string        `env:"MODAL_APP" envDefault:"openinspect" desc:"the app at Modal that holds the sandboxes: each deployment has its own"`
	ModalServerURL   string        `env:"MODAL_SERVER_URL" desc:"Modal's API; unset: Modal's own"`
	ModalRegions     []string      `env:"MODAL_REGIONS" desc:"regions in which sandboxes may run, comma-separated; unset: any. Modal charges more for sandboxes that name some"`
	LocalUnisolated  string        `env:"LOCAL_UNISOLATED" desc:"yes: run local sandboxes without isolation where bubblewrap is missing (only for trying it out)"`
	OpenCodePath     string        `env:"OPENCODE_PATH" desc:"the OpenCode binary; unset: installed from npm into the cache folder at the pinned version"`
	EgressAllow      []string      `env:"EGRESS_ALLOW" desc:"hosts that sandboxes may reach besides this machine's package registries: host, .suffix or host:port, comma-separated"`
	Instructions     string        `env:"AGENT_INSTRUCTIONS" desc:"added to the agent's instructions in every session"`
	PromptTimeout    time.Duration `env:"PROMPT_TIMEOUT" envDefault:"2h" desc:"the longest a prompt may run"`
	ModelSilence     time.Duration `env:"MODEL_SILENCE" envDefault:"4m" desc:"how long the model may show no sign of life before the prompt ends"`
	SetupTimeout     time.Duration `env:"SETUP_TIMEOUT" envDefault:"10m" desc:"the longest a repository's setup or start script may run"`
	BootTimeout      time.Duration `env:"BOOT_TIMEOUT" envDefault:"15m" desc:"the longest a sandbox may take to become ready"`
	ParkAfter        time.Duration `env:"PARK_AFTER" envDefault:"10m" desc:"how long a sandbox may be idle before it is parked"`
	SnapshotAfter    time.Duration `env:"SNAPSHOT_AFTER" envDefault:"15s" desc:"how long a sandbox is idle after a prompt before a snapshot is taken; 0s: only parking saves it"`
	ArchiveAfter     time.Duration `env:"ARCHIVE_AFTER" envDefault:"720h" desc:"sessions in which nothing happens for so long are archived; 0s: never"`
	ArchiveDelete    time.Duration `env:"ARCHIVE_DELETE_AFTER" envDefault:"168h" desc:"how long the files of an archived session's sandbox, and those that it showed, are kept; its branch stays, and so do pictures in pull requests"`
	ParkOnExit       bool          `env:"PARK_ON_EXIT" envDefault:"false" desc:"park all sandboxes when the control plane ends, instead of leaving them running; what runs in them goes on when the next one starts"`
	MaxSandboxes     int           `env:"MAX_SANDBOXES" envDefault:"20" desc:"sandboxes running at once"`
	MaxSpares        int           `env:"MAX_SPARES" envDefault:"4" desc:"sandboxes that may be made ready before anybody has asked, of MAX_SANDBOXES; 0: none"`
	PoolSize         int           `env:"POOL_SIZE" envDefault:"1" desc:"of them, how many wait for the next session of a busy repository; 0: only while somebody writes a request"`
	SpareDayBudget   float64       `env:"BUDGET_SPARES_DAY_USD" envDefault:"5" desc:"what they may cost in 24 hours where the provider charges"`
	MaxQueue         int           `env:"MAX_QUEUE" envDefault:"50" desc:"open prompts of one session"`
	SlackConnections int           `env:"SLACK_CONNECTIONS" envDefault:"2" desc:"Socket Mode connections of this process"`
	ShutdownGrace    time.Duration `env:"SHUTDOWN_GRACE" envDefault:"10s" desc:"how long open requests may take to end when the control plane is stopped"`
}

// secretMark marks the variables of which NAME_FILE is read.
const secretMark = "(secret)"

// loadConfig reads the configuration from an environment. The error joins all
// problems that there are, one sentence each.
func loadConfig(environ []string) (Config, error) {
	vars := env.ToMap(environ)
	problems := readSecretFiles(vars)
	var c Config
	if err := env.ParseWithOptions(&c, env.Options{Environment: vars}); err != nil {
		problems = append(problems, configSentences(err)...)
	}
	problems = append(problems, c.check()...)
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return c, errors.Join(slices.CompactFunc(problems, func(a, b error) bool { return a.Error() == b.Error() })...)
}

// readSecretFiles fills NAME from the file that NAME_FILE names.
func readSecretFiles(vars map[string]string) (problems []error) {
	fields, err := env.GetFieldParams(&Config{})
	if err != nil {
		return []error{err}
	}
	secrets := secretNames()
	for _, f := range fields {
		path, given := vars[f.Key+"_FILE"]
		if !given || !secrets[f.Key] {
			continue
		}
		if vars[f.Key] != "" {
			problems = append(problems, fmt.Errorf("%s and %s_FILE are both set: give one", f.Key, f.Key))
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s_FILE: %w", f.Key, err))
			continue
		}
		vars[f.Key] = strings.TrimSpace(string(data))
	}
	return problems
}

// configSentences turns the library's errors into one sentence each.
func configSentences(err error) []error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []error{err}
	}
	var out []error
	for _, e := range all.Errors {
		var unset env.VarIsNotSetError
		var empty env.EmptyVarError
		var wrong env.ParseError
		switch {
		case errors.As(e, &wrong):
			key := variableOf(wrong.Name)
			out = append(out, fmt.Errorf("%s cannot be read (%w): %s", key, wrong.Err, describe(key)))
		case errors.As(e, &unset):
			out = append(out, fmt.Errorf("%s is not set: %s", unset.Key, describe(unset.Key)))
		case errors.As(e, &empty):
			out = append(out, fmt.Errorf("%s is empty: %s", empty.Key, describe(empty.Key)))
		default:
			out = append(out, e)
		}
	}
	return out
}

// variableOf is the variable that a field of Config is read from.
func variableOf(field string) string {
	f, ok := reflect.TypeFor[Config]().FieldByName(field)
	if !ok {
		return field
	}
	key, _, _ := strings.Cut(f.Tag.Get("env"), ",")
	return key
}

// modelRoute is which provider serves the agent's model, and by what protocol.
type modelRoute struct {
	Provider string // the model door's name for it: custom, anthropic, openai, openrouter
	Protocol string // openai or anthropic
	Model    string // as the provider names it
	Small    string
	BaseURL  string
	Key      string
	Setting  string // the variable that holds the key
}

// defaultModels are used when a key is given but MODEL is not.
var defaultModels = map[string]string{
	"anthropic":  "claude-sonnet-4-5",
	"openai":     "gpt-5",
	"openrouter": "anthropic/claude-sonnet-4.5",
}

// modelRoute works out the model's provider from MODEL and the keys that are set.
func (c *Config) modelRoute() (modelRoute, error) {
	if c.ModelBaseURL != "" {
		if c.Model == "" {
			return modelRoute{}, errors.New("MODEL is not set: name the model that MODEL_BASE_URL serves")
		}
		return modelRoute{"custom", "openai", c.Model, firstOf(c.SmallModel, c.Model), c.ModelBaseURL, c.ModelAPIKey, "MODEL_API_KEY"}, nil
	}
	routes := []modelRoute{
		{Provider: "anthropic", Protocol: "anthropic", BaseURL: c.AnthropicURL, Key: c.AnthropicKey, Setting: "ANTHROPIC_API_KEY"},
		{Provider: "openai", Protocol: "openai", BaseURL: c.OpenAIURL, Key: c.OpenAIKey, Setting: "OPENAI_API_KEY"},
		{Provider: "openrouter", Protocol: "openai", BaseURL: c.OpenRouterURL, Key: c.OpenRouterKey, Setting: "OPENROUTER_API_KEY"},
	}
	for _, r := range routes {
		name, named := strings.CutPrefix(c.Model, r.Provider+"/")
		switch {
		case named && r.Key == "":
			return r, fmt.Errorf("MODEL is %s, but %s_API_KEY is not set", c.Model, strings.ToUpper(r.Provider))
		case named:
			r.Model = name
		case c.Model == "" && r.Key != "":
			r.Model = defaultModels[r.Provider]
		default:
			continue
		}
		r.Small = firstOf(strings.TrimPrefix(c.SmallModel, r.Provider+"/"), r.Model)
		return r, nil
	}
	if c.Model != "" && c.AnthropicKey+c.OpenAIKey+c.OpenRouterKey != "" {
		return modelRoute{}, fmt.Errorf("MODEL is %q: begin it with anthropic/, openai/ or openrouter/, or set MODEL_BASE_URL", c.Model)
	}
	return modelRoute{}, errors.New("no model is configured: set ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENROUTER_API_KEY, or MODEL_BASE_URL and MODEL")
}

// modelPrices reads MODEL_PRICES.
func modelPrices(text string) (doors.Prices, error) {
	if text == "" {
		return nil, nil
	}
	var table map[string]struct {
		Input      float64 `json:"input"`
		Output     float64 `json:"output"`
		CacheRead  float64 `json:"cache_read"`
		CacheWrite float64 `json:"cache_write"`
	}
	if err := json.Unmarshal([]byte(text), &table); err != nil {
		return nil, fmt.Errorf("MODEL_PRICES is not a table of prices: %w", err)
	}
	prices := doors.Prices{}
	for name, p := range table {
		prices[name] = doors.Price(p)
	}
	return prices, nil
}

// secretValues are the configured values that must never leave the control plane (I10).
func (c *Config) secretValues() []string {
	all := []string{c.SecretKey, c.SlackBotToken, c.SlackAppToken, c.SlackClientSecret, c.GitHubPrivateKey,
		c.GitHubClientSecret, c.ModalTokenSecret, c.ModelAPIKey, c.AnthropicKey, c.OpenAIKey, c.OpenRouterKey}
	return slices.DeleteFunc(all, func(s string) bool { return len(s) < 8 })
}

// printProblems writes the configuration's problems, one a line.
func printProblems(w io.Writer, err error) {
	fmt.Fprintf(w, "openinspect: the configuration has problems:\n")
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(w, "  - %s\n", strings.TrimRight(line, "\n"))
	}
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
