package sessionstest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
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
	// Prepare is what a box does that an image is built in, until it has told on
	// c.Stdout how that ended; nil is Prepared.
	Prepare func(ctx context.Context, b *Box, c sandbox.Cmd) (int, error)
	// Save is called before a box is saved; an error is Snapshot's.
	Save func(ctx context.Context, b *Box) error
	// Kept is what a box that has secrets says of them before it is saved; nil: it
	// says nothing.
	Kept *sandbox.BodyKept
	// Vetting, if set, is called when a box is asked to look for secrets before a
	// snapshot; it may hold the answer up.
	Vetting func(ctx context.Context, b *Box)
	// Served is where ports of boxes are, each as a URL; others are not open.
	Served map[int]string
	// Lifetime is the longest life of a box; 0: no limit.
	Lifetime time.Duration
	// CPU and MemMiB are what Caps says; 0: one core, 1 GiB.
	CPU    float64
	MemMiB int
	// Log is what ended boxes have printed.
	Log string

	world *World
	mu    sync.Mutex
	boxes map[string]*Box
	fails []error
	seen  []sandbox.Spec
	saved map[sandbox.Ref]savedBox
	left  map[string][]string // files of boxes that crashed
	count int

	interfere func(ctx context.Context, call string, after bool) error
}

// savedBox is a saved filesystem.
type savedBox struct {
	sandbox.Saved
	files []string
}

func newProvider(w *World) *Provider {
	return &Provider{Kept: &sandbox.BodyKept{}, world: w, boxes: map[string]*Box{}, saved: map[sandbox.Ref]savedBox{}, left: map[string][]string{}}
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

// Interfere has f asked before and after the effect of each call (start, restore,
// snapshot, park, salvage, kill, delete). Its error is the call's; before the effect it means
// that there is none. It may wait: the call hangs.
func (p *Provider) Interfere(f func(ctx context.Context, call string, after bool) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.interfere = f
}

// Saved returns the names of all saved filesystems.
func (p *Provider) Saved() []sandbox.Ref {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.saved))
}

// Salvaging is the provider, if it can save what a box left that crashed.
type Salvaging struct{ *Provider }

// Salvage implements sandbox.Salvager.
func (p Salvaging) Salvage(ctx context.Context, box string) (ref sandbox.Ref, err error) {
	err = p.interfered(ctx, "salvage", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		files, left := p.left[box]
		if !left {
			return sandbox.ErrGone
		}
		delete(p.left, box)
		p.count++
		ref = sandbox.Ref(fmt.Sprintf("salvage-%d-of-%s", p.count, box))
		p.saved[ref] = savedBox{sandbox.Saved{Ref: ref, Box: box, Parked: true, At: time.Now()}, files}
		return nil
	})
	return ref, err
}

// Unlisting is a provider that cannot list what it keeps.
type Unlisting struct{ sandbox.Provider }

// interfered runs a call's effect between the two questions to who interferes.
func (p *Provider) interfered(ctx context.Context, call string, effect func() error) error {
	p.mu.Lock()
	interfere := p.interfere
	p.mu.Unlock()
	if interfere == nil {
		return effect()
	}
	if err := interfere(ctx, call, false); err != nil {
		return err
	}
	if err := effect(); err != nil {
		return err
	}
	return interfere(ctx, call, true)
}

// ListSaved implements sandbox.Lister.
func (p *Provider) ListSaved(context.Context) iter.Seq2[sandbox.Saved, error] {
	return func(yield func(sandbox.Saved, error) bool) {
		p.mu.Lock()
		all := slices.Collect(maps.Values(p.saved))
		p.mu.Unlock()
		for _, s := range all {
			if !yield(s.Saved, nil) {
				return
			}
		}
	}
}

func (p *Provider) close() {
	for _, b := range p.Boxes() {
		b.end()
	}
}

// Caps implements sandbox.Provider.
func (p *Provider) Caps() sandbox.Caps {
	return sandbox.Caps{Name: "test", MaxLifetime: p.Lifetime, CPU: cmp.Or(p.CPU, 1), MemMiB: cmp.Or(p.MemMiB, 1024), Price: p.Price}
}

// Build implements sandbox.Provider; there is nothing to build.
func (p *Provider) Build(context.Context, sandbox.Ref, []string, io.Writer) (sandbox.Ref, error) {
	return "", sandbox.ErrInvalid
}

// Start implements sandbox.Provider.
func (p *Provider) Start(ctx context.Context, s sandbox.Spec) (box sandbox.Box, err error) {
	if p.Starting != nil {
		p.Starting(ctx, s)
	}
	call := "start"
	if s.From != "" {
		call = "restore"
	}
	err = p.interfered(ctx, call, func() (err error) {
		box, err = p.start(s)
		return err
	})
	if err != nil {
		return nil, err
	}
	return box, nil
}

