package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"openinspect/sandbox"
)

// Config is what a supervisor is told from outside. Everything else comes with
// the control plane's Welcome.
type Config struct {
	Control string // as in sandbox.EnvControl
	Token   string // as in sandbox.EnvToken
	Log     *slog.Logger

	// Paths and address inside the box; empty is the constant of package sandbox.
	Home, Workspace, Tools, Gateway string
	// OpenCode is the program's path; empty is Tools/opencode.
	OpenCode string
	// Environ is what children inherit, without the supervisor's own secrets;
	// nil is the process's environment.
	Environ []string

	// Patience is how long to go on without a control plane; 0 is 15 minutes.
	Patience time.Duration
}

func (c Config) withDefaults() Config {
	fill := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	fill(&c.Home, sandbox.Home)
	fill(&c.Workspace, sandbox.Workspace)
	fill(&c.Tools, sandbox.Tools)
	fill(&c.Gateway, sandbox.Gateway)
	fill(&c.OpenCode, filepath.Join(c.Tools, "opencode"))
	if c.Environ == nil {
		c.Environ = os.Environ()
	}
	if c.Patience == 0 {
		c.Patience = 15 * time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Defaults of the deadlines that Welcome may leave out.
const (
	defaultPromptTimeout = time.Hour
	defaultSetupTimeout  = 10 * time.Minute
	defaultModelSilence  = 4 * time.Minute
)

// errParked ends Run's group when the control plane asked for it.
var errParked = errors.New("parked")

// supervisor is one boot.
type supervisor struct {
	cfg     Config
	boot    string
	state   string // folder of the supervisor's own files
	toolKey string
	control sandbox.Control
	bridge  *sandbox.Bridge
	family  *family
	gateway *gateway
	usage   *usage
	vault   *vault

	welcomed chan struct{} // closed when welcome is valid
	assigned chan struct{} // closed when a spare's assignment is valid
	parking  chan struct{} // closed when the box shall end
	wake     chan struct{} // the queue is not empty, or secrets are to be looked for

	mu         sync.Mutex
	welcome    sandbox.Welcome // after the first one, written by the boot alone
	assignment sandbox.Welcome // the first one that names a session, if a spare got it
	parkReason string
	carry      bool    // parking: what runs goes on in another box
	quiet      string  // the prompt that ran last, while nothing runs and its work is in order on the disk
	queue      []*turn // oldest first; the first one may be running
	running    *turn
	vetting    vetting

	gate gate

	// Set by the boot, and then used by the goroutine that runs prompts.
	repo     *repository
	identity *identity
	settings agentSettings

	browsing sync.Mutex // held while a browser runs

	agentMu sync.Mutex
	agent   *opencode
}

// Run is the life of a supervisor: until ctx ends, the control plane parks the
// box, or none answered for cfg.Patience (sandbox.ErrAbandoned). When it
// returns, nothing that it or the agent started lives any more.
func Run(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	s, err := newSupervisor(cfg)
	if err != nil {
		return err
	}
	defer s.bridge.Close()
	defer s.family.tasks.Wait()
	defer s.family.endAll()
	// The gateway and the bridge outlive the work, so that its last words pass.
	outer, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	lines, outer := errgroup.WithContext(outer)
	lines.Go(func() error { return s.gateway.serve(outer) })
	lines.Go(func() error { return s.bridge.Run(outer, orders{s}) })
	lines.Go(func() error { return s.family.reap(outer) })
	lines.Go(func() error { return s.usage.run(outer) })
	lines.Go(func() error {
		defer hangUp()
		return s.work(ctx, outer)
	})
	err = lines.Wait()
	if errors.Is(err, errParked) || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func newSupervisor(cfg Config) (*supervisor, error) {
	s, err := newBase(cfg)
	if err != nil {
		return nil, err
	}
	s.usage = &usage{family: s.family, dirs: []string{cfg.Home, cfg.Workspace}}
	s.bridge, err = sandbox.NewBridge(sandbox.BridgeConfig{
		Control: cfg.Control, Token: cfg.Token, Boot: s.boot,
		SpoolDir: filepath.Join(s.state, "spool"), Patience: cfg.Patience, Log: cfg.Log,
		Heartbeat: s.heartbeat, Scrub: s.vault.scrub,
	})
	return s, err
}

// newBase makes a supervisor without a bridge: its folder, its family of
// processes and the gateway.
func newBase(cfg Config) (*supervisor, error) {
	// Processes of the agent run as the same user: without this they could read
	// the token in /proc/<pid>/environ of the supervisor.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("hiding the environment: %w", err)
	}
	control, err := sandbox.ParseControl(cfg.Control)
	if err != nil {
		return nil, err
	}
	s := &supervisor{
		cfg: cfg, control: control, boot: newID("boot-"), toolKey: newID(""),
		state: filepath.Join(cfg.Home, ".openinspect"), vault: newVault(cfg.Environ),
		welcomed: make(chan struct{}), assigned: make(chan struct{}), parking: make(chan struct{}),
		wake: make(chan struct{}, 1), gate: gate{opened: make(chan struct{})},
	}
	if err := os.MkdirAll(s.state, 0o700); err != nil {
		return nil, fmt.Errorf("making the supervisor's folder: %w", err)
	}
	if s.family, err = newFamily(cfg.Log); err != nil {
		return nil, err
	}
	if s.gateway, err = newGateway(control, cfg.Token, s.toolKey, cfg.Gateway, cfg.Log); err != nil {
		return nil, err
	}
	s.gateway.tools, s.gateway.gate = s.newTools(), &s.gate
	s.gateway.held = s.held
	return s, nil
}

// newID returns a name that nobody can guess.
func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()) }

