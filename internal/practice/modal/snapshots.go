package modal

import (
	"context"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

// snapshotCall is one snapshot under way: calls of the same id wait for it.
type snapshotCall struct {
	done  chan struct{}
	image string
	err   error
}

// TaskSnapshotFilesystem saves the filesystem of a running sandbox as an image.
// A repeated call with the same id finds what the first one saved.
func (r *router) TaskSnapshotFilesystem(ctx context.Context, q *pb.TaskSnapshotFilesystemRequest) (*pb.TaskSnapshotFilesystemResponse, error) {
	b, in, err := r.running(ctx, q.GetTaskId())
	if err != nil {
		return nil, err
	}
	switch {
	case q.GetContainerId() != "":
		return nil, status.Error(codes.Unimplemented, "The stand-in for Modal does not have sidecars.")
	case len(q.GetCustomerSuppliedEncryptionKey()) > 0:
		return nil, status.Error(codes.Unimplemented, "The stand-in for Modal does not encrypt snapshots.")
	case q.GetTtlSeconds() == 0 || q.GetTtlSeconds() < -1:
		return nil, invalid("ttl_seconds must be positive, or -1 for no expiry.")
	case q.GetSnapshotId() == "":
		return nil, invalid("A snapshot id is needed.")
	}
	call := r.s.snapshotCall(b, in, q)
	select {
	case <-call.done:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if call.err != nil {
		return nil, statusOf(call.err)
	}
	return pb.TaskSnapshotFilesystemResponse_builder{ImageId: call.image}.Build(), nil
}

// snapshotCall begins a snapshot or finds the one of the same id. It goes on
// when the caller leaves.
func (s *Server) snapshotCall(b *box, in sandbox.Box, q *pb.TaskSnapshotFilesystemRequest) *snapshotCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := b.id + " " + q.GetSnapshotId()
	if call := s.snapshots[key]; call != nil {
		return call
	}
	call := &snapshotCall{done: make(chan struct{})}
	for _, i := range s.images { // of an earlier process
		if record := i.snapshot(); record.Snapshot == key {
			call.image = record.ID
			close(call.done)
			return call
		}
	}
	s.snapshots[key] = call
	s.work.Go(func() {
		defer close(call.done)
		call.image, call.err = s.saveFilesystem(b, in, key, time.Duration(q.GetTtlSeconds())*time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.snapshots, key) // found by its image from now on; a failed one may be tried again
	})
	return call
}

func (s *Server) saveFilesystem(b *box, in sandbox.Box, key string, ttl time.Duration) (string, error) {
	of := b.snapshot()
	ref, err := in.Snapshot(s.ctx, max(ttl, 0))
	if err != nil {
		return "", err
	}
	record := Image{
		ID: newID("im"), Base: of.Image, Ref: ref, Sandbox: of.ID, Snapshot: key, Created: time.Now().UTC(), Env: map[string]string{},
		Result: Result{Status: pb.GenericResult_GENERIC_STATUS_SUCCESS},
	}
	if ttl > 0 {
		record.Expires = record.Created.Add(ttl)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if base := s.images[of.Image]; base != nil {
		from := base.snapshot()
		record.Env, record.Workdir, record.Registry = from.Env, from.Workdir, from.Registry
	}
	if err := s.save(kindImages, record.ID, record); err != nil {
		return "", err
	}
	s.images[record.ID] = newImage(record)
	return record.ID, nil
}

// exitSnapshotTime is how long the image of an exit snapshot is kept.
const exitSnapshotTime = 30 * 24 * time.Hour

// exitSnapshot saves the filesystem of a sandbox that ends, if that was asked
// for. A box that is gone already has none.
func (s *Server) exitSnapshot(b *box, in sandbox.Box) string {
	if !b.snapshot().ExitSnapshot {
		return ""
	}
	id, err := s.saveFilesystem(b, in, "", exitSnapshotTime)
	if err != nil {
		s.log.Info("no exit snapshot of a sandbox", "sandbox", b.id, "error", err)
	}
	return id
}

// SandboxGetExitSnapshotV2 gives the image that a sandbox left at its end,
// waiting for it for the caller's time at most.
func (c *control) SandboxGetExitSnapshotV2(ctx context.Context, r *pb.SandboxGetExitSnapshotRequest) (*pb.SandboxGetExitSnapshotResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	if !b.snapshot().ExitSnapshot {
		return nil, invalid("Exit snapshots were not enabled for Sandbox %s", b.id)
	}
	timer := time.NewTimer(time.Duration(float64(r.GetTimeout()) * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-b.done:
	case <-timer.C:
		return pb.SandboxGetExitSnapshotResponse_builder{Pending: &pb.SandboxGetExitSnapshotResponse_Pending{}}.Build(), nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if image := b.snapshot().ExitImage; image != "" {
		return pb.SandboxGetExitSnapshotResponse_builder{
			Success: pb.SandboxGetExitSnapshotResponse_Success_builder{ImageId: image}.Build(),
		}.Build(), nil
	}
	return pb.SandboxGetExitSnapshotResponse_builder{Error: pb.SandboxGetExitSnapshotResponse_Error_builder{
		ErrorCode: pb.SandboxGetExitSnapshotResponse_ERROR_CODE_FILESYSTEM_INCONSISTENT, Message: "The Sandbox was lost before it could be saved",
	}.Build()}.Build(), nil
}
