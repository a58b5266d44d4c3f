package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"openinspect/sandbox"
)

// Waits around a prompt.
const (
	abortWait  = 3 * time.Second  // for OpenCode to say that it is idle after an abort
	strayWait  = 4 * time.Second  // for the processes of a prompt to end
	diffWait   = 10 * time.Second // for the comparison that a settled prompt reports
	commitWait = 2 * time.Minute
	pushWait   = 3 * time.Minute
)

// run takes one prompt from its turn to the moment the next one may begin:
// converse, settle, end what it left running, commit, push. The order matters:
// people hear of the end first, and no process of one prompt can change files
// once they count as the next one's. quiet says that a copy of the box's disk would
// have everything that the prompt did.
func (s *supervisor) run(ctx context.Context, t *turn) (quiet bool) {
	if _, err := s.gate.isOpen(); err != nil {
		t.fail("%s", err)
		return false
	}
	err := s.converse(ctx, t)
	if ctx.Err() != nil {
		return false
	}
	s.leave(t, err != nil)
	s.settle(ctx, t, err)
	if t.hasBegun() { // else it has only read, and the boot's own processes may run
		s.quieten(ctx, err != nil || t.hasAsked())
	}
	close(t.over)
	if t.hasBegun() {
		s.keep(ctx, t)
	}
	if err := s.ensureAgent(ctx, s.welcome.Model); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error("OpenCode does not start again", "err", err)
	}
	return s.saveConversation() && t.hasBegun()
}

var errStopped = errors.New("stopped")

// converse lets the agent work on the prompt. nil means that it has answered;
// any error's text is a reason for people.
func (s *supervisor) converse(ctx context.Context, t *turn) error {
	model := cmp.Or(t.prompt.Model, s.welcome.Model)
	if err := s.ensureAgent(ctx, model); err != nil {
		return fmt.Errorf("the agent's program did not start: %w", err)
	}
	if err := s.identity.setAuthor(t.author()); err != nil {
		return fmt.Errorf("the author could not be set: %w", err)
	}
	if err := s.enter(ctx, t); err != nil {
		return err
	}
	agent := s.currentAgent()
	session, err := s.session(ctx, agent)
	if err != nil {
		return fmt.Errorf("the agent's conversation could not be opened: %w", err)
	}
	sub := agent.subscribe()
	defer sub.cancel()
	asked := newID("msg_")
	c := &conversation{
		turn: t, agent: agent, session: session, asked: asked, events: sub.events, opened: sub.opened,
		modelSaid: func() time.Time { return time.Unix(0, s.gateway.modelSaid.Load()) },
		limits:    limits{total: s.welcome.PromptTimeout, silence: s.welcome.ModelSilence},
		script:    newTranscript(session, asked, s.repo.dir, t.emit, t.delta),
	}
	given := time.Now()
	if err := s.ask(ctx, c, t.body(s.settings.provider(), model, asked)); err != nil {
		return err
	}
	t.emit(sandbox.KindAccepted, sandbox.BodyAccepted{Given: given, At: time.Now()})
	err = c.follow(ctx)
	agent.sound = (agent.sound || c.script.begun()) && !c.aborted
	t.answer(c.script.reply())
	if t.isSettled() {
		return errStopped
	}
	return err
}

// ask delivers the prompt, twice if need be: our ids make that harmless.
func (s *supervisor) ask(ctx context.Context, c *conversation, body any) error {
	err := c.agent.client.prompt(ctx, c.session, body)
	if err != nil && c.agent.alive() && ctx.Err() == nil {
		err = c.agent.client.prompt(ctx, c.session, body)
	}
	if err != nil && !c.agent.alive() {
		return fmt.Errorf("%w (%w)", errAgentDied, c.agent.ending)
	}
	return err
}

