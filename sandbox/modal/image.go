package modal

import (
	"context"
	"errors"
	"fmt"
	"io"

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
	log := tail{most: maxLastWords}
	image := p.client.Images.FromRegistry(p.o.From, nil).DockerfileCommands(p.o.Commands, nil)
	built, err := image.Build(context.WithValue(ctx, buildLog{}, io.Writer(&log)), app, nil)
	if err != nil {
		return "", imageError(err, log.String())
	}
	p.baseMu.Lock()
	p.baseID = built.ImageID
	p.baseMu.Unlock()
	return built.ImageID, nil
}

func imageError(err error, log string) error {
	err = notGone(translate(err))
	var remote sdk.RemoteError
	if errors.As(err, &remote) { // of the recipe: trying again would not help
		err = fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
	}
	if log != "" {
		return fmt.Errorf("building the base image of sandboxes: %w; its log ends with:\n%s", err, log)
	}
	return fmt.Errorf("building the base image of sandboxes: %w", err)
}

// buildLog is the context's key of the writer that a build's log is copied to.
type buildLog struct{}

// copyBuildLog copies what Modal says while it builds, which the SDK throws away.
func copyBuildLog(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, conn, method, opts...)
	if to, ok := ctx.Value(buildLog{}).(io.Writer); ok && err == nil {
		return &logStream{stream, to}, nil
	}
	return stream, err
}

type logStream struct {
	grpc.ClientStream
	to io.Writer
}

func (s *logStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if r, ok := m.(*pb.ImageJoinStreamingResponse); ok && err == nil {
		for _, l := range r.GetTaskLogs() {
			_, _ = io.WriteString(s.to, l.GetData()) // a tail takes everything
		}
	}
	return err
}
