package modal

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

// router is Modal's service on the worker that runs a sandbox. What it does not
// have answers Unimplemented.
type router struct {
	pb.UnimplementedTaskCommandRouterServer
	s *Server
}

const routerPrefix = "/modal.task_command_router.TaskCommandRouter/"

// task finds the sandbox of a task that the caller's token is for.
func (r *router) task(ctx context.Context, id string) (*box, error) {
	bearer, _ := strings.CutPrefix(header(ctx, "authorization"), "Bearer ")
	c, err := r.s.verify(bearer, forRouter)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	b := r.s.boxByTask(id)
	if b == nil {
		return nil, notFound("Task %s not found", id)
	}
	if b.id != c.Sandbox {
		return nil, status.Errorf(codes.PermissionDenied, "The token is not for task %s", id)
	}
	return b, nil
}

// running is task of one that has not ended.
func (r *router) running(ctx context.Context, id string) (*box, sandbox.Box, error) {
	b, err := r.task(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	in := b.live()
	if in == nil {
		return nil, nil, notFound("Task %s has already finished", id)
	}
	return b, in, nil
}

// TaskExecStart starts a command. One whose id is known is not started again.
func (r *router) TaskExecStart(ctx context.Context, q *pb.TaskExecStartRequest) (*pb.TaskExecStartResponse, error) {
	b, in, err := r.running(ctx, q.GetTaskId())
	if err != nil {
		return nil, err
	}
	if len(q.GetCommandArgs()) == 0 || q.GetCommandArgs()[0] == "" || q.GetExecId() == "" {
		return nil, invalid("A command and an exec id are needed.")
	}
	if err := checkArguments(q.GetCommandArgs()); err != nil {
		return nil, err
	}
	if q.GetContainerId() != "" {
		return nil, status.Error(codes.Unimplemented, "The stand-in for Modal does not have sidecars.")
	}
	record := b.snapshot()
	env := r.s.environment(record)
	maps.Copy(env, q.GetEnv())
	if err := r.s.resolve(env, q.GetSecretSources()); err != nil {
		return nil, err
	}
	args, dir := q.GetCommandArgs(), record.Workdir
	if args[0] == fsToolsPath {
		args = append([]string{r.s.binary, roleFSTools}, args[1:]...)
	}
	if q.HasWorkdir() {
		dir = q.GetWorkdir()
	}
	cmd := sandbox.Cmd{Args: args, Dir: dir, Env: env, Timeout: time.Duration(q.GetTimeoutSecs()) * time.Second}
	keep := [2]bool{q.GetStdoutConfig() != pb.TaskExecStdoutConfig_TASK_EXEC_STDOUT_CONFIG_DEVNULL,
		q.GetStderrConfig() != pb.TaskExecStderrConfig_TASK_EXEC_STDERR_CONFIG_DEVNULL}
	if err := r.s.exec(b, in, q.GetExecId(), cmd, keep); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &pb.TaskExecStartResponse{}, nil
}

// process finds a command of a task.
func (r *router) process(ctx context.Context, task, id string) (*process, error) {
	b, err := r.task(ctx, task)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.execs[id]
	if p == nil {
		return nil, notFound("Exec %s not found", id)
	}
	return p, nil
}

// TaskExecWait waits for the end of a command.
func (r *router) TaskExecWait(ctx context.Context, q *pb.TaskExecWaitRequest) (*pb.TaskExecWaitResponse, error) {
	p, err := r.process(ctx, q.GetTaskId(), q.GetExecId())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	code := int32(p.exit)
	return pb.TaskExecWaitResponse_builder{Code: &code}.Build(), nil
}

// TaskExecPoll says how a command ended, if it has.
func (r *router) TaskExecPoll(ctx context.Context, q *pb.TaskExecPollRequest) (*pb.TaskExecPollResponse, error) {
	p, err := r.process(ctx, q.GetTaskId(), q.GetExecId())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		code := int32(p.exit)
		return pb.TaskExecPollResponse_builder{Code: &code}.Build(), nil
	default:
		return &pb.TaskExecPollResponse{}, nil
	}
}

