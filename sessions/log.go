package sessions

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/lib/pq"
)

// entry is one event before it has a number.
type entry struct {
	prompt string
	kind   string
	body   any // a Body* value, or json.RawMessage that is scrubbed already
	boot   string
	n      int64 // of the boot (I5); 0 for the control plane's own
}

// append numbers the entries under the session's row lock, which it takes (I4),
// and notes for which cards they matter. Bodies are scrubbed (I10).
func (t *tx) append(ctx context.Context, session string, entries ...entry) ([]Event, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	events, err := t.insert(ctx, session, entries)
	if err != nil {
		return nil, fmt.Errorf("appending events of %s: %w", session, err)
	}
	if err := t.touchCards(ctx, session, events[len(events)-1].Seq, entries); err != nil {
		return nil, err
	}
	if t.news.events == nil {
		t.news.events = map[string][]Event{}
	}
	t.news.events[session] = append(t.news.events[session], events...)
	return events, nil
}

func (t *tx) insert(ctx context.Context, session string, entries []entry) ([]Event, error) {
	events := make([]Event, len(entries))
	var prompts, kinds, bodies, boots []string
	var numbers []int64
	for i, en := range entries {
		body, err := t.e.scrubbedBody(en.body)
		if err != nil {
			return nil, err
		}
		events[i] = Event{Session: session, Prompt: en.prompt, Kind: en.kind, Body: body}
		prompts = append(prompts, en.prompt)
		kinds = append(kinds, en.kind)
		bodies = append(bodies, string(body))
		boots = append(boots, en.boot)
		numbers = append(numbers, en.n)
	}
	var head struct {
		Last int64     `db:"last_seq"`
		At   time.Time `db:"at"`
	}
	err := t.GetContext(ctx, &head, `
		with head as (
			update sessions set last_seq = last_seq + $2, updated_at = now()
			where id = $1 returning last_seq, clock_timestamp() as at
		), logged as (
			insert into events (session_id, seq, prompt_id, kind, body, boot, n, at)
			select $1, last_seq - $2 + i, nullif(prompt, ''), kind, body::json, nullif(boot, ''), nullif(n, 0), at
			from head, unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
				with ordinality as u (prompt, kind, body, boot, n, i)
		)
		select last_seq, at from head`,
		session, len(entries), pq.Array(prompts), pq.Array(kinds), pq.Array(bodies), pq.Array(boots), pq.Array(numbers))
	if err != nil {
		return nil, notFound(err)
	}
	for i := range events {
		events[i].Seq, events[i].At = head.Last-int64(len(events)-1-i), head.At
	}
	return events, nil
}

// touchCards notes up to which log position cards have to be shown anew: those
// of the events' own prompts; for events without a prompt the card of the prompt
// that comes first; and when the queue moved, the cards of all open prompts.
func (t *tx) touchCards(ctx context.Context, session string, last int64, entries []entry) error {
	var own []string
	var first, all bool
	for _, en := range entries {
		switch {
		case en.kind == KindStarted || en.kind == KindEnded:
			all = true
		case en.prompt == "":
			first = true
			continue
		}
		own = append(own, en.prompt)
	}
	res, err := t.ExecContext(ctx, `
		update outbox o set wanted = $2
		where o.session_id = $1 and o.kind = 'card' and o.state = 'pending' and (
			o.prompt_id = any($3)
			or $4 and exists (select from prompts p where p.id = o.prompt_id and p.state in ('queued', 'running'))
			or $5 and o.prompt_id = (select p.id from prompts p where p.session_id = $1
				and p.state in ('queued', 'running') order by p.state desc, p.position limit 1))`,
		session, last, pq.Array(own), all, first)
	if err != nil {
		return fmt.Errorf("touching the cards of %s: %w", session, err)
	}
	touched, err := affected(res)
	if touched {
		t.wakeSurface(surfaceSlack)
	}
	return err
}

// scrubbedBody encodes a body without secrets.
func (e *Engine) scrubbedBody(body any) (json.RawMessage, error) {
	if raw, ok := body.(json.RawMessage); ok {
		return raw, nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	return e.scrub.json(data)
}
