package bot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/slack-go/slack"

	"openinspect/sessions"
)

// What each kind of delivery reads from the core and shows.

// switchAfter is how long a queued card stands before it offers other
// repositories: as a rule the sandbox has started by then.
const switchAfter = 5 * time.Second

// deliverCard posts a prompt's card or edits it to what the log says now.
func (d *deliverer) deliverCard(ctx context.Context, it sessions.Delivery, t sessions.Thread, c *card) error {
	view, cursor, err := d.cardView(ctx, it, c)
	if err != nil {
		return err
	}
	m := renderCard(view)
	at := landedAt(it)
	if shown := fingerprint(m); at.TS == "" || shown != c.shown {
		if at, err = d.showCard(ctx, it, t, at, m, view.Prompt.CreatedAt); err != nil {
			return err
		}
		c.shown, c.at = shown, time.Now()
		c.edits++
	}
	c.ticks = view.Prompt.State == sessions.Running
	remote, err := json.Marshal(at)
	if err != nil {
		return fmt.Errorf("encoding where a card is: %w", err)
	}
	c.due.Remote, c.due.Unknown = remote, false
	d.showStatus(t, view)
	c.over = view.Prompt.State.Settled()
	return d.record(ctx, func(ctx context.Context) error {
		return d.engine.Delivered(ctx, it.ID, at, cursor, c.over)
	})
}

// showCard posts a card or edits it. One that an earlier try had posted may show
// an older state, so it is edited as well.
func (d *deliverer) showCard(ctx context.Context, it sessions.Delivery, t sessions.Thread, at landed, m message, since time.Time) (landed, error) {
	if at.TS != "" {
		return at, d.update(ctx, at, it.Key, m)
	}
	ts, found, err := d.post(ctx, it, t, it.Key, m, it.Unknown, since)
	if err != nil {
		return at, err
	}
	at = landed{Channel: t.Channel, TS: ts}
	if !found {
		return at, nil
	}
	if err := d.await(ctx, methodUpdate, t.Channel); err != nil {
		return at, err
	}
	return at, d.update(ctx, at, it.Key, m)
}

// showStatus keeps Slack's own row in step with the card.
func (d *deliverer) showStatus(t sessions.Thread, v cardView) {
	const titleRoom = 200 // characters, of agents.sessions.setStatus
	w := wish{status: slack.AgentSessionStatusProcessing, title: clip(v.Session.Title, titleRoom)}
	if v.Prompt.State.Settled() || v.Session.Repository == "" { // done, or a person's turn
		w.status = slack.AgentSessionStatusActive
	}
	d.status.want(t, w)
}

// cardView reads what a card shows, and the log position that this is. The
// position is read first, so that nothing later is taken for shown.
func (d *deliverer) cardView(ctx context.Context, it sessions.Delivery, c *card) (v cardView, cursor int64, err error) {
	if v.Session, err = d.engine.Session(ctx, it.Session); err != nil {
		return v, 0, err
	}
	cursor = v.Session.LastSeq
	if v.Prompt, err = d.engine.Prompt(ctx, it.Prompt); err != nil {
		return v, 0, err
	}
	if err = d.fold(ctx, it, c, cursor); err != nil {
		return v, 0, err
	}
	v.Progress = &c.progress
	if v.Author, err = d.slackUser(ctx, v.Prompt); err != nil {
		return v, 0, err
	}
	if !v.Prompt.State.Settled() {
		if v.Sandbox, err = d.engine.Sandbox(ctx, it.Session); err != nil && !errors.Is(err, sessions.ErrNotFound) {
			return v, 0, err
		}
	}
	v.PageURL, v.Now = d.pageURL(it.Session), time.Now()
	if v.Prompt.State == sessions.Queued {
		err = d.queueView(ctx, &v)
	}
	return v, cursor, err
}

// queueView adds what only a queued prompt's card shows.
func (d *deliverer) queueView(ctx context.Context, v *cardView) error {
	prompts, err := d.engine.Prompts(ctx, v.Session.ID)
	if err != nil {
		return err
	}
	for _, p := range prompts {
		if !p.State.Settled() && p.Position < v.Prompt.Position {
			v.Ahead++
		}
	}
	unstarted := v.Sandbox.State == "" || v.Sandbox.State == sessions.SandboxNone
	if !unstarted || v.Ahead > 0 || v.Session.Repository == "" || v.Now.Sub(v.Prompt.CreatedAt) < switchAfter {
		return nil
	}
	repositories, err := d.engine.Repositories(ctx)
	if err != nil {
		return err
	}
	for _, r := range repositories {
		if r.Name != v.Session.Repository {
			v.Switch = append(v.Switch, r.Name)
		}
	}
	return nil
}

// fold brings a card's progress up to the log: all of the prompt's events the
// first time, then what was appended since.
func (d *deliverer) fold(ctx context.Context, it sessions.Delivery, c *card, upTo int64) error {
	if c.read == 0 {
		events, err := d.engine.EventsOfPrompt(ctx, it.Session, it.Prompt)
		if err != nil {
			return err
		}
		for _, e := range events {
			c.progress.add(e)
		}
		c.read = max(upTo, c.progress.seq)
		return nil
	}
	const page = 500
	for {
		events, err := d.engine.Events(ctx, it.Session, c.read, page)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Prompt == it.Prompt || e.Prompt == "" {
				c.progress.add(e)
			}
			c.read = e.Seq
		}
		if len(events) < page {
			return nil
		}
	}
}

