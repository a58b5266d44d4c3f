// Package sandbox holds the words that the control plane, the providers of
// sandboxes and the program inside them share: Provider and Box, and the
// bridge's wire format with both its ends.
//
// Vocabulary. A Box is one running sandbox. A Provider starts boxes. A Ref
// names a filesystem that a box can start from: a base image, a repository's
// image, a snapshot of a live box or a parked one; only its provider can read
// it. The supervisor is the product's own program inside a box; the bridge is
// the WebSocket that it dials to the control plane (see wire.go).
//
// Invariants. Paths inside a box are constant (Home, Workspace), because
// OpenCode's database names absolute paths (I5 of the design needs a restored
// box to continue where it was). A box has no credential of ours but its own token
// (I7); secrets of the repository's own programs may be in Spec.Env (EnvSecrets).
// Everything else of a box is reachable by the tags it was started with, so that a
// control plane that lost its memory finds its boxes again.
//
// This package imports nothing else of ours; everybody may import it.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Constant paths and addresses inside every box.
const (
	Home      = "/home/agent" // the agent's home directory
	Workspace = "/workspace"  // the repository is cloned to Workspace/<name>
	Tools     = "/opt/openinspect"
	Browsers  = "/opt/playwright" // where the base image keeps Playwright's browsers
	// Gateway is the loopback address on which the supervisor offers the
	// control plane's doors inside the box.
	Gateway = "127.0.0.1:4100"
)

// Names of the environment variables that the control plane sets in Spec.Env
// for the supervisor, which removes them from what the agent inherits.
const (
	EnvToken   = "OPENINSPECT_TOKEN"   // the box's own credential
	EnvControl = "OPENINSPECT_CONTROL" // machine listener: unix:/path or http(s)://host
)

// OwnTools is the name under which the agent finds the tools of the product itself.
const OwnTools = "openinspect"

// TokenHeader carries the box's own credential on every request that the
// supervisor makes to the machine listener: bridge, doors and proxy alike.
const TokenHeader = "Openinspect-Sandbox-Token"

// Ref is an opaque name of a filesystem, made by a provider and readable by it alone.
type Ref string

// Spec says what box to start.
type Spec struct {
	Name     string            // unique among live boxes; also the handle to find it again
	From     Ref               // empty: the provider's base image
	Command  []string          // the box's main program; the box ends with it
	Env      map[string]string // environment of Command
	Tags     map[string]string // what List finds it by
	CPU      float64           // cores; 0 is the provider's default
	MemMiB   int               // 0 is the provider's default
	Regions  []string          // where the box may run, in the provider's own names; none: anywhere
	Lifetime time.Duration     // the box is ended after this; 0 is the provider's maximum
	Ports    []int             // ports that URL will be asked for
}

// regionForm is what the names of regions look like at the providers that have some:
// Modal's are such as us, eu-west and us-east-1 (modal.com/docs/guide/region-selection).
// Which there are changes, so that only the provider knows.
var regionForm = regexp.MustCompile(`^[a-z]+(-[a-z]+)*(-?[0-9]+)?$`)

const longestRegion = 40 // bytes

// CheckRegions says which of the names cannot be that of a region, in a sentence.
func CheckRegions(regions []string) error {
	for i, region := range regions {
		switch {
		case !regionForm.MatchString(region) || len(region) > longestRegion:
			return fmt.Errorf("%q is no region: use the provider's own names, such as us, eu-west or us-east-1", cutAt(region, min(len(region), longestRegion)))
		case slices.Contains(regions[:i], region):
			return fmt.Errorf("the region %s is there twice", region)
		}
	}
	return nil
}

// Cmd is one command run in a live box beside its main program.
type Cmd struct {
	Args           []string
	Dir            string
	Env            map[string]string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Timeout        time.Duration // 0: until ctx ends
}

// Info describes a box from outside.
type Info struct {
	ID, Name string
	Tags     map[string]string
	Born     time.Time
	Alive    bool
	Memory   int64 // bytes resident, all processes; 0 if unknown
	Disk     int64 // bytes of the box's own files; 0 if unknown
}

// Caps says what a provider can do.
type Caps struct {
	Name        string
	MaxLifetime time.Duration // 0: no limit
	Builds      bool          // Build works
	Placement   bool          // Spec.CPU and Spec.Regions have an effect: boxes do not just share the control plane's machine
	CPU         float64       // cores of a box whose Spec says nothing; 0: as many as the machine has
	MemMiB      int           // memory of a box whose Spec says nothing; 0: no limit
	Price       Price
}

// Price is what a provider charges for what a box asks for, in US dollars,
// whether the box uses it or not. The zero Price is that of one that charges nothing.
type Price struct {
	CoreSecond float64 // one core for one second
	GiBSecond  float64 // one GiB of memory for one second
}

