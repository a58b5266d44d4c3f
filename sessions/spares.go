package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"openinspect/sandbox"
)

// A spare is a sandbox of a repository that no session has yet. It is started
// because somebody showed interest (Engine.Interest), or because the repository
// is busy (the pool), boots as far as it can without a session, and waits. A
// session that needs its first box takes one over: the session's row gets the
// box and its token, so that from then on the box's bridge, doors and deadlines
// are the session's. The spare's supervisor is made to dial again, and is then
// welcomed to the session.
//
//	spare   starting ──> booting ──> ready
//	        any of them ──> taken | ended
//
// A spare's token reads its repository and does nothing else (see Authenticate).
// Its start is claimed like a session's: a starter that dies is replaced when
// its claim runs out, and what it started is found by its tag and ended.

// Why a spare was started.
const (
	causeInterest = "interest"
	causePool     = "pool"
)

// How long a spare waits for a session.
const (
	interestLasts = 5 * time.Minute
	poolLasts     = 30 * time.Minute
)

// tagSpare is the tag by which a spare's box is found again, even when a session
// has taken it.
const tagSpare = "spare"

// spareLock is the advisory lock under which spares are counted. Nothing else is
// locked while it is held.
const spareLock = 0x6f697370617265

// wantSpare has a spare of the repository started, unless one is there that
// nobody has taken, or too many are, or they have cost too much, or it shall have none.
func (e *Engine) wantSpare(ctx context.Context, repository, cause string, lasts time.Duration, atLeast int) error {
	if e.cfg.MaxSpares <= 0 || repository == "" {
		return nil
	}
	added := false
	err := e.transact(ctx, func(t *tx) error {
		added = false
		if _, err := t.ExecContext(ctx, `select pg_advisory_xact_lock($1)`, spareLock); err != nil {
			return fmt.Errorf("counting spare sandboxes: %w", err)
		}
		var n struct {
			Here  int     `db:"here"`  // spares of the repository
			All   int     `db:"spare"` // spares
			Live  int     `db:"live"`  // sandboxes of sessions
			Spent float64 `db:"spent"` // USD within 24 hours
		}
		price := e.cfg.Provider.Caps().Price
		err := t.GetContext(ctx, &n, `
			select count(*) filter (where repository = $1) as here, count(*) as spare,
				(select count(*) from sandboxes where state in ('starting', 'booting', 'ready', 'parking')) as live,
				coalesce(sum(extract(epoch from now() - claimed_at) * (cpu * $3 + mem_mib / 1024.0 * $4)), 0)
					+ (select coalesce(sum(cost_usd), 0) from sandbox_usage where purpose = $2 and ended_at > now() - interval '24 hours') as spent
			from spares where ended_at is null`, repository, purposePool, price.CoreSecond, price.GiBSecond)
		if err != nil {
			return fmt.Errorf("counting spare sandboxes: %w", err)
		}
		switch {
		case n.Here >= atLeast, n.All >= e.cfg.MaxSpares, n.All+n.Live >= e.cfg.MaxSandboxes:
			return nil
		case price != sandbox.Price{} && n.Spent >= e.cfg.SpareDayUSD:
			return nil
		}
		added = true
		_, err = t.ExecContext(ctx, `
			insert into spares (id, repository, cause, until) select $1, name, $3, now() + make_interval(secs => $4)
			from repositories where name = $2 and active and `+switchedOn(switchSpares, "repositories.name"), newID(10), repository, cause, seconds(lasts))
		return err
	})
	if err != nil {
		return fmt.Errorf("asking for a spare sandbox of %s: %w", repository, err)
	}
	if added {
		e.hub.wake(topicStart)
	}
	return nil
}

