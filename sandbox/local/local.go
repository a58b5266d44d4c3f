package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// Where boxes find things of the control plane.
const (
	// ControlDir shows the directory that holds Options.Control.
	ControlDir = "/run/openinspect"
	// Program is Options.Binary inside.
	Program = sandbox.Tools + "/openinspect"
)

// DefaultUID is the user id on the host that boxes have when the control plane
// runs as root. It owns nothing but files of boxes.
const DefaultUID = 20297

// Defaults of Options.
const (
	DefaultLifetime = 12 * time.Hour
	DefaultMemMiB   = 4096
)

// Options configure a Provider. Only Dir is required.
type Options struct {
	// Dir holds all state; it is made if missing, with its parents.
	Dir string
	// Control is the path of the Unix socket of the machine listener. The
	// directory that holds it is shown to every box, so that the socket of a
	// restarted control plane is seen too: nothing else may be in it, and the
	// socket must be open to every user (Listen sees to both). Empty: boxes reach nobody.
	Control string
	// Binary is shown to boxes as Program and is their keeper: an executable
	// that imports this package. Empty: the running one. It is copied, so that a
	// rebuilt program does not disturb living boxes.
	Binary string
	// Tools are further files or directories to show read-only: path inside, path on the host.
	Tools map[string]string
	// Lifetime is the longest life of a box, MemMiB its memory if Spec says
	// nothing, MaxBoxes how many may live at once (0: as many as asked for).
	Lifetime time.Duration
	MemMiB   int
	MaxBoxes int
	// Unisolated runs boxes as plain processes of the control plane's user where
	// they cannot be confined, one at a time, instead of an error of New.
	Unisolated bool
	// UID replaces DefaultUID. It has no meaning when the control plane is not root.
	UID int
	Log *slog.Logger
}

// Provider runs boxes on this machine. Its methods may be called at the same time.
type Provider struct {
	dir      string
	control  string
	program  string // our copy of Options.Binary
	tools    []bind
	lifetime time.Duration
	memMiB   int
	maxBoxes int
	uid      int // 0: boxes run as the user of the control plane
	log      *slog.Logger
	bwrap    string
	noUserns bool // bubblewrap can forbid user namespaces inside
	// unisolated: there is no bubblewrap, see unisolated.go
	unisolated bool

	forwards chan *forward // to Run
	mu       sync.Mutex
	urls     map[forwardKey]*forward
}

// New prepares Options.Dir, removes what earlier processes left half done, and
// makes sure that boxes can be run here by running one. If they cannot, the
// error says what to install or to set.
func New(ctx context.Context, o Options) (*Provider, error) {
	p, err := configure(o)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"boxes", "saved", "left", "gone", "tmp", "trash", "programs"} {
		if err := os.MkdirAll(filepath.Join(p.dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("preparing the sandboxes' directory: %w", err)
		}
	}
	if err := p.copyProgram(o.Binary); err != nil {
		return nil, err
	}
	etc, err := p.writeEtc()
	if err != nil {
		return nil, err
	}
	p.tools = append(p.tools, etc...)
	if err := p.preflight(ctx); err != nil {
		if !o.Unisolated {
			return nil, err
		}
		p.giveUpIsolation(ctx, err)
	}
	if err := errors.Join(p.tidy(ctx), p.prunePrograms(), p.emptyTrash()); err != nil {
		return nil, err
	}
	return p, nil
}

