package modal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"

	"openinspect/sandbox"
)

// watch waits for the end of a sandbox that runs and ends it.
func (s *Server) watch(b *box) {
	record := b.snapshot()
	ctx, cancel := context.WithDeadline(s.ctx, record.Created.Add(record.Timeout))
	defer cancel()
	stop := context.AfterFunc(b.life, cancel)
	defer stop()
	var idle atomic.Bool
	if record.IdleTimeout > 0 {
		s.work.Go(func() {
			if b.awaitIdle(ctx, record.IdleTimeout) {
				idle.Store(true)
				cancel()
			}
		})
	}
	result, known := s.awaitEntrypoint(ctx, b)
	switch {
	case s.ctx.Err() != nil || b.life.Err() != nil:
		return // the next process watches it, or it is being ended
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		result = Result{Status: pb.GenericResult_GENERIC_STATUS_TIMEOUT, Exit: 124, Why: "Sandbox timed out"}
	case idle.Load():
		result = Result{Status: pb.GenericResult_GENERIC_STATUS_IDLE_TIMEOUT, Exit: exitKilled, Why: "Sandbox was idle"}
	case !known:
		result = lost
	}
	if err := s.finish(s.ctx, b, result); err != nil && s.ctx.Err() == nil {
		s.log.Error("ending a sandbox", "sandbox", record.ID, "error", err)
	}
}

// idleEvery is how often an idle sandbox is looked at.
const idleEvery = 100 * time.Millisecond

// awaitIdle waits until nobody has used the sandbox for a time; it is false if
// ctx ends first.
func (b *box) awaitIdle(ctx context.Context, limit time.Duration) bool {
	tick := time.NewTicker(idleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
			if b.idleFor() >= limit {
				return true
			}
		}
	}
}

// lost is the end of a sandbox whose box died by itself.
var lost = Result{Status: pb.GenericResult_GENERIC_STATUS_TERMINATED, Exit: 137, Why: "The Sandbox's container was lost"}

