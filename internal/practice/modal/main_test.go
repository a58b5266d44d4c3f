package modal

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc/metadata"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envServe); dir != "" {
		serveAlone(dir)
	}
	goleak.VerifyTestMain(m)
}

// patience bounds each test's waits.
const patience = 2 * time.Minute

// stand is a stand-in that runs, and a client of Modal's own SDK.
type stand struct {
	*Server
	t      *testing.T
	dir    string
	ctx    context.Context
	client *sdk.Client
	app    *sdk.App
	stop   func()
}

// open starts a stand-in in a new folder. Its sandboxes end with the test.
func open(t *testing.T, o Options) *stand {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s := &stand{t: t, dir: t.TempDir(), ctx: ctx}
	t.Cleanup(func() {
		defer cancel()
		if s.stop == nil {
			s.start(o)
		}
		for _, record := range s.Sandboxes() {
			if err := s.KillBox(ctx, record.ID); err != nil {
				t.Errorf("ending a sandbox: %v", err)
			}
		}
		s.end()
	})
	s.start(o)
	return s
}

// start opens the folder and serves it.
func (s *stand) start(o Options) {
	s.t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	server, err := Open(s.ctx, s.dir, o)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := server.Run(ctx); err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	s.Server, s.client = server, connect(s.t, server.URL(), TokenSecret)
	s.stop = func() {
		s.client.Close()
		cancel()
		run.Wait()
	}
	s.app, err = s.client.Apps.FromName(s.ctx, "inspect", &sdk.AppFromNameParams{CreateIfMissing: true})
	if err != nil {
		s.t.Fatal(err)
	}
}

// end ends the process of the stand-in; its sandboxes live on.
func (s *stand) end() {
	s.stop()
	s.stop = nil
}

// environment guards MODAL_SERVER_URL, which the SDK reads once, at construction.
var environment sync.Mutex

// connect makes a client as the product does: by the environment.
func connect(t *testing.T, url, secret string) *sdk.Client {
	t.Helper()
	return connectWith(t, url, &sdk.ClientParams{TokenID: TokenID, TokenSecret: secret, Logger: slog.New(slog.DiscardHandler)})
}

func connectWith(t *testing.T, url string, params *sdk.ClientParams) *sdk.Client {
	t.Helper()
	environment.Lock()
	defer environment.Unlock()
	for name, value := range map[string]string{
		"MODAL_SERVER_URL": url, "MODAL_CONFIG_PATH": "/dev/null", "MODAL_SANDBOX_CHANNEL_IDLE_TIMEOUT": "1",
	} {
		if err := os.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
	}
	c, err := sdk.NewClientWithOptions(params)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// image is a base image from a registry.
func (s *stand) image() *sdk.Image {
	s.t.Helper()
	i, err := s.client.Images.FromRegistry("debian:12", nil).Build(s.ctx, s.app, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// create creates a sandbox that has to start.
func (s *stand) create(p *sdk.SandboxCreateParams) *sdk.Sandbox { return s.createFrom(s.image(), p) }

func (s *stand) createFrom(i *sdk.Image, p *sdk.SandboxCreateParams) *sdk.Sandbox {
	s.t.Helper()
	b, err := s.client.Sandboxes.Create(s.ctx, s.app, i, p)
	if err != nil {
		s.t.Fatalf("creating a sandbox: %v", err)
	}
	s.t.Cleanup(func() { b.Detach() })
	return b
}

// sh runs a shell command that has to succeed and returns its output.
func (s *stand) sh(b *sdk.Sandbox, command string) string {
	s.t.Helper()
	out, errs, exit := s.exec(b, nil, "sh", "-c", command)
	if exit != 0 {
		s.t.Fatalf("%s: exit %d: %s", command, exit, errs)
	}
	return out
}

func (s *stand) exec(b *sdk.Sandbox, p *sdk.SandboxExecParams, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	cmd, err := b.Exec(s.ctx, args, p)
	if err != nil {
		s.t.Fatalf("running %v: %v", args, err)
	}
	out, err := io.ReadAll(cmd.Stdout)
	if err != nil {
		s.t.Fatalf("reading the output of %v: %v", args, err)
	}
	errs, err := io.ReadAll(cmd.Stderr)
	if err != nil {
		s.t.Fatalf("reading the errors of %v: %v", args, err)
	}
	exit, err = cmd.Wait(s.ctx, nil)
	if err != nil {
		s.t.Fatalf("waiting for %v: %v", args, err)
	}
	return string(out), string(errs), exit
}

// authorised is a context for raw calls.
func (s *stand) authorised() context.Context {
	s.t.Helper()
	token, err := s.sign(claims{Purpose: forControl}, time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	return metadata.AppendToOutgoingContext(s.ctx,
		"x-modal-token-id", TokenID, "x-modal-token-secret", TokenSecret, "x-modal-auth-token", token)
}
