package sessions

import (
	"context"
	"encoding/json"
	"time"
)

// Kinds of outbox rows for Slack, most urgent first. What is said is rendered
// by the surface when it delivers: the row only says what to show.
const (
	DeliverAnswer    = "answer"    // a settled prompt's answer: one new message per prompt
	DeliverNotice    = "notice"    // body: Notice
	DeliverEphemeral = "ephemeral" // body: Notice with User; at most once
	DeliverMenu      = "menu"      // a person has to choose the repository
	DeliverCard      = "card"      // a prompt's card: posted once, edited while the log goes on
)

// Delivery is one outbox row that is due. A card is due again whenever its
// session's log has grown past Cursor, until it was delivered after its prompt
// settled (then it is done).
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

// Due reads the deliveries of a surface that may be tried now, most urgent
// first: answers before new cards before progress. Call it only while holding
// the surface's delivery lease (HoldLease).
func (e *Engine) Due(ctx context.Context, surface string, limit int) ([]Delivery, error) {
	panic("not built")
}

// Trying records that a delivery is about to be tried, before it is: if the
// process dies now, the next one sees Unknown and looks for the effect first.
func (e *Engine) Trying(ctx context.Context, id int64) error { panic("not built") }

// Delivered records success: where it landed and the log position it showed.
// done ends the row; a card that will be edited again is not done.
func (e *Engine) Delivered(ctx context.Context, id int64, remote any, cursor int64, done bool) error {
	panic("not built")
}

// Postponed records a failure that is tried again after a time. unknown says
// that the effect may have happened.
func (e *Engine) Postponed(ctx context.Context, id int64, after time.Duration, unknown bool, cause error) error {
	panic("not built")
}

// Abandoned records that a delivery can never succeed (channel gone); the cause is logged.
func (e *Engine) Abandoned(ctx context.Context, id int64, cause error) error { panic("not built") }

// HoldLease runs f while this replica holds the named lease, again and again
// until ctx ends: f's context ends when the lease is lost. It returns when f
// has returned.
func (e *Engine) HoldLease(ctx context.Context, name string, f func(ctx context.Context) error) error {
	panic("not built")
}
