package bot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/slack-go/slack"
	"golang.org/x/sync/errgroup"

	"openinspect/sessions"
)

// Config says how to reach Slack and what to link to.
type Config struct {
	APIURL      string // of the Web API; Slack's own if empty
	BotToken    string // xoxb-…
	AppToken    string // xapp-…, with connections:write
	TeamID      string // the workspace that is served; any if empty
	PublicURL   string // of the product's pages, without a trailing slash
	Connections int    // Socket Mode connections; default 2, so that one stays up while Slack recycles the other
}

// requestTimeout bounds one call of the Web API. Slack answers within a second
// as a rule; a call that takes longer has an unknown outcome.
const requestTimeout = 15 * time.Second

// Bot connects one Slack workspace with an Engine.
type Bot struct {
	log    *slog.Logger
	engine *sessions.Engine
	cfg    Config
	http   *http.Client // of all calls of the Web API
	api    *slack.Client
	people *people
	status *statusSetter
	self   identity // set at the beginning of Run, before any other goroutine

	connected atomic.Int32 // Socket Mode connections of this process that are up
}

// identity is who the bot is in its workspace.
type identity struct {
	team, user, bot, name string
}

// New makes a Bot. It does not speak to Slack yet.
func New(log *slog.Logger, engine *sessions.Engine, cfg Config) (*Bot, error) {
	var problems []error
	if !strings.HasPrefix(cfg.BotToken, "xoxb-") {
		problems = append(problems, errors.New("the Slack bot token has to begin with xoxb-"))
	}
	if !strings.HasPrefix(cfg.AppToken, "xapp-") {
		problems = append(problems, errors.New("the Slack app token has to begin with xapp-"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if cfg.APIURL == "" {
		cfg.APIURL = slack.APIURL
	}
	if !strings.HasSuffix(cfg.APIURL, "/") {
		cfg.APIURL += "/" // slack-go appends the method's name to it as it is
	}
	if cfg.Connections == 0 {
		cfg.Connections = 2
	}
	cfg.PublicURL = strings.TrimSuffix(cfg.PublicURL, "/")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 2 * maxInFlight
	b := &Bot{log: log, engine: engine, cfg: cfg, http: &http.Client{Timeout: requestTimeout, Transport: transport}}
	b.api = b.client()
	b.people = newPeople(b.api)
	b.status = newStatusSetter(log, b.api)
	return b, nil
}

// client makes a client whose calls always end. It must not get slack-go's debug
// option, which asks Slack for connections that last six minutes.
func (b *Bot) client() *slack.Client {
	return slack.New(b.cfg.BotToken, slack.OptionAppLevelToken(b.cfg.AppToken), slack.OptionAPIURL(b.cfg.APIURL),
		slack.OptionHTTPClient(b.http))
}

// Run receives and delivers until ctx ends, and then returns nil. It fails when
// Slack refuses the credentials for good.
func (b *Bot) Run(ctx context.Context) error {
	defer b.http.CloseIdleConnections()
	self, err := b.introduce(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	b.self = self
	b.log.Info("speaking to Slack", "team", self.team, "user", self.user, "name", self.name)
	g, ctx := errgroup.WithContext(ctx)
	lanes := newLanes(b.log)
	g.Go(func() error { return lanes.run(ctx) })
	for i := range b.cfg.Connections {
		g.Go(func() error { return b.keepSocket(ctx, i+1, lanes) })
	}
	g.Go(func() error { return b.deliverUnderLease(ctx) })
	g.Go(func() error { return b.status.run(ctx) })
	g.Go(func() error { b.people.warm(ctx, b.log); return nil })
	if err := g.Wait(); err != nil && ctx.Err() != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// introduce asks Slack who we are, as long as it takes, unless the answer is final.
func (b *Bot) introduce(ctx context.Context) (identity, error) {
	ask := func() (identity, error) {
		self, err := b.whoami(ctx)
		var limited *slack.RateLimitedError
		switch {
		case err == nil:
			return self, nil
		case errors.As(err, &limited):
			return self, backoff.RetryAfter(int(limited.RetryAfter/time.Second) + 1)
		case isFatal(err):
			return self, backoff.Permanent(fmt.Errorf("asking Slack who the bot is: %w", err))
		}
		b.log.Warn("Slack does not answer yet", "err", err)
		return self, err
	}
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 30 * time.Second
	self, err := backoff.Retry(ctx, ask, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return self, err
	}
	if b.cfg.TeamID != "" && b.cfg.TeamID != self.team {
		return self, fmt.Errorf("the bot token belongs to Slack workspace %s, not to the configured %s", self.team, b.cfg.TeamID)
	}
	return self, nil
}

func (b *Bot) whoami(ctx context.Context) (identity, error) {
	r, err := b.api.AuthTestContext(ctx)
	if err != nil {
		return identity{}, err
	}
	return identity{team: r.TeamID, user: r.UserID, bot: r.BotID, name: r.User}, nil
}

// fatalCodes are the errors after which the credentials never work again
// (https://docs.slack.dev/reference/methods/auth.test).
var fatalCodes = []string{"invalid_auth", "account_inactive", "not_authed", "token_revoked", "token_expired", "not_allowed_token_type", "app_not_found"}

func isFatal(err error) bool {
	return err != nil && slices.Contains(fatalCodes, slackCode(err))
}

// slackCode is the error code that Slack answered with, or empty.
func slackCode(err error) string {
	var refused slack.SlackErrorResponse
	if errors.As(err, &refused) {
		return refused.Err
	}
	return ""
}

// Scopes are what the bot token needs; manifest.yaml asks for them.
var Scopes = []string{
	"app_mentions:read", "channels:history", "groups:history", "im:history", "mpim:history",
	"chat:write", "files:read", "files:write", "users:read", "users:read.email",
}

// pageURL is where a session is shown.
func (b *Bot) pageURL(session string) string { return b.cfg.PublicURL + "/sessions/" + session }

// thread is a Slack thread of the served workspace.
func (b *Bot) thread(channel, root string) sessions.Thread {
	return sessions.Thread{Team: b.self.team, Channel: channel, TS: root}
}
