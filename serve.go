package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"golang.org/x/sync/errgroup"

	"openinspect/bot"
	"openinspect/internal/devpg"
	"openinspect/internal/doors"
	"openinspect/internal/github"
	"openinspect/internal/model"
	"openinspect/internal/postgres"
	"openinspect/internal/seal"
	"openinspect/migrations"
	"openinspect/sandbox"
	"openinspect/sandbox/image"
	"openinspect/sessions"
	"openinspect/web"
)

// control is the control plane, filled top to bottom by newControl.
type control struct {
	cfg Config
	log *slog.Logger

	registries chan []string  // receives once: the hosts of this machine's package registries
	cluster    *devpg.Cluster // nil if DATABASE_URL is set
	dsn        string
	db         *sqlx.DB
	provider   sandboxes
	executable *executable // what sandboxes fetch; nil if they see it anyway
	forge      *github.App
	engine     *sessions.Engine
	bot        *bot.Bot
	web        *web.Server

	people   *http.Server // pages, for people
	machines *http.Server // doors and bridge, for sandboxes
}

// serveCommand is `openinspect serve`.
func serveCommand(ctx context.Context, _ []string, _, stderr io.Writer) error {
	cfg, err := loadConfig(os.Environ())
	if err != nil {
		printProblems(stderr, err)
		return errConfig
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // checked by loadConfig
	c, err := newControl(ctx, cfg, newLog(stderr, level))
	if err != nil {
		return errors.Join(err, c.close())
	}
	return errors.Join(c.run(ctx), c.close())
}

// newControl builds the control plane. On an error, what was built is in the
// result and close ends it.
func newControl(ctx context.Context, cfg Config, log *slog.Logger) (*control, error) {
	c := &control{cfg: cfg, log: log, registries: make(chan []string, 1)}
	go func() { c.registries <- doors.DefaultAllowList(ctx) }() // asks npm, which takes its time
	key, err := seal.Parse(cfg.SecretKey)
	if err != nil {
		return c, err
	}
	if err := c.openDatabase(ctx); err != nil {
		return c, err
	}
	if err := c.openProvider(ctx); err != nil {
		return c, err
	}
	if c.forge, err = cfg.newForge(); err != nil {
		return c, err
	}
	route, err := cfg.modelRoute()
	if err != nil {
		return c, err
	}
	if err := c.buildEngine(ctx, key, route); err != nil {
		return c, err
	}
	return c, c.buildSurfaces(route)
}

// openDatabase connects to Postgres, starting the private one if none is
// configured, and brings it up to date.
func (c *control) openDatabase(ctx context.Context) (err error) {
	dsn := c.cfg.DatabaseURL
	if dsn == "" {
		if c.cluster, err = devpg.Start(ctx, filepath.Join(c.cfg.DataDir, "postgres"), c.log); err != nil {
			return err
		}
		dsn = c.cluster.URL
	}
	c.dsn = dsn
	if c.db, err = postgres.Open(dsn); err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	c.db.SetMaxOpenConns(32)
	c.db.SetMaxIdleConns(16)
	c.db.SetConnMaxIdleTime(5 * time.Minute)
	return migrations.Up(ctx, c.db.DB)
}

// imageBuilds is how many images this process builds at once.
const imageBuilds = 1

// buildEngine makes the core.
func (c *control) buildEngine(ctx context.Context, key *seal.Key, route modelRoute) (err error) {
	cfg := c.cfg
	botName, botEmail := c.forge.BotIdentity(ctx)
	c.engine, err = sessions.New(c.log, c.db, sessions.Config{
		Replica: uuid.NewString(), Listen: c.dsn, PublicURL: strings.TrimSuffix(cfg.PublicURL, "/"),
		Control: c.provider.control, Command: c.provider.command,
		Provider: c.provider.Provider, Forge: c.forge, Seal: key, Scrub: cfg.secretValues(),
		Chooser: model.New(c.log, model.Config{
			BaseURL: route.BaseURL, Key: route.Key, Model: route.Small, Protocol: route.Protocol,
		}),
		Admins: cfg.Admins,
		Model:  route.Model, SmallModel: route.Small, Protocol: route.Protocol,
		BotName: botName, BotEmail: botEmail, Instructions: cfg.Instructions, BotPullRequests: cfg.BotPullRequests, PullRequestPictures: cfg.PullRequestPictures,
		PromptTimeout: cfg.PromptTimeout, SetupTimeout: cfg.SetupTimeout, ModelSilence: cfg.ModelSilence, BootTimeout: cfg.BootTimeout,
		ParkAfter: cfg.ParkAfter, SnapshotAfter: unlessZero(cfg.SnapshotAfter), ArchiveAfter: unlessZero(cfg.ArchiveAfter), DeleteAfter: cfg.ArchiveDelete,
		MaxQueue: cfg.MaxQueue, MaxSandboxes: cfg.MaxSandboxes,
		MaxSpares: cfg.MaxSpares, PoolSize: cfg.PoolSize, SpareDayUSD: cfg.SpareDayBudget,
		ImageBuilds: c.imageBuilds(), ImageRecipe: image.Base().Version(),
		SessionBudgetUSD: cfg.SessionBudget, PersonDayBudgetUSD: cfg.PersonDayBudget, DayBudgetUSD: cfg.DayBudget,
	})
	return err
}

// imageBuilds is as the engine wants it: an unisolated box is the only one at a time.
func (c *control) imageBuilds() int {
	if c.cfg.LocalUnisolated == "yes" {
		return -1
	}
	return imageBuilds
}

// unlessZero makes of a time after which something happens, or 0 for never, what
// the engine takes: its zero is a default.
func unlessZero(after time.Duration) time.Duration {
	if after == 0 {
		return -1
	}
	return after
}

// buildSurfaces makes the bot, the pages, the doors and their listeners.
func (c *control) buildSurfaces(route modelRoute) (err error) {
	cfg := c.cfg
	publicURL := strings.TrimSuffix(cfg.PublicURL, "/")
	c.bot, err = bot.New(c.log, c.engine, bot.Config{
		APIURL: cfg.SlackAPIURL, BotToken: cfg.SlackBotToken, AppToken: cfg.SlackAppToken,
		TeamID: cfg.SlackTeamID, PublicURL: publicURL, Connections: cfg.SlackConnections,
	})
	if err != nil {
		return err
	}
	c.web, err = web.New(c.log, c.engine, web.Config{
		PublicURL: publicURL, SlackClientID: cfg.SlackClientID, SlackClientSecret: cfg.SlackClientSecret,
		OIDCIssuer: cfg.SlackIssuer, TeamID: cfg.SlackTeamID, SlackWorkspaceURL: workspaceURL(cfg), Members: c.bot, GitHub: c.forge,
		PortsURL: cfg.PortsURL,
	})
	if err != nil {
		return err
	}
	machine, err := c.machineHandler(route)
	if err != nil {
		return err
	}
	errorLog := slog.NewLogLogger(c.log.Handler(), slog.LevelWarn)
	c.people = &http.Server{Handler: c.web.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: peopleIdle, ErrorLog: errorLog}
	c.machines = &http.Server{Handler: machine, ReadHeaderTimeout: 10 * time.Second, ErrorLog: errorLog}
	return nil
}

// peopleIdle ends a connection on which no request comes. It is longer than load
// balancers keep theirs (ten minutes at most, as a rule): the end that sends
// requests has to be the one that closes, or it sends one into a closing connection.
const peopleIdle = 11 * time.Minute

// machineHandler serves sandboxes: the git door, the model door, the egress
// proxy, the bridge and the program that they run.
func (c *control) machineHandler(route modelRoute) (http.Handler, error) {
	prices, err := modelPrices(c.cfg.ModelPrices)
	if err != nil {
		return nil, err
	}
	next := http.NewServeMux()
	next.Handle(sandbox.BridgePath, sandbox.BridgeHandler(c.engine.ServeBridge))
	next.Handle(sandbox.UploadPath, sandbox.UploadHandler(c.engine.AdmitUpload, c.engine.TakeUpload))
	if c.executable != nil {
		next.Handle("GET "+sandbox.SupervisorPath+"{sha256}", c.executable.handler(doorAuth{c.engine}, c.log))
	}
	return doors.New(doors.Config{
		Auth: doorAuth{c.engine}, Next: next, Log: c.log,
		Git: doors.NewGit(doors.GitConfig{
			Upstream: gitUpstream{c.forge}, Pushed: c.engine.Pushed,
			Secrets: doorSecrets{c.engine}.find, Refused: c.engine.Withheld, Log: c.log,
		}),
		Model: doors.NewModel(doors.ModelConfig{
			Providers: map[string]doors.Provider{route.Protocol: {
				Protocol: doors.Protocol(route.Protocol), BaseURL: strings.TrimSuffix(route.BaseURL, "/"),
				Key: route.Key, Setting: route.Setting,
			}},
			Prices: doors.NewPrices(prices), PricedOnly: c.cfg.budgeted(), Meter: doorMeter{c.engine}, Log: c.log,
		}),
		Tools:  doors.NewTools(doors.ToolsConfig{Servers: doorTools{c.engine}, Log: c.log}),
		Egress: doors.NewEgress(doors.EgressConfig{Allow: append(<-c.registries, c.cfg.EgressAllow...), Log: c.log}),
	}), nil
}

// workspaceURL is where links to Slack threads lead.
func workspaceURL(cfg Config) string {
	if cfg.SlackIssuer == "https://slack.com" {
		return "https://slack.com/app_redirect"
	}
	return cfg.SlackIssuer
}

// run serves until ctx ends, then ends everything in order: nothing new comes
// in, what was accepted is written, sandboxes are told, the doors close last.
func (c *control) run(ctx context.Context) error {
	peopleListener, err := net.Listen("tcp", c.cfg.Listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	machineListeners, err := c.listenMachines()
	if err != nil {
		return errors.Join(err, peopleListener.Close())
	}
	late, stopLate := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLate()
	group, failed := errgroup.WithContext(late)
	// A surface that fails for good ends the others, and then everything.
	surfaces, ended := errgroup.WithContext(failed)
	early, stopEarly := context.WithCancel(ended)
	context.AfterFunc(ctx, stopEarly)
	defer stopEarly()

	earlyDone := make(chan struct{})
	surfaces.Go(func() error { return c.bot.Run(early) })
	surfaces.Go(func() error { return c.web.Run(early) })
	surfaces.Go(func() error { return serveUntil(early, c.people, peopleListener, c.cfg.ShutdownGrace) })
	group.Go(func() error {
		defer close(earlyDone)
		return ignoreCanceled(surfaces.Wait())
	})
	// Tunnels through the egress proxy are no requests that Shutdown waits for.
	c.machines.BaseContext = func(net.Listener) context.Context { return late }
	for _, l := range machineListeners {
		group.Go(func() error { return serveUntil(late, c.machines, l, time.Second) })
	}
	group.Go(func() error { return ignoreCanceled(c.provider.run(late)) })
	group.Go(func() error { return ignoreCanceled(c.engine.Run(late)) })
	group.Go(func() error {
		select {
		case <-failed.Done():
		case <-earlyDone:
			c.parkAll()
		}
		stopLate()
		return nil
	})
	c.log.Info("serving", "page", c.cfg.PublicURL, "listen", peopleListener.Addr().String())
	return errors.Join(group.Wait(), c.endSandboxes())
}

// parkAll parks every sandbox if the configuration says so.
func (c *control) parkAll() {
	if !c.cfg.ParkOnExit {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.engine.ParkAll(ctx); err != nil {
		c.log.Error("parking sandboxes at exit", "err", err)
	}
}

// serveUntil serves until ctx ends, then lets open requests finish for a time.
func serveUntil(ctx context.Context, srv *http.Server, l net.Listener, grace time.Duration) error {
	stopped := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		defer close(stopped)
		end, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if srv.Shutdown(end) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !release() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// close ends what newControl opened.
func (c *control) close() error {
	var errs []error
	if c.provider.close != nil {
		errs = append(errs, c.provider.close())
	}
	if c.db != nil {
		errs = append(errs, c.db.Close())
	}
	if c.cluster != nil {
		errs = append(errs, c.cluster.Stop())
	}
	return errors.Join(errs...)
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
