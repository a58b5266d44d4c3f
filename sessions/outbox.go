package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Kinds of outbox rows for Slack, most urgent first. What is said is rendered
// by the surface when it delivers: the row only says what to show.
const (
	DeliverAnswer    = "answer"    // a settled prompt's answer: one new message per prompt
	DeliverNotice    = "notice"    // body: Notice
	DeliverEphemeral = "ephemeral" // body: Notice with User; at most once
	DeliverMenu      = "menu"      // a person has to choose the repository; body: BodyWaiting
	DeliverCard      = "card"      // a prompt's card: posted once, edited while the log goes on
)

// Surfaces of the outbox.
const (
	surfaceSlack = "slack"
	surfaceForge = "forge"
)

// Priorities of outbox rows; smaller is more urgent.
const (
	priorityAnswer   = 10
	priorityNotice   = 20
	priorityMenu     = 25
	priorityCard     = 30
	priorityProgress = 40 // a card that was posted and is edited
)

// Delivery is one outbox row that is due. A card is due again whenever its
// session's log has grown past Cursor with something that the card shows, until
// it was delivered after its prompt settled (then it is done).
type Delivery struct {
	ID       int64           `db:"id"`
	Kind     string          `db:"kind"`
	Key      string          `db:"key"` // also the message's metadata, by which an earlier success is found (I6)
	Session  string          `db:"session_id"`
	Prompt   string          `db:"prompt_id"`
	Priority int             `db:"priority"`
	Body     json.RawMessage `db:"body"`
	Cursor   int64           `db:"cursor"` // log position last shown; -1: never delivered
	Remote   json.RawMessage `db:"remote"` // where it landed; {} if nowhere yet
	Unknown  bool            `db:"unknown"`
	Attempts int             `db:"attempts"`
}

// outboxRow is a row to insert.
type outboxRow struct {
	surface, kind, key, session, prompt string
	priority                            int
	body                                any // nil: {}
}

// enqueue records an effect (I6). A key that exists already changes nothing.
func (t *tx) enqueue(ctx context.Context, r outboxRow) error {
	body := json.RawMessage(`{}`)
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("encoding the outbox row %s: %w", r.key, err)
		}
		if body, err = t.e.scrub.json(data); err != nil {
			return fmt.Errorf("encoding the outbox row %s: %w", r.key, err)
		}
	}
	_, err := t.ExecContext(ctx, `
		insert into outbox (surface, kind, key, session_id, prompt_id, priority, body)
		values ($1, $2, $3, nullif($4, ''), nullif($5, ''), $6, $7) on conflict (key) do nothing`,
		r.surface, r.kind, r.key, r.session, r.prompt, r.priority, string(body))
	if err != nil {
		return fmt.Errorf("recording the outbox row %s: %w", r.key, err)
	}
	t.wakeSurface(r.surface)
	return nil
}

// Due reads the deliveries of a surface that may be tried now, most urgent
// first: answers before new cards before progress, a question after the answer that
// leads to it. Call it only while holding
// the surface's delivery lease (HoldLease).
func (e *Engine) Due(ctx context.Context, surface string, limit int) ([]Delivery, error) {
	var due []Delivery
	err := e.db.SelectContext(ctx, &due, `
		select id, kind, key, coalesce(session_id, '') as session_id, coalesce(prompt_id, '') as prompt_id,
			priority, body, cursor, remote, unknown, attempts
		from outbox
		where surface = $1 and state = 'pending' and wanted > cursor and next_at <= now()
			and not (kind = 'question' and exists (select from outbox a where a.key = 'answer:' || outbox.prompt_id and a.state = 'pending'))
		order by priority, next_at, id limit $2`, surface, limit)
	if err != nil {
		return nil, fmt.Errorf("reading what is due on %s: %w", surface, err)
	}
	return due, nil
}

// ErrSettled says that a delivery is not to be made any more.
var ErrSettled = errors.New("the delivery is settled")

// Trying records that a delivery is about to be tried, before it is: if the
// process dies now, the next one sees Unknown and looks for the effect first. It
// returns ErrSettled if the effect is not wanted any more, or is there already.
func (e *Engine) Trying(ctx context.Context, id int64) error {
	pending, err := e.changeDelivery(ctx, id, `unknown = true, attempts = attempts + 1`)
	if err == nil && !pending {
		return ErrSettled
	}
	return err
}

// Delivered records success: where it landed and the log position it showed.
// done ends the row; a card that will be edited again is not done. The card of a
// prompt that settled after that log position stays due whatever done says.
func (e *Engine) Delivered(ctx context.Context, id int64, remote any, cursor int64, done bool) error {
	data, err := json.Marshal(remote)
	if err != nil {
		return fmt.Errorf("encoding where delivery %d landed: %w", id, err)
	}
	_, err = e.changeDelivery(ctx, id, `
		remote = $2::jsonb, cursor = greatest(cursor, $3), unknown = false, attempts = 0, error = '',
		priority = case kind when 'card' then $5 else priority end, next_at = now(),
		state = case when $4 and not (kind in ('card', 'question', 'menu') and wanted > $3) then 'done' else 'pending' end, done_at = now()`,
		string(data), cursor, done, priorityProgress)
	return err
}

// Postponed records a failure that is tried again after a time. tries is how many
// count so far, at least: Trying counts, but some fail before it, or without it.
// unknown says that the effect may have happened.
func (e *Engine) Postponed(ctx context.Context, id int64, tries int, after time.Duration, unknown bool, cause error) error {
	_, err := e.changeDelivery(ctx, id, `attempts = greatest(attempts, $2), unknown = $3, error = $4, next_at = now() + make_interval(secs => $5)`,
		tries, unknown, e.scrub.text(errorText(cause)), seconds(after))
	return err
}

// Abandoned records that a delivery can never succeed (channel gone); the cause is logged.
func (e *Engine) Abandoned(ctx context.Context, id int64, cause error) error {
	text := e.scrub.text(errorText(cause))
	e.log.Warn("a delivery can never succeed", "delivery", id, "cause", text)
	_, err := e.changeDelivery(ctx, id, `state = 'dead', error = $2, done_at = now()`, text)
	return err
}

// changeDelivery changes a pending row; one that is done stays as it is.
func (e *Engine) changeDelivery(ctx context.Context, id int64, set string, args ...any) (pending bool, err error) {
	res, err := e.db.ExecContext(ctx, `update outbox set `+set+` where id = $1 and state = 'pending'`,
		append([]any{id}, args...)...)
	if err == nil {
		pending, err = affected(res)
	}
	if err != nil {
		return false, fmt.Errorf("changing delivery %d: %w", id, err)
	}
	return pending, nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Notice is a sentence for a Slack thread that is not part of a session's log.
type Notice struct {
	Key     string // delivered once per key
	Session string // may be empty
	Thread  Thread
	User    string // Slack user: only this person sees it (ephemeral, at most once); empty: everybody
	Text    string // mrkdwn-free plain sentences; bot escapes it
}

// Tell records a notice for delivery.
func (e *Engine) Tell(ctx context.Context, n Notice) error {
	return e.transact(ctx, func(t *tx) error { return t.tell(ctx, n) })
}

func (t *tx) tell(ctx context.Context, n Notice) error {
	kind := DeliverNotice
	if n.User != "" {
		kind = DeliverEphemeral
	}
	return t.enqueue(ctx, outboxRow{surface: surfaceSlack, kind: kind, key: "notice:" + n.Key,
		session: n.Session, priority: priorityNotice, body: n})
}