// takeSpare gives the session the spare of its repository that is closest to
// being ready. The sandbox's row is locked. It says whether there was one.
func (t *tx) takeSpare(ctx context.Context, next candidate) (bool, error) {
	if next.Ref != "" || t.e.cfg.MaxSpares <= 0 {
		return false, nil // it continues a filesystem of its own
	}
	var s struct {
		ID     string       `db:"id"`
		Token  []byte       `db:"token_hash"`
		Box    string       `db:"box"`
		Name   string       `db:"provider"`
		Holder string       `db:"holder"`
		Born   sql.NullTime `db:"claimed_at"`
		size
	}
	// One whose start was not claimed yet would not be faster than a box of our own.
	// Who else has a row locked just now, as a heartbeat does, is waited for.
	err := t.GetContext(ctx, &s, `
		select id, token_hash, box, provider, holder, claimed_at, cpu, mem_mib, lifetime from spares
		where repository = $1 and state in ('starting', 'booting', 'ready') and token_hash is not null and cpu is not null
			and until > now() and held_until > now()
		order by state = 'ready' desc, state = 'booting' desc, created_at limit 1 for no key update`, next.Repository)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for a spare sandbox of %s: %w", next.Repository, err)
	}
	if err := t.endSpare(ctx, s.ID, spareTaken, ""); err != nil {
		return false, err
	}
	_, err = t.ExecContext(ctx, `
		update sandboxes set epoch = epoch + 1, generation = epoch + 1, state = 'starting', state_at = now(), claimed_at = now(),
			reason = '', token_hash = $2, box = $3, provider = $4, spare = $5, boot = '', phase = '', born_at = $6, heartbeat_at = null,
			looked_at = null, busy = false, carry = false, quiet_prompt = '', quiet_at = null, snapped_prompt = '', snap_soon = false,
			retry_at = null, wanted_until = null,
			holder = $7, held_until = now() + make_interval(secs => $8), cpu = $9, mem_mib = $10, lifetime = $11
		where session_id = $1`,
		next.Session, s.Token, s.Box, s.Name, s.ID, s.Born, s.Holder, seconds(t.e.tempo.lease), s.CPU, s.MemMiB, s.Lifetime)
	if err != nil {
		return false, fmt.Errorf("giving a spare sandbox to %s: %w", next.Session, err)
	}
	_, err = t.append(ctx, next.Session, entry{kind: KindSandbox, body: BodySandbox{State: SandboxStarting}})
	return true, err
}

// How a spare's life ends.
const (
	spareTaken = "taken"
	spareEnded = "ended"
)

// endSpare records a spare's end with what it cost. Whoever serves its bridge is told.
func (t *tx) endSpare(ctx context.Context, id, how, reason string) error {
	var lived struct {
		size
		Seconds float64 `db:"seconds"`
	}
	err := t.GetContext(ctx, &lived, `
		update spares set state = $2, reason = $3, ended_at = now(), holder = '', held_until = null, token_hash = null
		where id = $1 and ended_at is null returning coalesce(cpu, 0) as cpu, coalesce(mem_mib, 0) as mem_mib,
			coalesce(extract(epoch from now() - claimed_at), 0) as seconds`, id, how, reason)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("noting the end of spare sandbox %s: %w", id, err)
	}
	t.wakeSession(id)
	return t.e.chargeFor(ctx, t, purposePool, lived.size, inSeconds(lived.Seconds))
}

// giveUpSpare ends the spare that has waited longest, to make room, and says
// whether there was one.
func (t *tx) giveUpSpare(ctx context.Context) (bool, error) {
	var id string
	err := t.GetContext(ctx, &id, `select id from spares where state in ('starting', 'booting', 'ready')
		order by created_at limit 1 for no key update skip locked`)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for a spare sandbox to give up: %w", err)
	}
	return true, t.endSpare(ctx, id, spareEnded, "a session needed the room")
}

// Interest is a sign that somebody may soon ask for something: in a session, or
// else on a repository, which the fields tell in this order.
type Interest struct {
	Session       string
	Repository    string // owner/name
	Text          string // what is being written, which may name one
	Team, Channel string // of Slack: what is asked there is about the same one as a rule
}

// Interest makes ready what a request that may come would need: the session's own
// sandbox, or a spare of the repository. It may be called as often as surfaces
// like, returns when the wish is recorded, and never takes anything from others.
func (e *Engine) Interest(ctx context.Context, i Interest) error {
	if e.cfg.MaxSpares <= 0 {
		return nil
	}
	if i.Session != "" {
		return e.wantSandbox(ctx, i.Session)
	}
	repository := i.Repository
	if repository == "" {
		var err error
		if repository, err = e.guessRepository(ctx, i); err != nil {
			return err
		}
	}
	return e.wantSpare(ctx, repository, causeInterest, interestLasts, 1)
}

