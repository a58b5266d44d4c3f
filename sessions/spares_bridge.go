package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// errNotSpare ends a spare's bridge: a session has taken it, or it is not wanted any more.
var errNotSpare = errors.New("the sandbox is not a spare any more")

// spareBridge is the bridge of a spare while it is connected to this process.
// Events are read and not acknowledged: the session that takes the spare gets
// them all when the supervisor dials again, its boot's phases among them.
type spareBridge struct {
	e    *Engine
	link *sandbox.Link
	id   string
	repo Repository
}

// serveSpare serves the bridge of a spare until a session takes it. It returns
// ErrNotFound if the token is no spare's.
func (e *Engine) serveSpare(ctx context.Context, token string, l *sandbox.Link) error {
	b, err := e.meetSpare(ctx, token, l)
	if err != nil {
		return err
	}
	defer b.letGo(ctx)
	welcome, err := b.welcome(ctx)
	if err != nil {
		return err
	}
	if err := l.Send(ctx, sandbox.Message{Welcome: welcome}); err != nil {
		e.log.Info("a spare sandbox went away before its welcome", "spare", b.id, "err", err)
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.receive(ctx) })
	g.Go(func() error { return b.waitForSession(ctx) })
	err = g.Wait()
	e.log.Info("the bridge of a spare sandbox has ended", "spare", b.id, "err", err)
	l.Close("this sandbox is a spare no more")
	return nil
}

// meetSpare notes that the spare's supervisor has dialled in.
func (e *Engine) meetSpare(ctx context.Context, token string, l *sandbox.Link) (*spareBridge, error) {
	b := &spareBridge{e: e, link: l}
	var row struct {
		ID string `db:"spare"`
		Repository
	}
	err := e.db.GetContext(ctx, &row, `
		update spares s set state = case when state = 'starting' then 'booting' else state end,
			holder = $2, held_until = now() + make_interval(secs => $3)
		from repositories r where r.name = s.repository and token_hash = $1 and state in ('starting', 'booting', 'ready')
		returning s.id as spare, r.name, r.default_branch`, hashOf(token), e.cfg.Replica, seconds(e.tempo.lost))
	if err != nil {
		return nil, notFound(err)
	}
	b.id, b.repo = row.ID, row.Repository
	return b, nil
}

// welcome is a Welcome without a session.
func (b *spareBridge) welcome(ctx context.Context) (*sandbox.Welcome, error) {
	w := b.e.welcomeTo(b.repo.Name)
	w.BaseBranch = b.repo.DefaultBranch
	_, err := b.e.addSettings(ctx, b.repo.Name, &w)
	return &w, err
}

// receive reads what the spare says.
func (b *spareBridge) receive(ctx context.Context) error {
	for {
		m, err := b.link.Recv(ctx)
		if err != nil {
			return err
		}
		switch {
		case m.Heartbeat != nil:
			err = b.keep(ctx)
		case m.Event != nil && m.Event.Kind == sandbox.KindPhase:
			err = b.phase(ctx, m.Event.Body)
		}
		if err != nil {
			return err
		}
	}
}

// keep renews the bridge's lease, as long as it is a spare's.
func (b *spareBridge) keep(ctx context.Context) error {
	return b.update(ctx, `update spares set held_until = now() + make_interval(secs => $2) where id = $1 and state in ('booting', 'ready')`,
		seconds(b.e.tempo.lost))
}

func (b *spareBridge) update(ctx context.Context, statement string, args ...any) error {
	res, err := b.e.db.ExecContext(ctx, statement, append([]any{b.id}, args...)...)
	if err != nil {
		return fmt.Errorf("writing of spare sandbox %s: %w", b.id, err)
	}
	if still, err := affected(res); err != nil || !still {
		return errors.Join(err, errNotSpare)
	}
	return nil
}

// phase follows the boot.
func (b *spareBridge) phase(ctx context.Context, body json.RawMessage) error {
	var p sandbox.BodyPhase
	if err := json.Unmarshal(body, &p); err != nil {
		return fmt.Errorf("reading a phase of spare sandbox %s: %w", b.id, err)
	}
	switch {
	case p.State == "failed":
		_, secrets, err := b.e.secretsOf(ctx, b.repo.Name)
		if _, told := errors.AsType[*Problem](err); err != nil && !told {
			return err
		}
		reason := b.e.scrub.with(secrets...).text(storable(phaseReason(p)))
		b.e.log.Warn("a spare sandbox could not be prepared", "repository", b.repo.Name, "reason", reason)
		err = b.e.transact(ctx, func(t *tx) error { return t.endSpare(ctx, b.id, spareEnded, reason) })
		return errors.Join(err, errNotSpare)
	case p.Phase == sandbox.PhaseSpare && p.State == "done":
		return b.update(ctx, `update spares set state = 'ready' where id = $1 and state in ('booting', 'ready')`)
	}
	return nil
}

// waitForSession returns once the row says that the sandbox is no spare any more.
func (b *spareBridge) waitForSession(ctx context.Context) error {
	wake := b.e.hub.listen(ctx, actorTopic(b.id))
	poll := time.NewTicker(b.e.tempo.poll)
	defer poll.Stop()
	for {
		var still bool
		err := b.e.db.GetContext(ctx, &still, `select exists (select from spares where id = $1 and state in ('booting', 'ready'))`, b.id)
		if err != nil {
			return fmt.Errorf("looking whether sandbox %s is a spare: %w", b.id, err)
		}
		if !still {
			return errNotSpare
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-poll.C:
		}
	}
}

// letGo lets a cut bridge show, so that no session takes a spare that cannot be reached.
func (b *spareBridge) letGo(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_, err := b.e.db.ExecContext(ctx, `update spares set holder = '', held_until = now() where id = $1 and holder = $2 and ended_at is null`,
		b.id, b.e.cfg.Replica)
	if err != nil {
		b.e.log.Warn("a spare sandbox's lease could not be given back; it expires", "spare", b.id, "err", err)
	}
}
