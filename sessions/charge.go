package sessions

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"openinspect/sandbox"
)

// What a box costs is counted in intervals, each of one person and one request or
// none. They grow with every heartbeat and at every request's end, so that a crash
// loses no more than a heartbeat's worth, and end with the box. Time in which
// nothing runs is that of whose request ran last; the boot is that of who waits.

// recordSize notes what a box is given, before it is asked for: it may be adopted
// by somebody who does not know.
func (e *Engine) recordSize(ctx context.Context, session string, spec sandbox.Spec) error {
	size := e.sizeOf(spec)
	_, err := e.db.ExecContext(ctx, `update sandboxes set cpu = $2, mem_mib = $3, lifetime = $4 where session_id = $1`,
		session, size.CPU, size.MemMiB, size.Lifetime)
	if err != nil {
		return fmt.Errorf("noting the size of the sandbox of %s: %w", session, err)
	}
	return nil
}

// size is what a box is given.
type size struct {
	CPU      float64 `db:"cpu"`      // cores
	MemMiB   int     `db:"mem_mib"`  // memory
	Lifetime float64 `db:"lifetime"` // seconds after its birth in which it ends; 0: never
}

// sizeOf is what a box gets that asks for spec.
func (e *Engine) sizeOf(spec sandbox.Spec) size {
	caps := e.cfg.Provider.Caps()
	return size{cmp.Or(spec.CPU, caps.CPU), cmp.Or(spec.MemMiB, caps.MemMiB), seconds(cmp.Or(spec.Lifetime, caps.MaxLifetime))}
}

// Purposes for which a box costs something besides a session's.
const (
	purposePool  = "pool"
	purposeImage = "image"
)

// chargeFor counts what a box of no session has cost, once it has ended or a session
// has it.
func (e *Engine) chargeFor(ctx context.Context, in sqlx.ExecerContext, purpose string, s size, life time.Duration) error {
	_, err := in.ExecContext(ctx, `insert into sandbox_usage (purpose, began_at, ended_at, cpu, mem_mib, cost_usd)
		values ($1, now() - make_interval(secs => $2), now(), $3, $4, $5)`,
		purpose, seconds(life), s.CPU, s.MemMiB, e.cfg.Provider.Caps().Price.Of(s.CPU, s.MemMiB, life))
	if err != nil {
		return fmt.Errorf("charging a sandbox of no session: %w", err)
	}
	return nil
}

// meter is what a charge is worked out from.
type meter struct {
	Generation int64           `db:"generation"`
	CPU        float64         `db:"cpu"`
	MemMiB     int             `db:"mem_mib"` // requested, or used if that is more
	From       time.Time       `db:"from_at"` // until when it is charged already
	Until      time.Time       `db:"until_at"`
	Running    sql.NullString  `db:"running"` // the request that runs
	Started    sql.NullTime    `db:"started_at"`
	Author     uuid.NullUUID   `db:"author"` // of what runs
	Before     uuid.NullUUID   `db:"before"` // of what ran before
	Last       sql.NullInt64   `db:"last"`   // the newest interval
	LastPerson uuid.NullUUID   `db:"last_person"`
	LastPrompt sql.NullString  `db:"last_prompt"`
	LastCPU    sql.NullFloat64 `db:"last_cpu"`
}

// charge brings the intervals of a session's box up to now; of one that sends no
// heartbeats, or has ended, up to its last. Whoever holds other locks takes this one last.
func (t *tx) charge(ctx context.Context, session string) error {
	if _, err := t.ExecContext(ctx, `select pg_advisory_xact_lock(hashtextextended('charge ' || $1, 0))`, session); err != nil {
		return fmt.Errorf("charging %s: %w", session, err)
	}
	var m meter
	err := t.GetContext(ctx, &m, `
		select b.generation, b.cpu, greatest(b.mem_mib, ceil(b.memory / 1048576.0))::int as mem_mib,
			coalesce(u.ended_at, greatest(b.born_at, b.claimed_at)) as from_at,
			case when coalesce(b.held_until, '-infinity') < now() then coalesce(b.heartbeat_at, b.born_at, b.claimed_at) else clock_timestamp() end as until_at,
			r.id as running, r.started_at, r.author, coalesce(
				(select author from prompts p where p.session_id = b.session_id and p.started_at is not null
					and p.id is distinct from r.id order by p.started_at desc limit 1), r.author,
				(select author from prompts p where p.session_id = b.session_id and p.state = 'queued' order by position limit 1)) as before,
			u.id as last, u.person as last_person, u.prompt_id as last_prompt, u.cpu as last_cpu
		from sandboxes b
		left join prompts r on r.session_id = b.session_id and r.state = 'running'
		left join lateral (select * from sandbox_usage u where u.session_id = b.session_id and u.purpose = 'session'
			and u.generation = b.generation order by u.id desc limit 1) u on true
		where b.session_id = $1 and b.generation > 0 and b.state not in ('none', 'parked', 'starting')`, session)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what %s is to be charged: %w", session, err)
	}
	if m.Running.Valid && m.Started.Time.After(m.From) && m.Started.Time.Before(m.Until) {
		if err := t.chargeOne(ctx, session, m, m.From, m.Started.Time, m.Before, ""); err != nil {
			return err
		}
		m.From, m.Last.Valid = m.Started.Time, false
	}
	person := m.Before
	if m.Running.Valid {
		person = m.Author
	}
	return t.chargeOne(ctx, session, m, m.From, m.Until, person, m.Running.String)
}

