package sessionstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"openinspect/sandbox"
)

// Script is what a box's agent does with a prompt. ctx ends when the prompt is
// stopped or the box dies. It has to settle the prompt unless ctx ended.
type Script func(ctx context.Context, b *Box, p sandbox.Prompt)

// Provider runs boxes inside the test's process: each is a real supervisor's end
// of the bridge with a scripted agent. Boxes outlive engines.
type Provider struct {
	// Agent runs each prompt; nil answers "done: " and the prompt's text.
	Agent Script
	// Boot reports the phases of a boot; nil reports that all is ready.
	Boot func(ctx context.Context, b *Box)
	// Spare does the same for a box that has no session yet; nil reports that it waits for one.
	Spare func(ctx context.Context, b *Box)
	// Starting, if set, is called at the beginning of each start, which it may hold up.
	Starting func(ctx context.Context, s sandbox.Spec)
	// Price is what Caps says.
	Price sandbox.Price
	// Kept is what a box that has secrets says of them before it is parked; nil: it
	// says nothing.
	Kept *sandbox.BodyKept
	// Served is where ports of boxes are, each as a URL; others are not open.
	Served map[int]string
	// Lifetime is the longest life of a box; 0: no limit.
	Lifetime time.Duration

	world *World
	mu    sync.Mutex
	boxes map[string]*Box
	fails []error
	seen  []sandbox.Spec
	saved map[sandbox.Ref]bool
	count int
}

func newProvider(w *World) *Provider {
	return &Provider{Kept: &sandbox.BodyKept{}, world: w, boxes: map[string]*Box{}, saved: map[sandbox.Ref]bool{}}
}

// Fail makes the next starts fail with these errors.
func (p *Provider) Fail(errs ...error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails = errs
}

// Specs returns what was asked to start, failures included.
func (p *Provider) Specs() []sandbox.Spec {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]sandbox.Spec(nil), p.seen...)
}

// Boxes returns the live boxes.
func (p *Provider) Boxes() []*Box {
	p.mu.Lock()
	defer p.mu.Unlock()
	var live []*Box
	for _, b := range p.boxes {
		live = append(live, b)
	}
	return live
}

// Forget loses all saved filesystems.
func (p *Provider) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.saved)
}

func (p *Provider) close() {
	for _, b := range p.Boxes() {
		b.end()
	}
}

// Caps implements sandbox.Provider.
func (p *Provider) Caps() sandbox.Caps {
	return sandbox.Caps{Name: "test", MaxLifetime: p.Lifetime, CPU: 1, MemMiB: 1024, Price: p.Price}
}

// Build implements sandbox.Provider; there is nothing to build.
func (p *Provider) Build(context.Context, sandbox.Ref, []string, io.Writer) (sandbox.Ref, error) {
	return "", sandbox.ErrInvalid
}

// Start implements sandbox.Provider.
func (p *Provider) Start(ctx context.Context, s sandbox.Spec) (sandbox.Box, error) {
	if p.Starting != nil {
		p.Starting(ctx, s)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, s)
	if len(p.fails) > 0 {
		err := p.fails[0]
		p.fails = p.fails[1:]
		if err != nil {
			return nil, err
		}
	}
	if s.From != "" && !p.saved[s.From] {
		return nil, sandbox.ErrGone
	}
	for _, b := range p.boxes {
		if b.spec.Name == s.Name {
			return nil, fmt.Errorf("%w: a box of that name lives", sandbox.ErrInvalid)
		}
	}
	p.count++
	b, err := newBox(p, fmt.Sprintf("box-%d", p.count), s)
	if err != nil {
		return nil, err
	}
	p.boxes[b.id] = b
	return b, nil
}

// Attach implements sandbox.Provider.
func (p *Provider) Attach(_ context.Context, id string) (sandbox.Box, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.boxes[id]; b != nil {
		return b, nil
	}
	return nil, sandbox.ErrGone
}