// work boots and then runs prompts until the end. lines ends when the bridge
// and the gateway have.
func (s *supervisor) work(ctx, lines context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(lines, cancel)
	defer stop()
	select {
	case <-s.welcomed:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer s.gate.syncing.Wait()
	defer cancel()
	s.bootUp(ctx)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.parking:
			return s.park(ctx)
		case <-s.wake:
		}
		for t := s.next(); t != nil; t = s.next() {
			quiet := s.run(ctx, t)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if quiet {
				s.becomeQuiet(t)
			}
		}
		s.bridge.Beat()
		s.vet(ctx)
	}
}

// becomeQuiet notes that all that a prompt did is in order on the disk: the box may
// be saved until the next one begins.
func (s *supervisor) becomeQuiet(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = t.prompt.ID
}

// next takes the oldest prompt that is still to be run. While the box parks
// there is none.
func (s *supervisor) next() *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = nil
	if s.parkReason != "" {
		for _, t := range s.queue {
			if s.carry {
				t.carry()
			} else {
				t.fail("the sandbox had to end (%s) before the prompt could run", s.parkReason)
			}
		}
		s.queue = nil
		return nil
	}
	if len(s.queue) == 0 {
		return nil
	}
	s.running, s.quiet = s.queue[0], ""
	s.queue = s.queue[1:]
	return s.running
}

// orders receives what the control plane asks; see sandbox.Orders.
type orders struct{ s *supervisor }

// Welcome keeps what the first one said, and the first one that names a session.
// Others change nothing: a box works on one session.
func (o orders) Welcome(w sandbox.Welcome) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	w = withDefaultWaits(w)
	switch {
	case !closed(o.s.welcomed):
		o.s.welcome = w
		close(o.s.welcomed)
		if w.Session != "" {
			close(o.s.assigned)
		}
	case w.Session != "" && !closed(o.s.assigned):
		o.s.assignment = w
		close(o.s.assigned)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// withDefaultWaits fills in what a welcome may leave out.
func withDefaultWaits(w sandbox.Welcome) sandbox.Welcome {
	if w.PromptTimeout <= 0 {
		w.PromptTimeout = defaultPromptTimeout
	}
	if w.SetupTimeout <= 0 {
		w.SetupTimeout = defaultSetupTimeout
	}
	if w.ModelSilence <= 0 {
		w.ModelSilence = defaultModelSilence
	}
	if w.SmallModel == "" {
		w.SmallModel = w.Model
	}
	return w
}

// Prompt queues one.
func (o orders) Prompt(p sandbox.Prompt) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.queue = append(o.s.queue, newTurn(p, o.s.bridge))
	o.s.vetting.giveUp()
	o.s.poke()
}

// poke wakes the goroutine that works.
func (s *supervisor) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Vet asks for a look for secrets.
func (o orders) Vet(v sandbox.Vet) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.s.vetting.asked = v.Prompt
	o.s.poke()
}

// Stop settles the prompt at once, whether it runs or waits (I12). Whoever runs
// it sees that it has ended and cleans up.
func (o orders) Stop(stop sandbox.Stop) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	for i, t := range o.s.queue {
		if t.prompt.ID == stop.Prompt {
			o.s.queue = append(o.s.queue[:i:i], o.s.queue[i+1:]...)
			t.settle(sandbox.BodySettled{Outcome: sandbox.OutcomeStopped})
			return
		}
	}
	if t := o.s.running; t != nil && t.prompt.ID == stop.Prompt {
		t.settle(sandbox.BodySettled{Outcome: sandbox.OutcomeStopped})
	}
}

// Park asks the box to end. A prompt that runs fails with the reason, unless it
// goes on in another box.
func (o orders) Park(p sandbox.Park) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if o.s.parkReason != "" {
		return
	}
	o.s.parkReason = p.Reason
	if o.s.parkReason == "" {
		o.s.parkReason = "it is being parked"
	}
	o.s.carry = p.Carry
	o.s.vetting.giveUp()
	switch t := o.s.running; {
	case t != nil && p.Carry:
		t.carry()
	case t != nil:
		t.fail("the sandbox had to end: %s", o.s.parkReason)
	}
	close(o.s.parking)
}

func (s *supervisor) heartbeat() sandbox.Heartbeat {
	s.mu.Lock()
	h := sandbox.Heartbeat{Busy: s.running != nil || len(s.queue) > 0}
	if !h.Busy {
		h.Quiet = s.quiet
	}
	s.mu.Unlock()
	h.Memory, h.Disk = s.usage.last()
	return h
}
