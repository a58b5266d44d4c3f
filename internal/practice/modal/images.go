package modal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"openinspect/sandbox"
)

// Image is what is known of an image; tests and pages read it.
type Image struct {
	ID       string
	Registry string // the tag it is built from, directly or by way of Base
	Base     string // the image it is built or was saved from
	Commands []string
	Steps    []Step
	Env      map[string]string
	Workdir  string
	// Ref is the saved filesystem; empty: the host's own files.
	Ref     sandbox.Ref
	Sandbox string // that it is a snapshot of
	Created time.Time
	Expires time.Time // zero: never
	Result  Result    // unspecified while it is built
	Log     []string  // what the build printed, by piece
	Recipe  string    // hash of what it is made from: a build of the same finds it
	// Snapshot is the id that the caller gave the snapshot: a repeated call finds it.
	Snapshot string
}

// image is an Image with its build.
type image struct {
	mu      sync.Mutex // guards what follows
	record  Image
	changed chan struct{} // closed and replaced when record changes
}

func newImage(record Image) *image { return &image{record: record, changed: make(chan struct{})} }

// snapshot returns a copy of the record.
func (i *image) snapshot() Image {
	i.mu.Lock()
	defer i.mu.Unlock()
	r := i.record
	r.Commands, r.Steps, r.Log, r.Env = slices.Clone(r.Commands), slices.Clone(r.Steps), slices.Clone(r.Log), maps.Clone(r.Env)
	return r
}

// since returns what a build printed after n pieces, its result if it has one,
// and what tells of the next change.
func (i *image) since(n int) (pieces []string, result Result, changed <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.record.Log[min(n, len(i.record.Log)):]), i.record.Result, i.changed
}

func (i *image) update(change func(*Image)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(&i.record)
	close(i.changed)
	i.changed = make(chan struct{})
}

// Images returns all images, newest first; expired ones until they are removed.
func (s *Server) Images() []Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Image, 0, len(s.images))
	for _, i := range s.images {
		record := i.snapshot()
		list = append(list, record)
	}
	slices.SortFunc(list, func(a, b Image) int { return b.Created.Compare(a.Created) })
	return list
}

// findImage finds an image that has not expired.
func (s *Server) findImage(id string) (*image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.images[id]
	if i == nil {
		return nil, notFound("Image %s not found", id)
	}
	if record := i.snapshot(); !record.Expires.IsZero() && time.Now().After(record.Expires) {
		return nil, notFound("Image %s not found: it expired at %s", id, record.Expires.Format(time.RFC3339))
	}
	return i, nil
}

// usableImage is findImage of one that is built.
func (s *Server) usableImage(id string) (Image, error) {
	i, err := s.findImage(id)
	if err != nil {
		return Image{}, err
	}
	record := i.snapshot()
	if record.Result.Status != pb.GenericResult_GENERIC_STATUS_SUCCESS {
		return Image{}, status.Errorf(codes.FailedPrecondition, "Image %s is not built", id)
	}
	return record, nil
}

// Expire ends an image's time now, as its TTL would.
func (s *Server) Expire(id string) error {
	i, err := s.findImage(id)
	if err != nil {
		return err
	}
	i.update(func(r *Image) { r.Expires = time.Now() })
	record := i.snapshot()
	return s.save(kindImages, id, record)
}

// ImageFromId finds an image.
func (c *control) ImageFromId(_ context.Context, r *pb.ImageFromIdRequest) (*pb.ImageFromIdResponse, error) {
	if _, err := c.s.findImage(r.GetImageId()); err != nil {
		return nil, err
	}
	return pb.ImageFromIdResponse_builder{ImageId: r.GetImageId()}.Build(), nil
}

// ImageDelete forgets an image. Sandboxes that run from it go on.
func (c *control) ImageDelete(ctx context.Context, r *pb.ImageDeleteRequest) (*emptypb.Empty, error) {
	i, err := c.s.findImage(r.GetImageId())
	if err != nil {
		return nil, err
	}
	if record := i.snapshot(); record.Result.Status == pb.GenericResult_GENERIC_STATUS_UNSPECIFIED {
		return nil, status.Errorf(codes.FailedPrecondition, "Image %s is being built", record.ID)
	}
	if err := c.s.dropImage(context.WithoutCancel(ctx), i); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &emptypb.Empty{}, nil
}

func (s *Server) dropImage(ctx context.Context, i *image) error {
	record := i.snapshot()
	if record.Ref != "" {
		if err := s.boxes.Delete(ctx, record.Ref); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.images, record.ID)
	return s.forget(kindImages, record.ID)
}

