package sessions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"golang.org/x/sync/errgroup"

	"openinspect/internal/seal"
	"openinspect/sandbox"
)

// Config is what an Engine needs. Zero limits get the defaults that they name.
type Config struct {
	Replica   string           // unique among live replicas; minted by main at start
	Listen    string           // the database's URL, for LISTEN; empty: what other replicas do is found by polling
	PublicURL string           // of the people's listener, without a trailing slash
	Control   string           // the machine listener as a box reaches it (sandbox.EnvControl)
	Command   []string         // the box's main program, e.g. {sandbox.Tools+"/openinspect", "supervise"}
	Provider  sandbox.Provider // runs sandboxes
	Forge     Forge            // the code host
	Chooser   Chooser          // may be nil
	Seal      *seal.Key        // seals people's tokens at rest
	Scrub     []string         // secret values that never leave (I10)
	// ImageRecipe names what the base image is made of: images of repositories are
	// built anew when it changes.
	ImageRecipe string

	Model, SmallModel string // provider/model names for the agent
	Protocol          string // openai or anthropic
	BotName, BotEmail string // committer and co-author
	Instructions      string // the operator's, added to the agent's

	Admins []string // Slack ids of those who may change settings

	BotPullRequests bool // I11: the operator allows the App to open pull requests for people who are not linked

	PullRequestPictures string // PicturesLink (the default) or PicturesNone

	PromptTimeout time.Duration // a prompt may run so long; default 2 h
	SetupTimeout  time.Duration // a repository hook may run so long; default 10 min
	ModelSilence  time.Duration // the model may show no sign of life for so long; default 4 min
	BootTimeout   time.Duration // from start to ready; default 15 min
	ParkAfter     time.Duration // idle time before a sandbox is parked; default 10 min
	SnapshotAfter time.Duration // idle time after a prompt before a snapshot is taken; default 15 s, negative: never
	ArchiveAfter  time.Duration // sessions that nothing happens in are archived; default 30 days, negative: never
	DeleteAfter   time.Duration // from a session's archiving to the deletion of its filesystem; default 7 days
	MaxQueue      int           // open prompts of a session; default 50
	MaxPrompt     int           // characters of a prompt, whatever the script; default 100,000
	MaxSandboxes  int           // live at once; default 20
	ImageBuilds   int           // images that this replica builds at once; default 1, negative: there are no images

	MaxSpares   int     // sandboxes that wait for a session, at most; 0: none
	PoolSize    int     // of them, for one busy repository without anybody's asking; 0: none
	SpareDayUSD float64 // what spares may cost in 24 hours where the provider charges

	SessionBudgetUSD, PersonDayBudgetUSD, DayBudgetUSD float64 // 0: no limit
}

// withDefaults fills in the limits that are zero.
func (c Config) withDefaults() Config {
	durations := map[*time.Duration]time.Duration{
		&c.PromptTimeout: 2 * time.Hour, &c.SetupTimeout: 10 * time.Minute, &c.ModelSilence: 4 * time.Minute,
		&c.BootTimeout: 15 * time.Minute, &c.ParkAfter: 10 * time.Minute, &c.DeleteAfter: 7 * 24 * time.Hour,
	}
	for field, value := range durations {
		if *field <= 0 {
			*field = value
		}
	}
	if c.PullRequestPictures == "" {
		c.PullRequestPictures = PicturesLink
	}
	for field, value := range map[*time.Duration]time.Duration{&c.SnapshotAfter: 15 * time.Second, &c.ArchiveAfter: 30 * 24 * time.Hour} {
		if *field == 0 {
			*field = value
		}
	}
	limits := map[*int]int{&c.MaxQueue: 50, &c.MaxPrompt: 100_000, &c.MaxSandboxes: 20}
	for field, value := range limits {
		if *field <= 0 {
			*field = value
		}
	}
	if c.ImageBuilds == 0 {
		c.ImageBuilds = 1
	}
	return c
}

// check finds what is missing.
func (c Config) check() error {
	var problems []error
	for what, missing := range map[string]bool{
		"a replica's name": c.Replica == "", "a provider": c.Provider == nil,
		"a forge": c.Forge == nil, "a key": c.Seal == nil,
	} {
		if missing {
			problems = append(problems, fmt.Errorf("the engine needs %s", what))
		}
	}
	if _, can := c.Forge.(AppForge); c.BotPullRequests && !can {
		problems = append(problems, errors.New("the forge cannot open pull requests as the App, but BotPullRequests asks for it"))
	}
	return errors.Join(problems...)
}