// Of returns what a box of so many cores and MiB costs in so long, in US dollars.
func (p Price) Of(cores float64, memMiB int, life time.Duration) float64 {
	return (p.CoreSecond*cores + p.GiBSecond*float64(memMiB)/1024) * life.Seconds()
}

// Provider starts boxes and keeps their saved filesystems.
type Provider interface {
	Caps() Caps
	// Build runs steps (shell commands) in a box from a Ref and saves the result.
	Build(ctx context.Context, from Ref, steps []string, log io.Writer) (Ref, error)
	// Start starts a box. If a live box of that name exists, it fails with ErrInvalid.
	Start(ctx context.Context, s Spec) (Box, error)
	// Attach finds a live box by id, or fails with ErrGone.
	Attach(ctx context.Context, id string) (Box, error)
	// List yields live boxes that carry all of the tags.
	List(ctx context.Context, tags map[string]string) iter.Seq2[Info, error]
	// Delete removes a saved filesystem. An unknown one is not an error.
	Delete(ctx context.Context, r Ref) error
}

// Lister is a Provider that can say which filesystems it keeps. One that cannot
// has to forget them by itself in the end; see KeepSession.
type Lister interface {
	Provider
	// ListSaved yields the saved filesystems that a box can start from now, under
	// their newest name: not one that continues in a live box.
	ListSaved(ctx context.Context) iter.Seq2[Saved, error]
}

// Salvager is a Lister that still has the files of a box that ended by itself, for a
// while.
type Salvager interface {
	Lister
	// Salvage saves what such a box left as Park would have, or fails with ErrGone.
	// What it saved and could not say any more is found by ListSaved.
	Salvage(ctx context.Context, box string) (Ref, error)
}

// Saved is a filesystem that a provider keeps.
type Saved struct {
	Ref    Ref
	Box    string // id of the box that it was saved from; empty if that is not known
	Parked bool   // by Park, which ended the box
	At     time.Time
}

// Box is one running sandbox.
type Box interface {
	ID() string
	Info(ctx context.Context) (Info, error)
	// Exec runs a command to its end and returns its exit status.
	Exec(ctx context.Context, c Cmd) (exit int, err error)
	ReadFile(ctx context.Context, path string, w io.Writer) error
	WriteFile(ctx context.Context, path string, r io.Reader) error
	// URL gives an address, reachable by the control plane, of a port inside the box,
	// with the headers that a request to it needs.
	URL(ctx context.Context, port int) (string, http.Header, error)
	// Snapshot saves the filesystem of the live box, which goes on running. The
	// provider may forget it once keep has passed; 0 is KeepSession, less is ErrInvalid.
	Snapshot(ctx context.Context, keep time.Duration) (Ref, error)
	// Park ends the box and keeps its filesystem, for KeepSession at least; Start
	// with the Ref continues it.
	Park(ctx context.Context) (Ref, error)
	// Kill ends the box and all its processes and forgets its filesystem. Killing a dead box is not an error.
	Kill(ctx context.Context) error
}

// How long saved filesystems are kept by a provider that nobody tells to delete
// them: it may be one that cannot list them, so that what is forgotten has to end
// by itself.
const (
	KeepSession = 90 * 24 * time.Hour // a session's
	KeepImage   = 7 * 24 * time.Hour  // a repository's image
)

// What callers decide by: start again from the last Ref, wait and try again, tell
// the person, or tell the people who run the control plane and wait for them.
var (
	ErrGone     = errors.New("sandbox is gone")
	ErrCapacity = errors.New("no capacity for a sandbox now")
	ErrInvalid  = errors.New("sandbox request is invalid")
	ErrRefused  = errors.New("the provider of sandboxes refuses the control plane's credentials")
)

// Gone is an ErrGone with what its provider still knows of the box.
type Gone struct {
	ID string
	// Log is the end of what the box's main program printed; it is not trusted.
	Log string
}

// Error implements error.
func (g *Gone) Error() string {
	text := ErrGone.Error() + ": " + g.ID
	if g.Log != "" {
		text += "; its log ends with:\n" + g.Log
	}
	return text
}

// Is makes it an ErrGone.
func (g *Gone) Is(target error) bool { return target == ErrGone }

// LastWords is the last line that a box printed, if err says that it is gone and
// its provider knows: most often, why.
func LastWords(err error) string {
	var gone *Gone
	if !errors.As(err, &gone) {
		return ""
	}
	log := strings.TrimSpace(gone.Log)
	return strings.TrimSpace(log[strings.LastIndexByte(log, '\n')+1:])
}