// fingerprint tells whether two messages look the same.
func fingerprint(m message) string {
	blocks, err := json.Marshal(m.blocks)
	if err != nil {
		return "" // never the same
	}
	return m.text + string(blocks)
}

// slackUser is the Slack id of a prompt's author, or empty.
func (d *deliverer) slackUser(ctx context.Context, p sessions.Prompt) (string, error) {
	author, err := d.engine.Person(ctx, p.Author)
	if err != nil {
		return "", err
	}
	if author.SlackTeam != d.self.team {
		return "", nil
	}
	return author.SlackUser, nil
}

// deliverAnswer posts the messages of an answer in order. After each, the outbox
// knows how far it is, so that a restart goes on and repeats nothing.
func (d *deliverer) deliverAnswer(ctx context.Context, it sessions.Delivery, t sessions.Thread) error {
	view, err := d.answerView(ctx, it)
	if err != nil {
		return err
	}
	parts := renderAnswer(view)
	at := landedAt(it)
	at.Channel = t.Channel
	unknown := it.Unknown
	first := len(at.Parts)
	for i := first; i < len(parts); i++ {
		if i > first {
			if err := d.await(ctx, methodPost, t.Channel); err != nil {
				return err
			}
		}
		ts, _, err := d.post(ctx, it, t, partKey(it.Key, i), parts[i], unknown, view.Prompt.CreatedAt)
		if err != nil {
			return err
		}
		unknown = false
		at.Parts = append(at.Parts, ts)
		at.TS = at.Parts[0]
		done := i == len(parts)-1
		err = d.record(ctx, func(ctx context.Context) error { return d.engine.Delivered(ctx, it.ID, at, it.Cursor, done) })
		if err != nil {
			return err
		}
	}
	return nil
}

// partKey is the key of an answer's i-th message.
func partKey(key string, i int) string {
	if i == 0 {
		return key
	}
	return fmt.Sprintf("%s#%d", key, i+1)
}

func (d *deliverer) answerView(ctx context.Context, it sessions.Delivery) (v answerView, err error) {
	if v.Prompt, err = d.engine.Prompt(ctx, it.Prompt); err != nil {
		return v, err
	}
	if v.Author, err = d.slackUser(ctx, v.Prompt); err != nil {
		return v, err
	}
	artifacts, err := d.engine.Artifacts(ctx, it.Session)
	if err != nil {
		return v, err
	}
	for _, a := range artifacts {
		if a.Kind == "pull_request" {
			v.Pulls = append(v.Pulls, a)
		}
	}
	events, err := d.engine.EventsOfPrompt(ctx, it.Session, it.Prompt)
	if err != nil {
		return v, err
	}
	var p progress
	for _, e := range events {
		p.add(e)
	}
	v.Retry = v.Prompt.State == sessions.Failed || p.ended != nil && p.ended.Retry
	if p.waiting != nil && p.waiting.For != "repository" && len(p.pulls) == 0 {
		v.Waiting = p.waiting
	}
	v.PageURL = d.pageURL(it.Session)
	v.Took = (cardView{Prompt: v.Prompt}).took()
	return v, nil
}

// deliverMenu asks which repository is meant; once that is settled, the question
// gives way to the answer.
func (d *deliverer) deliverMenu(ctx context.Context, it sessions.Delivery, t sessions.Thread) error {
	s, err := d.engine.Session(ctx, it.Session)
	if err != nil {
		return err
	}
	if s.Repository != "" {
		return d.answerMenu(ctx, it, t, s)
	}
	var waiting sessions.BodyWaiting
	if err := json.Unmarshal(it.Body, &waiting); err != nil {
		return fmt.Errorf("reading what a menu asks: %w", err)
	}
	view := menuView{Session: it.Session, Text: waiting.Text, Names: waiting.Menu}
	if all, err := d.engine.Repositories(ctx); err != nil {
		return err
	} else if len(all) > maxOptions {
		view.Names = nil
		view.Search = true
	}
	by, err := d.engine.Person(ctx, s.CreatedBy)
	if err != nil {
		return err
	}
	if by.SlackTeam == d.self.team {
		view.Author = by.SlackUser
	}
	return d.postOnce(ctx, it, t, renderMenu(view))
}

// answerMenu takes a menu away that was posted, wherever the choice was made.
func (d *deliverer) answerMenu(ctx context.Context, it sessions.Delivery, t sessions.Thread, s sessions.Session) error {
	at := landedAt(it)
	if at.TS == "" && it.Unknown {
		ts, err := d.search(ctx, t, it.Key, time.Time{})
		if err != nil {
			return err
		}
		at = landed{Channel: t.Channel, TS: ts}
	}
	if at.TS != "" {
		var answer struct {
			By string `json:"by"`
		}
		if err := json.Unmarshal(it.Body, &answer); err != nil {
			return fmt.Errorf("reading who chose a repository: %w", err)
		}
		text := fmt.Sprintf("%s chose %s.", escape(answer.By), escape(s.Repository))
		if answer.By == "" {
			text = fmt.Sprintf("This is about %s (%s).", escape(s.Repository), escape(s.RepositoryWhy))
		}
		if err := d.await(ctx, methodUpdate, at.Channel); err != nil {
			return err
		}
		if err := d.update(ctx, at, it.Key, message{text: text, full: text, blocks: []slack.Block{contextLine(text)}}); err != nil {
			return err
		}
	}
	return d.record(ctx, func(ctx context.Context) error { return d.engine.Delivered(ctx, it.ID, at, s.LastSeq, true) })
}
