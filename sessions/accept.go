package sessions

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"openinspect/sandbox"
)

// Request is something a person (or another surface) wants done.
type Request struct {
	Key         string // I1: dedupe key, e.g. slack:T1:C1:1700000000.000100
	Source      Source
	Author      uuid.UUID
	Text        string
	Attachments []sandbox.Attachment
	Session     string  // continue this session; or
	Thread      *Thread // continue the session of this thread, or begin one in it
	MessageTS   string  // the Slack message, for edits and deletes
	Repository  string  // owner/name if the surface knows it; else it is worked out
	Model       string

	parent *parentage // of a session that an agent begins
	report bool       // it tells a parent what its child answered, or repeats an agent's words, and answers no question
}

// subject is what a request is about: its words, or what is attached if it has none.
func (r Request) subject() string {
	if r.Text == "" && len(r.Attachments) > 0 {
		return storable(r.Attachments[0].Name)
	}
	return r.Text
}

// Accepted is what became of a Request.
type Accepted struct {
	Session   Session // its LastSeq may be the one before the request
	Prompt    Prompt
	New       bool // a session was begun
	Duplicate bool // the key was known: nothing changed
}

// maxAttachments bounds a prompt's attachments in bytes, all together: they
// travel to the sandbox in one frame, in base64.
const maxAttachments = 30 << 20

// Accept takes a request in one transaction: dedupe key, session, prompt, its
// events and its card. With neither Session nor Thread it begins a session
// without a thread. Refusals are *Problem (empty, too long, queue full, no such
// session, no such repository). An archived session is opened again. Which
// repository: the one asked for, else a name found in the text, else the
// channel's, else the only one, else the Chooser's choice (asked after the
// commit), else a person is asked (KindWaiting, and an outbox row of kind "menu").
func (e *Engine) Accept(ctx context.Context, r Request) (Accepted, error) {
	r.Text = storable(strings.TrimSpace(r.Text))
	if err := e.checkRequest(r); err != nil {
		return Accepted{}, err
	}
	var acc Accepted
	err := e.transact(ctx, func(t *tx) (err error) {
		acc = Accepted{}
		fresh, err := t.once(ctx, r.Key)
		if err != nil {
			return err
		}
		if !fresh {
			acc, err = t.acceptedBefore(ctx, r.Key)
			return err
		}
		acc, err = t.accept(ctx, r)
		if err != nil {
			return err
		}
		return t.became(ctx, r.Key, acc.Session.ID, acc.Prompt.ID)
	})
	if err != nil {
		return Accepted{}, fmt.Errorf("accepting %s: %w", r.Key, err)
	}
	return acc, nil
}

// checkRequest refuses what no session could take.
func (e *Engine) checkRequest(r Request) error {
	size, characters := 0, utf8.RuneCountInString(r.Text)
	for _, a := range r.Attachments {
		size += len(a.Data)
	}
	switch {
	case r.Text == "" && len(r.Attachments) == 0:
		return &Problem{Code: "empty", Text: "There is nothing to do in that message: say what you would like to have done."}
	case characters > e.cfg.MaxPrompt:
		return &Problem{Code: "too_long", Text: fmt.Sprintf(
			"That request has %d characters; at most %d are taken. Shorten it, or put the long part into a file of the repository.",
			characters, e.cfg.MaxPrompt)}
	case size > maxAttachments:
		return &Problem{Code: "too_large", Text: fmt.Sprintf("The attached files have %d MB; at most %d MB are taken.",
			size>>20, maxAttachments>>20)}
	}
	return nil
}

// acceptedBefore reads what a known key became.
func (t *tx) acceptedBefore(ctx context.Context, key string) (Accepted, error) {
	var known struct {
		Session sql.NullString `db:"session_id"`
		Prompt  sql.NullString `db:"prompt_id"`
	}
	if err := t.GetContext(ctx, &known, `select session_id, prompt_id from inbound where key = $1`, key); err != nil {
		return Accepted{}, err
	}
	acc := Accepted{Duplicate: true}
	var err error
	if known.Session.Valid {
		if acc.Session, err = readSession(ctx, t, known.Session.String); err != nil {
			return acc, err
		}
	}
	if known.Prompt.Valid {
		acc.Prompt, err = readPrompt(ctx, t, known.Prompt.String)
	}
	return acc, err
}