// ImageGetOrCreate finds the image of a recipe or begins to build it.
func (c *control) ImageGetOrCreate(_ context.Context, r *pb.ImageGetOrCreateRequest) (*pb.ImageGetOrCreateResponse, error) {
	record, env, err := c.s.recipe(r)
	if err != nil {
		return nil, err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if !r.GetForceBuild() {
		if found := c.s.cached(record.Recipe); found != nil {
			return pb.ImageGetOrCreateResponse_builder{ImageId: found.ID, Result: found.Result.proto()}.Build(), nil
		}
	}
	i := newImage(record)
	if err := c.s.save(kindImages, record.ID, record); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	c.s.images[record.ID] = i
	c.s.work.Go(func() { c.s.build(c.s.ctx, i, env) })
	return pb.ImageGetOrCreateResponse_builder{ImageId: record.ID}.Build(), nil
}

// cached finds the newest image of a recipe that is built or being built; s.mu is held.
func (s *Server) cached(recipe string) *Image {
	var newest *Image
	for _, i := range s.images {
		record := i.snapshot()
		usable := record.Result.Status == pb.GenericResult_GENERIC_STATUS_SUCCESS || record.Result.Status == pb.GenericResult_GENERIC_STATUS_UNSPECIFIED
		if record.Recipe == recipe && usable && (newest == nil || record.Created.After(newest.Created)) {
			newest = &record
		}
	}
	return newest
}

// recipe makes the record of an image to build, and the variables of its secrets.
func (s *Server) recipe(r *pb.ImageGetOrCreateRequest) (Image, map[string]string, error) {
	d := r.GetImage()
	record := Image{ID: newID("im"), Commands: d.GetDockerfileCommands(), Env: map[string]string{}, Created: time.Now().UTC()}
	env := maps.Clone(d.GetBuildArgs())
	if env == nil {
		env = map[string]string{}
	}
	var sources []*pb.SecretSource
	for _, id := range d.GetSecretIds() {
		sources = append(sources, pb.SecretSource_builder{SecretId: &id}.Build())
	}
	if err := s.resolve(env, sources); err != nil {
		return record, nil, err
	}
	_, err := parseDockerfile(record.Commands)
	if errors.Is(err, errLocalContext) { // what else is wrong, the build says
		return record, nil, invalid("%v", err)
	}
	switch bases := d.GetBaseImages(); len(bases) {
	case 0:
	case 1:
		if _, err := s.usableImage(bases[0].GetImageId()); err != nil {
			return record, nil, err
		}
		record.Base = bases[0].GetImageId()
	default:
		return record, nil, status.Error(codes.Unimplemented, "The stand-in for Modal builds from one base image.")
	}
	if d.GetBuildFunctionDef() != "" || len(d.GetContextFiles()) > 0 || d.GetContextMountId() != "" {
		return record, nil, status.Error(codes.Unimplemented, "The stand-in for Modal builds images from Dockerfile commands only.")
	}
	raw, err := json.Marshal([]any{record.Base, record.Commands, env, d.GetGpuConfig().GetGpuType(), r.GetBuilderVersion()})
	if err != nil {
		return record, nil, status.Error(codes.Internal, err.Error())
	}
	sum := sha256.Sum256(raw)
	record.Recipe = hex.EncodeToString(sum[:])
	return record, env, nil
}

// ImageJoinStreaming streams what a build prints, and at its end the result.
func (c *control) ImageJoinStreaming(r *pb.ImageJoinStreamingRequest, out grpc.ServerStreamingServer[pb.ImageJoinStreamingResponse]) error {
	i, err := c.s.findImage(r.GetImageId())
	if err != nil {
		return err
	}
	timeout := time.NewTimer(time.Duration(float64(r.GetTimeout()) * float64(time.Second)))
	defer timeout.Stop()
	sent := entryNumber(r.GetLastEntryId())
	for {
		pieces, result, changed := i.since(sent)
		for _, text := range pieces {
			sent++
			log := pb.TaskLogs_builder{
				Data: text, Timestamp: seconds(time.Now()), FileDescriptor: pb.FileDescriptor_FILE_DESCRIPTOR_STDOUT,
			}.Build()
			if err := out.Send(pb.ImageJoinStreamingResponse_builder{TaskLogs: []*pb.TaskLogs{log}, EntryId: entryID(sent)}.Build()); err != nil {
				return err
			}
		}
		if done := result.proto(); done != nil {
			return out.Send(pb.ImageJoinStreamingResponse_builder{Result: done, EntryId: entryID(sent), Eof: true}.Build())
		}
		select {
		case <-changed:
		case <-timeout.C:
			return nil // the caller joins again
		case <-out.Context().Done():
			return status.FromContextError(out.Context().Err()).Err()
		}
	}
}

// Entries are numbered from 1, with as many digits as sort well.
const entryDigits = 10

func entryID(n int) string {
	digits := make([]byte, entryDigits)
	for i := range digits {
		digits[entryDigits-1-i] = byte('0' + n%10)
		n /= 10
	}
	return string(digits)
}

func entryNumber(id string) int {
	n := 0
	for _, c := range strings.TrimLeft(id, "0") {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}
