package sessions

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// agentTool is one of the agent's tools, as the control plane does it. Exactly
// one of its functions is set.
type agentTool struct {
	// perform does what was asked in the transaction that records the call, under
	// the session's lock. It answers at once, or records the effect in the outbox
	// and returns its key: then the effect's delivery answers (answerCall).
	perform func(ctx context.Context, t *tx, c toolCall) (*toolResult, string, error)
	// read answers without any effect, outside of a transaction. A lost connection
	// may have it done again. A *Problem's sentence is for the agent.
	read func(ctx context.Context, e *Engine, c toolCall) (toolResult, error)
}

// agentTools are all of them, by name. What the agent is told of them is in
// sandbox/supervisor; each has a file of its own there and here.
var agentTools = map[string]agentTool{
	"ask":                 {perform: ask},
	"create_pull_request": {perform: createPullRequest},
	"get_checks":          {read: getChecks},
	"get_session":         {read: getSession},
	"get_review":          {read: getReview},
	"post_update":         {perform: postUpdate},
	"reply_to_review":     {perform: replyToReview},
	"screenshot":          {perform: uploadArtifact},
	"set_title":           {perform: setTitle},
	"upload_artifact":     {perform: uploadArtifact},
	"start_session":       {perform: startSession},
	"update_pull_request": {perform: updatePullRequest},
}

// toolCall is a call whose prompt runs in the boot that sent it.
type toolCall struct {
	id      string
	boot    string
	prompt  string
	session Session
	author  Person // whose prompt it is
	args    json.RawMessage
}

// key names the call's effect in the outbox.
func (c toolCall) key(kind string) string {
	return kind + ":" + c.session.ID + ":" + c.boot + ":" + c.id
}

// read takes the arguments apart.
func (c toolCall) read(into any) *toolResult {
	if err := json.Unmarshal(c.args, into); err != nil {
		return refusal("The arguments cannot be read: " + err.Error() + ".")
	}
	return nil
}

// answer works on the agent's calls. A call is a row before it has an effect: a
// call that is sent again after a lost connection gets the first one's result.
func (a *actor) answer(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(callsAtOnce)
	for {
		select {
		case <-ctx.Done():
			return errors.Join(g.Wait(), ctx.Err())
		case c := <-a.calls:
			g.Go(func() error { return a.answerOne(ctx, c) })
		}
	}
}

func (a *actor) answerOne(ctx context.Context, c sandbox.Call) error {
	if wrong := unusual(c); wrong != "" {
		return a.refuseCall(ctx, c, wrong)
	}
	sent := c.ID // which the answer has to name
	c.ID, c.Prompt, c.Tool = storable(c.ID), storable(c.Prompt), storable(c.Tool)
	listening, cancel := context.WithCancel(ctx)
	defer cancel()
	wake := a.e.hub.listen(listening, actorTopic(a.session))
	refused, err := a.take(ctx, c)
	if err != nil {
		return err
	}
	if refused != nil {
		c.ID = sent
		return a.refuseCall(ctx, c, refused.text)
	}
	if read := agentTools[c.Tool].read; read != nil {
		if err := a.lookUp(ctx, c, read); err != nil {
			return err
		}
	}
	result, err := a.await(ctx, c, wake)
	if err != nil {
		return err
	}
	result.ID, result.Text = sent, a.scrub.text(result.Text)
	return a.link.Send(ctx, sandbox.Message{Result: result})
}

// refuseCall answers a call without a trace of it.
func (a *actor) refuseCall(ctx context.Context, c sandbox.Call, why string) error {
	return a.link.Send(ctx, sandbox.Message{Result: &sandbox.Result{ID: c.ID, Text: why, Error: true}})
}

