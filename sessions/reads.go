package sessions

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
)

// ErrNotFound is returned by reads of one thing that does not exist.
var ErrNotFound = errors.New("not found")

const sessionColumns = `s.id, s.title, coalesce(s.repository, '') as repository, s.repository_why, s.base_branch, s.head,
	s.model, s.state, coalesce(s.team, '') as team, coalesce(s.channel, '') as channel, coalesce(s.thread, '') as thread,
	s.created_by, s.last_seq, s.cost_usd, s.created_at, s.updated_at`

const promptColumns = `p.id, p.session_id, p.position, p.author, a.name as author_name, p.source, p.text, p.attachments,
	p.model, p.state, p.reason, coalesce(p.message_ts, '') as message_ts, p.answer, p.files, p.additions, p.deletions,
	p.cost_usd, p.input_tokens, p.output_tokens, p.stop_wanted_by is not null as stop_wanted,
	p.state = 'running' and p.boot is null as carried,
	coalesce((select sum(u.cost_usd) from sandbox_usage u where u.prompt_id = p.id), 0) as sandbox_usd,
	p.created_at, p.started_at, p.ended_at`

const personColumns = `id, coalesce(slack_team, '') as slack_team, coalesce(slack_user, '') as slack_user, name, email,
	avatar_url, coalesce(github_id, 0) as github_id, coalesce(github_login, '') as github_login,
	coalesce(github_broken, '') as github_broken, admin`

func readSession(ctx context.Context, q sqlx.QueryerContext, id string) (Session, error) {
	var s Session
	err := sqlx.GetContext(ctx, q, &s, `select `+sessionColumns+` from sessions s where s.id = $1`, id)
	if err != nil {
		return s, fmt.Errorf("reading session %s: %w", id, notFound(err))
	}
	return s, nil
}

// lockSession reads a session and takes its row lock.
func (t *tx) lockSession(ctx context.Context, id string) (Session, error) {
	var s Session
	err := t.GetContext(ctx, &s, `select `+sessionColumns+` from sessions s where s.id = $1 for no key update`, id)
	if err != nil {
		return s, fmt.Errorf("locking session %s: %w", id, notFound(err))
	}
	return s, nil
}

func readPrompt(ctx context.Context, q sqlx.QueryerContext, id string) (Prompt, error) {
	var p Prompt
	err := sqlx.GetContext(ctx, q, &p, `select `+promptColumns+` from prompts p join people a on a.id = p.author where p.id = $1`, id)
	if err != nil {
		return p, fmt.Errorf("reading prompt %s: %w", id, notFound(err))
	}
	return p, nil
}

func readPerson(ctx context.Context, q sqlx.QueryerContext, id uuid.UUID) (Person, error) {
	var p Person
	err := sqlx.GetContext(ctx, q, &p, `select `+personColumns+` from people where id = $1`, id)
	if err != nil {
		return p, fmt.Errorf("reading person %s: %w", id, notFound(err))
	}
	return p, nil
}

// lockPerson reads a person under the lock of their row: whoever connects GitHub
// changes that row first and then looks for what waits for it (LinkGitHub), so
// that what is made to wait under the lock is found.
func (t *tx) lockPerson(ctx context.Context, id uuid.UUID) (Person, error) {
	var p Person
	err := t.GetContext(ctx, &p, `select `+personColumns+` from people where id = $1 for no key update`, id)
	if err != nil {
		return p, fmt.Errorf("locking person %s: %w", id, notFound(err))
	}
	return p, nil
}

// lockThread reads the session of a thread and takes its row lock.
func (t *tx) lockThread(ctx context.Context, th Thread) (Session, error) {
	var s Session
	err := t.GetContext(ctx, &s, `select `+sessionColumns+` from sessions s
		where team = $1 and channel = $2 and thread = $3 for no key update`, th.Team, th.Channel, th.TS)
	if err != nil {
		return s, fmt.Errorf("locking the session of a thread: %w", notFound(err))
	}
	return s, nil
}

