package modal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

const (
	// quietTime is how long the output of a killed command is waited for when a
	// child that it left behind still holds it and is silent, and the input of an
	// ended one.
	quietTime = time.Second
	// outputTime bounds the wait for the output of an ended command. Modal holds
	// back all that was not read yet, so that it is long.
	outputTime = 5 * time.Minute
	// endTime bounds ending a command.
	endTime = 20 * time.Second
	// watchEvery is how often a box is looked for while a command runs in it.
	watchEvery = 10 * time.Second
	// inputChunk is how much input is sent at once, as the SDK does with files.
	inputChunk = 256 << 10
	// exitKilled is the status of what was killed, a box's end included.
	exitKilled = 128 + 9
)

// Exec implements sandbox.Box. When the time of a command is over, ctx ends or a
// writer fails, it is killed with all processes that it started; the error then wraps
// context.DeadlineExceeded, or is that of ctx or of the writer. Arguments may have
// 60 KiB together.
func (b *box) Exec(ctx context.Context, c sandbox.Cmd) (int, error) {
	if err := c.Check(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if b.h.dead.Load() {
		return 0, goneIf(true, b.ID())
	}
	id := rand.Text()
	params := &sdk.SandboxExecParams{Workdir: c.Dir, Env: user(), Stdout: behaviour(c.Stdout), Stderr: behaviour(c.Stderr)}
	if params.Workdir == "" {
		params.Workdir = sandbox.Home
	}
	maps.Copy(params.Env, c.Env)
	params.Env[commandVariable] = id
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if c.Timeout > 0 {
		var stop context.CancelFunc
		running, stop = context.WithTimeout(running, c.Timeout)
		defer stop()
		params.Timeout = wholeSeconds(c.Timeout + endTime) // for the case that nobody is left to end it
	}
	process, err := onMachine(running, b, func(sb *sdk.Sandbox) (*sdk.ContainerProcess, error) {
		return sb.Exec(running, shell(execScript, c.Args...), params)
	})
	if err == nil {
		var exit int
		exit, err = b.await(running, cancel, process, c, endOf(id))
		if err == nil && running.Err() == nil {
			return exit, nil
		}
	}
	if running.Err() != nil {
		err = b.interrupted(ctx, running, id, c)
	}
	return 0, fmt.Errorf("running %s in sandbox %s: %w", c.Args[0], b.ID(), b.explain(ctx, err))
}

// endOf is what exec.sh says at the end of both outputs of a command.
func endOf(id string) []byte { return []byte("\nopeninspect end " + id + "\n") }

func behaviour(w io.Writer) sdk.StdioBehavior {
	if w == nil {
		return sdk.Ignore
	}
	return sdk.Pipe
}

// interrupted ends a command that was not waited for to its end, and says why.
func (b *box) interrupted(ctx, running context.Context, id string, c sandbox.Cmd) error {
	cause := context.Cause(running)
	if errors.Is(cause, sandbox.ErrGone) {
		return cause
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if err := b.script(end, endScript, id); err != nil && !errors.Is(err, sandbox.ErrGone) {
		b.p.log.WarnContext(ctx, "a command in a sandbox could not be ended", "sandbox", b.ID(), "err", err)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case cause == context.DeadlineExceeded: // its own, not a writer's
		return fmt.Errorf("it ran for %s: %w", c.Timeout, context.DeadlineExceeded)
	}
	return cause
}

// await carries a command's streams until it has ended. Whatever keeps it from
// that cancels the command.
func (b *box) await(ctx context.Context, cancel context.CancelCauseFunc, process *sdk.ContainerProcess, c sandbox.Cmd, end []byte) (int, error) {
	input := sendInput(process.Stdin, c.Stdin, cancel)
	outs := []*output{receive(process.Stdout, c.Stdout, end, cancel), receive(process.Stderr, c.Stderr, end, cancel)}
	stop := make(chan struct{})
	go b.watch(ctx, stop, cancel)
	exit, err := process.Wait(ctx, nil)
	close(stop)
	if err != nil && ctx.Err() == nil {
		cancel(err) // it may be running
	}
	if err == nil && exit == exitKilled {
		err = b.perhapsGone(ctx)
	}
	if err != nil || ctx.Err() != nil {
		for _, o := range outs {
			o.close()
		}
		return 0, errors.Join(err, ctx.Err())
	}
	var errs []error
	for _, o := range outs {
		errs = append(errs, o.finish(ctx, exit))
	}
	select {
	case err := <-input:
		errs = append(errs, err)
	case <-time.After(quietTime): // its reader blocks, and is left behind, as os/exec does after its WaitDelay
	case <-ctx.Done():
	}
	return exit, errors.Join(errs...)
}

// watch cancels the wait for a command when the box ends: Modal may not answer
// for one that is gone, and the SDK then asks again without end.
func (b *box) watch(ctx context.Context, stop <-chan struct{}, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if alive, err := b.alive(ctx); err == nil && !alive {
				cancel(goneIf(true, b.ID()))
				return
			}
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// perhapsGone says whether a command was killed because its box ended.
func (b *box) perhapsGone(ctx context.Context) error {
	alive, err := b.aliveSoon(ctx)
	return errors.Join(err, goneIf(err == nil && !alive, b.ID()))
}

// sendInput copies r to a command and ends its input. A command need not read it;
// but one that would, and of whose input something is lost on the way, is
// cancelled: an end of the input would let it take a part for the whole.
func sendInput(w io.WriteCloser, r io.Reader, cancel context.CancelCauseFunc) <-chan error {
	done := make(chan error, 1)
	go func() {
		if r == nil {
			r = strings.NewReader("")
		}
		chunk := make([]byte, inputChunk)
		for {
			n, err := r.Read(chunk)
			if n > 0 {
				if _, failed := w.Write(chunk[:n]); failed != nil {
					if !refusesInput(failed) {
						cancel(fmt.Errorf("passing input to a command: %w", failed))
					}
					done <- nil
					return
				}
			}
			if err == nil {
				continue
			}
			if failed := w.Close(); failed != nil && !refusesInput(failed) {
				cancel(fmt.Errorf("ending the input of a command: %w", failed)) // which may wait for more
			}
			if err == io.EOF {
				err = nil
			} else {
				err = fmt.Errorf("passing input to a command: %w", err)
			}
			done <- err
			return
		}
	}()
	return done
}

// refusesInput says whether a command takes no input any more, by the codes of which
// the SDK thinks so as well.
func refusesInput(err error) bool {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.Aborted, codes.NotFound:
		return true
	}
	return false
}

// script runs one of our scripts as the user that Modal runs commands as.
func (b *box) script(ctx context.Context, script string, args ...string) error {
	process, err := onMachine(ctx, b, func(sb *sdk.Sandbox) (*sdk.ContainerProcess, error) {
		return sb.Exec(ctx, shell(script, args...), &sdk.SandboxExecParams{Workdir: "/", Stdout: sdk.Ignore})
	})
	if err != nil {
		return b.explain(ctx, err)
	}
	said := tail{most: maxLastWords}
	out := receive(process.Stderr, &said, nil, func(error) {})
	exit, err := process.Wait(ctx, nil)
	if err != nil {
		out.close()
		return b.explain(ctx, err)
	}
	if err := out.finish(ctx, exit); err != nil {
		return b.explain(ctx, err)
	}
	if exit == exitKilled {
		if err := b.perhapsGone(ctx); err != nil {
			return err
		}
	}
	if exit != 0 {
		return errors.New(strings.TrimSpace(fmt.Sprintf("exit status %d: %s", exit, said.String())))
	}
	return nil
}
