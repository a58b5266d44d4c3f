package sessionstest

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
)

// supervisor is one start of a box's program.
type supervisor struct {
	box    *Box
	boot   string
	bridge *sandbox.Bridge
	ctx    context.Context
	end    context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	spare   bool // it was welcomed without a session
	booted  bool
	queue   chan sandbox.Prompt
	prompts []sandbox.Prompt
	running map[string]context.CancelFunc
	carry   bool
	deaf    bool
	quiet   string
}

func newSupervisor(b *Box) (*supervisor, error) {
	s := &supervisor{box: b, boot: uuid.NewString(), queue: make(chan sandbox.Prompt, 100), running: map[string]context.CancelFunc{}}
	bridge, err := sandbox.NewBridge(sandbox.BridgeConfig{
		Control: b.spec.Env[sandbox.EnvControl], Token: b.spec.Env[sandbox.EnvToken], Boot: s.boot,
		SpoolDir: b.dir, Heartbeat: s.heartbeat,
	})
	if err != nil {
		return nil, err
	}
	s.bridge = bridge
	s.ctx, s.end = context.WithCancel(context.Background())
	s.work.Go(func() { _ = bridge.Run(s.ctx, s) }) // ends with the box
	s.work.Go(s.prompting)
	return s, nil
}

// kill ends the program at once.
func (s *supervisor) kill() {
	s.end()
	s.work.Wait()
	_ = s.bridge.Close()
}

func (s *supervisor) heartbeat() sandbox.Heartbeat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sandbox.Heartbeat{Busy: len(s.running) > 0, Memory: 500 << 20, Disk: 80 << 20, Quiet: s.quiet}
}

func (s *supervisor) received() []sandbox.Prompt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sandbox.Prompt(nil), s.prompts...)
}

// Welcome implements sandbox.Orders: the first one that names a session begins
// the boot, after that of a spare if there was one.
func (s *supervisor) Welcome(w sandbox.Welcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.Session == "" && !s.spare {
		s.spare = true
		spare := s.box.provider.Spare
		if spare == nil {
			spare = Spare
		}
		s.work.Go(func() { spare(s.ctx, s.box) })
	}
	if w.Session == "" || s.booted {
		return
	}
	s.booted = true
	boot := s.box.provider.Boot
	if boot == nil {
		boot = Ready
	}
	s.work.Go(func() { boot(s.ctx, s.box) })
}

// Spare reports that all is done that needs no session.
func Spare(_ context.Context, b *Box) {
	for _, phase := range []string{sandbox.PhaseSync, sandbox.PhaseAgent, sandbox.PhaseSpare} {
		b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: phase, State: "done", Millis: 3})
	}
}

// Ready reports a boot in which all went well.
func Ready(_ context.Context, b *Box) {
	for _, phase := range []string{sandbox.PhaseSync, sandbox.PhaseAgent, sandbox.PhaseReady} {
		b.Bridge().Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: phase, State: "done", Millis: 3})
	}
}

// Prompt implements sandbox.Orders.
func (s *supervisor) Prompt(p sandbox.Prompt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prompts = append(s.prompts, p)
	s.queue <- p
}

// Stop implements sandbox.Orders.
func (s *supervisor) Stop(stop sandbox.Stop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.running[stop.Prompt]; cancel != nil {
		cancel()
	}
}

// Park implements sandbox.Orders: the program ends once everything is stored,
// and the box with it.
func (s *supervisor) Park(p sandbox.Park) {
	s.mu.Lock()
	if s.deaf {
		s.mu.Unlock()
		return
	}
	s.carry = p.Carry
	idle := sync.WaitGroup{}
	if p.Carry {
		for _, cancel := range s.running {
			cancel()
		}
		idle.Go(s.idle)
	}
	s.mu.Unlock()
	go func() {
		idle.Wait()
		s.reportKept("")
		s.bridge.Event(sandbox.KindNote, "", sandbox.BodyNote{Text: "The sandbox is parked."})
		if s.bridge.Flush(s.ctx) == nil {
			s.box.end()
		}
	}()
}

// Vet implements sandbox.Orders: what is found is said, unless another prompt came first.
func (s *supervisor) Vet(v sandbox.Vet) {
	s.work.Go(func() {
		if s.box.provider.Vetting != nil {
			s.box.provider.Vetting(s.ctx, s.box)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.quiet == v.Prompt {
			s.reportKept(v.Prompt)
		}
	})
}

// reportKept says what of the secrets is in the files; without any there is nothing.
func (s *supervisor) reportKept(prompt string) {
	switch kept := s.box.provider.Kept; {
	case s.box.spec.Env[sandbox.EnvSecrets] == "":
		s.bridge.Event(sandbox.KindKept, prompt, sandbox.BodyKept{})
	case kept != nil:
		s.bridge.Event(sandbox.KindKept, prompt, *kept)
	}
}

// idle waits until no prompt runs.
func (s *supervisor) idle() {
	for s.ctx.Err() == nil {
		s.mu.Lock()
		left := len(s.running)
		s.mu.Unlock()
		if left == 0 {
			return
		}
		time.Sleep(time.Millisecond) // between two looks
	}
}

// prompting runs the prompts one after the other.
func (s *supervisor) prompting() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case p := <-s.queue:
			s.run(p)
		}
	}
}

func (s *supervisor) run(p sandbox.Prompt) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.mu.Lock()
	s.running[p.ID], s.quiet = cancel, ""
	s.mu.Unlock()
	s.box.write(p.Text)
	agent := s.box.provider.Agent
	if agent == nil {
		agent = Answer
	}
	agent(ctx, s.box, p)
	if ctx.Err() != nil && s.ctx.Err() == nil {
		s.settleInterrupted(p)
	}
	s.mu.Lock()
	delete(s.running, p.ID)
	s.quiet = p.ID
	s.mu.Unlock()
	s.bridge.Beat()
}

// settleInterrupted reports a prompt that was stopped, by people or because its box ends.
func (s *supervisor) settleInterrupted(p sandbox.Prompt) {
	s.mu.Lock()
	carry := s.carry
	s.mu.Unlock()
	if carry {
		s.bridge.Event(sandbox.KindSettled, p.ID, sandbox.BodySettled{Outcome: sandbox.OutcomeCarried, Begun: true, Since: "c0ffee"})
		return
	}
	s.box.Settle(p, sandbox.OutcomeStopped, "Stopped.", "")
}

// Answer is an agent that says "done: " and the prompt's text.
func Answer(_ context.Context, b *Box, p sandbox.Prompt) {
	b.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: "part-" + p.ID, Text: "done: " + p.Text})
	b.Settle(p, sandbox.OutcomeCompleted, "", "done: "+p.Text)
}

// Settle reports a prompt's end.
func (b *Box) Settle(p sandbox.Prompt, outcome, reason, answer string) {
	b.Bridge().Event(sandbox.KindSettled, p.ID, sandbox.BodySettled{Outcome: outcome, Reason: reason, Answer: answer})
}
