package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"openinspect/sandbox"
)

// Edit changes the text of a queued prompt that came as this Slack message.
// changed is false if there is none (it runs already, or never was one).
func (e *Engine) Edit(ctx context.Context, key string, th Thread, messageTS, text string) (changed bool, err error) {
	text = storable(strings.TrimSpace(text))
	if err := e.checkRequest(Request{Text: text}); err != nil {
		return false, err
	}
	err = e.onMessage(ctx, key, th, messageTS, func(t *tx, s Session, p Prompt) (err error) {
		if changed = p.State == Queued && p.Text != text; !changed {
			return nil
		}
		if _, err := t.ExecContext(ctx, `update prompts set text = $2 where id = $1`, p.ID, text); err != nil {
			return fmt.Errorf("changing prompt %s: %w", p.ID, err)
		}
		if p.Position == 1 {
			if err := t.retitle(ctx, s, title(text)); err != nil {
				return err
			}
		}
		if _, err = t.append(ctx, s.ID, entry{prompt: p.ID, kind: KindEdited, body: BodyEdited{Text: text}}); err != nil {
			return err
		}
		if s.Repository != "" {
			return nil
		}
		return t.resolveRepository(ctx, s, p, Request{Text: text}, false) // perhaps it is named now
	})
	return changed, err
}

func (t *tx) retitle(ctx context.Context, s Session, to string) error {
	if s.Title == to {
		return nil
	}
	if _, err := t.ExecContext(ctx, `update sessions set title = $2 where id = $1`, s.ID, to); err != nil {
		return fmt.Errorf("renaming session %s: %w", s.ID, err)
	}
	_, err := t.append(ctx, s.ID, entry{kind: KindTitle, body: BodyTitle{Title: to}})
	return err
}

// Withdraw cancels the queued prompt that came as this Slack message.
func (e *Engine) Withdraw(ctx context.Context, key string, th Thread, messageTS string) (changed bool, err error) {
	err = e.onMessage(ctx, key, th, messageTS, func(t *tx, s Session, p Prompt) (err error) {
		if p.State != Queued {
			return nil
		}
		changed, err = t.settle(ctx, s, p.ID, ending{state: Cancelled, reason: "The message was deleted."})
		return err
	})
	return changed, err
}

// onMessage runs f once per key on the prompt that came as a Slack message, with
// its session locked. Without such a prompt nothing happens.
func (e *Engine) onMessage(ctx context.Context, key string, th Thread, messageTS string, f func(*tx, Session, Prompt) error) error {
	err := e.transact(ctx, func(t *tx) error {
		s, err := t.lockThread(ctx, th)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if fresh, err := t.once(ctx, key); err != nil || !fresh {
			return err
		}
		var prompt string
		err = t.GetContext(ctx, &prompt, `select id from prompts where session_id = $1 and message_ts = $2`, s.ID, messageTS)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		p, err := readPrompt(ctx, t, prompt)
		if err != nil {
			return err
		}
		return f(t, s, p)
	})
	if err != nil {
		return fmt.Errorf("following message %s: %w", messageTS, err)
	}
	return nil
}

// Cancel cancels a queued prompt. A *Problem says that it is not queued any more.
func (e *Engine) Cancel(ctx context.Context, prompt string, by uuid.UUID) error {
	return e.transact(ctx, func(t *tx) error {
		s, p, err := t.lockPrompt(ctx, prompt)
		if err != nil {
			return err
		}
		person, err := readPerson(ctx, t, by)
		if err != nil {
			return err
		}
		switch {
		case p.State == Cancelled:
			return nil
		case p.State == Running:
			return &Problem{Code: "running", Text: "That request runs already: stop it instead."}
		case p.State.Settled():
			return &Problem{Code: "settled", Text: "That request has ended already."}
		}
		_, err = t.settle(ctx, s, prompt, ending{state: Cancelled, reason: "Withdrawn by " + person.Name + "."})
		return err
	})
}

// lockPrompt reads a prompt under the lock of its session.
func (t *tx) lockPrompt(ctx context.Context, prompt string) (Session, Prompt, error) {
	p, err := readPrompt(ctx, t, prompt)
	if err != nil {
		return Session{}, p, err
	}
	s, err := t.lockSession(ctx, p.SessionID)
	if err != nil {
		return s, p, err
	}
	p, err = readPrompt(ctx, t, prompt) // as it is under the lock
	return s, p, err
}

