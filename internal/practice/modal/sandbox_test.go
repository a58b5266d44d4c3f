package modal

import (
	"errors"
	"fmt"
	"io"
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
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestASandboxLivesFromCreateToTerminate(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Name: "one", Timeout: time.Hour, Env: map[string]string{"GREETING": "hello"}})
	if got := s.sh(b, "echo $GREETING $MODAL_SANDBOX_ID; pwd"); got != "hello "+b.SandboxID+"\n/\n" {
		t.Errorf("got %q", got)
	}
	if exit, err := b.Poll(s.ctx, nil); err != nil || exit != nil {
		t.Errorf("polling a live sandbox: %v, %v", exit, err)
	}
	for range 2 { // ending it twice is ending it once
		if exit, err := b.Terminate(s.ctx, &sdk.SandboxTerminateParams{Wait: true}); err != nil || exit != 137 {
			t.Errorf("terminating: exit %d, %v; want 137", exit, err)
		}
	}
	if _, err := b.Exec(s.ctx, []string{"true"}, nil); status.Code(err) != codes.NotFound {
		t.Errorf("a command in an ended sandbox: %v, want NotFound", err)
	}
	if _, err := s.client.Sandboxes.FromName(s.ctx, "inspect", "one", nil); !errors.As(err, new(sdk.NotFoundError)) {
		t.Errorf("an ended sandbox by name: %v", err)
	}
	last, err := s.client.Sandboxes.FromName(s.ctx, "inspect", "one", &sdk.SandboxFromNameParams{IncludeTerminated: true})
	if err != nil || last.SandboxID != b.SandboxID {
		t.Errorf("the last sandbox of a name: %v, %v", last, err)
	}
}

func TestASandboxEndsWithItsEntrypoint(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	for command, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137, "exec /no/such/program": 127} {
		b := s.create(&sdk.SandboxCreateParams{Command: []string{"sh", "-c", "echo out; echo err >&2; " + command}})
		if exit, err := b.Wait(s.ctx, nil); err != nil || exit != want {
			t.Errorf("%s: exit %d, %v; want %d", command, exit, err, want)
		}
		out, err := io.ReadAll(b.Stdout)
		if err != nil || string(out) != "out\n" {
			t.Errorf("%s: printed %q, %v", command, out, err)
		}
		again, err := s.client.Sandboxes.FromID(s.ctx, b.SandboxID, nil)
		if err != nil {
			t.Fatal(err)
		}
		if errs, err := io.ReadAll(again.Stderr); err != nil || !strings.HasPrefix(string(errs), "err\n") {
			t.Errorf("%s: errors by another handle: %q, %v", command, errs, err)
		}
	}
}

func TestAProgramThatDoesNotExistEndsTheSandbox(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Command: []string{"no-such-program"}})
	if exit, err := b.Wait(s.ctx, nil); err != nil || exit != 127 {
		t.Errorf("exit %d, %v", exit, err)
	}
	if errs, err := io.ReadAll(b.Stderr); err != nil || !strings.Contains(string(errs), "no-such-program") {
		t.Errorf("said %q, %v", errs, err)
	}
}

func TestASandboxEndsWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Timeout: time.Second})
	if exit, err := b.Wait(s.ctx, nil); err != nil || exit != 124 {
		t.Errorf("exit %d, %v; want 124", exit, err)
	}
}

func TestAnEntrypointIsTypedTo(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Command: []string{"sh", "-c", "while read line; do echo got $line; done; echo end"}})
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := io.WriteString(b.Stdin, line); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len("got one\ngot two\n"))
	if _, err := io.ReadFull(b.Stdout, got); err != nil || string(got) != "got one\ngot two\n" {
		t.Errorf("while it runs: %q, %v", got, err)
	}
	if err := b.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(b.Stdout); err != nil || string(rest) != "end\n" {
		t.Errorf("after the end of input: %q, %v", rest, err)
	}
	if exit, err := b.Wait(s.ctx, nil); err != nil || exit != 0 {
		t.Errorf("exit %d, %v", exit, err)
	}
}

func TestOnlyTheEndOfMuchOutputIsKept(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{Command: []string{"sh", "-c", "seq 1000000; exit 0"}})
	if exit, err := b.Wait(s.ctx, nil); err != nil || exit != 0 {
		t.Fatalf("exit %d, %v", exit, err)
	}
	out, err := io.ReadAll(b.Stdout)
	if err != nil || len(out) < maxTail || len(out) > 2*maxTail || !strings.HasSuffix(string(out), "\n999999\n1000000\n") {
		t.Errorf("%d bytes were kept, %v", len(out), err)
	}
}

