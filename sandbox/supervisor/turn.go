package supervisor

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"openinspect/sandbox"
)

// turn is one prompt from its arrival to its end. It settles exactly once (I3);
// whatever comes later of what the agent said is not reported any more.
type turn struct {
	prompt sandbox.Prompt
	bridge *sandbox.Bridge
	ended  chan struct{} // closed when settled
	over   chan struct{} // closed when the agent does nothing more for it

	mu       sync.Mutex
	settled  bool
	since    string          // the commit that was checked out when the prompt began
	started  bool            // since is valid
	reply    string          // the agent's answer
	reported map[string]bool // commits that people know
	asked    bool            // the agent asked people something: the turn ends with it
	called   map[string]int  // how often a tool of ours was called
	shown    map[string]int  // how often that it runs was reported
	showed   chan struct{}   // closed when shown changes
}

func newTurn(p sandbox.Prompt, b *sandbox.Bridge) *turn {
	return &turn{prompt: p, bridge: b, ended: make(chan struct{}), over: make(chan struct{}),
		called: make(map[string]int), shown: make(map[string]int), showed: make(chan struct{})}
}

// settle ends the turn if it has not ended, and reports whether it did.
func (t *turn) settle(body sandbox.BodySettled) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.settled {
		return false
	}
	if body.Outcome == sandbox.OutcomeCarried {
		body.Begun, body.Since = t.started, cmp.Or(t.prompt.Since, t.since)
	}
	t.settled = true
	t.bridge.Event(sandbox.KindSettled, t.prompt.ID, body)
	close(t.ended)
	return true
}

func (t *turn) fail(format string, args ...any) {
	t.settle(sandbox.BodySettled{Outcome: sandbox.OutcomeFailed, Reason: sentence(fmt.Errorf(format, args...))})
}

// carry ends the turn here, because it goes on in another box.
func (t *turn) carry() { t.settle(sandbox.BodySettled{Outcome: sandbox.OutcomeCarried}) }

// emit reports an event of the prompt unless it is settled.
func (t *turn) emit(kind string, body any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.settled {
		return
	}
	t.bridge.Event(kind, t.prompt.ID, body)
	if b, ok := body.(sandbox.BodyTool); ok && b.State == "running" {
		t.shown[b.Tool]++
		close(t.showed)
		t.showed = make(chan struct{})
	}
}

// shownWait is how long a call waits for its own event. That of a sub-agent's call
// never comes.
const shownWait = 300 * time.Millisecond

// waitShown returns when it was reported that the tool runs which has just been
// called, and with it what the agent said before: OpenCode calls and tells by two
// ways, and people read what a call does after what led to it.
func (t *turn) waitShown(ctx context.Context, tool string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.called[tool]++
	number := t.called[tool]
	timeout := time.NewTimer(shownWait)
	defer timeout.Stop()
	for t.shown[tool] < number {
		showed := t.showed
		t.mu.Unlock()
		select {
		case <-showed:
		case <-timeout.C:
			number = 0
		case <-ctx.Done():
			number = 0
		}
		t.mu.Lock()
	}
}

func (t *turn) delta(d sandbox.Delta) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.settled {
		d.Prompt = t.prompt.ID
		t.bridge.Delta(d)
	}
}

// begin notes where the prompt's work starts, unless it has ended before.
func (t *turn) begin(head string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.settled {
		return false
	}
	t.since, t.started = head, true
	return true
}

func (t *turn) hasBegun() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.started
}

func (t *turn) startedAt() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.since
}

func (t *turn) isSettled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settled
}

// asking notes that the agent asked people something.
func (t *turn) asking() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = true
}

func (t *turn) hasAsked() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.asked
}

func (t *turn) answer(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reply = text
}

func (t *turn) lastAnswer() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reply
}

// firstReport notes a commit and reports whether it is new.
func (t *turn) firstReport(sha string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reported[sha] {
		return false
	}
	if t.reported == nil {
		t.reported = make(map[string]bool)
	}
	t.reported[sha] = true
	return true
}

// author is whom the prompt's commits name.
func (t *turn) author() person { return person{t.prompt.AuthorName, t.prompt.AuthorEmail}.clean() }

// subject is that of commits of what the prompt leaves uncommitted.
func (t *turn) subject() string { return subjectOf(cmp.Or(t.prompt.Subject, t.prompt.Text)) }