// settle reports the prompt's end with what it changed.
func (s *supervisor) settle(ctx context.Context, t *turn, err error) {
	if t.isSettled() {
		return
	}
	body := sandbox.BodySettled{Outcome: sandbox.OutcomeCompleted, Answer: t.lastAnswer()}
	if err != nil {
		body.Outcome, body.Reason = sandbox.OutcomeFailed, sentence(err)
	}
	if t.hasBegun() {
		ctx, cancel := context.WithTimeout(ctx, diffWait)
		defer cancel()
		c, err := s.repo.changes(ctx, s.changedFrom(ctx, t))
		if err != nil {
			s.cfg.Log.Warn("changes cannot be compared", "prompt", t.prompt.ID, "err", err)
		}
		if len(c.files) > 0 {
			t.emit(sandbox.KindDiff, sandbox.BodyDiff{Files: c.files, Omitted: c.omitted})
		}
		body.Files, body.Additions, body.Deletions = len(c.files)+c.omitted, c.additions, c.deletions
	}
	t.settle(body)
}

// changedFrom is the commit from which what the prompt changed is counted: where it
// began, in an earlier box perhaps.
func (s *supervisor) changedFrom(ctx context.Context, t *turn) string {
	if since := t.prompt.Since; since != "" && s.repo.succeeds(ctx, "cat-file", "-e", since+"^{commit}") {
		return since
	}
	return t.startedAt()
}

// sentence makes a reason of an error: a capital letter and a full stop.
func sentence(err error) string {
	text := strings.TrimSpace(err.Error())
	if text == "" {
		return "It failed for an unknown reason."
	}
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}

// quieten ends everything that a prompt left running; interrupted says that the
// agent itself may still be at work. An OpenCode that does not become idle is
// ended too, and so is one that is not sound: an abort while it makes ready for
// its first answer is remembered by OpenCode 1.18 as the result of making ready,
// and every later prompt fails with it ("All fibers interrupted").
func (s *supervisor) quieten(ctx context.Context, interrupted bool) {
	agent := s.currentAgent()
	idle := make(chan bool, 1)
	switch {
	case !interrupted || !agent.alive():
		idle <- true
	case !agent.sound:
		agent.kill()
		idle <- true
	default:
		s.family.tasks.Go(func() { idle <- agent.becomeIdle(ctx) })
	}
	strays, cancel := context.WithTimeout(ctx, strayWait)
	defer cancel()
	if _, err := s.family.endStrays(strays, agent.pid()); err != nil {
		s.cfg.Log.Warn("processes of the prompt remain", "err", err)
	}
	if !<-idle {
		s.cfg.Log.Warn("OpenCode did not become idle and is ended")
		agent.kill()
	}
	// What OpenCode started between the first look and its idleness.
	again, cancelAgain := context.WithTimeout(ctx, strayWait)
	defer cancelAgain()
	if _, err := s.family.endStrays(again, agent.pid()); err != nil {
		s.cfg.Log.Warn("processes of the prompt remain", "err", err)
	}
}

