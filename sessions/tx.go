package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// tx is one transaction. What has to be told to readers once it is committed
// collects in it.
//
// Locks are taken in the order that the package comment gives, so that
// transactions cannot deadlock.
type tx struct {
	*sqlx.Tx
	e    *Engine
	news news
	held *actor // whose turn is held until the transaction has ended
}

// news is what a committed transaction tells the readers.
type news struct {
	events   map[string][]Event // by session
	surfaces map[string]bool    // outbox rows are due
	sessions map[string]bool    // something but the log changed: actors and starters look
}

// transact runs f in a transaction, again if Postgres chose it as the victim of
// a deadlock, and tells the readers after the commit.
func (e *Engine) transact(ctx context.Context, f func(*tx) error) error {
	const tries = 5
	for try := 1; ; try++ {
		news, err := e.transactOnce(ctx, f)
		if err == nil {
			e.publish(news)
			return nil
		}
		if try == tries || !retryable(err) {
			return err
		}
	}
}

func (e *Engine) transactOnce(ctx context.Context, f func(*tx) error) (news, error) {
	t, err := e.db.BeginTxx(ctx, nil)
	if err != nil {
		return news{}, fmt.Errorf("beginning a transaction: %w", err)
	}
	defer func() { _ = t.Rollback() }() // does nothing after the commit
	x := &tx{Tx: t, e: e}
	defer x.letTurnGo() // after the commit
	if err := f(x); err != nil {
		return news{}, err
	}
	if err := t.Commit(); err != nil {
		return news{}, fmt.Errorf("committing: %w", err)
	}
	return x.news, nil
}

// holdTurn returns the session's actor if it is in this process, with its turn held
// until the transaction has ended; nil if it is not, or decides something just now.
func (t *tx) holdTurn(session string) *actor {
	if a := t.e.hub.actorOf(session); a != nil && a.turn.TryLock() {
		t.held = a
	}
	return t.held
}

func (t *tx) letTurnGo() {
	if t.held != nil {
		t.held.turn.Unlock()
	}
}

// retryable: serialization_failure and deadlock_detected, of PostgreSQL's
// "Appendix A. Error Codes".
func retryable(err error) bool {
	if pqErr, ok := errors.AsType[*pq.Error](err); ok {
		return pqErr.Code == "40001" || pqErr.Code == "40P01"
	}
	return false
}

// wakeSurface notes that outbox rows of a surface are due.
func (t *tx) wakeSurface(surface string) {
	if t.news.surfaces == nil {
		t.news.surfaces = map[string]bool{}
	}
	t.news.surfaces[surface] = true
}

// wakeSession notes that the session's actor or a starter has to look.
func (t *tx) wakeSession(session string) {
	if t.news.sessions == nil {
		t.news.sessions = map[string]bool{}
	}
	t.news.sessions[session] = true
}

// once inserts a dedupe key (I1) and reports whether it is new. A transaction
// that inserts the same key at the same moment is waited for.
func (t *tx) once(ctx context.Context, key string) (bool, error) {
	if key == "" {
		return true, nil
	}
	res, err := t.ExecContext(ctx, `insert into inbound (key) values ($1) on conflict (key) do nothing`, key)
	if err != nil {
		return false, fmt.Errorf("noting the key %s: %w", key, err)
	}
	return affected(res)
}

// became notes what a dedupe key's request became.
func (t *tx) became(ctx context.Context, key, session, prompt string) error {
	if key == "" {
		return nil
	}
	_, err := t.ExecContext(ctx, `update inbound set session_id = nullif($2, ''), prompt_id = nullif($3, '') where key = $1`,
		key, session, prompt)
	if err != nil {
		return fmt.Errorf("noting what %s became: %w", key, err)
	}
	return nil
}

// affected says whether a statement changed a row.
func affected(res sql.Result) (bool, error) {
	n, err := res.RowsAffected()
	return n > 0, err
}

// notFound turns "no rows" into ErrNotFound.
func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// seconds is how durations are given to SQL: make_interval(secs => $1).
func seconds(d time.Duration) float64 { return d.Seconds() }

// inSeconds is the inverse of seconds.
func inSeconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