// take records the call and its effect, unless that was done before, or refuses it.
func (a *actor) take(ctx context.Context, c sandbox.Call) (refused *toolResult, err error) {
	err = a.e.transact(ctx, func(t *tx) error {
		if _, err := a.fence(ctx, t); err != nil {
			return err
		}
		s, err := t.lockSession(ctx, a.session)
		if err != nil {
			return err
		}
		if refused, err = t.tooMany(ctx, s.ID, a.boot, c); err != nil || refused != nil {
			return err
		}
		args, err := a.scrub.json(c.Args)
		if err != nil {
			args = json.RawMessage(`{}`)
		}
		res, err := t.ExecContext(ctx, `insert into calls (session_id, boot, id, prompt_id, tool, args) values ($1, $2, $3, $4, $5, $6)
			on conflict do nothing`, s.ID, a.boot, c.ID, c.Prompt, c.Tool, string(args))
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
	return refused, err
}

// lookUp answers a call that only reads, unless it was answered before, or its id is
// another tool's: that one's result is not this one's to give.
func (a *actor) lookUp(ctx context.Context, c sandbox.Call, read func(context.Context, *Engine, toolCall) (toolResult, error)) error {
	var open struct {
		Args   string    `db:"args"`
		Author uuid.UUID `db:"author"`
	}
	err := a.e.db.GetContext(ctx, &open, `select c.args, p.author from calls c join prompts p on p.id = c.prompt_id
		where c.session_id = $1 and c.boot = $2 and c.id = $3 and c.tool = $4 and c.result is null`, a.session, a.boot, c.ID, c.Tool)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	call := toolCall{id: c.ID, boot: a.boot, prompt: c.Prompt, args: json.RawMessage(open.Args)}
	if err == nil {
		call.session, err = a.e.Session(ctx, a.session)
	}
	if err == nil {
		call.author, err = a.e.Person(ctx, open.Author)
	}
	if err != nil {
		return fmt.Errorf("reading the call %s: %w", c.ID, err)
	}
	result, err := read(ctx, a.e, call)
	if ctx.Err() != nil {
		return ctx.Err() // the call is sent again
	}
	if err != nil {
		result = a.e.failedRead(c.Tool, err)
	}
	return a.e.transact(ctx, func(t *tx) error {
		if _, err := a.fence(ctx, t); err != nil {
			return err
		}
		return t.noteCall(ctx, a.session, a.boot, c.ID, "", &result)
	})
}

// failedRead is what the agent reads of something that could not be read.
func (e *Engine) failedRead(tool string, err error) toolResult {
	if p, ok := errors.AsType[*Problem](err); ok {
		return toolResult{p.Text, true}
	}
	e.log.Warn("a tool of the agent could not read", "tool", tool, "err", e.scrub.text(err.Error()))
	return toolResult{"That could not be read at the moment. Go on with something else and try once more later.", true}
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

// refusal is a result that says what to do instead.
func refusal(text string) *toolResult { return &toolResult{text, true} }

// perform authorises a new call: its prompt has to run in this boot. Then the
// tool's own function decides.
func (a *actor) perform(ctx context.Context, t *tx, s Session, c sandbox.Call, args json.RawMessage) (*toolResult, string, error) {
	tool, known := agentTools[c.Tool]
	if !known {
		return refusal("There is no tool " + c.Tool + "."), "", nil
	}
	var author Person
	err := t.GetContext(ctx, &author, `select `+personColumns+` from people where id =
		(select author from prompts where id = $1 and session_id = $2 and state = 'running' and boot = $3)`, c.Prompt, s.ID, a.boot)
	if errors.Is(err, sql.ErrNoRows) {
		return refusal("That request has ended: nothing is done for it any more."), "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading whose call it is: %w", err)
	}
	if tool.perform == nil {
		return nil, "", nil // it only reads
	}
	return tool.perform(ctx, t, toolCall{id: c.ID, boot: a.boot, prompt: c.Prompt, session: s, author: author, args: args})
}

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
			return &sandbox.Result{ID: c.ID, Text: "GitHub does not answer at the moment. What you asked for is done as soon as it does, " +
				"and shown to people then. Do not try again."}, nil
		case <-wake:
		case <-poll.C:
		}
	}
}
