package modal

import (
	"context"
	"slices"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

// Probe says when a sandbox is ready: a port that can be connected to, or a
// command that succeeds. The zero value is none.
type Probe struct {
	Port     int
	Command  []string
	Interval time.Duration
}

func probeOf(p *pb.Probe) Probe {
	if p == nil {
		return Probe{}
	}
	return Probe{
		Port: int(p.GetTcpPort()), Command: slices.Clone(p.GetExecCommand().GetArgv()),
		Interval: max(time.Duration(p.GetIntervalMs())*time.Millisecond, time.Millisecond),
	}
}

// SandboxWaitUntilReady waits until the probe of a sandbox succeeds.
func (r *router) SandboxWaitUntilReady(ctx context.Context, q *pb.SandboxWaitUntilReadyTcrRequest) (*pb.SandboxWaitUntilReadyTcrResponse, error) {
	b, in, err := r.running(ctx, q.GetTaskId())
	if err != nil {
		return nil, err
	}
	record := b.snapshot()
	if record.Probe.Port == 0 && len(record.Probe.Command) == 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "Sandbox %s has no readiness probe", record.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(float64(q.GetTimeout())*float64(time.Second)))
	defer cancel()
	// No probe succeeds before the entrypoint was started.
	if err := r.s.ask(ctx, in, guestRequest{Op: opReady}, nil, &guestStatus{}); err != nil {
		return nil, statusOf(err)
	}
	tick := time.NewTicker(record.Probe.Interval)
	defer tick.Stop()
	for {
		in := b.live()
		if in == nil {
			return nil, notFound("Task %s has already finished", q.GetTaskId())
		}
		if r.s.probe(ctx, in, record) {
			return pb.SandboxWaitUntilReadyTcrResponse_builder{ReadyAt: seconds(time.Now())}.Build(), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (s *Server) probe(ctx context.Context, in sandbox.Box, of Sandbox) bool {
	if of.Probe.Port != 0 {
		var answer guestStatus
		err := s.ask(ctx, in, guestRequest{Op: opDial, Port: of.Probe.Port}, nil, &answer)
		return err == nil && answer.Error == ""
	}
	exit, err := in.Exec(ctx, sandbox.Cmd{Args: of.Probe.Command, Dir: of.Workdir, Env: s.environment(of)})
	return err == nil && exit == 0
}
