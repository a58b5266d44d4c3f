package modal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// box is one Modal sandbox; several may exist of the same.
type box struct {
	p *Provider
	h *handle

	mu   sync.Mutex
	tags map[string]string // decoded, with our own; nil until they are known
}

// ID implements sandbox.Box.
func (b *box) ID() string { return b.h.id }

// sandboxID is what Modal's ids look like. Others need not be asked for.
var sandboxID = regexp.MustCompile(`^sb-[A-Za-z0-9]{1,64}$`)

// Attach implements sandbox.Provider. The error of a box that ended by itself
// holds the end of what it printed.
func (p *Provider) Attach(ctx context.Context, id string) (sandbox.Box, error) {
	if !sandboxID.MatchString(id) {
		return nil, fmt.Errorf("%w: %q", sandbox.ErrGone, id)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	sb, err := p.client.Sandboxes.FromID(ctx, id, nil)
	if err != nil {
		return nil, translate(err)
	}
	b := &box{p: p, h: p.handles.keep(sb)}
	alive, err := b.alive(ctx)
	if err != nil {
		return nil, fmt.Errorf("attaching to sandbox %s: %w", id, err)
	}
	if !alive {
		return nil, p.gone(ctx, id)
	}
	return b, nil
}

// alive asks Modal. One that is dead stays so.
func (b *box) alive(ctx context.Context) (bool, error) {
	if b.h.dead.Load() {
		return false, nil
	}
	code, err := b.h.sb.Load().Poll(ctx, nil)
	err = translate(err)
	switch {
	case errors.Is(err, sandbox.ErrGone), errors.Is(err, sandbox.ErrInvalid): // an id that is none of Modal's
		err = nil
	case err != nil && b.h.dead.Load(): // killed meanwhile
		return false, nil
	case err != nil:
		return false, err
	case code == nil:
		return true, nil
	}
	b.p.handles.bury(b.h)
	return false, nil
}

// explain says of an error of a call whether it came about because the box is gone.
func (b *box) explain(ctx context.Context, err error) error {
	err = translate(err)
	if err == nil || ctx.Err() != nil && !b.h.dead.Load() {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
	defer cancel()
	alive, asking := b.alive(ctx)
	if errors.Is(err, sandbox.ErrGone) && alive {
		alive, asking = b.aliveSoon(ctx)
	}
	switch {
	case asking != nil || alive:
		return notGone(err)
	case errors.Is(err, sandbox.ErrGone):
		return err
	}
	return fmt.Errorf("%w: %s (%w)", sandbox.ErrGone, b.ID(), err)
}

// aliveSoon asks again and again, for a box that shows signs of having ended:
// Modal says the one before the other.
func (b *box) aliveSoon(ctx context.Context) (alive bool, err error) {
	for range 5 {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return true, ctx.Err()
		}
		if alive, err = b.alive(ctx); err != nil || !alive {
			break
		}
	}
	return alive, err
}

// lastWordsTime bounds looking for them, and maxLastWords how much is shown.
const (
	lastWordsTime = 5 * time.Second
	maxLastWords  = 4 << 10
)

// gone says what Modal still knows of a box that has ended.
func (p *Provider) gone(ctx context.Context, id string) error {
	gone := &sandbox.Gone{ID: id}
	sb, err := p.client.Sandboxes.FromID(ctx, id, nil)
	if err != nil {
		return gone
	}
	defer sb.Detach()
	hush := func() { sb.Stderr.Close() }
	stop := context.AfterFunc(ctx, hush)
	defer stop()
	timer := time.AfterFunc(lastWordsTime, hush)
	defer timer.Stop()
	log := tail{most: maxLastWords}
	_, _ = io.Copy(&log, sb.Stderr) // it is for people: an error is not worth failing for
	gone.Log = log.String()
	return gone
}

// tail keeps the end of what is written to it.
type tail struct {
	most int
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - t.most; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(strings.ToValidUTF8(string(t.kept), "?")) }

// getTags returns the box's tags, with our own.
func (b *box) getTags(ctx context.Context) (map[string]string, error) {
	b.mu.Lock()
	known := b.tags
	b.mu.Unlock()
	if known != nil {
		return maps.Clone(known), nil
	}
	return b.fetchTags(ctx)
}

// fetchTags asks Modal for them: another process may have changed them.
func (b *box) fetchTags(ctx context.Context) (map[string]string, error) {
	raw, err := b.h.sb.Load().GetTags(ctx, nil)
	if err != nil {
		return nil, b.explain(ctx, err)
	}
	tags := decodeTags(raw)
	b.mu.Lock()
	b.tags = tags
	b.mu.Unlock()
	return maps.Clone(tags), nil
}

// Info implements sandbox.Box. A dead box is described with Alive false.
func (b *box) Info(ctx context.Context) (sandbox.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	alive, err := b.alive(ctx)
	if err != nil {
		return sandbox.Info{}, fmt.Errorf("asking for sandbox %s: %w", b.ID(), err)
	}
	tags, err := b.getTags(ctx)
	if err != nil && alive && !errors.Is(err, sandbox.ErrGone) {
		return sandbox.Info{}, fmt.Errorf("asking for the tags of sandbox %s: %w", b.ID(), err)
	}
	info := infoOf(b.ID(), tags)
	info.Alive = alive && err == nil
	return info, nil
}

// tagsAtOnce bounds how many boxes List asks for at the same time, and listTime
// the whole.
const (
	tagsAtOnce = 16
	listTime   = 2 * time.Minute
)

// List implements sandbox.Provider. Modal lists ids alone, so each box's tags are asked for.
func (p *Provider) List(ctx context.Context, tags map[string]string) iter.Seq2[sandbox.Info, error] {
	return func(yield func(sandbox.Info, error) bool) {
		infos, err := p.list(ctx, tags)
		if err != nil {
			yield(sandbox.Info{}, fmt.Errorf("listing sandboxes: %w", notGone(err)))
			return
		}
		for _, info := range infos {
			if info.Alive && !yield(info, nil) {
				return
			}
		}
	}
}

func (p *Provider) list(ctx context.Context, tags map[string]string) ([]sandbox.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	app, err := p.app(ctx)
	if err != nil {
		return nil, err
	}
	all, err := p.client.Sandboxes.List(ctx, &sdk.SandboxListParams{AppID: app.AppID, Tags: encodeTags(tags)})
	if err != nil {
		return nil, translate(err)
	}
	var infos []*sandbox.Info
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(tagsAtOnce)
	for sb, err := range all {
		if err != nil {
			err = translate(err)
			if errors.Is(err, sandbox.ErrGone) {
				p.forget() // the app was stopped: the next call makes it again
			}
			return nil, errors.Join(err, g.Wait())
		}
		info := &sandbox.Info{}
		infos = append(infos, info)
		b := &box{p: p, h: p.handles.keep(sb)}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, callTime)
			defer cancel()
			known, err := b.fetchTags(ctx)
			if errors.Is(err, sandbox.ErrGone) {
				return nil // it ended while it was listed
			}
			*info = infoOf(b.ID(), known)
			info.Alive = err == nil
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := make([]sandbox.Info, len(infos))
	for i, info := range infos {
		out[i] = *info
	}
	return out, nil
}

// URL implements sandbox.Box. The address is that of Modal's proxy, which wants
// the token in the header: without it nobody gets through.
func (b *box) URL(ctx context.Context, port int) (string, http.Header, error) {
	if err := sandbox.CheckPort(port); err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if alive, err := b.alive(ctx); err != nil || !alive {
		return "", nil, errors.Join(err, goneIf(!alive && err == nil, b.ID()))
	}
	c, err := b.h.sb.Load().CreateConnectToken(ctx, &sdk.SandboxCreateConnectTokenParams{Port: port})
	if err != nil {
		return "", nil, fmt.Errorf("asking for port %d of sandbox %s: %w", port, b.ID(), b.explain(ctx, err))
	}
	return strings.TrimSuffix(c.URL, "/"), http.Header{"Authorization": {"Bearer " + c.Token}}, nil
}

func goneIf(gone bool, id string) error {
	if gone {
		return fmt.Errorf("%w: %s", sandbox.ErrGone, id)
	}
	return nil
}

// Kill implements sandbox.Box.
func (b *box) Kill(ctx context.Context) error {
	if b.h.dead.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := b.h.sb.Load().Terminate(ctx, &sdk.SandboxTerminateParams{Wait: true})
	if err := b.explain(ctx, err); err != nil && !errors.Is(err, sandbox.ErrGone) {
		return fmt.Errorf("ending sandbox %s: %w", b.ID(), err)
	}
	b.p.handles.bury(b.h)
	return nil
}