func configure(o Options) (*Provider, error) {
	if o.Dir == "" {
		return nil, errors.New("local sandboxes need a directory")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the sandboxes' directory: %w", err)
	}
	p := &Provider{dir: dir, lifetime: o.Lifetime, memMiB: o.MemMiB, maxBoxes: o.MaxBoxes, log: o.Log,
		forwards: make(chan *forward), urls: map[forwardKey]*forward{}}
	if p.lifetime == 0 {
		p.lifetime = DefaultLifetime
	}
	if p.memMiB == 0 {
		p.memMiB = DefaultMemMiB
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	if os.Geteuid() == 0 {
		if p.uid = o.UID; p.uid == 0 {
			p.uid = DefaultUID
		}
	}
	if o.Control != "" {
		if p.control, err = filepath.Abs(filepath.Dir(o.Control)); err != nil {
			return nil, fmt.Errorf("finding the machine listener: %w", err)
		}
	}
	for inside, host := range o.Tools {
		if !filepath.IsAbs(inside) {
			return nil, fmt.Errorf("showing %s to sandboxes as %q: not an absolute path", host, inside)
		}
		abs, err := filepath.Abs(host)
		if err == nil {
			_, err = os.Stat(abs)
		}
		if err != nil {
			return nil, fmt.Errorf("showing %s to sandboxes: %w", host, err)
		}
		p.tools = append(p.tools, bind{Host: abs, Inside: filepath.Clean(inside)})
	}
	return p, nil
}

// ControlAddress is what a box needs in sandbox.EnvControl to reach the
// machine listener at the given path of the host.
func ControlAddress(path string) string { return "unix:" + ControlDir + "/" + filepath.Base(path) }

// Listen makes the machine listener's socket as boxes need it: in a directory
// of its own that they can enter, open to their user, in place of one that an
// ended control plane left.
func Listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("making the machine listener's directory: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, fmt.Errorf("opening the machine listener's directory to sandboxes: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replacing the machine listener's socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for sandboxes: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("opening the machine listener to sandboxes: %w", err)
	}
	return l, nil
}

// Caps implements sandbox.Provider.
func (p *Provider) Caps() sandbox.Caps {
	return sandbox.Caps{Name: "local", MaxLifetime: p.lifetime, Builds: true, MemMiB: p.memMiB}
}

// tidyEvery is how often Run looks for boxes that died by themselves.
const tidyEvery = time.Minute

// Run serves the addresses that URL gives out and removes what dead boxes left.
// It returns when ctx ends and all of that has. Boxes live on.
func (p *Provider) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case f := <-p.forwards:
			g.Go(func() error { return p.serveForward(ctx, f) })
		case <-tick.C:
			now := time.Now()
			err := errors.Join(p.tidy(ctx), p.emptyTrash(), os.Chtimes(p.program, now, now)) // see prunePrograms
			if err != nil && ctx.Err() == nil {
				p.log.WarnContext(ctx, "tidying sandboxes", "error", err)
			}
		case <-ctx.Done():
			return g.Wait()
		}
	}
}

// copyProgram keeps the program that boxes run under the hash of its content. A
// copy that is there already is not replaced: another control plane may be
// showing it to a box at this moment.
func (p *Provider) copyProgram(path string) error {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding the program for sandboxes: %w", err)
		}
		path = self
	}
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening the program for sandboxes: %w", err)
	}
	defer in.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, in); err != nil {
		return fmt.Errorf("reading the program for sandboxes: %w", err)
	}
	p.program = filepath.Join(p.dir, "programs", hex.EncodeToString(hash.Sum(nil)))
	now := time.Now()
	if os.Chtimes(p.program, now, now) == nil { // see prunePrograms
		return nil
	}
	if err := copyProgramTo(in, p.program); err != nil {
		return fmt.Errorf("copying the program for sandboxes: %w", err)
	}
	return nil
}

// copyProgramTo makes a whole copy appear under a name, unless one has meanwhile.
// No process is forked while the copy is open: it would inherit the descriptor
// until its exec, and a program that anybody may write cannot be run (ETXTBSY).
func copyProgramTo(in *os.File, path string) error {
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // its other name, if it got one, stays
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close())
	if err == nil {
		err = os.Link(out.Name(), path)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// programTime is how long a program is kept after the last sign of a control
// plane that uses it, which touches it as long as it runs.
const programTime = 7 * 24 * time.Hour

// prunePrograms removes copies of programs that nobody starts boxes with any
// more. A box that runs one keeps it: its mount outlives the name.
func (p *Provider) prunePrograms() error {
	dir := filepath.Dir(p.program)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("removing old programs: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if info, err := e.Info(); err == nil && path != p.program && time.Since(info.ModTime()) > programTime {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("removing old programs: %w", err)
			}
		}
	}
	return nil
}

// shared are the binds that all boxes have beyond systemBinds.
func (p *Provider) shared() []bind {
	binds := append([]bind{{Host: p.program, Inside: Program}}, p.tools...)
	if p.control != "" {
		binds = append(binds, bind{Host: p.control, Inside: ControlDir})
	}
	return binds
}

func inside(fs string) []bind {
	return []bind{
		{Host: filepath.Join(fs, "home"), Inside: sandbox.Home, Writable: true},
		{Host: filepath.Join(fs, "workspace"), Inside: sandbox.Workspace, Writable: true},
	}
}