// subjectOf makes a commit's subject of what was asked for.
func subjectOf(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	words := strings.Fields(line)
	subject := ""
	for _, w := range words {
		if len(subject)+len(w) > 68 {
			subject += " …"
			break
		}
		subject = strings.TrimSpace(subject + " " + w)
	}
	if subject == "" || subject == " …" {
		return "Work on a request"
	}
	return subject
}

// body is the prompt as OpenCode takes it. Ids of our own make sending it twice
// harmless.
func (t *turn) body(provider, model, messageID string) map[string]any {
	parts := []map[string]any{{"type": "text", "text": t.prompt.Text, "id": "prt_" + messageID}}
	for i, a := range t.prompt.Attachments {
		parts = append(parts, map[string]any{
			"type": "file", "mime": a.MIME, "filename": a.Name, "id": fmt.Sprintf("prt_%s_%d", messageID, i),
			"url": "data:" + a.MIME + ";base64," + base64.StdEncoding.EncodeToString(a.Data),
		})
	}
	return map[string]any{
		"messageID": messageID, "parts": parts,
		"model": map[string]string{"providerID": provider, "modelID": modelID(model)},
	}
}

// conversation is what a running turn watches.
type conversation struct {
	turn    *turn
	began   time.Time
	agent   *opencode
	session string
	asked   string
	limits  limits
	// modelSaid is when a model said something last that OpenCode may not know yet.
	modelSaid func() time.Time
	events    <-chan event
	opened    <-chan struct{} // the event stream was opened again: look for what was missed
	script    *transcript

	missed   bool      // the event stream broke: the transcript may lack something
	progress time.Time // the model's or a tool's last sign of life
	answered time.Time // OpenCode's last answer to us
	failure  *apiError // the last error that OpenCode reported
	idleAt   time.Time // since when OpenCode is idle without having answered
	retry    string    // what the model's provider said before the newest retry
	aborted  bool      // OpenCode says that it was interrupted; a stop would have ended the turn before
}

// limits are the turn's deadlines.
type limits struct {
	total   time.Duration // for the whole prompt
	silence time.Duration // without a sign of life of the model while no tool runs
}

// Waits of a conversation.
const (
	pollEvery   = 2 * time.Second  // look whether it is done, whatever events say
	unanswered  = 45 * time.Second // OpenCode does not answer HTTP: it hangs
	idleUnbegun = 8 * time.Second  // idle, but no answer of the agent exists
)

var (
	errAgentDied = errors.New("the agent's program ended unexpectedly")
	errAgentHung = errors.New("the agent's program did not react any more")
)

// follow watches the conversation until the agent has answered. It returns nil
// when it has; an error's text is the reason of the failure.
func (c *conversation) follow(ctx context.Context) error {
	c.began, c.progress, c.answered = time.Now(), time.Now(), time.Now()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		look, told := false, false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.turn.ended:
			return nil
		case <-c.agent.exited:
			return fmt.Errorf("%w (%w)", errAgentDied, c.agent.ending)
		case e := <-c.events:
			told = c.handle(e)
			look = told
		case <-c.opened:
			look, c.missed = true, true
		case <-poll.C:
			look = true
		}
		if look {
			if done, err := c.look(ctx, told); done || err != nil {
				return err
			}
		}
		if c.turn.hasAsked() && c.script.askedIn != "" && c.script.busyTools == 0 {
			return nil // OpenCode knows that it has asked; what it does now is cut off
		}
		if err := c.overdue(); err != nil {
			return err
		}
	}
}

// overdue returns the sentence for a deadline that has passed.
func (c *conversation) overdue() error {
	switch {
	case time.Since(c.began) > c.limits.total:
		return fmt.Errorf("the prompt took longer than %s", c.limits.total.Round(time.Second))
	case c.script.busyTools == 0 && min(time.Since(c.progress), time.Since(c.modelSaid())) > c.limits.silence:
		if c.retry != "" {
			return fmt.Errorf("the model did not answer for %s; its provider said: %s", c.limits.silence.Round(time.Second), c.retry)
		}
		return fmt.Errorf("the model did not answer for %s", c.limits.silence.Round(time.Second))
	case time.Since(c.answered) > unanswered:
		return errAgentHung
	}
	return nil
}

// properties are what the events that matter here carry, all in one.
type properties struct {
	SessionID string        `json:"sessionID"`
	Info      messageInfo   `json:"info"`
	Part      part          `json:"part"`
	PartID    string        `json:"partID"`
	Delta     string        `json:"delta"`
	Field     string        `json:"field"`
	Status    sessionStatus `json:"status"`
	Error     *apiError     `json:"error"`
	Todos     []struct {
		Content string `json:"content"`
		Status  string `json:"status"`
	} `json:"todos"`
}

