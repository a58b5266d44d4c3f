package sessions

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// toolPullRequest is the agent's tool that opens a pull request.
const toolPullRequest = "create_pull_request"

// callsAtOnce bounds the calls of one sandbox that are worked on.
const callsAtOnce = 8

// answer works on the agent's calls. A call is a row before it has an effect: a
// call that is sent again after a lost connection gets the first one's result.
func (a *actor) answer(ctx context.Context, calls <-chan sandbox.Call) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(callsAtOnce)
	for {
		select {
		case <-ctx.Done():
			return errors.Join(g.Wait(), ctx.Err())
		case c := <-calls:
			g.Go(func() error { return a.answerOne(ctx, c) })
		}
	}
}

func (a *actor) answerOne(ctx context.Context, c sandbox.Call) error {
	wake := a.e.hub.listen(ctx, actorTopic(a.session))
	if err := a.take(ctx, c); err != nil {
		return err
	}
	result, err := a.await(ctx, c, wake)
	if err != nil {
		return err
	}
	result.Text = a.scrub.text(result.Text)
	return a.link.Send(ctx, sandbox.Message{Result: result})
}

// take records the call and its effect, unless that was done before.
func (a *actor) take(ctx context.Context, c sandbox.Call) error {
	return a.e.transact(ctx, func(t *tx) error {
		if _, err := a.fence(ctx, t); err != nil {
			return err
		}
		s, err := t.lockSession(ctx, a.session)
		if err != nil {
			return err
		}
		args, err := a.scrub.json(c.Args)
		if err != nil {
			args = json.RawMessage(`{}`)
		}
		res, err := t.ExecContext(ctx, `insert into calls (session_id, boot, id, prompt_id, tool, args) values ($1, $2, $3, $4, $5, $6)
			on conflict do nothing`, s.ID, a.boot, storable(c.ID), storable(c.Prompt), storable(c.Tool), string(args))
		if err != nil {
			return fmt.Errorf("recording the call %s: %w", c.ID, err)
		}
		fresh, err := affected(res)
		if err != nil || !fresh {
			return err // its result is there, or comes
		}
		answered, key, err := a.perform(ctx, t, s, c, args)
		if err != nil {
			return err
		}
		return t.noteCall(ctx, a.session, a.boot, c.ID, key, answered)
	})
}

// noteCall keeps what a call waits for, or its result.
func (t *tx) noteCall(ctx context.Context, session, boot, id, key string, r *toolResult) error {
	var text sql.NullString
	failed := false
	if r != nil {
		text, failed = sql.NullString{String: t.e.scrub.text(storable(r.text)), Valid: true}, r.failed
	}
	_, err := t.ExecContext(ctx, `update calls set outbox_key = $4, result = $5, error = $6 where session_id = $1 and boot = $2 and id = $3`,
		session, boot, id, key, text, failed)
	if err != nil {
		return fmt.Errorf("noting the call %s: %w", id, err)
	}
	return nil
}

// toolResult is what the agent reads.
type toolResult struct {
	text   string
	failed bool
}

// perform authorises a new call and records its effect under the outbox key, or
// answers it at once.
func (a *actor) perform(ctx context.Context, t *tx, s Session, c sandbox.Call, args json.RawMessage) (*toolResult, string, error) {
	if c.Tool != toolPullRequest {
		return &toolResult{"There is no tool " + c.Tool + ".", true}, "", nil
	}
	var author Person
	err := t.GetContext(ctx, &author, `select `+personColumns+` from people where id =
		(select author from prompts where id = $1 and session_id = $2 and state = 'running' and boot = $3)`, c.Prompt, s.ID, a.boot)
	if errors.Is(err, sql.ErrNoRows) {
		return &toolResult{"That request has ended: nothing is opened for it any more.", true}, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading whose call it is: %w", err)
	}
	var asked struct {
		Title string `json:"title"`
		Body  string `json:"body"`
		Draft bool   `json:"draft"`
	}
	if err := json.Unmarshal(args, &asked); err != nil || strings.TrimSpace(asked.Title) == "" {
		return &toolResult{"A pull request needs a title.", true}, "", nil
	}
	pr := NewPullRequest{Repository: s.Repository, Base: s.BaseBranch, Head: s.Branch(),
		Title: shorten(strings.TrimSpace(asked.Title), longestTitle), Body: shorten(asked.Body, longestBody), Draft: asked.Draft}
	return t.askPullRequest(ctx, s, c.Prompt, "pr:"+s.ID+":"+a.boot+":"+c.ID, author, pr)
}

// GitHub's own limits for a pull request's title and body, in characters.
const (
	longestTitle = 256
	longestBody  = 65_536
)

// shorten cuts text to at most n characters.
func shorten(text string, n int) string {
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
}

// await waits for the call's effect, for as long as the agent's tool may take.
func (a *actor) await(ctx context.Context, c sandbox.Call, wake <-chan struct{}) (*sandbox.Result, error) {
	deadline := time.NewTimer(a.e.tempo.call)
	defer deadline.Stop()
	poll := time.NewTicker(a.e.tempo.poll)
	defer poll.Stop()
	for {
		var done struct {
			Result sql.NullString `db:"result"`
			Error  bool           `db:"error"`
		}
		err := a.e.db.GetContext(ctx, &done, `select result, error from calls where session_id = $1 and boot = $2 and id = $3`, a.session, a.boot, c.ID)
		if err != nil {
			return nil, fmt.Errorf("reading the result of call %s: %w", c.ID, err)
		}
		if done.Result.Valid {
			return &sandbox.Result{ID: c.ID, Text: done.Result.String, Error: done.Error}, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return &sandbox.Result{ID: c.ID, Text: "GitHub does not answer at the moment. The pull request will be opened as soon as it does, " +
				"and its link will be shown to people. Do not try again."}, nil
		case <-wake:
		case <-poll.C:
		}
	}
}
