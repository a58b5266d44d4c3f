package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// getSession reads how a child of the call's session is, and waits for its answer
// if it is asked to. An answer that it returns does not come again as a prompt.
func getSession(ctx context.Context, e *Engine, c toolCall) (toolResult, error) {
	var asked struct {
		Session     string  `json:"session"`
		WaitSeconds float64 `json:"wait_seconds"`
	}
	if wrong := c.read(&asked); wrong != nil {
		return *wrong, nil
	}
	parent, err := e.Parent(ctx, asked.Session)
	if errors.Is(err, ErrNotFound) || err == nil && parent != c.session.ID {
		return *refusal("You began no session " + asked.Session + ": only those that you began can be looked at."), nil
	}
	if err != nil {
		return toolResult{}, err
	}
	deadline := time.Now().Add(min(time.Duration(max(0, asked.WaitSeconds)*float64(time.Second)), longestWait))
	ctx, cancel := context.WithCancel(ctx) // which ends the listening
	defer cancel()
	wake := e.hub.listen(ctx, surfaceTopic(surfaceReports))
	for {
		text, done, err := e.childNow(ctx, asked.Session, c)
		if err != nil || done || !time.Now().Before(deadline) {
			return toolResult{text: text}, err
		}
		if running, err := e.runs(ctx, c.prompt); err != nil || !running {
			return *refusal("That request has ended."), err
		}
		select {
		case <-ctx.Done():
			return toolResult{}, ctx.Err()
		case <-wake:
		case <-time.After(e.tempo.poll):
		}
	}
}

// runs says whether a prompt still does: somebody may have stopped it while a
// call of it waits.
func (e *Engine) runs(ctx context.Context, prompt string) (running bool, err error) {
	err = e.db.GetContext(ctx, &running, `select state = 'running' from prompts where id = $1`, prompt)
	return running, err
}

// childNow says to a call how a child is. done says that there is nothing to wait for.
func (e *Engine) childNow(ctx context.Context, child string, c toolCall) (text string, done bool, err error) {
	s, err := e.Session(ctx, child)
	if err != nil {
		return "", true, err
	}
	prompts, err := e.Prompts(ctx, child) // before the report: who ends between the two has left one
	if err != nil || len(prompts) == 0 {
		return "", true, err
	}
	r, err := e.takeChildsReport(ctx, child, c)
	if err != nil {
		return "", true, err
	}
	if r != nil {
		return r.text(e.pageURL(child)), true, nil
	}
	last := prompts[len(prompts)-1]
	if last.State.Settled() { // you have its answer already
		now := report{Session: child, Title: s.Title, Repository: s.Repository, State: last.State, Reason: last.Reason, Answer: last.Answer}
		return now.text(e.pageURL(child)), true, nil
	}
	box, err := e.Sandbox(ctx, child)
	return fmt.Sprintf("Session %s (“%s” on %s) is %s (sandbox: %s). Its answer comes to you as a request when it is done.",
		child, s.Title, s.Repository, last.State, box.State), false, err
}

// takeChildsReport takes the oldest report of a child that was not delivered yet
// for a call; it returns nil if there is none.
func (e *Engine) takeChildsReport(ctx context.Context, child string, c toolCall) (r *report, err error) {
	err = e.transact(ctx, func(t *tx) error {
		r = nil
		var prompt string
		err := t.GetContext(ctx, &prompt, `select r.prompt_id from reports r join prompts p on p.id = r.prompt_id
			where p.session_id = $1 and r.delivered_at is null order by p.position limit 1`, child)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err == nil {
			r, err = t.takeReport(ctx, prompt, &c)
		}
		return err
	})
	return r, err
}
