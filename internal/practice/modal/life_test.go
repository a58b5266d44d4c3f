package modal

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestASandboxIsReadyWhenItsProbeSaysSo(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	file, err := sdk.NewExecProbe([]string{"test", "-e", "/tmp/ready"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	port, err := sdk.NewTCPProbe(8080, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := `use IO::Socket::INET; my $l = IO::Socket::INET->new(Listen => 9, LocalAddr => "127.0.0.1", LocalPort => 8080) or die; 1 while $l->accept`
	for name, test := range map[string]struct {
		probe *sdk.Probe
		make  string
	}{"command": {file, "touch /tmp/ready"}, "port": {port, "perl -e '" + server + "' >/dev/null 2>&1 &"}} {
		b := s.create(&sdk.SandboxCreateParams{ReadinessProbe: test.probe})
		if err := b.WaitUntilReady(s.ctx, soon, nil); err == nil {
			t.Errorf("%s: ready before it is", name)
		}
		s.sh(b, test.make)
		if err := b.WaitUntilReady(s.ctx, 30*time.Second, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.create(nil).WaitUntilReady(s.ctx, time.Second, nil); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without a probe: %v", err)
	}
}

func TestAnIdleSandboxEndsAndABusyOneDoesNot(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	busy := s.create(&sdk.SandboxCreateParams{IdleTimeout: time.Second})
	cmd, err := busy.Exec(s.ctx, []string{"cat"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := s.create(&sdk.SandboxCreateParams{IdleTimeout: time.Second}) // later, so that it would end later
	if _, err := b.Wait(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	if r := s.record(b).Result.Status; r != pb.GenericResult_GENERIC_STATUS_IDLE_TIMEOUT {
		t.Errorf("it ended as %v", r)
	}
	if exit, err := busy.Poll(s.ctx, nil); err != nil || exit != nil {
		t.Errorf("the busy one: %v, %v", exit, err)
	}
	if err := cmd.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := busy.Wait(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
}

// record is what is known of a sandbox.
func (s *stand) record(b *sdk.Sandbox) Sandbox {
	s.t.Helper()
	for _, r := range s.Sandboxes() {
		if r.ID == b.SandboxID {
			return r
		}
	}
	s.t.Fatalf("no record of %s", b.SandboxID)
	return Sandbox{}
}

func TestWhatASandboxLeavesIsSavedIfThatWasAskedFor(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	save := map[string]any{"enable_exit_snapshot": true}
	for name, end := range map[string]func(*sdk.Sandbox){
		"terminated": func(b *sdk.Sandbox) { second(b.Terminate(s.ctx, nil)) },
		"over":       func(b *sdk.Sandbox) { b.Stdin.Close() },
	} {
		b := s.create(&sdk.SandboxCreateParams{ExperimentalOptions: save, Command: []string{"sh", "-c", "echo left > /workspace/file; echo ready; cat"}})
		if _, err := io.ReadFull(b.Stdout, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		now := time.Duration(0)
		if _, err := b.ExperimentalGetExitSnapshot(s.ctx, &sdk.SandboxExperimentalGetExitSnapshotParams{Timeout: &now}); !errors.As(err, new(sdk.TimeoutError)) {
			t.Errorf("%s: while it lives: %v", name, err)
		}
		end(b)
		i, err := b.ExperimentalGetExitSnapshot(s.ctx, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := s.sh(s.createFrom(i, nil), "cat /workspace/file"); got != "left\n" {
			t.Errorf("%s: %q", name, got)
		}
	}
	b := s.create(&sdk.SandboxCreateParams{ExperimentalOptions: save})
	if err := s.KillBox(s.ctx, b.SandboxID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ExperimentalGetExitSnapshot(s.ctx, nil); !errors.As(err, new(sdk.SnapshotCreationError)) {
		t.Errorf("one that was lost: %v", err)
	}
	if _, err := s.create(nil).ExperimentalGetExitSnapshot(s.ctx, nil); !errors.As(err, new(sdk.InvalidError)) {
		t.Errorf("one that was not asked for: %v", err)
	}
}

func TestNamedSecretsAreGivenToSandboxes(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	create := func(kind pb.ObjectCreationType, value string) error {
		_, err := s.raw().SecretGetOrCreate(s.authorised(), pb.SecretGetOrCreateRequest_builder{
			DeploymentName: "keys", EnvDict: map[string]string{"KEY": value}, ObjectCreationType: kind,
		}.Build())
		return err
	}
	if _, err := s.client.Secrets.FromName(s.ctx, "keys", nil); !errors.As(err, new(sdk.NotFoundError)) {
		t.Errorf("before it is made: %v", err)
	}
	if err := create(pb.ObjectCreationType_OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS, "first"); err != nil {
		t.Fatal(err)
	}
	if err := create(pb.ObjectCreationType_OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS, "second"); status.Code(err) != codes.AlreadyExists {
		t.Errorf("made twice: %v", err)
	}
	if err := create(pb.ObjectCreationType_OBJECT_CREATION_TYPE_CREATE_IF_MISSING, "third"); err != nil {
		t.Error(err)
	}
	named, err := s.client.Secrets.FromName(s.ctx, "keys", &sdk.SecretFromNameParams{RequiredKeys: []string{"KEY"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Secrets.FromName(s.ctx, "keys", &sdk.SecretFromNameParams{RequiredKeys: []string{"OTHER"}}); err == nil || !strings.Contains(err.Error(), "missing key(s): OTHER") {
		t.Errorf("a key that it does not have: %v", err)
	}
	b := s.create(&sdk.SandboxCreateParams{Secrets: []*sdk.Secret{named}})
	if got := s.sh(b, "echo $KEY"); got != "first\n" {
		t.Errorf("inside: %q", got)
	}
	if err := s.client.Secrets.Delete(s.ctx, "keys", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Sandboxes.Create(s.ctx, s.app, s.image(), &sdk.SandboxCreateParams{Secrets: []*sdk.Secret{named}}); status.Code(err) != codes.NotFound {
		t.Errorf("a secret that is deleted: %v", err)
	}
}

func TestAPortForwardedToIsActivity(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := serveInsideWith(s, &sdk.SandboxCreateParams{IdleTimeout: 2 * time.Second}, 8080)
	c, err := b.CreateConnectToken(s.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := s.boxByID(b.SandboxID).idleFor()
	s.until("it has been idle a while", func() bool { return s.boxByID(b.SandboxID).idleFor() > before+soon })
	r, err := http.NewRequestWithContext(s.ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.Token)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if idle := s.boxByID(b.SandboxID).idleFor(); idle > before+soon {
		t.Errorf("idle for %s after a request", idle)
	}
}