// Stop settles the session's running prompt as stopped, at once, and has its
// processes ended (I12). If prompt is not empty, only that one is stopped.
// stopped is empty if nothing was running. A request that has not begun, because
// its sandbox still starts, is cancelled: if it is the named one, or the one
// that people wait for.
func (e *Engine) Stop(ctx context.Context, key, session, prompt string, by uuid.UUID) (stopped string, err error) {
	return e.stopBefore(ctx, key, session, prompt, "", by)
}

// StopSaid is Stop for a Slack message, which may arrive late: what was asked
// for after it is not what it means.
func (e *Engine) StopSaid(ctx context.Context, key, session, messageTS string, by uuid.UUID) (stopped string, err error) {
	return e.stopBefore(ctx, key, session, "", messageTS, by)
}

func (e *Engine) stopBefore(ctx context.Context, key, session, prompt, before string, by uuid.UUID) (stopped string, err error) {
	err = e.transact(ctx, func(t *tx) error {
		stopped = ""
		s, err := t.lockSession(ctx, session)
		if err != nil {
			return err
		}
		fresh, err := t.once(ctx, key)
		if err != nil {
			return err
		}
		if !fresh {
			return t.GetContext(ctx, &stopped, `select coalesce(prompt_id, '') from inbound where key = $1`, key)
		}
		if stopped, err = t.stop(ctx, s, prompt, before, by); err != nil {
			return err
		}
		return t.became(ctx, key, session, stopped)
	})
	if err != nil {
		return "", fmt.Errorf("stopping %s: %w", session, err)
	}
	return stopped, nil
}

// stop ends the named prompt, or the one that people wait for. before is the ts of
// a Slack message, or empty; it and the prompts' times sort as text.
func (t *tx) stop(ctx context.Context, s Session, prompt, before string, by uuid.UUID) (string, error) {
	var target struct {
		ID    string      `db:"id"`
		State PromptState `db:"state"`
	}
	err := t.GetContext(ctx, &target, `
		select id, state from prompts
		where session_id = $1 and state in ('queued', 'running') and ($2 = '' or id = $2)
			and ($3 = '' or coalesce(message_ts, extract(epoch from created_at)::text) < $3)
		order by state desc, position limit 1`, s.ID, prompt, before) // running sorts after queued
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading what runs: %w", err)
	}
	person, err := readPerson(ctx, t, by)
	if err != nil {
		return "", err
	}
	if _, err := t.ExecContext(ctx, `update prompts set stop_wanted_by = $2 where id = $1`, target.ID, by); err != nil {
		return "", fmt.Errorf("noting who stopped %s: %w", target.ID, err)
	}
	if _, err := t.append(ctx, s.ID, entry{prompt: target.ID, kind: KindStop, body: BodyStop{By: person.Name}}); err != nil {
		return "", err
	}
	how := ending{state: Stopped, reason: "Stopped by " + person.Name + "."}
	if target.State == Queued {
		how = ending{state: Cancelled, reason: "Stopped by " + person.Name + " before it began."}
	}
	_, err = t.settle(ctx, s, target.ID, how)
	return target.ID, err
}

// Retry queues a settled prompt's request again, as the person's own.
func (e *Engine) Retry(ctx context.Context, key, prompt string, by uuid.UUID) (Accepted, error) {
	p, err := e.Prompt(ctx, prompt)
	if err != nil {
		return Accepted{}, err
	}
	if !p.State.Settled() {
		return Accepted{}, &Problem{Code: "not_settled", Text: "That request has not ended yet."}
	}
	var files []sandbox.Attachment
	err = e.db.SelectContext(ctx, &files, `select name, mime, data from attachments where prompt_id = $1 order by position`, prompt)
	if err != nil {
		return Accepted{}, fmt.Errorf("reading the attachments of %s: %w", prompt, err)
	}
	return e.Accept(ctx, Request{Key: key, Source: p.Source, Author: by, Text: p.Text, Attachments: files,
		Session: p.SessionID, Model: p.Model, report: p.Source == FromAgent}) // what an agent said is nobody's answer
}
