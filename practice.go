package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"openinspect/internal/devpg"
	practicegithub "openinspect/internal/practice/github"
	practicemodal "openinspect/internal/practice/modal"
	practicemodel "openinspect/internal/practice/model"
	practiceslack "openinspect/internal/practice/slack"
	"openinspect/sandbox/image"
)

// practice is the product on one machine with nothing configured: it runs the
// stand-ins and the private database, and keeps `openinspect serve` running as
// a child that is configured by its environment only.
type practice struct {
	log    *slog.Logger
	out    io.Writer
	dir    string
	listen string
	state  practiceState
	// sandboxes is who runs them, a value of SANDBOX_PROVIDER; empty is local.
	sandboxes string

	// What tests set: the program that serves, and how the stand-ins behave.
	binary   string
	extraEnv []string
	slackOpt practiceslack.Options
	scripts  fs.FS
	pace     time.Duration // of the scripted model
	childOut io.Writer

	cluster *devpg.Cluster
	slack   *practiceslack.Server
	github  *practicegithub.Server
	model   *practicemodel.Server // nil when a real model is configured
	modal   *practicemodal.Server // nil when sandboxes are local
	serve   *child
}

// practiceState is what practice itself remembers in its folder.
type practiceState struct {
	SlackPort  int    `json:"slack_port"`
	GitHubPort int    `json:"github_port"`
	ModelPort  int    `json:"model_port"`
	ModalPort  int    `json:"modal_port"`
	ModelKey   string `json:"model_key"`
	SecretKey  string `json:"secret_key"`
	Linked     bool   `json:"linked"` // Alice's and Bob's GitHub accounts are connected
}

// practiceCommand is `openinspect practice`.
func practiceCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("practice", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("dir", ".data", "folder for all state")
	listen := flags.String("listen", "127.0.0.1:8080", "address of the product's page")
	sandboxes := flags.String("sandboxes", providerLocal, "who runs sandboxes: local, or modal, by a stand-in for it")
	if err := flags.Parse(args); err != nil {
		return errConfig // flag has printed what is wrong
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "openinspect: practice takes flags only; %q is none (see practice -h)\n", flags.Arg(0))
		return errConfig
	}
	if *sandboxes != providerLocal && *sandboxes != providerModal {
		fmt.Fprintf(stderr, "openinspect: --sandboxes is %q: give local or modal\n", *sandboxes)
		return errConfig
	}
	abs, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(abs, 0o711); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	unlock, err := lockFolder(abs)
	if err != nil {
		return err
	}
	defer unlock()
	level := slog.LevelWarn
	if s := os.Getenv("LOG_LEVEL"); s != "" {
		_ = level.UnmarshalText([]byte(s)) // the child complains about a wrong one
	}
	p := &practice{
		log: newLog(stderr, level), out: stdout, dir: abs, listen: *listen, sandboxes: *sandboxes, binary: selfPath(), childOut: stderr, pace: 8 * time.Millisecond,
	}
	return p.run(ctx)
}

// run starts everything, announces it and ends it in order when ctx ends.
func (p *practice) run(ctx context.Context) (err error) {
	// What a killed practice left is not true any more.
	if err := os.Remove(p.jsonPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer os.Remove(p.jsonPath())
	if err := p.loadState(); err != nil {
		return err
	}
	page, err := net.Listen("tcp", p.listen)
	if err != nil {
		return fmt.Errorf("the page's address %s cannot be used (choose another with --listen): %w", p.listen, err)
	}
	p.listen = page.Addr().String()
	page.Close() // it was only to know that the address is free, and which port it is
	opencode := os.Getenv("OPENCODE_PATH")
	if opencode == "" {
		p.announceFetch()
		if opencode, err = ensureOpenCode(ctx); err != nil {
			return err
		}
	}
	if p.cluster, err = devpg.Start(ctx, filepath.Join(p.dir, "postgres"), p.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.cluster.Stop()) }()

	// The stand-ins outlive the child, so that it can say its last words to them.
	standins, stopStandins := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStandins()
	group, groupCtx := errgroup.WithContext(standins)
	defer func() { err = errors.Join(err, p.closeStandins()) }()
	if err := errors.Join(p.openStandins(groupCtx, group), p.openModal(groupCtx, group, opencode)); err != nil {
		return err
	}
	p.serve = &child{log: p.log, binary: p.binary, env: p.childEnv(opencode), out: p.childOut, ready: p.pageURL() + "/readyz"}
	childDone := make(chan error, 1)
	childCtx, stopChild := context.WithCancel(ctx)
	defer stopChild()
	go func() { childDone <- p.serve.run(childCtx) }()

	announceErr := p.announce(childCtx, groupCtx)
	if announceErr == nil {
		select {
		case <-ctx.Done():
		case <-groupCtx.Done():
		}
	}
	stopChild()
	<-childDone
	stopStandins()
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	return announceErr
}