// accept does what Accept says, for a key that is new.
func (t *tx) accept(ctx context.Context, r Request) (Accepted, error) {
	s, begun, err := t.sessionFor(ctx, r)
	if err != nil {
		return Accepted{}, err
	}
	if err := t.reopen(ctx, &s, r.Author); err != nil {
		return Accepted{}, err
	}
	p, open, err := t.insertPrompt(ctx, s, r)
	if err != nil {
		return Accepted{}, err
	}
	if open > 0 && r.MessageTS != "" {
		if err := t.asSaid(ctx, s, p); err != nil {
			return Accepted{}, err
		}
	}
	if !begun && !r.report {
		if err := t.answered(ctx, s, p, r.subject()); err != nil {
			return Accepted{}, err
		}
	}
	boot, err := t.beginAtOnce(ctx, s, &p, open)
	if err != nil {
		return Accepted{}, err
	}
	parent := ""
	if r.parent != nil {
		parent = r.parent.session
	}
	if err := t.describe(ctx, s, begun, p, open, boot, parent); err != nil {
		return Accepted{}, err
	}
	if s.Repository == "" {
		if err := t.resolveRepository(ctx, s, p, r, begun); err != nil {
			return Accepted{}, err
		}
		if s, err = readSession(ctx, t, s.ID); err != nil {
			return Accepted{}, err
		}
	}
	t.wakeSession(s.ID)
	return Accepted{Session: s, Prompt: p, New: begun}, nil
}

// sessionFor finds and locks the request's session, or begins one. Two requests
// that begin one in the same thread at the same moment get the same.
func (t *tx) sessionFor(ctx context.Context, r Request) (s Session, begun bool, err error) {
	if r.Session != "" {
		s, err = t.lockSession(ctx, r.Session)
		if errors.Is(err, ErrNotFound) {
			err = &Problem{Code: "no_session", Text: "There is no such session."}
		}
		return s, false, err
	}
	var thread Thread
	if r.Thread != nil {
		thread = *r.Thread
		if s, err = t.lockThread(ctx, thread); !errors.Is(err, ErrNotFound) {
			return s, false, err
		}
	}
	id := newID(10)
	res, err := t.ExecContext(ctx, `
		insert into sessions (id, title, model, team, channel, thread, created_by)
		values ($1, $2, $3, nullif($4, ''), nullif($5, ''), nullif($6, ''), $7)
		on conflict (team, channel, thread) do nothing`,
		id, title(r.subject()), r.Model, thread.Team, thread.Channel, thread.TS, r.Author)
	if err != nil {
		return s, false, fmt.Errorf("beginning a session: %w", err)
	}
	if begun, err = affected(res); err != nil {
		return s, false, err
	}
	if !begun { // somebody else did meanwhile
		s, err = t.lockThread(ctx, thread)
		return s, false, err
	}
	if _, err = t.ExecContext(ctx, `insert into sandboxes (session_id) values ($1)`, id); err != nil {
		return s, false, fmt.Errorf("beginning a session: %w", err)
	}
	if s, err = t.lockSession(ctx, id); err == nil && r.parent != nil {
		err = t.adopt(ctx, &s, *r.parent)
	}
	return s, true, err
}

// insertPrompt puts the request at the end of the session's queue, and returns how
// many are ahead of it there. If they are too many it fails.
func (t *tx) insertPrompt(ctx context.Context, s Session, r Request) (p Prompt, ahead int, err error) {
	type listed struct {
		Name string `json:"name"`
		MIME string `json:"mime"`
		Size int    `json:"size"`
	}
	files := []listed{}
	for _, a := range r.Attachments {
		files = append(files, listed{storable(a.Name), storable(a.MIME), len(a.Data)})
	}
	list, err := json.Marshal(files)
	if err != nil {
		return p, 0, err
	}
	var row struct {
		Prompt
		Ahead int `db:"ahead"` // as the statement found the table
	}
	row.Prompt = Prompt{ID: newID(16), SessionID: s.ID, Author: r.Author, Source: r.Source, Text: r.Text,
		Attachments: list, Model: r.Model, MessageTS: r.MessageTS}
	err = t.GetContext(ctx, &row, `
		insert into prompts (id, session_id, position, author, source, text, attachments, model, message_ts)
		select $1, $2, coalesce(max(position), 0) + 1, $3, $4, $5, $6, $7, nullif($8, '')
		from prompts where session_id = $2
		returning position, state, created_at, (select name from people where id = author) as author_name,
			(select count(*) from prompts o where o.session_id = $2 and o.state in ('queued', 'running')) as ahead`,
		row.ID, s.ID, r.Author, r.Source, r.Text, string(list), r.Model, r.MessageTS)
	if err != nil {
		return p, 0, fmt.Errorf("queueing a prompt: %w", err)
	}
	if row.Ahead >= t.e.cfg.MaxQueue {
		return p, 0, &Problem{Code: "queue_full", Text: fmt.Sprintf(
			"%d requests are waiting in this session already. Wait until some are done, or withdraw some.", row.Ahead)}
	}
	for i, a := range r.Attachments {
		_, err := t.ExecContext(ctx, `insert into attachments (prompt_id, position, name, mime, data) values ($1, $2, $3, $4, $5)`,
			row.ID, i, files[i].Name, files[i].MIME, a.Data)
		if err != nil {
			return p, 0, fmt.Errorf("keeping an attachment: %w", err)
		}
	}
	return row.Prompt, row.Ahead, nil
}