func (p *Provider) start(s sandbox.Spec) (sandbox.Box, error) {
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
	from, found := p.saved[s.From]
	if s.From != "" && !found {
		return nil, sandbox.ErrGone
	}
	for _, b := range p.boxes {
		if b.spec.Name == s.Name {
			return nil, fmt.Errorf("%w: a box of that name lives", sandbox.ErrInvalid)
		}
	}
	p.count++
	b, err := newBox(p, fmt.Sprintf("box-%d", p.count), s, from.files)
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
	return nil, &sandbox.Gone{ID: id, Log: p.Log}
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
func (p *Provider) Delete(ctx context.Context, r sandbox.Ref) error {
	return p.interfered(ctx, "delete", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.saved, r)
		return nil
	})
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
	files      []string // one for each prompt that began in it, or in what it continues
}

// newBox makes a box. One without a token has no supervisor: its program waits.
func newBox(p *Provider, id string, s sandbox.Spec, files []string) (*Box, error) {
	b := &Box{id: id, spec: s, born: time.Now(), provider: p, dir: filepath.Join(p.world.dir, id), files: slices.Clone(files)}
	if s.Env[sandbox.EnvToken] == "" {
		return b, nil
	}
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

// Upload sends a file, as a supervisor does before the call that names its id.
func (b *Box) Upload(ctx context.Context, id, name string, data []byte) error {
	control, err := sandbox.ParseControl(b.spec.Env[sandbox.EnvControl])
	if err != nil {
		return err
	}
	return control.Put(ctx, b.spec.Env[sandbox.EnvToken], sandbox.Upload{ID: id, Name: name, Data: data})
}

// Files are the texts of the prompts that the box's filesystem knows of.
func (b *Box) Files() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.files)
}

func (b *Box) write(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files = append(b.files, text)
}

// Deaf makes the box's program not hear that it shall park.
func (b *Box) Deaf() {
	s := b.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = true
}

// Crash ends the box as a killed machine does.
func (b *Box) Crash() {
	files := b.Files()
	b.provider.mu.Lock()
	b.provider.left[b.id] = files
	b.provider.mu.Unlock()
	b.end()
}

func (b *Box) end() {
	b.provider.mu.Lock()
	delete(b.provider.boxes, b.id)
	b.provider.mu.Unlock()
	if s := b.current(); s != nil {
		s.kill()
	}
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

// Exec implements sandbox.Box: the one command that a box has is the preparation
// of an image.
func (b *Box) Exec(ctx context.Context, c sandbox.Cmd) (int, error) {
	if c.Args[len(c.Args)-1] != "--prepare" {
		return 0, errNoShell
	}
	if b.provider.Prepare != nil {
		return b.provider.Prepare(ctx, b, c)
	}
	return Prepared(c, sandbox.Prepared{Commit: FirstCommit})
}

// Prepared tells how the preparation of an image ended.
func Prepared(c sandbox.Cmd, p sandbox.Prepared) (int, error) {
	if err := json.NewEncoder(c.Stdout).Encode(p); err != nil {
		return 0, err
	}
	if p.Error != "" {
		return 1, nil
	}
	return 0, nil
}

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
func (b *Box) Snapshot(ctx context.Context, _ time.Duration) (sandbox.Ref, error) {
	if b.provider.Save != nil {
		if err := b.provider.Save(ctx, b); err != nil {
			return "", err
		}
	}
	return b.keep(ctx, "snapshot", false)
}

// keep saves the files, and ends the box if it parks.
func (b *Box) keep(ctx context.Context, call string, parked bool) (ref sandbox.Ref, err error) {
	err = b.provider.interfered(ctx, call, func() error {
		files := b.Files()
		b.provider.mu.Lock()
		if b.provider.boxes[b.id] == nil {
			b.provider.mu.Unlock()
			return sandbox.ErrGone
		}
		b.provider.count++
		ref = sandbox.Ref(fmt.Sprintf("%s-%d-of-%s", call, b.provider.count, b.id))
		b.provider.saved[ref] = savedBox{sandbox.Saved{Ref: ref, Box: b.id, Parked: parked, At: time.Now()}, files}
		b.provider.mu.Unlock()
		if parked {
			b.end()
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return ref, nil
}

// Park implements sandbox.Box.
func (b *Box) Park(ctx context.Context) (sandbox.Ref, error) { return b.keep(ctx, "park", true) }

// Kill implements sandbox.Box.
func (b *Box) Kill(ctx context.Context) error {
	return b.provider.interfered(ctx, "kill", func() error {
		b.end()
		return nil
	})
}
