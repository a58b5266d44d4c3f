package modal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	sdk "github.com/modal-labs/modal-client/go"

	"openinspect/sandbox"
)

// MaxLifetime is the longest life that Modal gives a sandbox.
const MaxLifetime = 24 * time.Hour

// Defaults of Options: what a box asks for.
const (
	DefaultApp    = "openinspect"
	DefaultCPU    = 2
	DefaultMemMiB = 4096
)

// price is what Modal charged for sandboxes in US dollars when this was written
// (modal.com/products/sandboxes, per physical core). Regions cost more.
var price = sandbox.Price{CoreSecond: 0.00003942, GiBSecond: 0.00000672}

// Deadlines of what Modal is asked for.
const (
	callTime     = 30 * time.Second // a call that moves nothing
	startTime    = 3 * time.Minute  // from asking for a sandbox to having it
	throttleTime = 20 * time.Second // how long a call is tried again because the server says so
	saveTime     = 10 * time.Minute // saving a filesystem
	imageTime    = 30 * time.Minute // building the base image
)

// Options configure a Provider. TokenID, TokenSecret, Control and From are required.
type Options struct {
	TokenID, TokenSecret string
	// Environment is one of the workspace's environments; empty is its default one.
	Environment string
	// App is the name of the app; it is made if missing. Empty is DefaultApp.
	App string
	// ServerURL replaces Modal's own address.
	ServerURL string

	// Control is how boxes reach the machine listener, as in sandbox.EnvControl.
	// It is the one place that they may connect to. A name has to be an https URL
	// on port 443, which is all that Modal lets through to a name; an address may
	// have any port. A Unix socket is one that is part of the image.
	Control string

	// From is the base image's tag at a registry, Commands are Dockerfile commands
	// on top of it. COPY of local files is not among them.
	From     string
	Commands []string

	// CPU and MemMiB are what a box gets whose Spec says nothing, Regions where
	// such a one may run, Lifetime is the longest life of a box. 0 is the default.
	CPU      float64
	MemMiB   int
	Regions  []string
	Lifetime time.Duration

	// StartTime and SaveTime bound the start of a box and the saving of a
	// filesystem. 0 is 3 and 10 minutes.
	StartTime, SaveTime time.Duration

	Log *slog.Logger
}

// Provider runs boxes at Modal. Its methods may be called at the same time, and
// by several processes with the same App.
type Provider struct {
	o       Options
	network network
	client  *sdk.Client
	log     *slog.Logger
	handles handles

	appMu sync.Mutex
	appID string // of the app once it is known

	building chan struct{} // holds one element while the base image is being looked for
	baseMu   sync.Mutex
	baseID   string // of the base image once it is built
}

// New makes a provider. It asks Modal for nothing; Check and Run do.
func New(o Options) (*Provider, error) {
	if o.TokenID == "" || o.TokenSecret == "" {
		return nil, errors.New("a token of Modal's has an id and a secret: one is missing")
	}
	if o.From == "" {
		return nil, errors.New("sandboxes at Modal need a base image")
	}
	n, err := networkFor(o.Control)
	if err != nil {
		return nil, err
	}
	setDefaults(&o)
	if !plainName.MatchString(o.App) || appIDForm.MatchString(o.App) {
		return nil, fmt.Errorf("%q cannot be the name of an app at Modal: give MODAL_APP 1 to 64 letters, digits and \"._-\"", o.App)
	}
	if o.Lifetime < 0 || o.Lifetime > MaxLifetime {
		return nil, fmt.Errorf("a lifetime of %s is not within 0 and %s, Modal's longest", o.Lifetime, MaxLifetime)
	}
	client, err := newClient(o)
	if err != nil {
		return nil, err
	}
	return &Provider{o: o, network: n, client: client, log: o.Log, handles: newHandles(), building: make(chan struct{}, 1)}, nil
}

func setDefaults(o *Options) {
	if o.App == "" {
		o.App = DefaultApp
	}
	if o.CPU == 0 {
		o.CPU = DefaultCPU
	}
	if o.MemMiB == 0 {
		o.MemMiB = DefaultMemMiB
	}
	if o.Lifetime == 0 {
		o.Lifetime = MaxLifetime
	}
	if o.StartTime == 0 {
		o.StartTime = startTime
	}
	if o.SaveTime == 0 {
		o.SaveTime = saveTime
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Commands = slices.Concat(o.Commands, baseCommands)
}

// Close ends the connections to Modal. Boxes live on.
func (p *Provider) Close() error {
	p.handles.detach()
	p.client.Close()
	return nil
}

// Run builds the base image if it is not built yet, so that no session has to
// wait for it, and waits for ctx. A build that fails is tried again by each Start.
func (p *Provider) Run(ctx context.Context) error {
	if _, err := p.base(ctx); err != nil && ctx.Err() == nil {
		p.log.ErrorContext(ctx, "the base image of sandboxes is not ready", "err", err)
	}
	<-ctx.Done()
	return ctx.Err()
}

// Check asks Modal for the app and says what was found. The error says what is
// wrong and what to do.
func (p *Provider) Check(ctx context.Context) (string, error) {
	if _, err := p.app(ctx); err != nil {
		return "", err
	}
	environment := p.o.Environment
	if environment == "" {
		environment = "the default environment"
	}
	return fmt.Sprintf("Modal takes the token; the app is %s in %s; sandboxes reach %s", p.o.App, environment, p.network), nil
}

// Caps implements sandbox.Provider.
func (p *Provider) Caps() sandbox.Caps {
	return sandbox.Caps{
		Name: "modal", MaxLifetime: p.o.Lifetime, Builds: true, Placement: true,
		CPU: p.o.CPU, MemMiB: p.o.MemMiB, Price: price,
	}
}

// app finds the app's id, once.
func (p *Provider) app(ctx context.Context) (*sdk.App, error) {
	p.appMu.Lock()
	id := p.appID
	p.appMu.Unlock()
	if id == "" {
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		app, err := p.client.Apps.FromName(ctx, p.o.App, &sdk.AppFromNameParams{CreateIfMissing: true})
		if err != nil {
			return nil, fmt.Errorf("finding the app %s at Modal: %w", p.o.App, notGone(translate(err)))
		}
		id = app.AppID
		p.appMu.Lock()
		p.appID = id
		p.appMu.Unlock()
	}
	// A value of its own for each caller: the SDK's remember things unguarded.
	return &sdk.App{AppID: id, Name: p.o.App, Environment: p.o.Environment}, nil
}

// forget drops what was cached of Modal's state, because it does not hold any more.
func (p *Provider) forget() {
	p.appMu.Lock()
	p.appID = ""
	p.appMu.Unlock()
	p.baseMu.Lock()
	p.baseID = ""
	p.baseMu.Unlock()
}

var (
	_ sandbox.Provider = (*Provider)(nil)
	_ sandbox.Box      = (*box)(nil)
)
