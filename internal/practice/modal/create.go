package modal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	regionForm = regexp.MustCompile(`^(us|eu|uk|ap|ca|me|sa|af|mx|jp|au)(-[a-z]+)?(-?[0-9]+)?$`)
	clouds     = []string{"", "auto", "aws", "gcp", "oci", "azure"}
)

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

func notFound(format string, args ...any) error {
	return status.Errorf(codes.NotFound, format, args...)
}

// SandboxCreateV2 starts a sandbox and answers when it runs. A call that is
// repeated after an answer that was lost finds the name taken.
func (c *control) SandboxCreateV2(ctx context.Context, r *pb.SandboxCreateV2Request) (*pb.SandboxCreateV2Response, error) {
	record, from, err := c.s.define(r)
	if err != nil {
		return nil, err
	}
	b, err := c.s.admit(record)
	if err != nil {
		return nil, err
	}
	// A caller that leaves does not stop what it asked for.
	c.s.work.Go(func() { c.s.start(b, from) })
	select {
	case <-b.started:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return c.s.createAnswer(ctx, b)
}

func (s *Server) createAnswer(ctx context.Context, b *box) (*pb.SandboxCreateV2Response, error) {
	record := b.snapshot()
	if record.Result.Status == pb.GenericResult_GENERIC_STATUS_INIT_FAILURE {
		return nil, status.Error(codes.Code(record.Result.Exit), record.Result.Why)
	}
	access, err := s.routerAccess(record.ID)
	if err != nil {
		return nil, err
	}
	return pb.SandboxCreateV2Response_builder{
		SandboxId: record.ID, TaskId: record.Task, CommandRouterAccess: access, Metadata: metadataOf(record),
		Tunnels: b.tunnels(false),
	}.Build(), nil
}

func metadataOf(r Sandbox) *pb.SandboxHandleMetadata {
	return pb.SandboxHandleMetadata_builder{Result: r.Result.proto(), AppId: r.App}.Build()
}

// define makes the record of what is asked for and finds the filesystem.
func (s *Server) define(r *pb.SandboxCreateV2Request) (Sandbox, sandbox.Ref, error) {
	d := r.GetDefinition()
	if err := s.validate(r.GetAppId(), d); err != nil {
		return Sandbox{}, "", err
	}
	if err := checkTags(r.GetTags()); err != nil {
		return Sandbox{}, "", err
	}
	img, err := s.usableImage(d.GetImageId())
	if err != nil {
		return Sandbox{}, "", err
	}
	env := maps.Clone(img.Env)
	if env == nil {
		env = map[string]string{}
	}
	if err := s.resolve(env, r.GetSecretSources()); err != nil {
		return Sandbox{}, "", err
	}
	record := Sandbox{
		ID: newID("sb"), Task: newID("ta"), App: r.GetAppId(), Name: d.GetName(), Image: img.ID, Command: d.GetEntrypointArgs(),
		Env: env, Tags: tagMap(r.GetTags()), Workdir: d.GetWorkdir(),
		CPU: float64(d.GetResources().GetMilliCpu()) / 1000, MemMiB: int(d.GetResources().GetMemoryMb()),
		MemLimitMiB: int(d.GetResources().GetMemoryMbMax()),
		Timeout:     time.Duration(d.GetTimeoutSecs()) * time.Second,
		IdleTimeout: time.Duration(d.GetIdleTimeoutSecs()) * time.Second,
		Cloud:       d.GetCloudProviderStr(), Regions: d.GetSchedulerPlacement().GetRegions(),
		Network:      networkOf(d.GetNetworkAccess(), d.GetBlockNetwork()),
		Probe:        probeOf(d.GetReadinessProbe()),
		ExitSnapshot: d.GetExperimentalOptionsV2()["enable_exit_snapshot"] == "true",
	}
	if record.Workdir == "" {
		record.Workdir = img.Workdir
	}
	if record.Workdir == "" {
		record.Workdir = "/"
	}
	for _, p := range d.GetOpenPorts().GetPorts() {
		record.Ports = append(record.Ports, Port{Port: int(p.GetPort()), Unencrypted: p.GetUnencrypted()})
	}
	return record, img.Ref, nil
}

// tagForm is what Modal's Python SDK lets through as a tag's name or value. The
// other SDKs do not look, and whether the server does is not documented.
var tagForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)

