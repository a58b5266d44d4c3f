package modal

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modal-labs/modal-client/go"
	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestDockerfilesAreTakenApart(t *testing.T) {
	t.Parallel()
	got, err := parseDockerfile([]string{
		"FROM debian:12", "# a comment", "RUN apt-get update && \\\n    # why\n    apt-get install -y git \\", "    jq",
		"env A=1 B=\"two words\"", "WORKDIR /workspace",
		"RUN <<EOF\nset -e\necho one\nEOF", "COPY --from=golang:1.26 /usr/local/go /usr/local/go", "CMD [\"sh\"]",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Step{
		{1, "FROM", "debian:12"}, {3, "RUN", "apt-get update &&     apt-get install -y git     jq"}, {7, "ENV", `A=1 B="two words"`},
		{8, "WORKDIR", "/workspace"}, {9, "RUN", "<<EOF\nset -e\necho one\nEOF"},
		{13, "COPY", "--from=golang:1.26 /usr/local/go /usr/local/go"}, {14, "CMD", `["sh"]`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMalformedDockerfilesAreRefused(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"":                        "first instruction must be FROM",
		"RUN true":                "first instruction must be FROM",
		"FROM a\nINSTALL git":     "line 2: unknown instruction: INSTALL",
		"FROM a\nRUN":             "RUN requires at least one argument",
		"FROM a\nENV A":           "ENV must have two arguments",
		"FROM a\nENV A=1 B":       `can't find = in "B"`,
		"FROM a\nWORKDIR /a /b":   "exactly one argument",
		"FROM a\nRUN <<EOF\ntrue": "unterminated heredoc",
		"FROM a\nCOPY x /x":       "build context",
		"FROM a\nADD x /x":        "build context",
	} {
		if _, err := parseDockerfile([]string{text}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

func TestVariablesOfDockerfilesAreExpanded(t *testing.T) {
	t.Parallel()
	env := map[string]string{"A": "1", "EMPTY": ""}
	for text, want := range map[string]string{
		`x$A`: "x1", `${A}y`: "1y", `"$A b"`: "1 b", `'$A'`: "$A", `\$A`: "$A", `$NONE`: "", `${NONE:-else $A}`: "else 1",
		`${EMPTY:-e}`: "e", `${A:+set}`: "set", `${NONE:+set}`: "", `a\ b`: "a b", `$`: "$", `cost: 5$`: "cost: 5$",
	} {
		if got := expand(text, env); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

func TestABaseImageIsTheHostWithItsSettings(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	commands := []string{"ARG VERSION=22", "ENV NODE=$VERSION PATH=/opt/node/bin:$PATH", "WORKDIR /workspace", "RUN apt-get install -y nodejs"}
	i, err := s.client.Images.FromRegistry("debian:12", nil).DockerfileCommands(commands, nil).Build(s.ctx, s.app, nil)
	if err != nil {
		t.Fatal(err)
	}
	record := s.Images()[0]
	if record.ID != i.ImageID || record.Registry != "debian:12" || record.Ref != "" || !slices.Equal(record.Commands[1:], commands) {
		t.Errorf("recorded: %+v", record)
	}
	if last := record.Steps[len(record.Steps)-1]; last != (Step{5, "RUN", "apt-get install -y nodejs"}) {
		t.Errorf("the last step: %+v", last)
	}
	b := s.createFrom(i, nil)
	if got := s.sh(b, "pwd; echo $NODE"); got != "/workspace\n22\n" {
		t.Errorf("inside: %q", got)
	}
	again, err := s.client.Images.FromRegistry("debian:12", nil).DockerfileCommands(commands, nil).Build(s.ctx, s.app, nil)
	if err != nil || again.ImageID != i.ImageID {
		t.Errorf("the same recipe: %v, %v; want %s", again, err, i.ImageID)
	}
	forced, err := s.client.Images.FromRegistry("debian:12", nil).
		DockerfileCommands(commands, &sdk.ImageDockerfileCommandsParams{ForceBuild: true}).Build(s.ctx, s.app, nil)
	if err != nil || forced.ImageID == i.ImageID {
		t.Errorf("a forced build: %v, %v; want another", forced, err)
	}
}

// layered is an image with a filesystem of its own.
func (s *stand) layered() *sdk.Image {
	s.t.Helper()
	b := s.create(nil)
	i, err := b.SnapshotFilesystem(s.ctx, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := b.Terminate(s.ctx, nil); err != nil {
		s.t.Fatal(err)
	}
	found, err := s.client.Images.FromID(s.ctx, i.ImageID, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

func TestALayerOnAnImageIsBuiltAndItsLogStreams(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	var logs logTap
	client := connectTapped(t, s, &logs)
	base, err := client.Images.FromID(s.ctx, s.layered().ImageID, nil)
	if err != nil {
		t.Fatal(err)
	}
	i, err := base.DockerfileCommands([]string{
		"WORKDIR /workspace", "ENV WHO=world", "RUN echo hello $WHO $TOKEN && echo built > file", `RUN ["sh", "-c", "echo second >> file"]`,
		"RUN <<EOF\necho third >> file\nEOF",
	}, &sdk.ImageDockerfileCommandsParams{Env: map[string]string{"TOKEN": "given"}}).Build(s.ctx, s.app, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := logs.text(); !strings.Contains(got, "\nhello world given\n") || !strings.Contains(got, "=> Step 3: RUN echo hello") {
		t.Errorf("the log: %q", got)
	}
	b := s.createFrom(i, nil)
	if got := s.sh(b, "cat file; echo $WHO/$TOKEN"); got != "built\nsecond\nthird\nworld/\n" {
		t.Errorf("inside: %q", got)
	}
	s.noBuildBoxes()
}

// noBuildBoxes fails if a box of a build is left.
func (s *stand) noBuildBoxes() {
	s.t.Helper()
	for info, err := range s.boxes.List(s.ctx, nil) {
		if err != nil {
			s.t.Fatal(err)
		}
		if info.Tags["build"] != "" {
			s.t.Errorf("the box of a build is left: %s", info.Name)
		}
	}
}

func TestALayerThatOnlySetsOutlivesItsBase(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	base := s.layered()
	i, err := base.DockerfileCommands([]string{"ENV A=b"}, nil).Build(s.ctx, s.app, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.client.Images.Delete(s.ctx, base.ImageID, nil); err != nil {
		t.Fatal(err)
	}
	if got := s.sh(s.createFrom(i, nil), "echo $A"); got != "b\n" {
		t.Errorf("inside: %q", got)
	}
}

func TestABuildThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	base := s.layered()
	build := func(commands ...string) error {
		_, err := base.DockerfileCommands(commands, nil).Build(s.ctx, s.app, nil)
		return err
	}
	err := build("RUN echo so far; exit 3", "RUN touch /tmp/never")
	if !errors.As(err, new(sdk.RemoteError)) || !strings.Contains(err.Error(), "non-zero code: 3") {
		t.Errorf("a step that fails: %v", err)
	}
	record := s.Images()[0]
	if log := strings.Join(record.Log, ""); !strings.Contains(log, "so far\n") || !strings.Contains(log, "Image build failed") || strings.Contains(log, "never") {
		t.Errorf("the log: %q", log)
	}
	if err := build("INSTALL git"); !errors.As(err, new(sdk.RemoteError)) || !strings.Contains(err.Error(), "unknown instruction: INSTALL") {
		t.Errorf("an unknown instruction: %v", err)
	}
	if err := build("ADD local /x"); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "build context") {
		t.Errorf("local files: %v", err)
	}
	if _, err := s.client.Sandboxes.Create(s.ctx, s.app, &sdk.Image{ImageID: record.ID}, nil); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a sandbox from an image that failed: %v", err)
	}
	s.noBuildBoxes()
	if err := build("RUN echo so far; exit 3"); !errors.As(err, new(sdk.RemoteError)) {
		t.Errorf("a failed build is not built again: %v", err)
	}
}

func TestOfALongLogOnlyTheBeginningIsKept(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	if _, err := s.layered().DockerfileCommands([]string{"RUN head -c 3000000 /dev/zero"}, nil).Build(s.ctx, s.app, nil); err != nil {
		t.Fatal(err)
	}
	log := strings.Join(s.Images()[0].Log, "")
	if len(log) > maxLog+100 || !strings.HasSuffix(log, "left out]\n") {
		t.Errorf("%d bytes were kept, the end is %q", len(log), log[len(log)-40:])
	}
}

func TestSnapshotsExpireAndAreDeleted(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	s.sh(b, "echo kept > /workspace/file")
	day, err := b.SnapshotFilesystem(s.ctx, &sdk.SandboxSnapshotFilesystemParams{TTL: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if record := s.Images()[0]; record.Expires.Sub(record.Created) != 24*time.Hour || record.Sandbox != b.SandboxID {
		t.Errorf("recorded: %+v", record)
	}
	usual, err := b.SnapshotFilesystem(s.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if record := s.Images()[0]; record.Expires.Sub(record.Created) != 30*24*time.Hour {
		t.Errorf("without a TTL: %+v", record)
	}
	ever, err := b.SnapshotFilesystem(s.ctx, &sdk.SandboxSnapshotFilesystemParams{TTL: sdk.NoExpiryTTL})
	if err != nil || !s.Images()[0].Expires.IsZero() {
		t.Errorf("kept for ever: %+v, %v", s.Images()[0], err)
	}
	if err := s.Expire(day.ImageID); err != nil {
		t.Fatal(err)
	}
	if err := s.client.Images.Delete(s.ctx, usual.ImageID, nil); err != nil {
		t.Fatal(err)
	}
	for name, i := range map[string]*sdk.Image{"expired": day, "deleted": usual} {
		if _, err := s.client.Images.FromID(s.ctx, i.ImageID, nil); !errors.As(err, new(sdk.NotFoundError)) {
			t.Errorf("an %s image: %v", name, err)
		}
		if _, err := s.client.Sandboxes.Create(s.ctx, s.app, i, nil); status.Code(err) != codes.NotFound {
			t.Errorf("a sandbox from an %s image: %v", name, err)
		}
		if err := s.client.Images.Delete(s.ctx, i.ImageID, nil); !errors.As(err, new(sdk.NotFoundError)) {
			t.Errorf("deleting an %s image: %v", name, err)
		}
	}
	if err := s.dropExpired(s.ctx); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(s.Images(), func(i Image) bool { return i.ID == day.ImageID }) {
		t.Error("the expired image is still there")
	}
	if got := s.sh(s.createFrom(ever, nil), "cat /workspace/file"); got != "kept\n" {
		t.Errorf("from the image that is left: %q", got)
	}
}

func TestASnapshotThatIsRepeatedIsTakenOnce(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(nil)
	s.Inject(Fault{Kind: Unavailable, Method: "TaskSnapshotFilesystem", Times: 2, AfterEffect: true})
	i, err := b.SnapshotFilesystem(s.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	taken := slices.DeleteFunc(s.Images(), func(i Image) bool { return i.Sandbox == "" })
	if len(taken) != 1 || taken[0].ID != i.ImageID || len(s.Calls("TaskSnapshotFilesystem")) != 3 {
		t.Errorf("%d were taken in %d calls", len(taken), len(s.Calls("TaskSnapshotFilesystem")))
	}
}

// logTap collects the log of builds, which the SDK throws away.
type logTap struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *logTap) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type tappedStream struct {
	grpc.ClientStream
	tap *logTap
}

func (s tappedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if join, ok := m.(*pb.ImageJoinStreamingResponse); ok && err == nil {
		s.tap.mu.Lock()
		defer s.tap.mu.Unlock()
		for _, log := range join.GetTaskLogs() {
			io.WriteString(&s.tap.buf, log.GetData())
		}
	}
	return err
}

func connectTapped(t *testing.T, s *stand, tap *logTap) *sdk.Client {
	t.Helper()
	c := connectWith(t, s.URL(), &sdk.ClientParams{
		TokenID: TokenID, TokenSecret: TokenSecret, Logger: slog.New(slog.DiscardHandler),
		GRPCStreamInterceptors: []grpc.StreamClientInterceptor{func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := streamer(ctx, d, cc, method, opts...)
			return tappedStream{stream, tap}, err
		}},
	})
	t.Cleanup(c.Close)
	return c
}
