package modal

import (
	"context"
	"path"
	"strings"
	"sync"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// FaultKind names a way in which Modal fails.
type FaultKind string

// The faults.
const (
	NoCapacity   FaultKind = "no-capacity"   // SandboxCreateV2: ResourceExhausted
	RateLimited  FaultKind = "rate-limited"  // ResourceExhausted, with RetryAfter if it is set, which the SDK obeys
	Unavailable  FaultKind = "unavailable"   // the SDK repeats the call three times, the router's ten times
	Hang         FaultKind = "hang"          // no answer until the caller gives up
	BoxDies      FaultKind = "box-dies"      // the sandbox that the call is about ends at that moment, by itself
	ExpiredToken FaultKind = "expired-token" // the next router token given out has expired
	Refused      FaultKind = "refused"       // the workspace's token is not valid; routers' tokens are
	Slow         FaultKind = "slow"          // Delay before the call is looked at
	SlowStream   FaultKind = "slow-stream"   // Delay before each message
)

// Fault makes calls fail.
type Fault struct {
	Kind FaultKind
	// Method is the call's name, as SandboxCreateV2 or TaskSnapshotFilesystem;
	// "" is every one.
	Method string
	// Sandbox restricts it to calls about a sandbox of this id or name.
	Sandbox string
	// Times is how many calls fail; 0 means until Clear.
	Times int
	// AfterEffect lets the call do its work first: with Unavailable and Hang the
	// caller cannot know, with BoxDies it was answered.
	AfterEffect bool
	RetryAfter  time.Duration // of RateLimited
	Delay       time.Duration // of Slow and SlowStream
}

type faults struct {
	mu       sync.Mutex
	list     []*Fault
	released chan struct{}
}

func newFaults() faults { return faults{released: make(chan struct{})} }

// Inject adds a fault; of several of a kind that apply to a call the oldest is used.
func (s *Server) Inject(f Fault) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = append(s.faults.list, &f)
}

// Clear removes all faults and lets calls that hang go on: they do then what
// they were asked for.
func (s *Server) Clear() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = nil
	close(s.faults.released)
	s.faults.released = make(chan struct{})
}

func (f *faults) release() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.released
}

// take finds a fault of a kind for a method and uses it up once. about are the
// id and the name of the sandbox in question, if any.
func (f *faults) take(method string, kind FaultKind, about ...string) *Fault {
	return f.takeIf(func(have *Fault) bool {
		if have.Kind != kind || have.Method != "" && have.Method != method {
			return false
		}
		if have.Sandbox == "" {
			return true
		}
		for _, name := range about {
			if name == have.Sandbox {
				return true
			}
		}
		return false
	})
}

func (f *faults) takeIf(fits func(*Fault) bool) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, have := range f.list {
		if !fits(have) {
			continue
		}
		taken := *have
		if have.Times > 0 {
			if have.Times--; have.Times == 0 {
				f.list = append(f.list[:i:i], f.list[i+1:]...)
			}
		}
		return &taken
	}
	return nil
}

// about returns the id and name of the sandbox that a request is about.
func (s *Server) about(request any) (id, name string) {
	if create, ok := request.(*pb.SandboxCreateV2Request); ok {
		return "", create.GetDefinition().GetName()
	}
	var b *box
	switch r := request.(type) {
	case interface{ GetSandboxId() string }:
		b = s.boxByID(r.GetSandboxId())
	case interface{ GetTaskId() string }:
		b = s.boxByTask(r.GetTaskId())
	case *pb.TaskExecStdinWriteStreamRequest:
		b = s.boxByTask(r.GetStart().GetTaskId())
	}
	if b == nil {
		return "", ""
	}
	record := b.snapshot()
	return record.ID, record.Name
}

// strike applies the faults that come before a call's effect and returns those
// that come after it.
func (s *Server) strike(ctx context.Context, method string, request any) (after []*Fault, err error) {
	id, name := s.about(request)
	for _, kind := range []FaultKind{Slow, BoxDies, Hang, Unavailable, RateLimited, NoCapacity} {
		if kind == NoCapacity && method != "SandboxCreateV2" {
			continue
		}
		f := s.faults.take(method, kind, id, name)
		if f == nil {
			continue
		}
		if f.AfterEffect {
			after = append(after, f)
			continue
		}
		if err := s.suffer(ctx, f, id); err != nil {
			return nil, err
		}
	}
	return after, nil
}