// guessRepository is the repository that a request would most likely be about, or
// "" if there is nothing to go by.
func (e *Engine) guessRepository(ctx context.Context, i Interest) (string, error) {
	all, err := e.Repositories(ctx)
	if err != nil {
		return "", err
	}
	if len(all) == 1 {
		return all[0].Name, nil
	}
	if found, _ := namedRepositories(i.Text, all); len(found) == 1 {
		return found[0].Name, nil
	}
	if i.Channel == "" {
		return "", nil
	}
	var name string
	err = e.db.GetContext(ctx, &name, `
		select coalesce((select repository from channel_repositories where team = $1 and channel = $2),
			(select repository from sessions where team = $1 and channel = $2 and repository is not null order by created_at desc limit 1),
			'')`, i.Team, i.Channel)
	if err != nil {
		return "", fmt.Errorf("guessing the repository of channel %s: %w", i.Channel, err)
	}
	return name, nil
}

// wantSandbox has the session's sandbox started although no prompt waits.
func (e *Engine) wantSandbox(ctx context.Context, session string) error {
	res, err := e.db.ExecContext(ctx, `
		update sandboxes b set wanted_until = now() + make_interval(secs => $2) from sessions s
		where b.session_id = $1 and s.id = b.session_id and s.repository is not null and s.state = 'open'
			and b.state in ('none', 'parked', 'lost', 'failed') and coalesce(b.wanted_until, '-infinity') < now()
			and `+switchedOn(switchSpares, "s.repository"),
		session, seconds(interestLasts))
	if err != nil {
		return fmt.Errorf("noting interest in session %s: %w", session, err)
	}
	if fresh, err := affected(res); err != nil || !fresh {
		return err
	}
	e.hub.wake(topicStart)
	return nil
}

// expectLikeliest has a spare started of the repository that will most likely be
// chosen: of which most was asked lately in the session's channel, then anywhere.
func (e *Engine) expectLikeliest(ctx context.Context, q question) error {
	var name string
	err := e.db.GetContext(ctx, &name, `
		select f.name from unnest($2::text[]) with ordinality f (name, place)
		left join lateral (select count(*) filter (where o.channel = s.channel and o.team = s.team) as here, count(*) as anywhere
			from sessions s join sessions o on o.repository = f.name and o.created_at > now() - interval '30 days' where s.id = $1) n on true
		order by n.here desc, n.anywhere desc, f.place limit 1`, q.Session, q.From)
	if err != nil {
		return fmt.Errorf("guessing the repository of %s: %w", q.Session, ignoreNotFound(notFound(err)))
	}
	return e.wantSpare(ctx, name, causeInterest, interestLasts, 1)
}

// spareBox is the box of a spare.
func (e *Engine) spareBox(s spareClaim) sandbox.Spec {
	return sandbox.Spec{
		Name: fmt.Sprintf("spare-%s-%d", s.ID, s.Try), From: s.image.Ref, Command: e.cfg.Command,
		Env:  map[string]string{sandbox.EnvToken: s.token, sandbox.EnvControl: e.cfg.Control},
		Tags: map[string]string{tagSpare: s.ID},
	}
}

// authenticateSpare is Authenticate for the token of a spare.
func (e *Engine) authenticateSpare(ctx context.Context, token string) (Grant, error) {
	var g struct {
		ID         string `db:"id"`
		Repository string `db:"repository"`
		Default    string `db:"default_branch"`
	}
	err := e.db.GetContext(ctx, &g, `select s.id, s.repository, r.default_branch from spares s join repositories r on r.name = s.repository
		where s.token_hash = $1 and s.ended_at is null`, hashOf(token))
	if err != nil {
		return Grant{}, fmt.Errorf("checking a sandbox's token: %w", notFound(err))
	}
	return Grant{Session: "spare-" + g.ID, Repository: g.Repository, DefaultBranch: g.Default}, nil
}

// findSpareBox finds the box of a spare that a session took, or returns nil.
func (e *Engine) findSpareBox(ctx context.Context, id string) (sandbox.Box, error) {
	for info, err := range e.cfg.Provider.List(ctx, map[string]string{tagSpare: id}) {
		if err != nil {
			return nil, fmt.Errorf("looking for the box of spare sandbox %s: %w", id, err)
		}
		box, err := e.cfg.Provider.Attach(ctx, info.ID)
		if !errors.Is(err, sandbox.ErrGone) {
			return box, err
		}
	}
	return nil, nil
}