// announceFetch says what takes its time at the first start.
func (p *practice) announceFetch() {
	dir, err := image.CacheDir(os.Getenv("OPENINSPECT_CACHE"))
	if err != nil {
		return // ensureOpenCode says it
	}
	if _, err := os.Stat(image.OpenCodePath(dir)); err != nil {
		fmt.Fprintln(p.out, "fetching OpenCode "+image.OpenCodeVersion+" from npm, once (60 MB)")
	}
}

// announce waits until the product is ready, connects the people's accounts and
// says where to look.
func (p *practice) announce(ctx, standins context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("not ready within 2 minutes"))
	defer cancel()
	defer context.AfterFunc(standins, cancel)()
	if err := p.serve.waitReady(ctx); err != nil {
		return err
	}
	if !p.state.Linked {
		if err := p.linkPeople(ctx); err != nil {
			return fmt.Errorf("connecting the people's GitHub accounts: %w", err)
		}
		p.state.Linked = true
		if err := p.saveState(); err != nil {
			return err
		}
	}
	p.serve.onStart(func(pid int) {
		if err := p.writeJSON(pid); err != nil {
			p.log.Error("writing practice.json", "err", err)
		}
	})
	p.welcome()
	return nil
}

// openStandins starts the stand-ins on ports that stay the same over restarts.
func (p *practice) openStandins(ctx context.Context, group *errgroup.Group) (err error) {
	if p.slack, err = practiceslack.Open(filepath.Join(p.dir, "slack"), p.slackOptions()); err != nil {
		return fmt.Errorf("opening the Slack stand-in: %w", err)
	}
	if p.github, err = practicegithub.Open(filepath.Join(p.dir, "github"), practicegithub.Options{Log: p.log}); err != nil {
		return fmt.Errorf("opening the GitHub stand-in: %w", err)
	}
	if err := p.listenOn(ctx, group, &p.state.SlackPort, p.slack.Handler()); err != nil {
		return err
	}
	if err := p.listenOn(ctx, group, &p.state.GitHubPort, p.github.Handler()); err != nil {
		return err
	}
	// Carol is not connected, but may write: connecting is all that she lacks.
	for _, repository := range p.github.Seed().Repositories {
		if err := p.github.SetRole(repository, "carol", "write"); err != nil {
			return fmt.Errorf("giving Carol her rights: %w", err)
		}
	}
	p.slack.SetURL(p.slackURL())
	p.github.SetURL(p.githubURL())
	group.Go(func() error { return p.slack.Run(ctx) })
	group.Go(func() error { return p.github.Run(ctx) })
	if !realModel() {
		p.model, err = practicemodel.New(practicemodel.Options{Key: p.state.ModelKey, Scripts: p.scripts, Pace: p.pace, Log: p.log})
		if err != nil {
			return fmt.Errorf("opening the model stand-in: %w", err)
		}
		if err := p.listenOn(ctx, group, &p.state.ModelPort, p.model.Handler()); err != nil {
			return err
		}
	}
	return p.saveState()
}

// closeStandins lets go of the stand-ins' files. They do not run any more.
func (p *practice) closeStandins() error {
	var errs []error
	if p.slack != nil {
		errs = append(errs, p.slack.Close())
	}
	if p.github != nil {
		errs = append(errs, p.github.Close())
	}
	return errors.Join(errs...)
}

func (p *practice) slackOptions() practiceslack.Options {
	o := p.slackOpt
	o.Log = p.log
	return o
}

// listenOn serves a handler on the remembered port, or on a new one if that is taken.
func (p *practice) listenOn(ctx context.Context, group *errgroup.Group, port *int, h http.Handler) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if errors.Is(err, syscall.EADDRINUSE) {
		p.log.Warn("a stand-in's port is taken; moving to another", "port", *port)
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return err
	}
	*port = l.Addr().(*net.TCPAddr).Port
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { srv.Close() })
	group.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// realModel says whether a real model is configured in the environment.