func TestANameIsUniqueAmongLiveSandboxes(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	var mu sync.Mutex
	var made, taken int
	var creates sync.WaitGroup
	for range 5 {
		creates.Go(func() {
			_, err := s.client.Sandboxes.Create(s.ctx, s.app, i, &sdk.SandboxCreateParams{Name: "only"})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case errors.As(err, new(sdk.AlreadyExistsError)):
				taken++
			default:
				t.Error(err)
			}
		})
	}
	creates.Wait()
	if made != 1 || taken != 4 {
		t.Errorf("%d were made, %d refused", made, taken)
	}
	found, err := s.client.Sandboxes.FromName(s.ctx, "inspect", "only", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Detach()
	if got := s.sh(found, "echo here"); got != "here\n" {
		t.Errorf("by name: %q", got)
	}
	if _, err := found.Terminate(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	s.createFrom(i, &sdk.SandboxCreateParams{Name: "only"})
}

func TestASandboxIsNamedOnce(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	a, b := s.create(nil), s.create(nil)
	if err := a.ExperimentalSetName(s.ctx, "claimed", nil); err != nil {
		t.Fatal(err)
	}
	if err := b.ExperimentalSetName(s.ctx, "claimed", nil); !errors.As(err, new(sdk.AlreadyExistsError)) {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := a.ExperimentalSetName(s.ctx, "other", nil); !errors.As(err, new(sdk.ConflictError)) {
		t.Errorf("a second name: %v", err)
	}
	if found, err := s.client.Sandboxes.FromName(s.ctx, "inspect", "claimed", nil); err != nil || found.SandboxID != a.SandboxID {
		t.Errorf("by name: %v, %v", found, err)
	}
}

func TestSandboxesAreListedByAppAndTagsOverPages(t *testing.T) {
	t.Parallel()
	s := open(t, Options{PageSize: 2})
	i := s.image()
	var want []string
	for n := range 5 {
		b := s.createFrom(i, &sdk.SandboxCreateParams{Tags: map[string]string{"n": fmt.Sprint(n), "all": "yes"}})
		want = append([]string{b.SandboxID}, want...)
	}
	other, err := s.client.Apps.FromName(s.ctx, "other", &sdk.AppFromNameParams{CreateIfMissing: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Sandboxes.Create(s.ctx, other, i, &sdk.SandboxCreateParams{Tags: map[string]string{"all": "yes"}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, s.list(map[string]string{"all": "yes"})); diff != "" {
		t.Errorf("all of the app, newest first: %s", diff)
	}
	third, err := s.client.Sandboxes.FromID(s.ctx, want[2], nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.list(map[string]string{"n": "2"}); !slices.Equal(got, want[2:3]) {
		t.Errorf("by tag: %v, want %v", got, want[2:3])
	}
	if err := third.SetTags(s.ctx, map[string]string{"n": "changed"}, nil); err != nil {
		t.Fatal(err)
	}
	if tags, err := third.GetTags(s.ctx, nil); err != nil || !cmp.Equal(tags, map[string]string{"n": "changed"}) {
		t.Errorf("tags: %v, %v", tags, err)
	}
	if got := s.list(map[string]string{"n": "2"}); len(got) > 0 {
		t.Errorf("by a tag that nobody has any more: %v", got)
	}
	if _, err := third.Terminate(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	if got := s.list(nil); len(got) != 4 || slices.Contains(got, third.SandboxID) {
		t.Errorf("after one ended: %v", got)
	}
}

func (s *stand) list(tags map[string]string) []string {
	s.t.Helper()
	found, err := s.client.Sandboxes.List(s.ctx, &sdk.SandboxListParams{AppID: s.app.AppID, Tags: tags})
	if err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for b, err := range found {
		if err != nil {
			s.t.Fatal(err)
		}
		ids = append(ids, b.SandboxID)
	}
	return ids
}

func TestWhatWasAskedForIsRecorded(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{
		Name: "asked", Tags: map[string]string{"a": "b"}, CPU: 0.5, MemoryMiB: 512, MemoryLimitMiB: 1024, Timeout: time.Hour,
		IdleTimeout: time.Minute, Regions: []string{"us-east", "eu-west-1"}, Cloud: "aws", Workdir: "/workspace",
		OutboundDomainAllowlist: &sdk.Allowlist{Entries: []string{"control.example.com"}}, UnencryptedPorts: []int{8000},
		Command: []string{"sleep", "600"}, Env: map[string]string{"A": "1"},
	})
	got := s.Sandboxes()[0]
	if got.Box == "" || got.Created.IsZero() {
		t.Errorf("got %+v", got)
	}
	want := Sandbox{
		ID: b.SandboxID, Task: got.Task, App: s.app.AppID, Name: "asked", Image: got.Image, Command: []string{"sleep", "600"},
		Env: map[string]string{"A": "1"}, Tags: map[string]string{"a": "b"}, Workdir: "/workspace", CPU: 0.5, MemMiB: 512, MemLimitMiB: 1024,
		Timeout: time.Hour, IdleTimeout: time.Minute, Cloud: "aws", Regions: []string{"us-east", "eu-west-1"},
		Network: Network{Type: "ALLOWLIST", Domains: []string{"control.example.com"}}, Ports: []Port{{8000, true}},
		Created: got.Created, Box: got.Box,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := s.sh(b, "pwd; echo $MODAL_REGION"); got != "/workspace\nus-east\n" {
		t.Errorf("inside: %q", got)
	}
	err := b.UpdateNetworkPolicy(s.ctx, &sdk.SandboxUpdateNetworkPolicyParams{
		OutboundCIDRAllowlist: &sdk.Allowlist{Entries: []string{"192.0.2.0/24"}}, OutboundDomainAllowlist: &sdk.Allowlist{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Network{Type: "ALLOWLIST", CIDRs: []string{"192.0.2.0/24"}}, s.Sandboxes()[0].Network); diff != "" {
		t.Errorf("the new policy: %s", diff)
	}
	blocked := s.create(&sdk.SandboxCreateParams{BlockNetwork: true})
	if n := s.Sandboxes()[0]; n.ID != blocked.SandboxID || n.Network.Type != "BLOCKED" {
		t.Errorf("a blocked network: %+v", n)
	}
}

func TestBadRequestsAreRefusedWithASentence(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	for name, bad := range map[string]struct {
		params sdk.SandboxCreateParams
		code   codes.Code
		says   string
	}{
		"lifetime":     {sdk.SandboxCreateParams{Timeout: 25 * time.Hour}, codes.InvalidArgument, "24 hours"},
		"region":       {sdk.SandboxCreateParams{Regions: []string{"atlantis"}}, codes.InvalidArgument, "atlantis"},
		"cloud":        {sdk.SandboxCreateParams{Cloud: "steam"}, codes.InvalidArgument, "steam"},
		"port":         {sdk.SandboxCreateParams{UnencryptedPorts: []int{70000}}, codes.InvalidArgument, "70000"},
		"addresses":    {sdk.SandboxCreateParams{OutboundCIDRAllowlist: &sdk.Allowlist{Entries: []string{"not-an-ip/8"}}}, codes.InvalidArgument, "Invalid CIDR (outbound IPv4): not-an-ip/8"},
		"domain":       {sdk.SandboxCreateParams{OutboundDomainAllowlist: &sdk.Allowlist{Entries: []string{"127.0.0.1:80"}}}, codes.InvalidArgument, "Invalid domain: 127.0.0.1:80"},
		"variable":     {sdk.SandboxCreateParams{Command: []string{"a\x00b"}}, codes.InvalidArgument, "zero byte"},
		"memory image": {sdk.SandboxCreateParams{ExperimentalEnableSnapshot: true}, codes.Unimplemented, "memory snapshots"},
		"identity":     {sdk.SandboxCreateParams{IncludeOidcIdentityToken: true}, codes.Unimplemented, "OIDC"},
	} {
		_, err := s.client.Sandboxes.Create(s.ctx, s.app, i, &bad.params)
		if status.Code(err) != bad.code || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: %v; want %v that says %q", name, err, bad.code, bad.says)
		}
	}
	_, err := s.client.Sandboxes.Create(s.ctx, s.app, &sdk.Image{ImageID: "im-none"}, nil)
	if status.Code(err) != codes.NotFound {
		t.Errorf("an image that does not exist: %v", err)
	}
	_, err = s.client.Sandboxes.Create(s.ctx, &sdk.App{AppID: "ap-none"}, i, nil)
	if status.Code(err) != codes.NotFound {
		t.Errorf("an app that does not exist: %v", err)
	}
	if _, err := s.client.Apps.FromName(s.ctx, "none", nil); !errors.As(err, new(sdk.NotFoundError)) {
		t.Errorf("an app that nobody made: %v", err)
	}
	if _, err := s.client.Apps.FromName(s.ctx, "none", &sdk.AppFromNameParams{Environment: "staging"}); !errors.As(err, new(sdk.NotFoundError)) {
		t.Errorf("an environment that does not exist: %v", err)
	}
	_, err = s.client.Volumes.FromName(s.ctx, "data", &sdk.VolumeFromNameParams{CreateIfMissing: true})
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "The stand-in for Modal does not have VolumeGetOrCreate") {
		t.Errorf("what the stand-in does not have: %v", err)
	}
	if live := s.list(nil); len(live) > 0 {
		t.Errorf("refused sandboxes live: %v", live)
	}
}

func TestWrongCredentialsAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	c := connect(t, s.URL(), "as-wrong")
	defer c.Close()
	_, err := c.Apps.FromName(s.ctx, "inspect", nil)
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "Could not authenticate client") {
		t.Errorf("a wrong secret: %v", err)
	}
	raw := s.raw()
	if _, err := raw.AppGetOrCreate(s.ctx, &pb.AppGetOrCreateRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no credentials: %v", err)
	}
	with := metadata.AppendToOutgoingContext(s.ctx, "x-modal-token-id", TokenID, "x-modal-token-secret", TokenSecret)
	if _, err := raw.AppGetOrCreate(with, &pb.AppGetOrCreateRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no auth token: %v", err)
	}
	token, err := raw.AuthTokenGet(with, &pb.AuthTokenGetRequest{})
	if err != nil {
		t.Fatal(err)
	}
	with = metadata.AppendToOutgoingContext(with, "x-modal-auth-token", token.GetToken())
	_, err = raw.AppGetOrCreate(with, pb.AppGetOrCreateRequest_builder{AppName: "inspect"}.Build())
	if err != nil {
		t.Errorf("with everything: %v", err)
	}
}

// raw is Modal's service without the SDK around it.
func (s *stand) raw() pb.ModalClientClient {
	s.t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(s.URL(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return pb.NewModalClientClient(conn)
}

func TestACreateThatIsRepeatedFindsItsNameTaken(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	s.Inject(Fault{Kind: Unavailable, Method: "SandboxCreateV2", Times: 1, AfterEffect: true})
	_, err := s.client.Sandboxes.Create(s.ctx, s.app, i, &sdk.SandboxCreateParams{Name: "once"})
	if !errors.As(err, new(sdk.AlreadyExistsError)) || len(s.list(nil)) != 1 {
		t.Errorf("got error %v and live %v", err, s.list(nil))
	}
}

func TestTagsAndArgumentsThatModalDoesNotTakeAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	i := s.image()
	b := s.createFrom(i, &sdk.SandboxCreateParams{Name: "plain", Tags: map[string]string{strings.Repeat("k", 63): strings.Repeat("v", 63)}})
	for _, tags := range []map[string]string{{"a": ""}, {"": "a"}, {"a": "b c"}, {"a:b": "c"}, {"a": "100%"}, {"a": strings.Repeat("v", 64)}} {
		if _, err := s.client.Sandboxes.Create(s.ctx, s.app, i, &sdk.SandboxCreateParams{Tags: tags}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q at a sandbox's start: %v", tags, err)
		}
		if err := b.SetTags(s.ctx, tags, nil); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q later: %v", tags, err)
		}
	}
	long := []string{"true", strings.Repeat("x", mostArguments)}
	if _, err := s.client.Sandboxes.Create(s.ctx, s.app, i, &sdk.SandboxCreateParams{Command: long}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("long arguments: %v", err)
	}
}

func TestUsageGrowsWithTime(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := s.create(&sdk.SandboxCreateParams{CPU: 2, MemoryMiB: 2048})
	if _, err := b.Terminate(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	ctx := s.authorised()
	use, err := s.raw().SandboxGetResourceUsage(ctx, pb.SandboxGetResourceUsageRequest_builder{SandboxId: b.SandboxID}.Build())
	if err != nil {
		t.Fatal(err)
	}
	record := s.Sandboxes()[0]
	life := uint64(record.Ended.Sub(record.Created))
	if life == 0 || use.GetCpuCoreNanosecs() != 2*life || use.GetMemGibNanosecs() != 2*life {
		t.Errorf("%d cpu and %d memory for a life of %d, want twice that", use.GetCpuCoreNanosecs(), use.GetMemGibNanosecs(), life)
	}
}
