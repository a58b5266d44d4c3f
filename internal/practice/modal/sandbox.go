package modal

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"

	"openinspect/sandbox"
)

// Sandbox is what is known of a sandbox; tests and pages read it.
type Sandbox struct {
	ID, Task, App, Name, Image string
	Command                    []string
	Env                        map[string]string // of the image, the secrets and the caller
	Tags                       map[string]string
	Workdir                    string
	CPU                        float64 // cores asked for; 0: the default
	MemMiB, MemLimitMiB        int     // 0: the default, no limit
	Timeout, IdleTimeout       time.Duration
	Cloud                      string
	Regions                    []string
	Network                    Network
	Ports                      []Port
	Created                    time.Time // differs for every two
	Ended                      time.Time // zero while it lives
	Result                     Result    // once it has ended
	Probe                      Probe
	ExitSnapshot               bool   // asked for
	ExitImage                  string // what came of it
	// Box is the provider's own id of the running process.
	Box string
}

// Port is a declared port.
type Port struct {
	Port        int
	Unencrypted bool
}

// Result says how a sandbox or a build ended.
type Result struct {
	Status pb.GenericResult_GenericStatus
	Exit   int
	Why    string // for people
}

func (r Result) proto() *pb.GenericResult {
	if r.Status == pb.GenericResult_GENERIC_STATUS_UNSPECIFIED {
		return nil
	}
	return pb.GenericResult_builder{Status: r.Status, Exitcode: int32(r.Exit), Exception: r.Why}.Build()
}

// box is a sandbox with what runs for it.
type box struct {
	id, task string
	done     chan struct{} // closed when it has ended and its box is gone
	started  chan struct{} // closed when local is set or the start has failed

	mu     sync.Mutex // guards what follows
	record Sandbox
	local  sandbox.Box
	ending bool
	life   context.Context
	end    context.CancelFunc
	ports  []tunnel
	active int       // commands and connections
	idle   time.Time // since when, if active is 0
	execs  map[string]*process
	order  []string // ids of execs, oldest first
}

func newBox(record Sandbox) *box {
	b := &box{id: record.ID, task: record.Task, record: record, done: make(chan struct{}), started: make(chan struct{}), idle: time.Now(), execs: map[string]*process{}}
	b.life, b.end = context.WithCancel(context.Background())
	if !record.Ended.IsZero() {
		b.ending = true
		b.end()
		close(b.done)
		close(b.started)
	}
	return b
}

// snapshot returns a copy of the record.
func (b *box) snapshot() Sandbox {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record.clone()
}

func (r Sandbox) clone() Sandbox {
	r.Command, r.Regions, r.Ports = slices.Clone(r.Command), slices.Clone(r.Regions), slices.Clone(r.Ports)
	r.Env, r.Tags = maps.Clone(r.Env), maps.Clone(r.Tags)
	r.Network.CIDRs, r.Network.Domains = slices.Clone(r.Network.CIDRs), slices.Clone(r.Network.Domains)
	return r
}

// live returns the running box, or nil.
func (b *box) live() sandbox.Box {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending {
		return nil
	}
	return b.local
}

// work says that somebody uses the sandbox, until the returned function is called.
func (b *box) work() (done func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.active++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.active--
		b.idle = time.Now()
	}
}

// idleFor is how long nobody has used the sandbox.
func (b *box) idleFor() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.active > 0 {
		return 0
	}
	return time.Since(b.idle)
}

// change changes the record and keeps it.
func (s *Server) change(b *box, change func(*Sandbox)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.record.clone()
	change(&next)
	if err := s.save(kindSandboxes, next.ID, next); err != nil {
		return err
	}
	b.record = next
	return nil
}

func (s *Server) boxByID(id string) *box {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sandboxes[id]
}

func (s *Server) boxByTask(task string) *box {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.sandboxes {
		if b.task == task && task != "" {
			return b
		}
	}
	return nil
}

// Sandboxes returns all sandboxes, newest first, ended ones too.
func (s *Server) Sandboxes() []Sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Sandbox, 0, len(s.sandboxes))
	for _, b := range s.sandboxes {
		list = append(list, b.snapshot())
	}
	slices.SortFunc(list, func(a, b Sandbox) int { return b.Created.Compare(a.Created) })
	return list
}