// Session reads one session.
func (e *Engine) Session(ctx context.Context, id string) (Session, error) {
	return readSession(ctx, e.db, id)
}

// ThreadSession is the session of a Slack thread.
type ThreadSession struct {
	Session
	FirstTS string `db:"first_ts"` // the earliest message that is a request of the session; empty if none is
}

// SessionOfThread reads the session of a Slack thread, or returns ErrNotFound.
func (e *Engine) SessionOfThread(ctx context.Context, t Thread) (ThreadSession, error) {
	var s ThreadSession
	err := e.db.GetContext(ctx, &s, `select `+sessionColumns+`,
			coalesce((select min(message_ts) from prompts p where p.session_id = s.id), '') as first_ts
		from sessions s where team = $1 and channel = $2 and thread = $3`, t.Team, t.Channel, t.TS)
	if err != nil {
		return s, fmt.Errorf("reading the session of a thread: %w", notFound(err))
	}
	return s, nil
}

// Summary is a session in a list, with what people see of it.
type Summary struct {
	Session
	Status  string `db:"status"` // queued, starting, working, waiting, failed (the last prompt did), idle, archived; derived
	Prompts int    `db:"prompts"`
	Author  string `db:"author"`
	PR      string `db:"pr"` // URL of its pull request, or empty
}

// Sessions lists sessions, newest first; mine limits it to those a person prompted in (uuid.Nil: all).
func (e *Engine) Sessions(ctx context.Context, mine uuid.UUID, limit, offset int) ([]Summary, error) {
	var list []Summary
	err := e.db.SelectContext(ctx, &list, `
		select `+sessionColumns+`, a.name as author, q.prompts,
			case when s.state = 'archived' then 'archived'
				when q.running > 0 then 'working'
				when q.queued > 0 and s.repository is null and s.choice = 'people' then 'waiting'
				when q.queued > 0 and b.state in ('starting', 'booting') then 'starting'
				when q.queued > 0 then 'queued'
				when exists (select from questions o where o.session_id = s.id and o.answered_at is null) then 'waiting'
				when q.last = 'failed' then 'failed'
				else 'idle' end as status,
			coalesce((select url from artifacts f where f.session_id = s.id and f.kind = 'pull_request'
				order by created_at desc limit 1), '') as pr
		from sessions s
		join people a on a.id = s.created_by
		left join sandboxes b on b.session_id = s.id
		cross join lateral (select count(*) as prompts, count(*) filter (where state = 'running') as running,
			count(*) filter (where state = 'queued') as queued,
			(array_agg(state order by position desc) filter (where state <> 'cancelled'))[1] as last from prompts p where p.session_id = s.id) q
		where $1::uuid = $2::uuid or exists (select from prompts p where p.session_id = s.id and p.author = $1)
		order by s.created_at desc, s.id limit $3 offset $4`, mine, uuid.Nil, limit, offset)
	if err != nil {
		return nil, fmt.Errorf("listing sessions: %w", err)
	}
	return list, nil
}

// Prompts reads a session's prompts in queue order.
func (e *Engine) Prompts(ctx context.Context, session string) ([]Prompt, error) {
	var list []Prompt
	err := e.db.SelectContext(ctx, &list, `select `+promptColumns+`
		from prompts p join people a on a.id = p.author where p.session_id = $1 order by p.position`, session)
	if err != nil {
		return nil, fmt.Errorf("reading prompts of %s: %w", session, err)
	}
	return list, nil
}

// Prompt reads one prompt.
func (e *Engine) Prompt(ctx context.Context, id string) (Prompt, error) {
	return readPrompt(ctx, e.db, id)
}

const eventColumns = `session_id, seq, coalesce(prompt_id, '') as prompt_id, kind, body, at`

// Events reads up to limit entries of the log after a sequence number, in order.
func (e *Engine) Events(ctx context.Context, session string, after int64, limit int) ([]Event, error) {
	var list []Event
	err := e.db.SelectContext(ctx, &list, `select `+eventColumns+` from events
		where session_id = $1 and seq > $2 order by seq limit $3`, session, after, limit)
	if err != nil {
		return nil, fmt.Errorf("reading events of %s: %w", session, err)
	}
	return list, nil
}