// Engine accepts what comes in, works it and serves the log. It is safe for
// concurrent use; several Engines over one database are replicas.
type Engine struct {
	db    *sqlx.DB
	cfg   Config
	log   *slog.Logger
	scrub *scrubber
	hub   *hub
	tempo tempo
	gossip

	leaving atomic.Bool // no sandbox is started any more: see ParkAll
}

// tempo is how often the engine looks and how long it waits. Tests shorten it.
type tempo struct {
	lease     time.Duration // of leases by name, and of a replica that starts a sandbox
	poll      time.Duration // what a lost wake-up costs at most
	watch     time.Duration // between two looks at all deadlines
	lost      time.Duration // a box without a heartbeat for this long is looked for
	silent    time.Duration // a box that its provider knows, but that was silent for this long, is given up
	grace     time.Duration // a supervisor is given to keep a prompt's deadline itself
	park      time.Duration // a supervisor may take this long to make its state consistent
	vet       time.Duration // a supervisor may take this long to look for secrets before its box is saved
	choose    time.Duration // the small model may take this long
	call      time.Duration // a tool call may wait this long for its effect
	retry     time.Duration // after the first failure to start a box; doubled for each further one
	parts     time.Duration // between two writes of a running part
	notify    time.Duration // between two notifications to other replicas
	refresh   time.Duration // between two looks at the code host's repositories
	checks    time.Duration // between two looks at checks that have not ended
	stopAgain time.Duration // a stop that the box has not confirmed is repeated
	images    time.Duration // between two looks at which images are wanted
	buildLog  time.Duration // between two writes of a build's log
	snapshot  time.Duration // a provider may take this long for a snapshot
	watched   time.Duration // a sandbox whose page somebody looks at is parked so much later, at most
	unowned   time.Duration // a saved filesystem that no row names is deleted after this
	deletion  time.Duration // the longest wait before a saved filesystem is tried to be deleted again
}

var defaultTempo = tempo{
	lease: 4 * time.Second, poll: time.Second, watch: 2 * time.Second,
	lost: sandbox.HeartbeatLost, silent: 2 * time.Minute, grace: 30 * time.Second, park: 30 * time.Second, vet: 75 * time.Second,
	choose: 3 * time.Second, call: 45 * time.Second, retry: 2 * time.Second,
	parts: 200 * time.Millisecond, notify: 20 * time.Millisecond,
	refresh: 5 * time.Minute, checks: 10 * time.Second, stopAgain: 5 * time.Second,
	images: 5 * time.Second, buildLog: time.Second,
	snapshot: 10 * time.Minute, watched: 5 * time.Minute, unowned: 15 * time.Minute, deletion: 6 * time.Hour,
}

// quickPark is how long saving a parking box may take where other deadlines wait for
// it, slowPark where nothing does: a large filesystem takes minutes.
func (t tempo) quickPark() time.Duration { return 4 * t.park }
func (t tempo) slowPark() time.Duration  { return t.snapshot + 4*t.park }

// New makes an Engine over a migrated database.
func New(log *slog.Logger, db *sqlx.DB, cfg Config) (*Engine, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Engine{db: db, cfg: cfg.withDefaults(), log: log, scrub: newScrubber(cfg.Scrub),
		hub: newHub(), tempo: defaultTempo, gossip: newGossip()}, nil
}

// Run works until ctx ends: starts sandboxes, watches deadlines, delivers to
// the forge, wakes readers. It returns when all its goroutines have ended.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.nameAdministrators(ctx); ctx.Err() != nil {
		return nil // it was stopped before it began
	} else if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.tellReplicas(ctx) })
	g.Go(func() error { return e.hearReplicas(ctx) })
	g.Go(func() error { return e.keepRepositories(ctx) })
	g.Go(func() error { return e.chooseForPeople(ctx) })
	g.Go(func() error { return e.startSandboxes(ctx) })
	g.Go(func() error { return e.startSpares(ctx) })
	g.Go(func() error { return e.takeSnapshots(ctx) })
	g.Go(func() error { return e.HoldLease(ctx, "watch", e.watch) })
	g.Go(func() error { return e.HoldLease(ctx, "images", e.planImages) })
	g.Go(func() error { return e.buildImages(ctx) })
	g.Go(func() error { return e.HoldLease(ctx, "saved", e.reapSaved) })
	g.Go(func() error { return e.HoldLease(ctx, surfaceForge, e.deliverToForge) })
	g.Go(func() error { return e.HoldLease(ctx, surfaceReports, e.deliverReports) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
