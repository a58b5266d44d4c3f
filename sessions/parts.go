package sessions

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/lib/pq"

	"openinspect/sandbox"
)

// parts are the running parts of one session, as its actor knows them. What
// readers get is scrubbed; the end of a part that may begin a secret is held
// back until it is known what follows (I10).
type parts struct {
	scrub *scrubber
	mu    sync.Mutex
	all   map[string]*part
}

type part struct {
	RunningPart        // Text is what readers have: scrubbed
	raw         string // as the sandbox sent it
	shown       int    // bytes of raw that are in Text
	order       int
	changed     bool // since it was last written to the table
	stored      bool // it is in the table
}

// longestPart bounds a running part in bytes. More of it is seen when its
// finished event comes.
const longestPart = 256 << 10

// mostParts bounds the parts that one session is writing at the same time: an
// agent has a handful, and a sandbox that is not to be trusted any number.
const mostParts = 64

func newParts(scrub *scrubber) *parts { return &parts{scrub: scrub, all: map[string]*part{}} }

// add takes a delta of the sandbox and returns what readers may see of it, or nil.
func (ps *parts) add(d sandbox.Delta) *PartDelta {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.all[d.Part]
	if p == nil && len(ps.all) >= mostParts {
		return nil
	}
	if p == nil {
		p = &part{RunningPart: RunningPart{Part: d.Part, Prompt: d.Prompt, Kind: d.Kind}, order: len(ps.all)}
		ps.all[d.Part] = p
	}
	if d.Offset < 0 || d.Offset > len(p.raw) || d.Offset+len(d.Text) > longestPart {
		return nil // a gap, or too much: the finished part makes it good
	}
	if len(p.raw) > 0 && p.raw[d.Offset:] == d.Text {
		return nil // repeated after a lost connection
	}
	p.raw = p.raw[:d.Offset] + d.Text
	from := len(p.Text)
	if d.Offset < p.shown { // rewritten
		p.shown, p.Text, from = 0, "", 0
	}
	pending := p.raw[p.shown:]
	safe := ps.scrub.safe(pending)
	p.Text += ps.scrub.text(pending[:safe])
	p.shown += safe
	if from == len(p.Text) && from > 0 {
		return nil
	}
	p.changed = true
	return &PartDelta{Prompt: p.Prompt, Part: p.Part, Kind: p.Kind, Offset: from, Text: p.Text[from:]}
}

// end forgets parts, and returns those that are in the table.
func (ps *parts) end(ended func(RunningPart) bool) (stored []string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for name, p := range ps.all {
		if ended(p.RunningPart) {
			if p.stored {
				stored = append(stored, name)
			}
			delete(ps.all, name)
		}
	}
	return stored
}

// list returns what readers may see, oldest first.
func (ps *parts) list() []RunningPart {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	sorted := make([]*part, 0, len(ps.all))
	for _, p := range ps.all {
		sorted = append(sorted, p)
	}
	slices.SortFunc(sorted, func(a, b *part) int { return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.Part, b.Part)) })
	list := make([]RunningPart, len(sorted))
	for i, p := range sorted {
		list[i] = p.RunningPart
		list[i].Text = storable(p.Text)
	}
	return list
}

// takeChanged returns the parts that have to be written to the table.
func (ps *parts) takeChanged() []RunningPart {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var list []RunningPart
	for _, p := range ps.all {
		if p.changed {
			p.changed, p.stored = false, true
			r := p.RunningPart
			r.Text = storable(r.Text)
			list = append(list, r)
		}
	}
	return list
}

// storeParts writes parts for readers at other replicas and late joiners there.
// A part whose prompt has settled meanwhile is left out: the lock on the prompt
// makes sure that the settling transaction's delete comes last.
func (a *actor) storeParts(ctx context.Context) error {
	changed := a.parts.takeChanged()
	if len(changed) == 0 {
		return nil
	}
	var names, prompts, kinds, texts []string
	for _, p := range changed {
		names = append(names, p.Part)
		prompts = append(prompts, p.Prompt)
		kinds = append(kinds, p.Kind)
		texts = append(texts, p.Text)
	}
	_, err := a.e.db.ExecContext(ctx, `
		with held as (select session_id from sandboxes where session_id = $1 and epoch = $2 for share),
		open as (select p.id from prompts p join held h on h.session_id = p.session_id
			where p.id = any($4) and p.state = 'running' for share of p)
		insert into running_parts (session_id, part, prompt_id, kind, text)
		select $1, u.part, u.prompt, u.kind, u.text
		from unnest($3::text[], $4::text[], $5::text[], $6::text[]) as u (part, prompt, kind, text)
		join open on open.id = u.prompt
		on conflict (session_id, part) do update set text = excluded.text, updated_at = now()`,
		a.session, a.epoch, pq.Array(names), pq.Array(prompts), pq.Array(kinds), pq.Array(texts))
	if err != nil {
		return fmt.Errorf("storing running parts of %s: %w", a.session, err)
	}
	a.e.collect(news{events: map[string][]Event{a.session: nil}})
	return nil
}
