package modal

import (
	"context"
	"slices"
	"strings"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// control is Modal's control plane. What it does not have answers Unimplemented.
type control struct {
	pb.UnimplementedModalClientServer
	s *Server
}

// App is a named app.
type App struct {
	ID, Name string
	Created  time.Time
}

// secret is a set of variables.
type secret struct {
	ID, Name string // the name is empty if it is ephemeral
	Env      map[string]string
	Created  time.Time
}

func checkEnvironment(name string) error {
	if name == "" || name == Environment {
		return nil
	}
	return notFound("Environment '%s' not found. This workspace has the one environment '%s'.", name, Environment)
}

// EnvironmentGetOrCreate finds the one environment.
func (c *control) EnvironmentGetOrCreate(_ context.Context, r *pb.EnvironmentGetOrCreateRequest) (*pb.EnvironmentGetOrCreateResponse, error) {
	if err := checkEnvironment(r.GetDeploymentName()); err != nil {
		return nil, err
	}
	return pb.EnvironmentGetOrCreateResponse_builder{
		EnvironmentId: "en-practice",
		Metadata: pb.EnvironmentMetadata_builder{
			Name:     Environment,
			Settings: pb.EnvironmentSettings_builder{ImageBuilderVersion: "2025.06"}.Build(),
		}.Build(),
	}.Build(), nil
}

// AppGetOrCreate finds an app by name, or makes it if asked.
func (c *control) AppGetOrCreate(_ context.Context, r *pb.AppGetOrCreateRequest) (*pb.AppGetOrCreateResponse, error) {
	if err := checkEnvironment(r.GetEnvironmentName()); err != nil {
		return nil, err
	}
	if !nameForm.MatchString(r.GetAppName()) {
		return nil, invalid("Invalid App name: %q.", r.GetAppName())
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	a := c.s.appNamed(r.GetAppName())
	if a == nil {
		if r.GetObjectCreationType() != pb.ObjectCreationType_OBJECT_CREATION_TYPE_CREATE_IF_MISSING {
			return nil, notFound("App '%s' not found in environment '%s'", r.GetAppName(), Environment)
		}
		a = &App{ID: newID("ap"), Name: r.GetAppName(), Created: time.Now().UTC()}
		if err := c.s.save(kindApps, a.ID, a); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		c.s.apps[a.ID] = a
	}
	return pb.AppGetOrCreateResponse_builder{
		AppId: a.ID, HandleMetadata: pb.AppHandleMetadata_builder{AppId: a.ID, Description: a.Name, EnvironmentName: Environment}.Build(),
	}.Build(), nil
}

// appNamed is called with s.mu held.
func (s *Server) appNamed(name string) *App {
	for _, a := range s.apps {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// SecretGetOrCreate finds a secret by name, or makes a named or an ephemeral one.
func (c *control) SecretGetOrCreate(_ context.Context, r *pb.SecretGetOrCreateRequest) (*pb.SecretGetOrCreateResponse, error) {
	if err := checkEnvironment(r.GetEnvironmentName()); err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	k := c.s.secretNamed(r.GetDeploymentName())
	switch r.GetObjectCreationType() {
	case pb.ObjectCreationType_OBJECT_CREATION_TYPE_UNSPECIFIED:
		if k == nil {
			return nil, notFound("Secret '%s' not found in environment '%s'", r.GetDeploymentName(), Environment)
		}
	case pb.ObjectCreationType_OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
		if k != nil {
			return nil, status.Errorf(codes.AlreadyExists, "Secret '%s' already exists", k.Name)
		}
		fallthrough
	default:
		var err error
		if k, err = c.s.putSecret(k, r); err != nil {
			return nil, err
		}
	}
	missing := slices.DeleteFunc(slices.Clone(r.GetRequiredKeys()), func(key string) bool {
		_, ok := k.Env[key]
		return ok
	})
	if len(missing) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "Secret is missing key(s): %s", strings.Join(missing, ", "))
	}
	return pb.SecretGetOrCreateResponse_builder{SecretId: k.ID}.Build(), nil
}

// putSecret makes a secret or, of the kinds that overwrite, changes old; s.mu is held.
func (s *Server) putSecret(old *secret, r *pb.SecretGetOrCreateRequest) (*secret, error) {
	kind := r.GetObjectCreationType()
	if old != nil && kind == pb.ObjectCreationType_OBJECT_CREATION_TYPE_CREATE_IF_MISSING {
		return old, nil
	}
	k := &secret{ID: newID("st"), Name: r.GetDeploymentName(), Env: r.GetEnvDict(), Created: time.Now().UTC()}
	if kind == pb.ObjectCreationType_OBJECT_CREATION_TYPE_EPHEMERAL {
		k.Name = ""
	} else if old != nil {
		k.ID = old.ID
	}
	if err := s.save(kindSecrets, k.ID, k); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	s.secrets[k.ID] = k
	return k, nil
}

// secretNamed is called with s.mu held.
func (s *Server) secretNamed(name string) *secret {
	for _, k := range s.secrets {
		if k.Name == name && name != "" {
			return k
		}
	}
	return nil
}

// SecretDelete forgets a secret.
func (c *control) SecretDelete(_ context.Context, r *pb.SecretDeleteRequest) (*emptypb.Empty, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.secrets[r.GetSecretId()] == nil {
		return nil, notFound("Secret %s not found", r.GetSecretId())
	}
	if err := c.s.forget(kindSecrets, r.GetSecretId()); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	delete(c.s.secrets, r.GetSecretId())
	return &emptypb.Empty{}, nil
}

// known finds a sandbox, ended or not.
func (c *control) known(id string) (*box, error) {
	if b := c.s.boxByID(id); b != nil {
		return b, nil
	}
	return nil, notFound("Sandbox %s not found", id)
}

// SandboxGetTaskIdV2 gives the task of a sandbox.
func (c *control) SandboxGetTaskIdV2(ctx context.Context, r *pb.SandboxGetTaskIdRequest) (*pb.SandboxGetTaskIdResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	select {
	case <-b.started:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	record := b.snapshot()
	return pb.SandboxGetTaskIdResponse_builder{TaskId: &record.Task, TaskResult: record.Result.proto()}.Build(), nil
}

// SandboxGetCommandRouterAccess gives the way to the commands of a sandbox.
func (c *control) SandboxGetCommandRouterAccess(_ context.Context, r *pb.SandboxGetCommandRouterAccessRequest) (*pb.SandboxGetCommandRouterAccessResponse, error) {
	b := c.s.boxByID(r.GetSandboxId())
	if b == nil {
		b = c.s.boxByTask(r.GetTaskId())
	}
	if b == nil {
		return nil, notFound("Sandbox %s not found", r.GetSandboxId())
	}
	access, err := c.s.routerAccess(b.id)
	if err != nil {
		return nil, err
	}
	return pb.SandboxGetCommandRouterAccessResponse_builder{Jwt: access.GetJwt(), Url: access.GetUrl()}.Build(), nil
}

// SandboxWaitV2 waits for the end of a sandbox, for the caller's time at most.
func (c *control) SandboxWaitV2(ctx context.Context, r *pb.SandboxWaitRequest) (*pb.SandboxWaitResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(time.Duration(float64(r.GetTimeout()) * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-b.done:
	case <-timer.C:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	record := b.snapshot()
	return pb.SandboxWaitResponse_builder{Result: record.Result.proto(), Metadata: metadataOf(record)}.Build(), nil
}

// SandboxTerminateV2 ends a sandbox. One that has ended says how it did.
func (c *control) SandboxTerminateV2(ctx context.Context, r *pb.SandboxTerminateRequest) (*pb.SandboxTerminateResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	select {
	case <-b.started:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if record := b.snapshot(); !record.Ended.IsZero() {
		return pb.SandboxTerminateResponse_builder{ExistingResult: record.Result.proto()}.Build(), nil
	}
	// A caller that leaves does not stop what it asked for.
	err = c.s.finish(context.WithoutCancel(ctx), b, Result{Status: pb.GenericResult_GENERIC_STATUS_TERMINATED, Exit: exitKilled})
	if err != nil {
		return nil, statusOf(err)
	}
	return &pb.SandboxTerminateResponse{}, nil
}

// SandboxGetFromNameV2 finds the live sandbox of a name, or the last one.
func (c *control) SandboxGetFromNameV2(_ context.Context, r *pb.SandboxGetFromNameRequest) (*pb.SandboxGetFromNameResponse, error) {
	if err := checkEnvironment(r.GetEnvironmentName()); err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	app := c.s.appNamed(r.GetAppName())
	c.s.mu.Unlock()
	for _, record := range c.s.Sandboxes() { // newest first
		if app != nil && record.App == app.ID && record.Name == r.GetSandboxName() && record.Name != "" &&
			(record.Ended.IsZero() || r.GetIncludeTerminated()) {
			return pb.SandboxGetFromNameResponse_builder{SandboxId: record.ID, Metadata: metadataOf(record)}.Build(), nil
		}
	}
	return nil, notFound("Sandbox '%s' not found in App '%s'", r.GetSandboxName(), r.GetAppName())
}

// SandboxGetFromName finds none: there are no sandboxes of the older kind.
func (c *control) SandboxGetFromName(_ context.Context, r *pb.SandboxGetFromNameRequest) (*pb.SandboxGetFromNameResponse, error) {
	return nil, notFound("Sandbox '%s' not found in App '%s'", r.GetSandboxName(), r.GetAppName())
}

// SandboxSetName names a sandbox that has no name.
func (c *control) SandboxSetName(_ context.Context, r *pb.SandboxSetNameRequest) (*pb.SandboxSetNameResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	if !nameForm.MatchString(r.GetName()) {
		return nil, invalid("Invalid Sandbox name: %q.", r.GetName())
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	record := b.snapshot()
	switch other := c.s.liveNamed(record.App, r.GetName()); {
	case other == b:
		return &pb.SandboxSetNameResponse{}, nil
	case other != nil:
		return nil, status.Errorf(codes.AlreadyExists, "Sandbox with name '%s' already exists", r.GetName())
	case record.Name != "" || !record.Ended.IsZero():
		return nil, status.Errorf(codes.FailedPrecondition, "Sandbox %s has a name already or has finished", record.ID)
	}
	if err := c.s.change(b, func(record *Sandbox) { record.Name = r.GetName() }); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &pb.SandboxSetNameResponse{}, nil
}

// seconds is a time as Modal sends it.
func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// SandboxListV2 gives sandboxes, newest first, that were created before a time.
func (c *control) SandboxListV2(_ context.Context, r *pb.SandboxListRequest) (*pb.SandboxListResponse, error) {
	if err := checkEnvironment(r.GetEnvironmentName()); err != nil {
		return nil, err
	}
	if err := checkTags(r.GetTags()); err != nil {
		return nil, err
	}
	want := tagMap(r.GetTags())
	var list []*pb.SandboxInfo
	for _, record := range c.s.Sandboxes() {
		switch {
		case r.GetAppId() != "" && record.App != r.GetAppId(),
			!record.Ended.IsZero() && !r.GetIncludeFinished(),
			r.GetBeforeTimestamp() > 0 && seconds(record.Created) >= r.GetBeforeTimestamp(),
			!carries(record.Tags, want):
			continue
		}
		list = append(list, infoOf(record))
		if len(list) == c.s.pageSize {
			break
		}
	}
	return pb.SandboxListResponse_builder{Sandboxes: list}.Build(), nil
}

func carries(have, want map[string]string) bool {
	for name, value := range want {
		if got, ok := have[name]; !ok || got != value {
			return false
		}
	}
	return true
}

func infoOf(r Sandbox) *pb.SandboxInfo {
	return pb.SandboxInfo_builder{
		Id: r.ID, CreatedAt: seconds(r.Created), AppId: r.App, Tags: tagList(r.Tags), Name: r.Name, ImageId: r.Image,
		Regions: r.Regions, TimeoutSecs: uint32(r.Timeout / time.Second), Metadata: metadataOf(r),
		TaskInfo: pb.TaskInfo_builder{Id: r.Task, StartedAt: seconds(r.Created), Result: r.Result.proto()}.Build(),
	}.Build()
}

func tagList(tags map[string]string) []*pb.SandboxTag {
	var list []*pb.SandboxTag
	for name, value := range tags {
		list = append(list, pb.SandboxTag_builder{TagName: name, TagValue: value}.Build())
	}
	slices.SortFunc(list, func(a, b *pb.SandboxTag) int {
		if a.GetTagName() < b.GetTagName() {
			return -1
		}
		return 1
	})
	return list
}

// SandboxTagsGetV2 gives a sandbox's tags.
func (c *control) SandboxTagsGetV2(_ context.Context, r *pb.SandboxTagsGetRequest) (*pb.SandboxTagsGetResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	return pb.SandboxTagsGetResponse_builder{Tags: tagList(b.snapshot().Tags)}.Build(), nil
}

// SandboxTagsSetV2 replaces a sandbox's tags.
func (c *control) SandboxTagsSetV2(_ context.Context, r *pb.SandboxTagsSetRequest) (*emptypb.Empty, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	if err := checkTags(r.GetTags()); err != nil {
		return nil, err
	}
	if err := c.s.change(b, func(record *Sandbox) { record.Tags = tagMap(r.GetTags()) }); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &emptypb.Empty{}, nil
}

// What Modal gives a sandbox that asks for nothing.
const (
	defaultCPU    = 0.125
	defaultMemMiB = 128
)

// SandboxGetResourceUsage gives what a sandbox has cost: what was asked for,
// over its time. Modal takes what was used instead if that is more.
func (c *control) SandboxGetResourceUsage(_ context.Context, r *pb.SandboxGetResourceUsageRequest) (*pb.SandboxGetResourceUsageResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	record := b.snapshot()
	end := record.Ended
	if end.IsZero() {
		end = time.Now()
	}
	life := float64(end.Sub(record.Created))
	cpu, memory := record.CPU, record.MemMiB
	if cpu == 0 {
		cpu = defaultCPU
	}
	if memory == 0 {
		memory = defaultMemMiB
	}
	return pb.SandboxGetResourceUsageResponse_builder{
		CpuCoreNanosecs: uint64(cpu * life), MemGibNanosecs: uint64(float64(memory) / 1024 * life),
	}.Build(), nil
}