// handle takes in one event and reports whether the conversation may be over.
func (c *conversation) handle(e event) (look bool) {
	var p properties
	if json.Unmarshal(e.Properties, &p) != nil {
		return false
	}
	switch e.Type {
	case "message.part.updated", "message.part.delta", "message.updated":
		c.progress = time.Now() // a sub-agent's too
	}
	session := cmp.Or(p.SessionID, p.Info.SessionID, p.Part.SessionID)
	if session != c.session {
		return false
	}
	switch e.Type {
	case "message.updated":
		c.script.message(p.Info)
	case "message.part.updated":
		c.script.part(p.Part)
	case "message.part.delta":
		if p.Field == "text" {
			c.script.added(p.PartID, p.Delta)
		}
	case "todo.updated":
		c.turn.emit(sandbox.KindTodo, todoList(p))
	case "session.status":
		c.status(p.Status)
	case "session.error":
		c.failure = cmp.Or(p.Error, c.failure)
	case "session.idle":
		return true
	}
	return false
}

func todoList(p properties) sandbox.BodyTodo {
	todos, more := capped(p.Todos, maxTodos)
	list := sandbox.BodyTodo{Items: []sandbox.TodoItem{}, Omitted: more}
	for _, item := range todos {
		list.Items = append(list.Items, sandbox.TodoItem{Text: item.Content, State: item.Status})
	}
	return list
}

// status reports that OpenCode will try the model again.
func (c *conversation) status(s sessionStatus) {
	if s.Type != "retry" {
		return
	}
	c.retry = strings.TrimSpace(s.Message)
	text := fmt.Sprintf("The model did not answer (%s). Try %d follows", c.retry, s.Attempt+1)
	if wait := time.Until(time.UnixMilli(int64(s.Next))).Round(time.Second); wait > 0 {
		text += fmt.Sprintf(" in %s", wait)
	}
	c.turn.emit(sandbox.KindRetry, sandbox.BodyNote{Text: text + "."})
}

// look decides whether the agent is done: OpenCode must not be busy with the
// session, and the newest answer must have ended. A bare session.idle does not
// say so: it also comes late from a run before. told says that one has just
// come: then the transcript holds everything that came before it, unless the
// stream broke; otherwise the session is read from OpenCode as well.
func (c *conversation) look(ctx context.Context, told bool) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	statuses, err := c.agent.client.statuses(ctx)
	if err != nil {
		return false, nil // overdue counts how long that goes on
	}
	status, busy := statuses[c.session]
	busy = busy && status.Type != "idle"
	if c.missed || !busy && !told {
		if err := c.catchUp(ctx); err != nil {
			return false, nil
		}
		c.missed = false
	}
	c.answered = time.Now()
	if busy {
		c.idleAt = time.Time{}
		return false, nil
	}
	ended, none, failure := c.script.finished()
	switch {
	case ended && failure != nil:
		return true, c.failed(failure)
	case ended:
		return true, nil
	}
	if c.idleAt.IsZero() {
		c.idleAt = time.Now()
	}
	// Idle and not ended: just begun, or never going to be.
	if time.Since(c.idleAt) < idleUnbegun && (c.failure == nil || none && time.Since(c.idleAt) < time.Second) {
		return false, nil
	}
	if c.failure != nil {
		return true, c.failed(c.failure)
	}
	return true, errors.New("the agent stopped without an answer")
}

func (c *conversation) failed(e *apiError) error {
	c.aborted = e.aborted()
	return errors.New(failureSentence(e))
}

// catchUp shows the transcript everything that the session holds since our
// message, for what the event stream lost.
func (c *conversation) catchUp(ctx context.Context) error {
	for limit := 8; ; limit *= 8 {
		all, err := c.agent.client.messages(ctx, c.session, limit)
		if err != nil {
			return err
		}
		ours := -1
		for i, m := range all {
			if m.Info.ID == c.asked {
				ours = i
			}
		}
		if ours < 0 && len(all) >= limit {
			continue // our message is further back
		}
		for _, m := range all[ours+1:] {
			if ours < 0 {
				break // not stored yet
			}
			c.script.message(m.Info)
			for _, p := range m.Parts {
				c.script.part(p)
			}
		}
		return nil
	}
}
