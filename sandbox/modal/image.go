package modal

import (
	"context"
	"errors"
	"fmt"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"

	"openinspect/sandbox"
)

// baseCommands give every base image the user and the folders of a box. The
// user's number does not matter: images of Node.js have given 1000 away.
var baseCommands = []string{
	"RUN id agent >/dev/null 2>&1 || useradd --home-dir " + sandbox.Home + " --shell /bin/bash agent",
	"RUN mkdir -p " + sandbox.Home + " " + sandbox.Workspace + " " + sandbox.Tools +
		" && chown -R agent:agent " + sandbox.Home + " " + sandbox.Workspace,
	"WORKDIR " + sandbox.Home,
}

// imageOf is the image that a box starts from.
func (p *Provider) imageOf(ctx context.Context, from sandbox.Ref) (string, error) {
	if from == "" {
		return p.base(ctx)
	}
	return string(from), checkRef(from)
}

// base finds the base image, and has Modal build it if it has none of this
// recipe. One caller asks, others wait for it: the SDK's images must not be
// shared before they are built. Modal knows images by their recipe, so that a
// build that was broken off, or made by another process, is taken up.
func (p *Provider) base(ctx context.Context) (string, error) {
	select {
	case p.building <- struct{}{}:
		defer func() { <-p.building }()
	case <-ctx.Done():
		return "", fmt.Errorf("waiting for the base image of sandboxes: %w", ctx.Err())
	}
	p.baseMu.Lock()
	id := p.baseID
	p.baseMu.Unlock()
	if id != "" {
		return id, nil
	}
	app, err := p.app(ctx)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, imageTime)
	defer cancel()
	id, err = p.buildBase(ctx, app)
	if err != nil {
		return "", err
	}
	p.baseMu.Lock()
	p.baseID = id
	p.baseMu.Unlock()
	return id, nil
}

// buildTries is how often a build is joined again whose stream broke, which the SDK
// does not do, or that Modal itself has broken off.
const buildTries = 4

func (p *Provider) buildBase(ctx context.Context, app *sdk.App) (id string, err error) {
	for try := range buildTries {
		w := watchedBuild{log: tail{most: maxLastWords}}
		image := p.client.Images.FromRegistry(p.o.From, nil).DockerfileCommands(p.o.Commands, nil)
		built, failed := image.Build(context.WithValue(ctx, buildKey{}, &w), app, nil)
		if failed == nil {
			return built.ImageID, nil
		}
		err = w.explain(failed)
		if errors.Is(err, sandbox.ErrInvalid) || errors.Is(err, sandbox.ErrRefused) {
			return "", err
		}
		select {
		case <-time.After(time.Second << try):
		case <-ctx.Done():
			return "", err
		}
	}
	return "", err
}

// watchedBuild is what is seen of a build.
type watchedBuild struct {
	log    tail
	status pb.GenericResult_GenericStatus // once it has ended
}

// explain says what the failure of a build means.
func (w *watchedBuild) explain(err error) error {
	err = notGone(translate(err))
	brokenOff := w.status == pb.GenericResult_GENERIC_STATUS_TERMINATED || w.status == pb.GenericResult_GENERIC_STATUS_TIMEOUT
	if errors.As(err, new(sdk.RemoteError)) && !brokenOff { // of the recipe: trying again would not help
		err = fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
	}
	if log := w.log.String(); log != "" {
		return fmt.Errorf("building the base image of sandboxes: %w; its log ends with:\n%s", err, log)
	}
	return fmt.Errorf("building the base image of sandboxes: %w", err)
}

// buildKey is the context's key of a watchedBuild.
type buildKey struct{}

// watchBuild sees what Modal says while it builds, which the SDK throws away.
func watchBuild(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, conn, method, opts...)
	if w, ok := ctx.Value(buildKey{}).(*watchedBuild); ok && err == nil {
		return &buildStream{stream, w}, nil
	}
	return stream, err
}

type buildStream struct {
	grpc.ClientStream
	seen *watchedBuild
}

func (s *buildStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if r, ok := m.(*pb.ImageJoinStreamingResponse); ok && err == nil {
		for _, l := range r.GetTaskLogs() {
			_, _ = s.seen.log.Write([]byte(l.GetData())) // a tail takes everything
		}
		if r.HasResult() {
			s.seen.status = r.GetResult().GetStatus()
		}
	}
	return err
}