func checkTags(tags []*pb.SandboxTag) error {
	for _, t := range tags {
		for _, word := range []string{t.GetTagName(), t.GetTagValue()} {
			if !tagForm.MatchString(word) {
				return invalid("Invalid tag: %q. Tags may contain only alphanumeric characters, dashes, periods, or underscores, "+
					"and must be 63 characters or less.", word)
			}
		}
	}
	return nil
}

// mostArguments is how many bytes a command's arguments may have together. The
// SDKs refuse more for commands; more than twice that fails at Modal.
const mostArguments = 1 << 16

func checkArguments(args []string) error {
	all := 0
	for _, arg := range args {
		all += len(arg)
	}
	if all > mostArguments {
		return invalid("Total length of CMD arguments must be less than %d bytes. Got %d bytes.", mostArguments, all)
	}
	return nil
}

func tagMap(tags []*pb.SandboxTag) map[string]string {
	m := map[string]string{}
	for _, t := range tags {
		m[t.GetTagName()] = t.GetTagValue()
	}
	return m
}

// validate refuses what Modal refuses, and what the stand-in cannot do.
func (s *Server) validate(app string, d *pb.Sandbox) error {
	s.mu.Lock()
	known := s.apps[app] != nil
	s.mu.Unlock()
	timeout := time.Duration(d.GetTimeoutSecs()) * time.Second
	switch {
	case !known:
		return notFound("App %s not found", app)
	case d.GetName() != "" && !nameForm.MatchString(d.GetName()):
		return invalid("Invalid Sandbox name: %q. Names may contain only alphanumeric characters, dashes, periods, and underscores, "+
			"and must be shorter than 64 characters.", d.GetName())
	case timeout <= 0 || timeout > lifetimeMost:
		return invalid("Sandbox timeout must be between 1 second and 24 hours, got %s.", timeout)
	case d.HasWorkdir() && !path.IsAbs(d.GetWorkdir()):
		return invalid("Workdir must be an absolute path, got %q.", d.GetWorkdir())
	case !slices.Contains(clouds, d.GetCloudProviderStr()):
		return invalid("Unknown cloud provider: %s", d.GetCloudProviderStr())
	}
	for _, region := range d.GetSchedulerPlacement().GetRegions() {
		if !regionForm.MatchString(region) {
			return invalid("Unknown region: %s", region)
		}
	}
	for _, p := range d.GetOpenPorts().GetPorts() {
		if p.GetPort() < 1 || p.GetPort() > 65535 {
			return invalid("Port must be in [1, 65535], got %d.", p.GetPort())
		}
	}
	if err := checkArguments(d.GetEntrypointArgs()); err != nil {
		return err
	}
	if err := checkNetwork(d.GetNetworkAccess()); err != nil {
		return err
	}
	return unsupported(d)
}

// unsupported names what the stand-in does not do, rather than not doing it silently.
func unsupported(d *pb.Sandbox) error {
	what := ""
	switch {
	case len(d.GetVolumeMounts()) > 0:
		what = "volumes"
	case len(d.GetCloudBucketMounts()) > 0:
		what = "bucket mounts"
	case d.GetResources().GetGpuConfig().GetCount() > 0:
		what = "GPUs"
	case d.GetEnableSnapshot():
		what = "memory snapshots"
	case d.GetIncludeOidcIdentityToken():
		what = "OIDC identity tokens"
	case d.HasExperimentalOutboundPolicy() || d.HasOutboundPolicy():
		what = "outbound policies that replace headers"
	}
	if what == "" {
		return nil
	}
	return status.Errorf(codes.Unimplemented, "The stand-in for Modal does not have %s.", what)
}