// suffer is what becomes of a call that meets a fault; nil lets it go on.
func (s *Server) suffer(ctx context.Context, f *Fault, sandboxID string) error {
	switch f.Kind {
	case NoCapacity:
		return status.Error(codes.ResourceExhausted, "Insufficient capacity to create sandbox.")
	case RateLimited:
		st := status.New(codes.ResourceExhausted, "Rate limit exceeded. Please slow down.")
		if f.RetryAfter > 0 {
			policy := pb.RPCRetryPolicy_builder{RetryAfterSecs: float32(f.RetryAfter.Seconds())}.Build()
			if with, err := st.WithDetails(protoadapt.MessageV1Of(policy)); err == nil {
				st = with
			}
		}
		return st.Err()
	case Unavailable:
		return status.Error(codes.Unavailable, "upstream connect error or disconnect/reset before headers")
	case Hang:
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-s.faults.release():
		}
	case Slow:
		return pause(ctx, f.Delay)
	case BoxDies:
		return s.KillBox(ctx, sandboxID)
	}
	return nil
}

// pause waits, unless the caller gives up.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// explainMissing says of a method that nobody wrote who does not have it.
func explainMissing(method string, err error) error {
	if st, ok := status.FromError(err); ok && st.Code() == codes.Unimplemented && strings.HasPrefix(st.Message(), "method ") {
		return status.Errorf(codes.Unimplemented, "The stand-in for Modal does not have %s.", method)
	}
	return err
}

// unary is around every unary call.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	response, err := s.answer(ctx, request, info.FullMethod, handler)
	err = explainMissing(method, err)
	id, name := s.about(request)
	s.recorder.note(Call{Method: method, Time: time.Now(), Sandbox: id, Name: name, Code: status.Code(err), Request: request})
	return response, err
}

func (s *Server) answer(ctx context.Context, request any, method string, handler grpc.UnaryHandler) (any, error) {
	if err := s.authenticate(ctx, method, false); err != nil {
		return nil, err
	}
	after, err := s.strike(ctx, path.Base(method), request)
	if err != nil {
		return nil, err
	}
	response, err := handler(ctx, request)
	if err != nil {
		return nil, err
	}
	id, _ := s.about(request)
	if made, ok := response.(*pb.SandboxCreateV2Response); ok {
		id = made.GetSandboxId()
	}
	for _, f := range after {
		if err := s.suffer(ctx, f, id); err != nil {
			return nil, err
		}
	}
	return response, nil
}

// stream is around every call with a stream.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	method := path.Base(info.FullMethod)
	if err := s.authenticate(stream.Context(), info.FullMethod, true); err != nil {
		s.recorder.note(Call{Method: method, Time: time.Now(), Code: status.Code(err)})
		return err
	}
	w := &faultyStream{ServerStream: stream, s: s, method: method}
	err := explainMissing(method, handler(srv, w))
	for i := 0; err == nil && i < len(w.after); i++ {
		err = s.suffer(stream.Context(), w.after[i], w.sandbox)
	}
	s.recorder.note(Call{Method: method, Time: time.Now(), Sandbox: w.sandbox, Name: w.name, Code: status.Code(err), Request: w.request})
	return err
}

// faultyStream meets faults at its first request, by which it is known what it
// is about.
type faultyStream struct {
	grpc.ServerStream
	s             *Server
	method        string
	request       any
	sandbox, name string
	delay         time.Duration
	after         []*Fault
}

// RecvMsg implements grpc.ServerStream.
func (f *faultyStream) RecvMsg(message any) error {
	if err := f.ServerStream.RecvMsg(message); err != nil || f.request != nil {
		return err
	}
	f.request = message
	f.sandbox, f.name = f.s.about(message)
	if slow := f.s.faults.take(f.method, SlowStream, f.sandbox, f.name); slow != nil {
		f.delay = slow.Delay
	}
	var err error
	f.after, err = f.s.strike(f.Context(), f.method, message)
	return err
}

// SendMsg implements grpc.ServerStream.
func (f *faultyStream) SendMsg(message any) error {
	if f.delay > 0 {
		if err := pause(f.Context(), f.delay); err != nil {
			return err
		}
	}
	return f.ServerStream.SendMsg(message)
}