// EventsOfPrompt reads the entries of one prompt, in order.
func (e *Engine) EventsOfPrompt(ctx context.Context, session, prompt string) ([]Event, error) {
	var list []Event
	err := e.db.SelectContext(ctx, &list, `select `+eventColumns+` from events
		where prompt_id = $2 and session_id = $1 order by seq`, session, prompt)
	if err != nil {
		return nil, fmt.Errorf("reading events of prompt %s: %w", prompt, err)
	}
	return list, nil
}

// RunningParts reads the parts that are being written now. Read it after
// subscribing: deltas that come later continue what it returns.
func (e *Engine) RunningParts(ctx context.Context, session string) ([]RunningPart, error) {
	if a := e.hub.actorOf(session); a != nil {
		return a.parts.list(), nil
	}
	var list []RunningPart
	err := e.db.SelectContext(ctx, &list, `select part, prompt_id, kind, text from running_parts
		where session_id = $1 order by part`, session)
	if err != nil {
		return nil, fmt.Errorf("reading the running parts of %s: %w", session, err)
	}
	return list, nil
}

// Artifacts reads what a session made, oldest first.
func (e *Engine) Artifacts(ctx context.Context, session string) ([]Artifact, error) {
	var list []Artifact
	err := e.db.SelectContext(ctx, &list, `
		select id, session_id, coalesce(prompt_id, '') as prompt_id, kind, key, url, title, body, created_at,
			exists (select from artifact_files f where f.artifact = artifacts.id and f.gone_at is not null) as gone
		from artifacts where session_id = $1 order by created_at, key`, session)
	if err != nil {
		return nil, fmt.Errorf("reading artifacts of %s: %w", session, err)
	}
	return list, nil
}

// Sandbox reads what is known of a session's sandbox.
func (e *Engine) Sandbox(ctx context.Context, session string) (Sandbox, error) {
	var s Sandbox
	err := e.db.GetContext(ctx, &s, `
		select s.id as session_id, coalesce(b.epoch, 0) as epoch, coalesce(b.state, 'none') as state,
			coalesce(b.reason, '') as reason, coalesce(b.provider, '') as provider, coalesce(b.box, '') as box,
			coalesce(b.phase, '') as phase, b.born_at, b.heartbeat_at, coalesce(b.busy, false) as busy,
			coalesce(b.memory, 0) as memory, coalesce(b.disk, 0) as disk
		from sessions s left join sandboxes b on b.session_id = s.id where s.id = $1`, session)
	if err != nil {
		return s, fmt.Errorf("reading the sandbox of %s: %w", session, notFound(err))
	}
	return s, nil
}

// Participants reads the people who prompted in a session, in order of their first prompt.
func (e *Engine) Participants(ctx context.Context, session string) ([]Person, error) {
	var list []Person
	err := e.db.SelectContext(ctx, &list, `
		select `+personColumns+` from people
		join (select author, min(position) as first from prompts where session_id = $1 group by author) p on p.author = id
		order by first`, session)
	if err != nil {
		return nil, fmt.Errorf("reading the people of %s: %w", session, err)
	}
	return list, nil
}

// Person reads one person.
func (e *Engine) Person(ctx context.Context, id uuid.UUID) (Person, error) {
	return readPerson(ctx, e.db, id)
}

// Repositories reads the repositories that sessions may work on, by name.
func (e *Engine) Repositories(ctx context.Context) ([]Repository, error) {
	return activeRepositories(ctx, e.db)
}

func activeRepositories(ctx context.Context, q sqlx.QueryerContext) ([]Repository, error) {
	var list []Repository
	err := sqlx.SelectContext(ctx, q, &list, `
		select name, github_id, default_branch, description, private from repositories where active order by name`)
	if err != nil {
		return nil, fmt.Errorf("reading the repositories: %w", err)
	}
	return list, nil
}
