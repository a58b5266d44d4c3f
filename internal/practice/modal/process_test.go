package modal

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modal-labs/modal-client/go"
	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestACommandRunsAsAsked(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Env: map[string]string{"OF": "sandbox", "BOTH": "sandbox"}})
	secret, err := s.client.Secrets.FromMap(s.ctx, map[string]string{"SECRET": "hidden", "BOTH": "secret"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, errs, exit := s.exec(b, &sdk.SandboxExecParams{
		Workdir: "/workspace", Env: map[string]string{"OWN": "command"}, Secrets: []*sdk.Secret{secret},
	}, "sh", "-c", "pwd; echo $OF $OWN $SECRET $BOTH; echo bad >&2; exit 5")
	if out != "/workspace\nsandbox command hidden secret\n" || errs != "bad\n" || exit != 5 {
		t.Errorf("got %q, %q, %d", out, errs, exit)
	}
	if _, errs, exit := s.exec(b, nil, "no-such-program"); exit != 127 || !strings.Contains(errs, "no-such-program") {
		t.Errorf("a program that does not exist: %q, %d", errs, exit)
	}
	if out, _, _ := s.exec(b, &sdk.SandboxExecParams{Stdout: sdk.Ignore}, "echo", "unheard"); out != "" {
		t.Errorf("ignored output: %q", out)
	}
}

func TestOutputComesWhileACommandRuns(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	cmd, err := b.Exec(s.ctx, []string{"sh", "-c", "echo ready; read line; echo got $line"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(cmd.Stdout)
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("before its input: %q, %v", line, err)
	}
	if _, err := io.WriteString(cmd.Stdin, "it\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := out.ReadString('\n'); err != nil || line != "got it\n" {
		t.Errorf("after its input: %q, %v", line, err)
	}
	if exit, err := cmd.Wait(s.ctx, nil); err != nil || exit != 0 {
		t.Errorf("exit %d, %v", exit, err)
	}
	if _, err := io.WriteString(cmd.Stdin, "late"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("input to an ended command: %v, want FailedPrecondition", err)
	}
}

func TestACommandIsKilledWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	cmd, err := b.Exec(s.ctx, []string{"sleep", "600"}, &sdk.SandboxExecParams{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	// The SDK gives up waiting at the same moment, so the answer is asked for directly.
	id := s.started(1)[0].GetExecId()
	answer, err := s.rawRouter().TaskExecWait(s.routerContext(b), pb.TaskExecWaitRequest_builder{TaskId: s.Sandboxes()[0].Task, ExecId: id}.Build())
	if err != nil || answer.GetCode() != 137 {
		t.Errorf("got %v, %v; want 137", answer, err)
	}
	if exit, err := cmd.Wait(s.ctx, nil); err == nil && exit != 137 {
		t.Errorf("by the SDK: exit %d", exit)
	}
}

// started waits for n starts of commands and returns their requests.
func (s *stand) started(n int) []*pb.TaskExecStartRequest {
	s.t.Helper()
	calls, err := s.WaitCalls(s.ctx, "TaskExecStart", n)
	if err != nil {
		s.t.Fatal(err)
	}
	var list []*pb.TaskExecStartRequest
	for _, c := range calls {
		list = append(list, c.Request.(*pb.TaskExecStartRequest))
	}
	return list
}

func (s *stand) rawRouter() pb.TaskCommandRouterClient {
	s.t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(s.URL(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return pb.NewTaskCommandRouterClient(conn)
}

func (s *stand) routerContext(b *sdk.Sandbox) context.Context {
	s.t.Helper()
	token, err := s.sign(claims{Purpose: forRouter, Sandbox: b.SandboxID}, time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	return metadata.AppendToOutgoingContext(s.ctx, "authorization", "Bearer "+token)
}

func TestACommandIsStartedOnceAndReadFromAnyOffset(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	task := s.Sandboxes()[0].Task
	router, ctx := s.rawRouter(), s.routerContext(b)
	start := startRequest(task, "one", "sh", "-c", "echo x >> /tmp/runs; cat; cat /tmp/runs")
	for range 2 {
		if _, err := router.TaskExecStart(ctx, start); err != nil {
			t.Fatal(err)
		}
	}
	if poll, err := router.TaskExecPoll(ctx, pb.TaskExecPollRequest_builder{TaskId: task, ExecId: "one"}.Build()); err != nil || poll.HasCode() {
		t.Errorf("polling a running command: %v, %v", poll, err)
	}
	write := func(offset uint64, data string, eof bool) error {
		_, err := router.TaskExecStdinWrite(ctx, pb.TaskExecStdinWriteRequest_builder{
			TaskId: task, ExecId: "one", Offset: offset, Data: []byte(data), Eof: eof,
		}.Build())
		return err
	}
	for _, w := range []struct {
		offset uint64
		data   string
		eof    bool
		code   codes.Code
	}{{0, "abc", false, codes.OK}, {0, "abc", false, codes.OK}, {1, "bcd", false, codes.OK}, {9, "z", false, codes.FailedPrecondition}, {4, "", true, codes.OK}} {
		if err := write(w.offset, w.data, w.eof); status.Code(err) != w.code {
			t.Errorf("writing %q at %d: %v, want %v", w.data, w.offset, err, w.code)
		}
	}
	for offset, want := range map[uint64]string{0: "abcdx\n", 3: "dx\n", 6: "", 99: ""} {
		if got := readAll(ctx, t, router, task, "one", offset); got != want {
			t.Errorf("from %d: %q, want %q", offset, got, want)
		}
	}
	poll, err := router.TaskExecPoll(ctx, pb.TaskExecPollRequest_builder{TaskId: task, ExecId: "one"}.Build())
	if err != nil || !poll.HasCode() || poll.GetCode() != 0 {
		t.Errorf("polling an ended command: %v, %v", poll, err)
	}
	if err := write(4, "more", false); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("input to an ended command: %v", err)
	}
	if _, err := router.TaskExecWait(ctx, pb.TaskExecWaitRequest_builder{TaskId: task, ExecId: "two"}.Build()); status.Code(err) != codes.NotFound {
		t.Errorf("a command that nobody started: %v", err)
	}
	connect, err := b.CreateConnectToken(s.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	wrong := metadata.AppendToOutgoingContext(s.ctx, "authorization", "Bearer "+connect.Token)
	if _, err := router.TaskExecStart(wrong, start); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with a token for something else: %v", err)
	}
	other := s.create(nil)
	if _, err := router.TaskExecStart(s.routerContext(other), start); status.Code(err) != codes.PermissionDenied {
		t.Errorf("with the token of another sandbox: %v", err)
	}
}

func startRequest(task, id string, args ...string) *pb.TaskExecStartRequest {
	return pb.TaskExecStartRequest_builder{
		TaskId: task, ExecId: id, CommandArgs: args, StdoutConfig: pb.TaskExecStdoutConfig_TASK_EXEC_STDOUT_CONFIG_PIPE,
	}.Build()
}

func readAll(ctx context.Context, t *testing.T, router pb.TaskCommandRouterClient, task, id string, offset uint64) string {
	t.Helper()
	stream, err := router.TaskExecStdioRead(ctx, pb.TaskExecStdioReadRequest_builder{
		TaskId: task, ExecId: id, Offset: offset,
		FileDescriptor: pb.TaskExecStdioFileDescriptor_TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT,
	}.Build())
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return string(all)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m.GetData()...)
	}
}

func TestAnUploadThatBreaksGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	task := s.Sandboxes()[0].Task
	router, ctx := s.rawRouter(), s.routerContext(b)
	if _, err := router.TaskExecStart(ctx, startRequest(task, "up", "cat")); err != nil {
		t.Fatal(err)
	}
	send := func(offset uint64, data string, end bool) {
		stream, err := router.TaskExecStdinWriteStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		messages := []*pb.TaskExecStdinWriteStreamRequest{
			pb.TaskExecStdinWriteStreamRequest_builder{Start: pb.TaskExecStdinWriteStreamStart_builder{TaskId: task, ExecId: "up", Offset: offset}.Build()}.Build(),
			pb.TaskExecStdinWriteStreamRequest_builder{Data: []byte(data)}.Build(),
		}
		if end {
			messages = append(messages, pb.TaskExecStdinWriteStreamRequest_builder{End: &pb.TaskExecStdinWriteStreamEnd{}}.Build())
		}
		for _, m := range messages {
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := stream.CloseAndRecv(); (err == nil) != end {
			t.Errorf("after %q: %v", data, err)
		}
	}
	send(0, "first ", false)
	at, err := router.TaskExecStdinStatus(ctx, pb.TaskExecStdinStatusRequest_builder{TaskId: task, ExecId: "up"}.Build())
	if err != nil || at.GetNumBytesWritten() != 6 || at.GetClosed() {
		t.Fatalf("after a stream that broke: %v, %v", at, err)
	}
	send(6, "second", true)
	if got := readAll(ctx, t, router, task, "up", 0); got != "first second" {
		t.Errorf("the command got %q", got)
	}
}

func TestFilesGoInAndOut(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	f := b.Filesystem
	large := make([]byte, 3<<20)
	rand.Read(large)
	local := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(local, large, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.CopyFromLocal(s.ctx, local, "/workspace/deep/er/large", nil); err != nil {
		t.Fatal(err)
	}
	if back, err := f.ReadBytes(s.ctx, "/workspace/deep/er/large", nil); err != nil || !bytes.Equal(back, large) {
		t.Errorf("%d bytes came back, %v", len(back), err)
	}
	s.sh(b, "cd /workspace; echo '#!/bin/sh' > run; chmod 750 run; ln -s run link; mkdir full; touch full/x")
	if err := f.WriteText(s.ctx, "new", "/workspace/link", nil); err != nil {
		t.Fatal(err)
	}
	if got := s.sh(b, "cat /workspace/run; stat -c %a /workspace/run; readlink /workspace/link"); got != "new750\nrun\n" {
		t.Errorf("writing through a link: %q", got)
	}
	list, err := f.ListFiles(s.ctx, "/workspace", nil)
	if err != nil {
		t.Fatal(err)
	}
	type entry struct{ Name, Path, Type, Permissions, Owner, Target string }
	var got []entry
	for _, e := range list {
		target := ""
		if e.SymlinkTarget != nil {
			target = *e.SymlinkTarget
		}
		got = append(got, entry{e.Name, e.Path, string(e.Type), e.Permissions, e.Owner, target})
	}
	want := []entry{
		{"deep", "/workspace/deep", "directory", "0755", "agent", ""}, {"full", "/workspace/full", "directory", "0755", "agent", ""},
		{"link", "/workspace/link", "symlink", "0777", "agent", "run"}, {"run", "/workspace/run", "file", "0750", "agent", ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if info, err := f.Stat(s.ctx, "/workspace/run", nil); err != nil || info.Size != 3 || info.Type != sdk.FileTypeFile || info.ModifiedTime == 0 {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if err := f.MakeDirectory(s.ctx, "/workspace/a/b/c", nil); err != nil {
		t.Error(err)
	}
	if err := f.Remove(s.ctx, "/workspace/a", &sdk.SandboxFilesystemRemoveParams{Recursive: true}); err != nil {
		t.Error(err)
	}
	if _, _, exit := s.exec(b, nil, "test", "-e", "/workspace/a"); exit != 1 {
		t.Error("the directory was not removed")
	}
}

func TestErrorsOfFilesHaveTheirNames(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	f := b.Filesystem
	s.sh(b, "cd /workspace; mkdir full; touch full/x file; mkdir -m 0 closed")
	no := false
	for name, test := range map[string]struct {
		err error
		as  any
	}{
		"reading nothing":           {second(f.ReadText(s.ctx, "/workspace/none", nil)), new(sdk.SandboxFilesystemNotFoundError)},
		"reading a directory":       {second(f.ReadText(s.ctx, "/workspace/full", nil)), new(sdk.SandboxFilesystemIsADirectoryError)},
		"reading what is closed":    {second(f.ReadText(s.ctx, "/workspace/closed/x", nil)), new(sdk.SandboxFilesystemPermissionError)},
		"writing a directory":       {f.WriteText(s.ctx, "", "/workspace/full", nil), new(sdk.SandboxFilesystemIsADirectoryError)},
		"writing below a file":      {f.WriteText(s.ctx, "", "/workspace/file/x", nil), new(sdk.SandboxFilesystemNotADirectoryError)},
		"writing the system":        {f.WriteText(s.ctx, "", "/usr/x", nil), new(sdk.SandboxFilesystemPermissionError)},
		"listing a file":            {second(f.ListFiles(s.ctx, "/workspace/file", nil)), new(sdk.SandboxFilesystemNotADirectoryError)},
		"listing nothing":           {second(f.ListFiles(s.ctx, "/workspace/none", nil)), new(sdk.SandboxFilesystemNotFoundError)},
		"stat of nothing":           {second(f.Stat(s.ctx, "/workspace/none", nil)), new(sdk.SandboxFilesystemNotFoundError)},
		"a directory that is there": {f.MakeDirectory(s.ctx, "/workspace/full", &sdk.SandboxFilesystemMakeDirectoryParams{CreateParents: &no}), new(sdk.SandboxFilesystemPathAlreadyExistsError)},
		"a directory below nothing": {f.MakeDirectory(s.ctx, "/workspace/n/m", &sdk.SandboxFilesystemMakeDirectoryParams{CreateParents: &no}), new(sdk.SandboxFilesystemNotFoundError)},
		"removing what is full":     {f.Remove(s.ctx, "/workspace/full", nil), new(sdk.SandboxFilesystemDirectoryNotEmptyError)},
		"removing nothing":          {f.Remove(s.ctx, "/workspace/none", nil), new(sdk.SandboxFilesystemNotFoundError)},
	} {
		if !errors.As(test.err, test.as) {
			t.Errorf("%s: %T %v, want %T", name, test.err, test.err, test.as)
		}
	}
	events, err := f.Watch(s.ctx, "/workspace", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range events {
		if !errors.As(err, new(sdk.InvalidError)) || !strings.Contains(err.Error(), "not supported by the stand-in") {
			t.Errorf("watching: %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
