package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

// Child sessions. An agent begins them for the person who asked it, on any
// repository; each has a sandbox, a branch and a page of its own, and no thread.
// When a prompt that a parent gave its child ends, or one by which a person answered
// what such a prompt asked, a report is a row; it becomes a prompt of the parent
// (source agent), or the result of get_session if the parent waits for it. Ending
// the parent's work does not end its children: each is stopped on its own page.
// Locks of two sessions are taken parent first.

// Bounds of what one person's request can begin.
const (
	deepestChild  = 2  // parents above a session
	childrenAlive = 5  // children of one root with something to do, at once
	childrenInAll = 15 // of one root, ever
)

// KindChild is in the parent's log: a child session began, got something to do or ended it.
const KindChild = "session.child" // BodyChild

// BodyChild says how a child session is.
type BodyChild struct {
	Session    string      `json:"session"`
	Repository string      `json:"repository"`
	Title      string      `json:"title"`
	URL        string      `json:"url"`
	State      PromptState `json:"state"` // of what it was asked last
}

// Child is a session that another one's agent began.
type Child struct {
	ID         string      `db:"id"`
	Title      string      `db:"title"`
	Repository string      `db:"repository"`
	State      PromptState `db:"state"` // of its last prompt
}

// Children reads the sessions that a session's agent began, oldest first.
func (e *Engine) Children(ctx context.Context, session string) ([]Child, error) {
	var list []Child
	err := e.db.SelectContext(ctx, &list, `
		select s.id, s.title, coalesce(s.repository, '') as repository, coalesce((select state from prompts p where p.session_id = s.id
			order by position desc limit 1), 'queued') as state
		from sessions s where s.parent = $1 order by s.created_at, s.id`, session)
	if err != nil {
		return nil, fmt.Errorf("reading the children of %s: %w", session, err)
	}
	return list, nil
}

// Parent is the session whose agent began this one, or empty.
func (e *Engine) Parent(ctx context.Context, session string) (string, error) {
	var parent string
	err := e.db.GetContext(ctx, &parent, `select coalesce(parent, '') from sessions where id = $1`, session)
	if err != nil {
		return "", fmt.Errorf("reading the parent of %s: %w", session, notFound(err))
	}
	return parent, nil
}

// lineage is where a session stands among its kin.
type lineage struct {
	Root  string `db:"root"`
	Depth int    `db:"depth"`
	Alive int    `db:"alive"` // children of the root with something to do
	Total int    `db:"total"`
}

// lockLineage reads it. Calls of all sessions of one root wait for each other, so
// that together they stay within the bounds: by a lock of their own, because the
// root's row is locked for its log. It is the last one that a call takes of what
// was there before.
func (t *tx) lockLineage(ctx context.Context, session string) (lineage, error) {
	var l lineage
	if err := t.GetContext(ctx, &l.Root, `select coalesce(root, id) from sessions where id = $1`, session); err != nil {
		return l, fmt.Errorf("reading the root of %s: %w", session, err)
	}
	if _, err := t.ExecContext(ctx, `select pg_advisory_xact_lock(hashtextextended('children:' || $1, 0))`, l.Root); err != nil {
		return l, fmt.Errorf("locking the children of %s: %w", l.Root, err)
	}
	err := t.GetContext(ctx, &l, `
		select $2 as root, (select depth from sessions where id = $1) as depth, count(*) as total,
			count(*) filter (where exists (select from prompts p where p.session_id = s.id and p.state in ('queued', 'running'))) as alive
		from sessions s where s.root = $2`, session, l.Root)
	if err != nil {
		return l, fmt.Errorf("counting the children of %s: %w", l.Root, err)
	}
	return l, nil
}

// reported records that the parent has to be told of a prompt's end, if it gave
// it, or if a person's answer went on with what it gave. An answer that was
// withdrawn is none: its question is open again. The session's row is locked.
func (t *tx) reported(ctx context.Context, s Session, prompt string) error {
	res, err := t.ExecContext(ctx, `insert into reports (prompt_id, parent)
		select p.id, s.parent from prompts p join sessions s on s.id = p.session_id
		where p.id = $1 and s.parent is not null and (p.source = 'agent' or p.state <> 'cancelled' and exists (
			select from questions q join reports asked on asked.prompt_id = q.prompt_id where q.answer_prompt = p.id))
		on conflict do nothing`, prompt)
	if err != nil {
		return fmt.Errorf("recording a report of %s: %w", s.ID, err)
	}
	if fresh, err := affected(res); err != nil || !fresh {
		return err
	}
	t.wakeSurface(surfaceReports)
	return nil
}

// surfaceReports wakes who delivers reports.
const surfaceReports = "reports"

// report is what a parent is told.
type report struct {
	Prompt     string         `db:"prompt_id"`
	Parent     string         `db:"parent"`
	Session    string         `db:"session_id"`
	Title      string         `db:"title"`
	Repository string         `db:"repository"`
	State      PromptState    `db:"state"`
	Reason     string         `db:"reason"`
	Answer     string         `db:"answer"`
	Question   sql.NullString `db:"question"`
	Options    pq.StringArray `db:"options"`
	Pull       string         `db:"pull"`
	For        sql.NullString `db:"parent_prompt"`
}

const reportColumns = `r.prompt_id, r.parent, p.session_id, s.title, coalesce(s.repository, '') as repository, p.state, p.reason, p.answer,
	q.text as question, q.options, s.parent_prompt,
	coalesce((select url from artifacts a where a.session_id = s.id and a.kind = 'pull_request' order by created_at desc limit 1), '') as pull
	from reports r join prompts p on p.id = r.prompt_id join sessions s on s.id = p.session_id
	left join questions q on q.prompt_id = p.id and q.answered_at is null`

