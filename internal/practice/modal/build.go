package modal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"

	"openinspect/sandbox"
)

// build builds an image: its settings always; its RUN steps in a box if there
// is a filesystem to change.
func (s *Server) build(ctx context.Context, i *image, env map[string]string) {
	record := i.snapshot()
	built, err := s.make(ctx, record, env, i.print())
	result := Result{Status: pb.GenericResult_GENERIC_STATUS_SUCCESS}
	switch {
	case err != nil && ctx.Err() != nil:
		result = Result{Status: pb.GenericResult_GENERIC_STATUS_TERMINATED, Why: "The build was shut down"}
	case err != nil:
		result = Result{Status: pb.GenericResult_GENERIC_STATUS_FAILURE, Exit: 1, Why: err.Error()}
		i.update(func(r *Image) { r.Log = append(r.Log, "Image build failed: "+err.Error()+"\n") })
	}
	record = i.snapshot()
	built.Log, built.Result = record.Log, result
	// Kept before it is told, as everything is.
	if err := s.save(kindImages, built.ID, built); err != nil {
		s.log.Error("keeping an image", "image", built.ID, "error", err)
	}
	i.update(func(r *Image) { *r = built })
}

// maxLog bounds what is kept of what a build prints.
const maxLog = 1 << 20

// print returns the function that adds to an image's log, up to maxLog.
func (i *image) print() func(string) {
	size := 0
	return func(text string) {
		i.update(func(r *Image) {
			if size > maxLog {
				return
			}
			if size += len(text); size > maxLog {
				text = "[the rest of the log is left out]\n"
			}
			r.Log = append(r.Log, text)
		})
	}
}

// make fills in the record of an image.
func (s *Server) make(ctx context.Context, i Image, secrets map[string]string, print func(string)) (Image, error) {
	var err error
	if i.Steps, err = parseDockerfile(i.Commands); err != nil {
		return i, err
	}
	bare := false // what it is built on is nothing but a tag of a registry
	if i.Base != "" {
		base, err := s.usableImage(i.Base)
		if err != nil {
			return i, err
		}
		i.Registry, i.Workdir, i.Ref = base.Registry, base.Workdir, base.Ref
		maps.Copy(i.Env, base.Env)
		bare = base.Base == "" && base.Ref == "" && len(base.Steps) == 1
	} else {
		i.Registry = strings.Fields(i.Steps[0].Args)[0]
		bare = true
	}
	runs := false
	for _, step := range i.Steps {
		runs = runs || step.Instruction == "RUN"
	}
	if bare || !runs {
		args := map[string]string{}
		for n, step := range i.Steps {
			i.apply(step, args)
			print(fmt.Sprintf("=> Step %d: %s %s\n", n, step.Instruction, step.Args))
		}
		i.Ref = refUnless(bare, i.Ref)
		return i, s.copyRef(ctx, &i)
	}
	return s.runSteps(ctx, i, secrets, print)
}

func refUnless(none bool, r sandbox.Ref) sandbox.Ref {
	if none {
		return ""
	}
	return r
}

// copyRef gives an image that changes no file a filesystem of its own: its
// base may be deleted.
func (s *Server) copyRef(ctx context.Context, i *Image) error {
	if i.Ref == "" {
		return nil
	}
	return s.inBuildBox(ctx, i, func(sandbox.Box) error { return nil })
}

// buildTime bounds one build, as Modal does.
const buildTime = time.Hour

// inBuildBox runs something in a box from an image's filesystem and gives the
// image what is there afterwards.
func (s *Server) inBuildBox(ctx context.Context, i *Image, do func(sandbox.Box) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	b, err := s.boxes.Start(ctx, sandbox.Spec{
		Name: "build " + i.ID, From: i.Ref, Command: []string{"sleep", "infinity"}, Tags: map[string]string{"build": i.ID},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Kill(context.WithoutCancel(ctx))) }()
	if err := do(b); err != nil {
		return err
	}
	i.Ref, err = b.Snapshot(ctx, sandbox.KeepImage)
	return err
}

func (s *Server) runSteps(ctx context.Context, i Image, secrets map[string]string, print func(string)) (Image, error) {
	err := s.inBuildBox(ctx, &i, func(b sandbox.Box) error {
		args := map[string]string{}
		for n, step := range i.Steps {
			print(fmt.Sprintf("=> Step %d: %s %s\n", n, step.Instruction, step.Args))
			i.apply(step, args)
			if step.Instruction != "RUN" {
				continue
			}
			if err := runStep(ctx, b, i, step, []map[string]string{args, secrets}, print); err != nil {
				return err
			}
		}
		return nil
	})
	return i, err
}

func runStep(ctx context.Context, b sandbox.Box, i Image, step Step, extra []map[string]string, print func(string)) error {
	env := maps.Clone(i.Env)
	for _, m := range extra {
		maps.Copy(env, m)
	}
	dir := i.Workdir
	if dir == "" {
		dir = "/"
	}
	out := printer(print)
	exit, err := b.Exec(ctx, sandbox.Cmd{Args: argsOf(step.Args), Dir: dir, Env: env, Stdout: out, Stderr: out})
	if err == nil && exit != 0 {
		err = fmt.Errorf("the command '%s' returned a non-zero code: %d", step.Args, exit)
	}
	return err
}

// printer is an io.Writer for a build's log.
type printer func(string)

// Write implements io.Writer.
func (p printer) Write(b []byte) (int, error) {
	p(strings.ToValidUTF8(string(b), "?"))
	return len(b), nil
}

// abandonBuilds ends the builds of an earlier process.
func (s *Server) abandonBuilds() error {
	for _, record := range s.Images() {
		if record.Result.Status != pb.GenericResult_GENERIC_STATUS_UNSPECIFIED {
			continue
		}
		record.Result = Result{Status: pb.GenericResult_GENERIC_STATUS_TERMINATED, Why: "The build was shut down"}
		if err := s.save(kindImages, record.ID, record); err != nil {
			return err
		}
		s.mu.Lock()
		i := s.images[record.ID]
		s.mu.Unlock()
		i.update(func(r *Image) { *r = record })
	}
	return nil
}
