package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"openinspect/sandbox"
)

// A spare is a box whose first welcome names no session. It boots as others do,
// with the base branch checked out, answers a throw-away prompt so that OpenCode
// has done all that it does only once, and waits. A later welcome names its
// session; what is left to do then is the session's branch and its name. As in any
// box that has a checkout, the agent may read before that is done (gate.go).

// waitForSession makes a spare ready and returns when it has a session.
func (s *supervisor) waitForSession(ctx context.Context) error {
	err := s.phase(sandbox.PhaseSpare, func() (string, error) {
		if err := s.prime(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("OpenCode was not primed; the first prompt takes longer", "err", err)
		}
		return "", ctx.Err()
	})
	if err != nil {
		return err
	}
	select {
	case <-s.assigned:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	s.welcome = s.assignment
	s.mu.Unlock()
	return s.join()
}

// join makes the box the session's; its branch is still to be checked out.
func (s *supervisor) join() error {
	w := s.welcome
	s.identity.trailers = trailers(w, s.identity.bot)
	if err := s.identity.install(); err != nil {
		return fmt.Errorf("installing the git hooks: %w", err)
	}
	s.repo.branch, s.repo.base, s.repo.recorded = w.Branch, w.BaseBranch, w.Head
	return nil
}

// primeWait bounds how long the throw-away prompt may take.
const primeWait = 30 * time.Second

// prime has OpenCode answer a prompt in a conversation that is then deleted. It
// costs nothing: the gateway answers in the model's place.
func (s *supervisor) prime(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, primeWait)
	defer cancel()
	s.gateway.priming.Store(true)
	defer s.gateway.priming.Store(false)
	agent := s.currentAgent()
	session, err := agent.client.create(ctx, "Getting ready")
	if err != nil {
		return err
	}
	t := newTurn(sandbox.Prompt{Text: "Say that you are ready."}, s.bridge)
	err = agent.client.prompt(ctx, session, t.body(s.settings.provider(), s.welcome.Model, newID("msg_")))
	for err == nil && !primed(ctx, agent, session) {
		select {
		case <-ctx.Done():
			err = errors.New("OpenCode did not answer in time")
		case <-agent.exited:
			err = fmt.Errorf("OpenCode ended: %w", agent.ending)
		case <-time.After(20 * time.Millisecond): // it tells only who follows its events
		}
	}
	if err != nil {
		agent.kill() // it may be in the middle of something
		return err
	}
	return agent.client.call(ctx, http.MethodDelete, "/session/"+session, nil, nil)
}

// primed says whether the answer is there and OpenCode is idle again.
func primed(ctx context.Context, agent *opencode, session string) bool {
	messages, err := agent.client.messages(ctx, session, 2)
	if err != nil || len(messages) < 2 || messages[len(messages)-1].Info.Time.Completed == 0 {
		return false
	}
	statuses, err := agent.client.statuses(ctx)
	return err == nil && len(statuses) == 0
}

// answerReady is the model's part while OpenCode is primed: one word, in the
// protocol that is asked for.
func answerReady(w http.ResponseWriter, r *http.Request) {
	const anthropic = `event: message_start
data: {"type":"message_start","message":{"id":"ready","type":"message","role":"assistant","model":"ready","content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Ready."}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}

event: message_stop
data: {"type":"message_stop"}

`
	const openai = `data: {"id":"ready","object":"chat.completion.chunk","created":1,"model":"ready","choices":[{"index":0,"delta":{"role":"assistant","content":"Ready."},"finish_reason":null}]}

data: {"id":"ready","object":"chat.completion.chunk","created":1,"model":"ready","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}

data: [DONE]

`
	answer := map[bool]string{true: anthropic, false: openai}[strings.HasSuffix(r.URL.Path, "/messages")]
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = w.Write([]byte(answer)) // OpenCode is on this machine, or gone
}