func realModel() bool {
	for _, name := range []string{"MODEL_BASE_URL", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

// childEnv is the whole configuration of the child.
func (p *practice) childEnv(opencode string) []string {
	slack, github := p.slack.Seed(), p.github.Seed()
	set := func(env []string, pairs ...string) []string {
		for i := 0; i < len(pairs); i += 2 {
			env = append(env, pairs[i]+"="+pairs[i+1])
		}
		return env
	}
	env := set(passEnv(),
		"DATABASE_URL", p.cluster.URL, "DATA_DIR", p.dir, "LISTEN", p.listen, "PUBLIC_URL", p.pageURL(),
		"SECRET_KEY", p.state.SecretKey, "OPENCODE_PATH", opencode, "PARK_ON_EXIT", "true", "LOG_LEVEL", firstOf(os.Getenv("LOG_LEVEL"), "warn"),
		"SLACK_API_URL", p.slackURL()+"/api/", "SLACK_ISSUER", p.slackURL(), "SLACK_TEAM_ID", slack.TeamID,
		"SLACK_BOT_TOKEN", slack.BotToken, "SLACK_APP_TOKEN", slack.AppToken,
		"SLACK_CLIENT_ID", slack.ClientID, "SLACK_CLIENT_SECRET", slack.ClientSecret,
		"GITHUB_API_URL", p.githubURL()+"/api/v3/", "GITHUB_URL", p.githubURL()+"/",
		"GITHUB_APP_ID", fmt.Sprint(github.AppID), "GITHUB_PRIVATE_KEY", github.PrivateKey,
		"GITHUB_CLIENT_ID", github.ClientID, "GITHUB_CLIENT_SECRET", github.ClientSecret,
	)
	var people []string // everybody may try everything
	for _, u := range slack.Users {
		people = append(people, u.ID)
	}
	env = append(append(set(env, "ADMINS", strings.Join(people, ",")), p.modalEnv()...), p.extraEnv...)
	if p.model != nil {
		return set(env, "MODEL_BASE_URL", p.modelURL(), "MODEL_API_KEY", p.state.ModelKey, "MODEL", "practice")
	}
	for _, name := range []string{"MODEL", "MODEL_BASE_URL", "MODEL_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL",
		"OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENROUTER_API_KEY", "OPENROUTER_BASE_URL"} {
		if v := os.Getenv(name); v != "" {
			env = set(env, name, v)
		}
	}
	return env
}

// pageURL is how people on this machine reach the page. An address that means
// all of the machine's is one to listen on and none to go to: neither browsers
// nor the Slack stand-in, which returns to this machine only, take it in a link.
func (p *practice) pageURL() string {
	at, err := netip.ParseAddrPort(p.listen)
	if err == nil && at.Addr().Unmap().IsUnspecified() {
		return fmt.Sprintf("http://127.0.0.1:%d", at.Port())
	}
	return "http://" + p.listen
}

func (p *practice) slackURL() string  { return fmt.Sprintf("http://127.0.0.1:%d", p.state.SlackPort) }
func (p *practice) githubURL() string { return fmt.Sprintf("http://127.0.0.1:%d", p.state.GitHubPort) }
func (p *practice) modelURL() string  { return fmt.Sprintf("http://127.0.0.1:%d/v1", p.state.ModelPort) }

// loadState reads what practice remembers, and makes what it needs the first time.
func (p *practice) loadState() error {
	data, err := os.ReadFile(filepath.Join(p.dir, "state.json"))
	if err == nil {
		if err := json.Unmarshal(data, &p.state); err != nil {
			return fmt.Errorf("%s/state.json is damaged (remove the folder to begin anew): %w", p.dir, err)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key := make([]byte, 32)
	rand.Read(key)
	p.state = practiceState{SecretKey: base64.StdEncoding.EncodeToString(key), ModelKey: "practice-" + strings.ToLower(rand.Text())}
	return p.saveState()
}

func (p *practice) saveState() error {
	return writeFileAtomic(filepath.Join(p.dir, "state.json"), p.state)
}

// welcome tells a person where to look.
func (p *practice) welcome() {
	model := "scripted stand-in (set ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENROUTER_API_KEY for a real one)"
	if p.model == nil {
		model = "the one that your environment names"
	}
	channel := ""
	for _, c := range p.slack.Seed().Channels {
		if c.Name == "greeter" || channel == "" {
			channel = c.ID
		}
	}
	fmt.Fprintf(p.out, `
Open-Inspect is running on this machine.

  Slack (stand-in)   %s/?channel=%s
                     be Alice, Bob or Carol, and say:  @inspect fix the failing test in acme/greeter
  Session pages      %s
  GitHub (stand-in)  %s/acme/greeter
  Model              %s
  Sandboxes          %s
  All state          %s

Ctrl-C ends everything.
`, p.slackURL(), channel, p.pageURL(), p.githubURL(), model, p.whereSandboxesRun(), p.dir)
}
