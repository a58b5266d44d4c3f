package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"openinspect/sandbox"
)

// ending is how a prompt ends.
type ending struct {
	state  PromptState
	reason string // a sentence; empty only if completed
	retry  bool   // asking again may help
	report sandbox.BodySettled
}

// settle ends a prompt, exactly once (I3): the state, its event, and what to
// tell people, in one transaction. settled is false if it had ended before. The
// session's row is locked.
func (t *tx) settle(ctx context.Context, s Session, prompt string, how ending) (settled bool, err error) {
	if err := t.charge(ctx, s.ID); err != nil {
		return false, err
	}
	var p struct {
		StartedAt *time.Time `db:"started_at"`
		EndedAt   time.Time  `db:"ended_at"`
		CostUSD   float64    `db:"cost_usd"`
		Sandbox   float64    `db:"sandbox_usd"`
	}
	err = t.GetContext(ctx, &p, `
		update prompts set state = $2, reason = $3, answer = $4, files = $5, additions = $6, deletions = $7,
			ended_at = clock_timestamp()
		where id = $1 and (state = 'running' and $2 in ('completed', 'failed', 'stopped')
			or state = 'queued' and $2 in ('failed', 'cancelled'))
		returning started_at, ended_at, cost_usd,
			coalesce((select sum(u.cost_usd) from sandbox_usage u where u.prompt_id = prompts.id), 0) as sandbox_usd`,
		prompt, how.state, t.e.scrub.text(storable(how.reason)), t.e.scrub.text(storable(how.report.Answer)),
		how.report.Files, how.report.Additions, how.report.Deletions)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("settling prompt %s: %w", prompt, err)
	}
	if _, err := t.ExecContext(ctx, `delete from running_parts where session_id = $1 and prompt_id = $2`, s.ID, prompt); err != nil {
		return false, fmt.Errorf("ending the running parts of prompt %s: %w", prompt, err)
	}
	end := BodyEnded{State: how.state, Reason: how.reason, Answer: how.report.Answer, Files: how.report.Files,
		Additions: how.report.Additions, Deletions: how.report.Deletions, CostUSD: p.CostUSD, SandboxUSD: p.Sandbox, Retry: how.retry}
	if p.StartedAt != nil {
		end.Millis = p.EndedAt.Sub(*p.StartedAt).Milliseconds()
	}
	if _, err := t.append(ctx, s.ID, entry{prompt: prompt, kind: KindEnded, body: end}); err != nil {
		return false, err
	}
	// From now on the sandbox may be idle, and be parked after a while.
	if _, err := t.ExecContext(ctx, `update sessions set idle_since = now() where id = $1`, s.ID); err != nil {
		return false, fmt.Errorf("noting that %s may be idle: %w", s.ID, err)
	}
	t.wakeSession(s.ID)
	if err := t.reported(ctx, s, prompt); err != nil {
		return false, err
	}
	if how.state == Cancelled {
		return true, t.reopenQuestion(ctx, s, prompt)
	}
	asked, err := t.deliverQuestion(ctx, s, prompt, how.state)
	if err != nil || s.ThreadTS == "" || asked && how.state == Completed && strings.TrimSpace(how.report.Answer) == "" {
		return true, err // the question is all there is to say
	}
	return true, t.enqueue(ctx, outboxRow{surface: surfaceSlack, kind: DeliverAnswer, key: "answer:" + prompt,
		session: s.ID, prompt: prompt, priority: priorityAnswer})
}

// settleWaiting fails all prompts of a session that wait for a box, queued or
// carried over, for one reason.
func (t *tx) settleWaiting(ctx context.Context, s Session, how ending) error {
	var queued []string
	err := t.SelectContext(ctx, &queued, `select id from prompts where session_id = $1
		and (state = 'queued' or state = 'running' and boot is null) order by state desc, position`, s.ID)
	if err != nil {
		return fmt.Errorf("reading the queue of %s: %w", s.ID, err)
	}
	for _, id := range queued {
		if _, err := t.settle(ctx, s, id, how); err != nil {
			return err
		}
	}
	return nil
}