// resolve adds the variables of secrets, the later ones over the earlier.
func (s *Server) resolve(env map[string]string, sources []*pb.SecretSource) error {
	for _, source := range sources {
		if id := source.GetSecretId(); id != "" {
			s.mu.Lock()
			k := s.secrets[id]
			s.mu.Unlock()
			if k == nil {
				return notFound("Secret %s not found", id)
			}
			maps.Copy(env, k.Env)
			continue
		}
		maps.Copy(env, source.GetEnv().GetContents())
	}
	return nil
}

// admit reserves the name and keeps the record.
func (s *Server) admit(record Sandbox) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if record.Name != "" && s.liveNamed(record.App, record.Name) != nil {
		return nil, status.Errorf(codes.AlreadyExists, "Sandbox with name '%s' already exists in App '%s'",
			record.Name, s.apps[record.App].Name)
	}
	// Lists are paged by this time, so no two may have the same.
	record.Created = time.Now().UTC().Truncate(time.Microsecond)
	if !record.Created.After(s.lastCreated) {
		record.Created = s.lastCreated.Add(time.Microsecond)
	}
	if err := s.save(kindSandboxes, record.ID, record); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	s.lastCreated = record.Created
	b := newBox(record)
	s.sandboxes[record.ID] = b
	return b, nil
}

// liveNamed finds the live sandbox of a name; s.mu is held.
func (s *Server) liveNamed(app, name string) *box {
	for _, b := range s.sandboxes {
		if r := b.snapshot(); r.App == app && r.Name == name && r.Ended.IsZero() {
			return b
		}
	}
	return nil
}

// start runs the box of an admitted sandbox.
func (s *Server) start(b *box, from sandbox.Ref) {
	record := b.snapshot()
	spec := sandbox.Spec{
		Name: record.ID, From: from, Tags: map[string]string{"sandbox": record.ID},
		Command:  append([]string{s.binary, roleGuest, record.Workdir}, record.Command...),
		Env:      s.environment(record),
		CPU:      record.CPU,
		MemMiB:   record.MemLimitMiB,
		Lifetime: record.Timeout + lifetimeGrace,
	}
	running, err := s.boxes.Start(s.ctx, spec)
	if err != nil {
		s.fail(b, err)
		return
	}
	b.mu.Lock()
	b.local = running
	b.mu.Unlock()
	err = errors.Join(s.change(b, func(r *Sandbox) { r.Box = running.ID() }), s.openTunnels(b))
	if err != nil {
		s.log.Error("starting a sandbox", "sandbox", record.ID, "error", err)
	}
	close(b.started)
	s.watch(b)
}

// environment is what processes of a sandbox get, with what Modal adds.
func (s *Server) environment(r Sandbox) map[string]string {
	env := map[string]string{
		"MODAL_SANDBOX_ID": r.ID, "MODAL_TASK_ID": r.Task, "MODAL_IMAGE_ID": r.Image,
		"MODAL_ENVIRONMENT": Environment, "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_AWS", "MODAL_REGION": "us-east-1",
	}
	if len(r.Regions) > 0 {
		env["MODAL_REGION"] = r.Regions[0]
	}
	maps.Copy(env, r.Env)
	return env
}

// fail ends a sandbox that could not be started; the caller of the create gets
// the code and the sentence.
func (s *Server) fail(b *box, err error) {
	code, why := codes.Internal, fmt.Sprintf("Sandbox failed to start: %v", err)
	switch {
	case errors.Is(err, sandbox.ErrCapacity):
		code, why = codes.ResourceExhausted, "Insufficient capacity to create sandbox."
	case errors.Is(err, sandbox.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, sandbox.ErrGone):
		code, why = codes.NotFound, "Image not found"
	case s.ctx.Err() != nil:
		code = codes.Unavailable
	}
	result := Result{Status: pb.GenericResult_GENERIC_STATUS_INIT_FAILURE, Exit: int(code), Why: why}
	if err := s.finish(context.WithoutCancel(s.ctx), b, result); err != nil {
		s.log.Error("ending a sandbox that did not start", "error", err)
	}
	close(b.started)
}