// TaskExecStdioRead streams output from an offset until its end.
func (r *router) TaskExecStdioRead(q *pb.TaskExecStdioReadRequest, out grpc.ServerStreamingServer[pb.TaskExecStdioReadResponse]) error {
	p, err := r.process(out.Context(), q.GetTaskId(), q.GetExecId())
	if err != nil {
		return err
	}
	fd := 0
	if q.GetFileDescriptor() == pb.TaskExecStdioFileDescriptor_TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDERR {
		fd = 1
	}
	return p.out[fd].copyTo(out.Context(), q.GetOffset(), func(data []byte) error {
		return out.Send(pb.TaskExecStdioReadResponse_builder{Data: data}.Build())
	})
}

// TaskExecStdinWrite writes input at an offset and closes it if asked.
func (r *router) TaskExecStdinWrite(ctx context.Context, q *pb.TaskExecStdinWriteRequest) (*pb.TaskExecStdinWriteResponse, error) {
	p, err := r.process(ctx, q.GetTaskId(), q.GetExecId())
	if err != nil {
		return nil, err
	}
	if err := p.write(ctx, q.GetOffset(), q.GetData()); err != nil {
		return nil, err
	}
	if q.GetEof() {
		if err := p.closeInput(); err != nil {
			return nil, err
		}
	}
	return &pb.TaskExecStdinWriteResponse{}, nil
}

// TaskExecStdinWriteStream is TaskExecStdinWrite for much. Only its last
// message closes the input: a stream that breaks is gone on with.
func (r *router) TaskExecStdinWriteStream(in grpc.ClientStreamingServer[pb.TaskExecStdinWriteStreamRequest, pb.TaskExecStdinWriteStreamResponse]) error {
	first, err := in.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return invalid("The first message of a stream must be its start.")
	}
	p, err := r.process(in.Context(), start.GetTaskId(), start.GetExecId())
	if err != nil {
		return err
	}
	offset := start.GetOffset()
	for {
		m, err := in.Recv()
		if err != nil {
			return err // io.EOF without an end: the input stays open
		}
		if m.HasEnd() {
			if err := p.closeInput(); err != nil {
				return err
			}
			return in.SendAndClose(&pb.TaskExecStdinWriteStreamResponse{})
		}
		if err := p.write(in.Context(), offset, m.GetData()); err != nil {
			return err
		}
		offset += uint64(len(m.GetData()))
	}
}

// TaskExecStdinStatus says from where to go on with a stream that broke.
func (r *router) TaskExecStdinStatus(ctx context.Context, q *pb.TaskExecStdinStatusRequest) (*pb.TaskExecStdinStatusResponse, error) {
	p, err := r.process(ctx, q.GetTaskId(), q.GetExecId())
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return pb.TaskExecStdinStatusResponse_builder{NumBytesWritten: p.written, Closed: p.closed}.Build(), nil
}

// TaskSetNetworkAccess records a new outbound policy.
func (r *router) TaskSetNetworkAccess(ctx context.Context, q *pb.TaskSetNetworkAccessRequest) (*pb.TaskSetNetworkAccessResponse, error) {
	b, _, err := r.running(ctx, q.GetTaskId())
	if err != nil {
		return nil, err
	}
	n := q.GetNetworkAccess()
	if err := checkNetwork(n); err != nil {
		return nil, err
	}
	if n.GetNetworkAccessType() != pb.NetworkAccess_ALLOWLIST {
		return nil, invalid("Only allowlists can be set on a running Sandbox.")
	}
	if err := r.s.change(b, func(record *Sandbox) { record.Network = networkOf(n, false) }); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &pb.TaskSetNetworkAccessResponse{}, nil
}

// statusOf gives an error of the provider the code that Modal would.
func statusOf(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sandbox.ErrGone):
		return notFound("The task has already finished: %v", err)
	case errors.Is(err, sandbox.ErrInvalid):
		return invalid("%v", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Internal, err.Error())
}
