package modal

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

// SandboxStdioReadV2 streams the entrypoint's output from an offset. Of a
// sandbox that has ended, the end of it is kept.
func (r *router) SandboxStdioReadV2(q *pb.SandboxStdioReadV2Request, out grpc.ServerStreamingServer[pb.SandboxStdioReadV2Response]) error {
	ctx := out.Context()
	b, err := r.task(ctx, q.GetTaskId())
	if err != nil {
		return err
	}
	fd := 1
	if q.GetFileDescriptor() == pb.SandboxStdioFileDescriptor_SANDBOX_STDIO_FILE_DESCRIPTOR_STDERR {
		fd = 2
	}
	frames := &frameSender{next: q.GetOffset(), send: func(at uint64, data []byte) error {
		return out.Send(pb.SandboxStdioReadV2Response_builder{Data: data, StartingOffset: at}.Build())
	}}
	if in := b.live(); in != nil {
		err := r.s.readGuest(ctx, in, guestRequest{Op: opRead, FD: fd, Offset: q.GetOffset(), Follow: true}, frames)
		if ctx.Err() != nil {
			return status.FromContextError(ctx.Err()).Err()
		}
		if err != nil && b.live() != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
	// What came after that, if it has ended.
	select {
	case <-b.done:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	kept, err := os.ReadFile(r.s.outputPath(b.id, fd))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	_, err = frames.Write(kept)
	return err
}

// readGuest copies the frames of one output to w.
func (s *Server) readGuest(ctx context.Context, in sandbox.Box, q guestRequest, w io.Writer) error {
	line, err := json.Marshal(q)
	if err != nil {
		return err
	}
	var problems bytes.Buffer
	exit, err := in.Exec(ctx, sandbox.Cmd{
		Args: []string{s.binary, roleAsk}, Dir: "/", Stdin: bytes.NewReader(append(line, '\n')), Stdout: w, Stderr: &problems,
	})
	if err == nil && exit != 0 {
		err = fmt.Errorf("reading a sandbox's output: exit %d: %s", exit, problems.String())
	}
	return err
}

// frameSender takes frames as they come, in any pieces, and sends each that is
// whole, without what was sent before.
type frameSender struct {
	buf  []byte
	next uint64
	send func(at uint64, data []byte) error
}

// Write implements io.Writer.
func (f *frameSender) Write(p []byte) (int, error) {
	f.buf = append(f.buf, p...)
	for len(f.buf) >= 12 {
		at, size := binary.BigEndian.Uint64(f.buf), int(binary.BigEndian.Uint32(f.buf[8:]))
		if len(f.buf) < 12+size {
			break
		}
		data := f.buf[12 : 12+size]
		if end := at + uint64(size); end > f.next {
			skip := f.next - min(at, f.next)
			if at > f.next {
				skip = 0 // a gap: what lay between is no longer kept
			}
			if err := f.send(at+skip, bytes.Clone(data[skip:])); err != nil {
				return 0, err
			}
			f.next = end
		}
		f.buf = f.buf[12+size:]
	}
	return len(p), nil
}

// SandboxStdinWriteV2 writes to the entrypoint's standard input.
func (r *router) SandboxStdinWriteV2(ctx context.Context, q *pb.SandboxStdinWriteV2Request) (*pb.SandboxStdinWriteV2Response, error) {
	b, in, err := r.running(ctx, q.GetTaskId())
	if err != nil {
		return nil, err
	}
	defer b.work()()
	var answer guestStatus
	err = r.s.ask(ctx, in, guestRequest{Op: opStdin, Offset: q.GetOffset(), EOF: q.GetEof()}, q.GetData(), &answer)
	if err != nil {
		return nil, statusOf(err)
	}
	if answer.Error != "" {
		return nil, status.Error(codes.FailedPrecondition, answer.Error)
	}
	return &pb.SandboxStdinWriteV2Response{}, nil
}