// chargeOne extends the newest interval, or begins the next one.
func (t *tx) chargeOne(ctx context.Context, session string, m meter, from, until time.Time, person uuid.NullUUID, prompt string) error {
	if !until.After(from) {
		return nil
	}
	cost := t.e.cfg.Provider.Caps().Price.Of(m.CPU, m.MemMiB, until.Sub(from))
	var err error
	if m.Last.Valid && m.LastPerson == person && m.LastPrompt.String == prompt && m.LastCPU.Float64 == m.CPU {
		_, err = t.ExecContext(ctx, `update sandbox_usage set ended_at = $2, mem_mib = greatest(mem_mib, $3), cost_usd = cost_usd + $4 where id = $1`,
			m.Last.Int64, until, m.MemMiB, cost)
	} else {
		_, err = t.ExecContext(ctx, `
			insert into sandbox_usage (session_id, generation, person, prompt_id, began_at, ended_at, cpu, mem_mib, cost_usd)
			values ($1, $2, $3, nullif($4, ''), $5, $6, $7, $8, $9)`,
			session, m.Generation, person, prompt, from, until, m.CPU, m.MemMiB, cost)
	}
	if err != nil {
		return fmt.Errorf("charging %s: %w", session, err)
	}
	return nil
}

// SandboxCost is what a session's boxes have cost so far.
type SandboxCost struct {
	Seconds float64 `db:"seconds" json:"seconds"`
	USD     float64 `db:"usd" json:"usd"`
}

// Millis are its seconds, in milliseconds.
func (c SandboxCost) Millis() int64 { return int64(c.Seconds * 1000) }

// SandboxCost reads what a session's boxes have cost so far.
func (e *Engine) SandboxCost(ctx context.Context, session string) (SandboxCost, error) {
	var c SandboxCost
	err := e.db.GetContext(ctx, &c, `
		select coalesce(sum(extract(epoch from ended_at - began_at)), 0) as seconds, coalesce(sum(cost_usd), 0) as usd
		from sandbox_usage where session_id = $1`, session)
	if err != nil {
		return c, fmt.Errorf("reading what the sandboxes of %s cost: %w", session, err)
	}
	return c, nil
}

// DayCost is what one person's requests cost on one day, by UTC.
type DayCost struct {
	Day            string    `db:"day" json:"day"` // 2006-01-02
	Person         uuid.UUID `db:"person" json:"person"`
	Name           string    `db:"name" json:"name"` // empty for what was done for nobody
	ModelUSD       float64   `db:"model_usd" json:"model_usd"`
	SandboxUSD     float64   `db:"sandbox_usd" json:"sandbox_usd"`
	SandboxSeconds float64   `db:"sandbox_seconds" json:"sandbox_seconds"`
}

// DayCosts reads the costs of the last days, newest first. An interval that lasts
// over midnight counts for the day in which it ended.
func (e *Engine) DayCosts(ctx context.Context, days int) ([]DayCost, error) {
	var list []DayCost
	err := e.db.SelectContext(ctx, &list, `
		with spent as (
			select (at at time zone 'UTC')::date as day, person, cost_usd as model_usd, 0::float as sandbox_usd, 0::float as seconds from usage
				where at > now() - make_interval(days => $1)
			union all
			select (ended_at at time zone 'UTC')::date, person, 0, cost_usd, extract(epoch from ended_at - began_at) from sandbox_usage
				where ended_at > now() - make_interval(days => $1))
		select to_char(day, 'YYYY-MM-DD') as day, coalesce(s.person, $2) as person, coalesce(a.name, '') as name,
			sum(model_usd) as model_usd, sum(sandbox_usd) as sandbox_usd, sum(seconds) as sandbox_seconds
		from spent s left join people a on a.id = s.person
		group by s.day, s.person, a.name order by s.day desc, a.name, s.person`, days, uuid.Nil)
	if err != nil {
		return nil, fmt.Errorf("reading what was spent: %w", err)
	}
	return list, nil
}