// longestReport bounds what a parent reads of a child's answer, in characters.
const longestReport = 20_000

// text is what the parent's agent reads.
func (r report) text(page string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Session %s (“%s” on %s) is %s.", r.Session, r.Title, r.Repository, r.State)
	if r.Reason != "" {
		fmt.Fprintf(&b, " %s", r.Reason)
	}
	if r.Pull != "" {
		fmt.Fprintf(&b, "\nIts pull request: %s", r.Pull)
	}
	if r.Answer != "" {
		fmt.Fprintf(&b, "\nIts answer:\n\n%s", shorten(r.Answer, longestReport))
	}
	if r.Question.Valid {
		fmt.Fprintf(&b, "\nIt asks: %s\nOptions: %s\nAnswer it with start_session and this session's id, or ask the people who asked you.",
			r.Question.String, strings.Join(r.Options, "; "))
	}
	fmt.Fprintf(&b, "\nIts page: %s", page)
	return b.String()
}

// deliverReports tells parents what their children answered, while it holds the lease.
func (e *Engine) deliverReports(ctx context.Context) error {
	wake := e.hub.listen(ctx, surfaceTopic(surfaceReports))
	poll := time.NewTicker(e.tempo.poll)
	defer poll.Stop()
	for {
		var due []string
		err := e.db.SelectContext(ctx, &due, `select prompt_id from reports r where delivered_at is null and $1 > (
			select count(*) from prompts p where p.session_id = r.parent and p.state in ('queued', 'running'))
			order by created_at limit 50`, e.cfg.MaxQueue)
		e.warn(ctx, "reading what parents have to be told", err)
		for _, prompt := range due {
			if err := e.deliverReport(ctx, prompt); err != nil && ctx.Err() == nil {
				e.log.Warn("telling a parent what its child answered", "prompt", prompt, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-poll.C:
		}
	}
}

// deliverReport makes one report a prompt of the parent, unless a get_session of
// the parent waits for it: that takes it itself. It waits while the parent's queue
// is full. A parent that somebody put away stays there: its log alone is told.
func (e *Engine) deliverReport(ctx context.Context, prompt string) error {
	err := e.transact(ctx, func(t *tx) error {
		r, err := t.takeReport(ctx, prompt, nil)
		if err != nil || r == nil {
			return err
		}
		parent, err := readSession(ctx, t, r.Parent)
		if err != nil || parent.State == "archived" {
			return err
		}
		author, err := readPrompt(ctx, t, r.Prompt)
		if err != nil {
			return err
		}
		_, err = t.accept(ctx, Request{Source: FromAgent, Author: author.Author, Session: r.Parent, Text: r.text(e.pageURL(r.Session)), report: true})
		return err
	})
	if p, refused := errors.AsType[*Problem](err); refused && p.Code == "queue_full" { // it filled up meanwhile
		return nil
	}
	return err
}

// takeReport marks a report as delivered and notes the child's state in the
// parent's log, under the parent's lock. waiter is the call of get_session that
// takes it, or nil. It returns nil if somebody else did, if a call of the parent
// waits for it, or if the waiter's prompt has ended: nobody would read it there.
func (t *tx) takeReport(ctx context.Context, prompt string, waiter *toolCall) (*report, error) {
	var r report
	err := t.GetContext(ctx, &r, `select `+reportColumns+` where r.prompt_id = $1`, prompt)
	if err != nil {
		return nil, fmt.Errorf("reading a report: %w", notFound(err))
	}
	s, err := t.lockSession(ctx, r.Parent)
	if err != nil {
		return nil, err
	}
	if waiter == nil {
		waiter = &toolCall{}
	}
	res, err := t.ExecContext(ctx, `
		update reports r set delivered_at = now() where prompt_id = $1 and delivered_at is null and case when $2 <> ''
			then exists (select from prompts p where p.id = $2 and p.state = 'running' and p.boot = $3)
			else not exists (
				select from calls c join prompts p on p.id = c.prompt_id and p.state = 'running' and p.boot = c.boot
				where c.session_id = r.parent and c.tool = 'get_session' and c.result is null and c.args->>'session' = $4
					and json_typeof(c.args->'wait_seconds') = 'number' and c.args->>'wait_seconds' ~ '^[0-9.]*[1-9]') end`,
		prompt, waiter.prompt, waiter.boot, r.Session)
	if err != nil {
		return nil, fmt.Errorf("delivering a report: %w", err)
	}
	if taken, err := affected(res); err != nil || !taken {
		return nil, err
	}
	events, err := t.append(ctx, s.ID, entry{prompt: r.For.String, kind: KindChild, body: BodyChild{Session: r.Session, Repository: r.Repository,
		Title: r.Title, URL: t.e.pageURL(r.Session), State: r.State}})
	if err != nil {
		return nil, err
	}
	// The card of the prompt that began the child lists it, also after it ended.
	_, err = t.ExecContext(ctx, `update outbox set state = 'pending', wanted = $2, next_at = now() where key = $1 and state = 'done'`,
		"card:"+r.For.String, events[0].Seq)
	if err != nil {
		return nil, fmt.Errorf("showing a child of %s: %w", s.ID, err)
	}
	t.wakeSurface(surfaceSlack)
	return &r, nil
}