// List implements sandbox.Provider.
func (p *Provider) List(_ context.Context, tags map[string]string) iter.Seq2[sandbox.Info, error] {
	return func(yield func(sandbox.Info, error) bool) {
		for _, b := range p.Boxes() {
			fits := true
			for k, v := range tags {
				fits = fits && b.spec.Tags[k] == v
			}
			if fits && !yield(b.info(), nil) {
				return
			}
		}
	}
}

// Delete implements sandbox.Provider.
func (p *Provider) Delete(_ context.Context, r sandbox.Ref) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.saved, r)
	return nil
}

// Box is a live box.
type Box struct {
	id       string
	spec     sandbox.Spec
	born     time.Time
	provider *Provider
	dir      string

	mu         sync.Mutex
	supervisor *supervisor
}

func newBox(p *Provider, id string, s sandbox.Spec) (*Box, error) {
	b := &Box{id: id, spec: s, born: time.Now(), provider: p, dir: filepath.Join(p.world.dir, id)}
	return b, b.startSupervisor()
}

// startSupervisor starts the box's program: a new boot.
func (b *Box) startSupervisor() error {
	s, err := newSupervisor(b)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.supervisor = s
	return nil
}

// Restart kills the box's supervisor and starts another in the same box.
func (b *Box) Restart() error {
	b.current().kill()
	return b.startSupervisor()
}

func (b *Box) current() *supervisor {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.supervisor
}

// Bridge is the supervisor's end of the bridge.
func (b *Box) Bridge() *sandbox.Bridge { return b.current().bridge }

// Boot is the id of the supervisor's start.
func (b *Box) Boot() string { return b.current().boot }

// Spec is what the box was started with.
func (b *Box) Spec() sandbox.Spec { return b.spec }

// Prompts returns the prompts that the supervisor received, in order.
func (b *Box) Prompts() []sandbox.Prompt { return b.current().received() }

// Crash ends the box as a killed machine does.
func (b *Box) Crash() { b.end() }

func (b *Box) end() {
	b.provider.mu.Lock()
	delete(b.provider.boxes, b.id)
	b.provider.mu.Unlock()
	b.current().kill()
}

// ID implements sandbox.Box.
func (b *Box) ID() string { return b.id }

func (b *Box) info() sandbox.Info {
	return sandbox.Info{ID: b.id, Name: b.spec.Name, Tags: maps.Clone(b.spec.Tags), Born: b.born, Alive: true}
}

// Info implements sandbox.Box.
func (b *Box) Info(context.Context) (sandbox.Info, error) { return b.info(), nil }

// errNoShell is what a box without a filesystem says.
var errNoShell = errors.New("this box has no programs and no files")

// Exec implements sandbox.Box.
func (b *Box) Exec(context.Context, sandbox.Cmd) (int, error) { return 0, errNoShell }

// ReadFile implements sandbox.Box.
func (b *Box) ReadFile(context.Context, string, io.Writer) error { return errNoShell }

// WriteFile implements sandbox.Box.
func (b *Box) WriteFile(context.Context, string, io.Reader) error { return errNoShell }

// URL implements sandbox.Box.
func (b *Box) URL(_ context.Context, port int) (string, http.Header, error) {
	if at := b.provider.Served[port]; at != "" {
		return at, http.Header{"Box-Key": {"of " + b.id}}, nil
	}
	return "http://127.0.0.1:1", http.Header{}, nil // nothing listens there
}

// Snapshot implements sandbox.Box.
func (b *Box) Snapshot(context.Context, time.Duration) (sandbox.Ref, error) { return b.save(), nil }

func (b *Box) save() sandbox.Ref {
	b.provider.mu.Lock()
	defer b.provider.mu.Unlock()
	ref := sandbox.Ref("saved-" + b.id)
	b.provider.saved[ref] = true
	return ref
}

// Park implements sandbox.Box.
func (b *Box) Park(context.Context) (sandbox.Ref, error) {
	ref := b.save()
	b.end()
	return ref, nil
}

// Kill implements sandbox.Box.
func (b *Box) Kill(context.Context) error {
	b.end()
	return nil
}