// asSaid puts waiting messages into the order in which they were said, if this one
// came before others that were said after it: Slack promises no order.
func (t *tx) asSaid(ctx context.Context, s Session, p Prompt) error {
	var later bool
	err := t.GetContext(ctx, &later, `select exists (select from prompts where session_id = $1 and state = 'queued' and message_ts > $2)`,
		s.ID, p.MessageTS)
	if err != nil || !later {
		return err
	}
	// Positions are unique at every moment: they pass through the negative numbers.
	_, err = t.ExecContext(ctx, `
		with waiting as (select id, position, row_number() over (order by position) as place, row_number() over (order by message_ts) as said
			from prompts where session_id = $1 and state = 'queued' and message_ts is not null)
		update prompts p set position = -w.position from waiting w join waiting m on m.said = w.place
		where p.id = m.id and m.position <> w.position`, s.ID)
	if err == nil {
		_, err = t.ExecContext(ctx, `update prompts set position = -position where session_id = $1 and position < 0`, s.ID)
	}
	if err != nil {
		return fmt.Errorf("ordering what waits in %s: %w", s.ID, err)
	}
	return nil
}

// beginAtOnce has the prompt begin in this very transaction, and returns the boot
// that gets it, if nothing is ahead of it and the session's actor is in this
// process and has nothing else to do. Otherwise it is empty, and the actor comes
// to the prompt by itself: this only spares people a second transaction.
func (t *tx) beginAtOnce(ctx context.Context, s Session, p *Prompt, ahead int) (boot string, err error) {
	if ahead > 0 || s.Repository == "" {
		return "", nil
	}
	a := t.holdTurn(s.ID)
	if a == nil || !a.free() {
		return "", nil
	}
	// The session's row is locked: a wait for the sandbox's would be in the wrong order.
	var ready bool
	err = t.GetContext(ctx, &ready, `select state = 'ready' from sandboxes where session_id = $1 and epoch = $2
		for no key update skip locked`, s.ID, a.epoch)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !ready {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking whether the sandbox of %s is ready: %w", s.ID, err)
	}
	if a.unsent, err = a.begin(ctx, t); err != nil { // it takes this one: nothing else is queued
		return "", err
	}
	p.State = Running
	return a.boot, nil
}

// describe appends the events of an accepted prompt, which the boot gets at once
// if there is one, and records its card.
func (t *tx) describe(ctx context.Context, s Session, begun bool, p Prompt, ahead int, boot, parent string) error {
	var entries []entry
	if begun {
		entries = append(entries, entry{kind: KindCreated, body: BodyCreated{By: p.AuthorName, Source: p.Source, Parent: parent}})
	}
	entries = append(entries, entry{prompt: p.ID, kind: KindQueued, body: BodyQueued{
		Author: p.AuthorName, AuthorID: p.Author, Source: p.Source, Text: p.Text, Ahead: ahead, Files: p.FileNames()}})
	if boot != "" {
		entries = append(entries, entry{prompt: p.ID, kind: KindStarted, body: BodyStarted{Boot: boot}})
	}
	if s.ThreadTS != "" {
		err := t.enqueue(ctx, outboxRow{surface: surfaceSlack, kind: DeliverCard, key: "card:" + p.ID,
			session: s.ID, prompt: p.ID, priority: priorityCard})
		if err != nil {
			return err
		}
	}
	_, err := t.append(ctx, s.ID, entries...)
	return err
}

// newID makes an id of n characters of the base32 alphabet, five random bits each.
func newID(n int) string { return strings.ToLower(rand.Text()[:n]) }

// title makes a session's title from its first prompt: its first line, or as
// much of that as a list shows.
func title(text string) string {
	const longest = 80
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.Join(strings.Fields(line), " ")
	if utf8.RuneCountInString(line) <= longest {
		return line
	}
	runes := []rune(line)
	cut := string(runes[:longest-1])
	if space := strings.LastIndexByte(cut, ' '); space > longest/2 {
		cut = cut[:space]
	}
	return cut + "…"
}
