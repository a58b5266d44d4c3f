package sessions

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"openinspect/internal/seal"
	"openinspect/sandbox"
)

// Config is what an Engine needs. Zero limits get the defaults of withDefaults.
type Config struct {
	Replica   string           // unique among live replicas; minted by main at start
	PublicURL string           // of the people's listener, without a trailing slash
	Control   string           // the machine listener as a box reaches it (sandbox.EnvControl)
	Command   []string         // the box's main program, e.g. {sandbox.Tools+"/openinspect", "supervise"}
	Provider  sandbox.Provider // runs sandboxes
	Forge     Forge            // the code host
	Chooser   Chooser          // may be nil
	Seal      *seal.Key        // seals people's tokens at rest
	Scrub     []string         // secret values that never leave (I10)

	Model, SmallModel string // provider/model names for the agent
	Protocol          string // openai or anthropic
	BotName, BotEmail string // committer and co-author
	Instructions      string // the operator's, added to the agent's

	BotPullRequests bool // I11: the operator allows the App to open pull requests for people who are not linked

	PromptTimeout time.Duration // a prompt may run so long; default 2 h
	SetupTimeout  time.Duration // a repository hook may run so long; default 10 min
	BootTimeout   time.Duration // from start to ready; default 15 min
	ParkAfter     time.Duration // idle time before a sandbox is parked; default 10 min
	MaxQueue      int           // open prompts of a session; default 50
	MaxPrompt     int           // bytes of a prompt; default 100,000
	MaxSandboxes  int           // live at once; default 20

	SessionBudgetUSD, PersonDayBudgetUSD, DayBudgetUSD float64 // 0: no limit
}

// Engine accepts what comes in, works it and serves the log. It is safe for
// concurrent use; several Engines over one database are replicas.
type Engine struct {
	db  *sqlx.DB
	cfg Config
	log *slog.Logger
}

// New makes an Engine over a migrated database.
func New(log *slog.Logger, db *sqlx.DB, cfg Config) (*Engine, error) { panic("not built") }

// Run works until ctx ends: starts sandboxes, watches deadlines, delivers to
// the forge, wakes readers. It returns when all its goroutines have ended.
func (e *Engine) Run(ctx context.Context) error { panic("not built") }

// Request is something a person (or another surface) wants done.
type Request struct {
	Key         string // I1: dedupe key, e.g. slack:T1:C1:1700000000.000100
	Source      Source
	Author      uuid.UUID
	Text        string
	Attachments []sandbox.Attachment
	Session     string  // continue this session; or
	Thread      *Thread // continue the session of this thread, or begin one in it
	MessageTS   string  // the Slack message, for edits and deletes
	Repository  string  // owner/name if the surface knows it; else it is worked out
	Model       string
}

// Accepted is what became of a Request.
type Accepted struct {
	Session   Session
	Prompt    Prompt
	New       bool // a session was begun
	Duplicate bool // the key was known: nothing changed
}

// Accept takes a request in one transaction: dedupe key, session, prompt, its
// events and its card. With neither Session nor Thread it begins a session
// without a thread. Refusals are *Problem (empty, too long, queue full, no such
// session, archived, no such repository). Which repository: the one asked for,
// else a name found in the text, else the channel's, else the only one, else
// the Chooser's choice (asked after the commit), else a person is asked
// (KindWaiting, and an outbox row of kind "menu").
func (e *Engine) Accept(ctx context.Context, r Request) (Accepted, error) { panic("not built") }

// Edit changes the text of a queued prompt that came as this Slack message.
// changed is false if there is none (it runs already, or never was one).
func (e *Engine) Edit(ctx context.Context, key string, t Thread, messageTS, text string) (changed bool, err error) {
	panic("not built")
}

// Withdraw cancels the queued prompt that came as this Slack message.
func (e *Engine) Withdraw(ctx context.Context, key string, t Thread, messageTS string) (changed bool, err error) {
	panic("not built")
}

// Cancel cancels a queued prompt. A *Problem says that it is not queued any more.
func (e *Engine) Cancel(ctx context.Context, prompt string, by uuid.UUID) error { panic("not built") }

// Stop settles the session's running prompt as stopped, at once, and has its
// processes ended (I12). If prompt is not empty, only that one is stopped.
// stopped is empty if nothing was running.
func (e *Engine) Stop(ctx context.Context, key, session, prompt string, by uuid.UUID) (stopped string, err error) {
	panic("not built")
}

// Retry queues a settled prompt's request again, as the person's own.
func (e *Engine) Retry(ctx context.Context, key, prompt string, by uuid.UUID) (Accepted, error) {
	panic("not built")
}

// ChooseRepository settles which repository a session works on. It is refused
// with a *Problem once a sandbox was started for another.
func (e *Engine) ChooseRepository(ctx context.Context, key, session, repository string, by uuid.UUID) error {
	panic("not built")
}

// Notice is a sentence for a Slack thread that is not part of a session's log.
type Notice struct {
	Key     string // delivered once per key
	Session string // may be empty
	Thread  Thread
	User    string // Slack user: only this person sees it (ephemeral, at most once); empty: everybody
	Text    string // mrkdwn-free plain sentences; bot escapes it
}

// Tell records a notice for delivery.
func (e *Engine) Tell(ctx context.Context, n Notice) error { panic("not built") }

// SlackPerson finds or makes the person of a Slack identity and keeps the name,
// e-mail and picture up to date (empty ones change nothing).
func (e *Engine) SlackPerson(ctx context.Context, team, user, name, email, avatar string) (Person, error) {
	panic("not built")
}

// LinkGitHub gives a person a GitHub identity with its tokens (sealed at rest).
// A *Problem says if that GitHub account belongs to another Slack identity.
// Afterwards pull requests that waited for the link are opened.
func (e *Engine) LinkGitHub(ctx context.Context, person uuid.UUID, id int64, login string, t GitHubTokens) error {
	panic("not built")
}

// UnlinkGitHub forgets it.
func (e *Engine) UnlinkGitHub(ctx context.Context, person uuid.UUID) error { panic("not built") }

// Login makes a sign-in valid for ttl (absolute) and returns its secret; only a hash is stored.
func (e *Engine) Login(ctx context.Context, person uuid.UUID, ttl time.Duration) (secret string, err error) {
	panic("not built")
}

// WhoIs returns the person of a sign-in, or ErrNotFound.
func (e *Engine) WhoIs(ctx context.Context, secret string) (Person, error) { panic("not built") }

// Logout ends a sign-in.
func (e *Engine) Logout(ctx context.Context, secret string) error { panic("not built") }
