package sessions

import "context"

// Update is what a watcher of a session gets: entries of the log in sequence,
// or a delta of a running part. The log's entries are dense: a reader that sees
// a jump reads the table (Events) from its cursor.
type Update struct {
	Events []Event
	Delta  *PartDelta
}

// PartDelta is text added to a running part; Offset in bytes of the part so far.
type PartDelta struct {
	Prompt string `json:"prompt"`
	Part   string `json:"part"`
	Kind   string `json:"kind"`
	Offset int    `json:"offset"`
	Text   string `json:"text"`
}

// Subscription delivers updates of one session. If the reader is slower than
// the session, updates are dropped and Lagged is signalled: it reads the tables
// again from its own cursor.
type Subscription struct{}

// Updates is closed when the subscription ends.
func (s *Subscription) Updates() <-chan Update { panic("not built") }

// Lagged receives when updates were dropped.
func (s *Subscription) Lagged() <-chan struct{} { panic("not built") }

// Close ends the subscription; it may be called twice.
func (s *Subscription) Close() { panic("not built") }

// Subscribe watches a session from now on. Read the tables after subscribing,
// then apply updates with greater sequence numbers: nothing is missed.
func (e *Engine) Subscribe(session string) *Subscription { panic("not built") }

// Woken returns a channel that receives (coalesced) whenever something may have
// to be delivered on a surface. It is a hint; a reader also polls. The channel
// is released when ctx ends.
func (e *Engine) Woken(ctx context.Context, surface string) <-chan struct{} { panic("not built") }