// awaitEntrypoint waits until the entrypoint has ended; known is false if the
// box went first, or ctx did.
func (s *Server) awaitEntrypoint(ctx context.Context, b *box) (result Result, known bool) {
	for {
		var end guestStatus
		err := s.ask(ctx, b.live(), guestRequest{Op: opWait}, nil, &end)
		switch {
		case err == nil && end.Ended && end.Exit == 0:
			return Result{Status: pb.GenericResult_GENERIC_STATUS_SUCCESS}, true
		case err == nil && end.Ended:
			return Result{Status: pb.GenericResult_GENERIC_STATUS_FAILURE, Exit: end.Exit}, true
		case errors.Is(err, sandbox.ErrGone) || ctx.Err() != nil:
			return Result{}, false
		}
		// The asking process was killed by something in the box. Ask again.
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// ask makes one request to the guest of a box and reads its one answer.
func (s *Server) ask(ctx context.Context, in sandbox.Box, r guestRequest, input []byte, answer *guestStatus) error {
	if in == nil {
		return sandbox.ErrGone
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var out, problems bytes.Buffer
	exit, err := in.Exec(ctx, sandbox.Cmd{
		Args: []string{s.binary, roleAsk}, Dir: "/", Stdin: bytes.NewReader(append(append(line, '\n'), input...)), Stdout: &out, Stderr: &problems,
	})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		return fmt.Errorf("asking the guest: exit %d: %s", exit, problems.String())
	}
	return nil
}

// finish ends a sandbox: it is recorded, what it printed is kept, and its box
// is gone when finish returns. Of several callers one does it and all wait.
func (s *Server) finish(ctx context.Context, b *box, result Result) error {
	b.mu.Lock()
	if b.ending {
		b.mu.Unlock()
		select {
		case <-b.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	running := b.local
	b.ending = true
	b.mu.Unlock()
	defer close(b.done)
	exitImage := ""
	if running != nil {
		s.keepOutput(ctx, b.id, running)
		exitImage = s.exitSnapshot(b, running)
	}
	err := s.change(b, func(r *Sandbox) { r.Ended, r.Result, r.ExitImage = time.Now().UTC(), result, exitImage })
	b.end()
	if running != nil {
		// The record says that it has ended; resume repeats what fails here.
		err = errors.Join(err, running.Kill(context.WithoutCancel(ctx)))
	}
	return err
}

// outputPath is where the end of an ended sandbox's output is.
func (s *Server) outputPath(id string, fd int) string {
	return filepath.Join(s.dir, "output", fmt.Sprintf("%s.%d", id, fd))
}

// outputWait bounds the fetching of output of a sandbox that is ending.
const outputWait = 5 * time.Second

// keepOutput fetches what the entrypoint printed. It is for people who look
// afterwards: a box that cannot tell any more loses it.
func (s *Server) keepOutput(ctx context.Context, id string, running sandbox.Box) {
	ctx, cancel := context.WithTimeout(ctx, outputWait)
	defer cancel()
	for fd := 1; fd <= 2; fd++ {
		var kept bytes.Buffer
		err := s.readGuest(ctx, running, guestRequest{Op: opRead, FD: fd}, &kept)
		if err == nil && kept.Len() > 0 {
			err = os.WriteFile(s.outputPath(id, fd), kept.Bytes(), 0o600)
		}
		if err != nil && !errors.Is(err, sandbox.ErrGone) {
			s.log.InfoContext(ctx, "keeping a sandbox's output", "sandbox", id, "error", err)
		}
	}
}

// KillBox ends a sandbox's box as an accident would: nobody is told but by what
// it shows. An unknown sandbox, or one that has ended, is not an error.
func (s *Server) KillBox(ctx context.Context, id string) error {
	b := s.boxByID(id)
	if b == nil {
		return nil
	}
	if running := b.live(); running != nil {
		if err := running.Kill(ctx); err != nil {
			return err
		}
		return s.finish(ctx, b, lost)
	}
	return nil
}

// resume finds the boxes that an earlier process left, and goes on watching
// them; what that process was ending is ended.
func (s *Server) resume(ctx context.Context) error {
	if err := s.abandonBuilds(); err != nil {
		return err
	}
	running := map[string]string{} // sandbox: box
	for info, err := range s.boxes.List(ctx, nil) {
		if err != nil {
			return err
		}
		id := info.Tags["sandbox"]
		if b := s.boxByID(id); b != nil && b.snapshot().Ended.IsZero() {
			running[id] = info.ID
			continue
		}
		stray, err := s.boxes.Attach(ctx, info.ID)
		if err == nil {
			err = stray.Kill(ctx)
		}
		if err != nil && !errors.Is(err, sandbox.ErrGone) {
			return err
		}
	}
	for _, record := range s.Sandboxes() {
		if !record.Ended.IsZero() {
			continue
		}
		if err := s.resumeOne(ctx, s.boxByID(record.ID), running[record.ID]); err != nil {
			return fmt.Errorf("finding sandbox %s again: %w", record.ID, err)
		}
	}
	return nil
}

func (s *Server) resumeOne(ctx context.Context, b *box, boxID string) error {
	defer close(b.started)
	var found sandbox.Box
	if boxID != "" {
		var err error
		found, err = s.boxes.Attach(ctx, boxID)
		if err != nil && !errors.Is(err, sandbox.ErrGone) {
			return err
		}
	}
	if found == nil {
		record, result := b.snapshot(), lost
		if time.Now().After(record.Created.Add(record.Timeout)) {
			result = Result{Status: pb.GenericResult_GENERIC_STATUS_TIMEOUT, Exit: 124, Why: "Sandbox timed out"}
		}
		return s.finish(ctx, b, result)
	}
	b.mu.Lock()
	b.local = found
	b.mu.Unlock()
	if err := errors.Join(s.change(b, func(r *Sandbox) { r.Box = boxID }), s.openTunnels(b)); err != nil {
		return err
	}
	s.work.Go(func() { s.watch(b) })
	return nil
}