// becomeIdle aborts whatever OpenCode does and waits until nothing of it runs.
func (o *opencode) becomeIdle(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, abortWait)
	defer cancel()
	for ctx.Err() == nil && o.alive() {
		statuses, err := o.client.statuses(ctx)
		if err == nil && len(statuses) == 0 {
			return true
		}
		for session, st := range statuses {
			if st.Type != "idle" {
				_ = o.client.abort(ctx, session)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return false
}

// keep commits and pushes what the prompt did.
func (s *supervisor) keep(ctx context.Context, t *turn) {
	s.repo.clearLocks() // nothing of the prompt runs any more
	if err := s.commit(ctx, t); err != nil {
		s.cfg.Log.Error("the work cannot be committed", "prompt", t.prompt.ID, "err", err)
		s.note(t.prompt.ID, "The changes could not be committed: "+err.Error())
		return
	}
	s.forget()
	if s.repo.unpushed(ctx) {
		s.push(ctx, t)
	}
}

// commit makes commits of the prompt's author of everything that it changed and
// reports those that are new.
func (s *supervisor) commit(ctx context.Context, t *turn) error {
	ctx, cancel := context.WithTimeout(ctx, commitWait)
	defer cancel()
	commits, notes, err := s.repo.settleWork(ctx, t.startedAt(), s.credit(t.prompt.ID, t.subject(), t.author()))
	for _, c := range commits {
		if t.firstReport(c.SHA) {
			s.bridge.Event(sandbox.KindCommit, t.prompt.ID, c)
		}
	}
	for _, n := range notes {
		s.note(t.prompt.ID, n)
	}
	return err
}

// credit is under whose name a prompt's work is committed.
func (s *supervisor) credit(prompt, subject string, author person) credit {
	return credit{author: author, trailers: s.identity.trailers, subject: subject, prompt: prompt}
}

func (s *supervisor) note(prompt, text string) {
	s.bridge.Event(sandbox.KindNote, prompt, sandbox.BodyNote{Text: text})
}

// push sends the session's branch and reports it.
func (s *supervisor) push(ctx context.Context, t *turn) sandbox.BodyPush {
	ctx, cancel := context.WithTimeout(ctx, pushWait)
	defer cancel()
	body := s.repo.push(ctx)
	s.bridge.Event(sandbox.KindPush, t.prompt.ID, body)
	return body
}

// interrupted is the record of the prompt that runs, for the boot after one
// that was cut off.
type interrupted struct {
	Prompt, Subject, Name, Email, Since string
}

func (s *supervisor) recordPath() string { return filepath.Join(s.state, "running.json") }

// remember writes that the prompt runs.
func (s *supervisor) remember(t *turn) error {
	author := t.author()
	data, err := json.Marshal(interrupted{t.prompt.ID, t.subject(), author.name, author.email, t.startedAt()})
	if err == nil {
		err = writeFile(s.recordPath(), data)
	}
	if err != nil {
		return fmt.Errorf("the disk of the sandbox does not take a file: %w", err)
	}
	return nil
}

func (s *supervisor) forget() { _ = os.Remove(s.recordPath()) }

// settleInterrupted commits what a prompt of an earlier boot left, under its
// author's name.
func (s *supervisor) settleInterrupted(ctx context.Context) error {
	data, err := os.ReadFile(s.recordPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var was interrupted
	if err == nil {
		err = json.Unmarshal(data, &was)
	}
	if err != nil {
		return fmt.Errorf("reading whose work was interrupted: %w", err)
	}
	commits, notes, err := s.repo.settleWork(ctx, was.Since, s.credit(was.Prompt, was.Subject, person{was.Name, was.Email}))
	if err != nil {
		return fmt.Errorf("committing what an interrupted prompt left: %w", err)
	}
	for _, c := range commits {
		s.bridge.Event(sandbox.KindCommit, was.Prompt, c)
	}
	for _, n := range notes {
		s.note(was.Prompt, n)
	}
	s.forget()
	return nil
}

// currentAgent is the OpenCode that runs or ran last; nil before the first.
func (s *supervisor) currentAgent() *opencode {
	s.agentMu.Lock()
	defer s.agentMu.Unlock()
	return s.agent
}

// startAgent starts OpenCode in place of the one before.
func (s *supervisor) startAgent(ctx context.Context) error {
	agent, err := launch(ctx, s.family, s.settings, s.cfg.Log)
	if err != nil {
		return err
	}
	s.agentMu.Lock()
	defer s.agentMu.Unlock()
	s.agent = agent
	return nil
}

// ensureAgent makes sure that OpenCode runs and knows the model. Its models are
// part of its configuration, so that a new one means a new start.
func (s *supervisor) ensureAgent(ctx context.Context, model string) error {
	agent := s.currentAgent()
	if agent.alive() && slices.Contains(agent.models, model) {
		return nil
	}
	if agent.alive() {
		agent.kill()
	}
	if !slices.Contains(s.settings.models, model) {
		s.settings.models = append(s.settings.models, model)
	}
	if err := s.startAgent(ctx); err != nil {
		return err
	}
	return s.openSession(ctx)
}
