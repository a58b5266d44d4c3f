package modal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	sdk "github.com/modal-labs/modal-client/go"

	"openinspect/sandbox"
)

// variableForm is what Modal takes as the name of a variable.
var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// The bounds of a main program's environment. Linux passes on no variable of 128
// KiB or more, and two MiB in all with the arguments (execve(2)).
const (
	maxVariable = 100 << 10
	maxEnv      = 1 << 20
)

// maxArguments is how many bytes the arguments of a program may have together at
// Modal, ours included.
const maxArguments = 64 << 10

// Start implements sandbox.Provider. Besides its errors it fails with ErrGone if
// Spec.From no longer exists. A sandbox that is not scheduled within
// Options.StartTime is given up: ErrCapacity.
func (p *Provider) Start(ctx context.Context, s sandbox.Spec) (sandbox.Box, error) {
	if err := s.Check(p.o.Lifetime); err != nil {
		return nil, err
	}
	if err := checkEnv(s.Env); err != nil {
		return nil, err
	}
	if err := checkTags(startTags(s, "", time.Now())); err != nil {
		return nil, err
	}
	if size := len(strings.Join(shell(entryScript, s.Command...), "")); size > maxArguments {
		return nil, sandbox.Invalid("the command of sandbox %s is too long: at Modal its arguments may have %d KiB together", s.Name, maxArguments>>10)
	}
	b, err := p.start(ctx, s)
	if errors.Is(err, errStale) {
		b, err = p.start(ctx, s)
	}
	if err != nil {
		return nil, fmt.Errorf("starting sandbox %s: %w", s.Name, err)
	}
	return b, nil
}

// errStale says that something was not at Modal any more, and is to be found anew.
var errStale = errors.New("what was known of Modal does not hold any more")

func (p *Provider) start(ctx context.Context, s sandbox.Spec) (*box, error) {
	image, err := p.imageOf(ctx, s.From)
	if err != nil {
		return nil, err
	}
	app, err := p.app(ctx)
	if err != nil {
		return nil, err
	}
	start, born := rand.Text(), time.Now().UTC()
	tags := startTags(s, start, born)
	limited, cancel := context.WithTimeout(ctx, p.o.StartTime)
	defer cancel()
	sb, err := p.client.Sandboxes.Create(limited, app, &sdk.Image{ImageID: image}, p.params(s, tags))
	if errors.As(err, new(sdk.AlreadyExistsError)) {
		// The SDK asks again when an answer is lost, and then meets what it has started.
		sb, err = p.own(limited, s.Name, start, err)
	}
	if err != nil {
		return nil, p.notStarted(ctx, limited, s, start, err)
	}
	return &box{p: p, h: p.handles.keep(sb), tags: tags}, nil
}

// own finds the sandbox of a name if it is this start's, or returns why it is not.
func (p *Provider) own(ctx context.Context, name, start string, taken error) (*sdk.Sandbox, error) {
	sb, tags, err := p.named(ctx, name)
	switch {
	case err == nil && tags[tagStart] == start:
		return sb, nil
	case err == nil:
		return nil, taken
	}
	return nil, fmt.Errorf("looking who has the name: %w", notGone(err)) // it may be ours: nothing is certain
}

// named finds the live sandbox of a name, with its tags.
func (p *Provider) named(ctx context.Context, name string) (*sdk.Sandbox, map[string]string, error) {
	sb, err := p.client.Sandboxes.FromName(ctx, p.o.App, modalName(name), &sdk.SandboxFromNameParams{Environment: p.o.Environment})
	if err != nil {
		return nil, nil, translate(err)
	}
	tags, err := (&box{p: p, h: p.handles.keep(sb)}).fetchTags(ctx)
	return sb, tags, err
}

func checkEnv(env map[string]string) error {
	all := 0
	for name, value := range env {
		switch all += len(name) + len(value); {
		case !variableForm.MatchString(name):
			return sandbox.Invalid("%q cannot be an environment variable", name)
		case len(value) > maxVariable:
			return sandbox.Invalid("the variable %s has %d KiB; a sandbox at Modal takes %d", name, len(value)>>10, maxVariable>>10)
		case all > maxEnv:
			return sandbox.Invalid("the environment has more than %d KiB", maxEnv>>10)
		}
	}
	return nil
}

// params are what Modal is asked for. What is asked for is also the limit, so
// that it is what is paid for.
func (p *Provider) params(s sandbox.Spec, tags map[string]string) *sdk.SandboxCreateParams {
	c := &sdk.SandboxCreateParams{
		Name: modalName(s.Name), Tags: encodeTags(tags), Command: shell(entryScript, s.Command...),
		Env: packed(s.Env), Workdir: sandbox.Home,
		CPU: s.CPU, MemoryMiB: s.MemMiB, Regions: s.Regions, Timeout: wholeSeconds(s.Lifetime),
	}
	if c.CPU == 0 {
		c.CPU = p.o.CPU
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = p.o.MemMiB
	}
	c.CPULimit, c.MemoryLimitMiB = c.CPU, c.MemoryMiB
	if len(c.Regions) == 0 {
		c.Regions = p.o.Regions
	}
	if c.Timeout == 0 {
		c.Timeout = p.o.Lifetime
	}
	p.network.allow(c)
	return c
}

// notStarted finds out what a failed start means, and ends what may have come of it.
func (p *Provider) notStarted(ctx, limited context.Context, s sandbox.Spec, start string, cause error) error {
	err := translate(cause)
	switch {
	case errors.Is(err, sandbox.ErrInvalid), errors.Is(err, errRefused):
		return err // for certain
	case errors.Is(err, sandbox.ErrGone):
		return p.missing(ctx, s.From, err)
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	if left := p.endHalfStarted(clean, s.Name, start); left != nil {
		p.log.WarnContext(ctx, "a sandbox that failed to start may be running until nobody is found to want it",
			"sandbox", s.Name, "err", left)
	}
	if ctx.Err() == nil && limited.Err() != nil {
		return fmt.Errorf("%w: Modal had not scheduled it after %s", sandbox.ErrCapacity, p.o.StartTime)
	}
	return err
}

// missing tells apart what a start did not find: the saved filesystem, or
// something that was cached here and is to be found anew.
func (p *Provider) missing(ctx context.Context, from sandbox.Ref, cause error) error {
	if from != "" {
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		if _, err := p.client.Images.FromID(ctx, string(from), nil); errors.Is(translate(err), sandbox.ErrGone) {
			return cause
		}
	}
	p.forget()
	return fmt.Errorf("%w: %w", errStale, notGone(cause))
}

// endHalfStarted ends the sandbox of a start whose outcome is not known.
func (p *Provider) endHalfStarted(ctx context.Context, name, start string) error {
	sb, tags, err := p.named(ctx, name)
	if err == nil && tags[tagStart] == start {
		err = (&box{p: p, h: p.handles.keep(sb)}).Kill(ctx)
	}
	if errors.Is(err, sandbox.ErrGone) {
		return nil
	}
	return err
}
