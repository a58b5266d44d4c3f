package bot

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"openinspect/sessions"
)

const (
	// statusLasts is when "processing" is said again: Slack ends it after an hour
	// (https://docs.slack.dev/ai/agent-sessions).
	statusLasts = 45 * time.Minute
	// statusPause is how long nothing is tried after Slack said that it does not
	// know the method, or not for this app.
	statusPause = time.Hour
)

// statusSetter keeps Slack's own row "is working…" with its Stop button in step.
// It is an extra: nobody waits for it, only the newest status of a thread is
// sent, and a workspace that does not have it is left alone.
type statusSetter struct {
	log    *slog.Logger
	api    *slack.Client
	wake   chan struct{}
	budget *budget

	mu     sync.Mutex
	wanted map[sessions.Thread]string
	said   map[sessions.Thread]saidStatus
}

type saidStatus struct {
	status string
	at     time.Time
}

func newStatusSetter(log *slog.Logger, api *slack.Client) *statusSetter {
	return &statusSetter{log: log, api: api, wake: make(chan struct{}, 1), budget: newBudget(),
		wanted: make(map[sessions.Thread]string), said: make(map[sessions.Thread]saidStatus)}
}

// want asks for a thread's status. It returns at once.
func (s *statusSetter) want(t sessions.Thread, status string) {
	if t.TS == "" {
		return
	}
	s.mu.Lock()
	before := s.said[t]
	if before.status == status && (status != slack.AgentSessionStatusProcessing || time.Since(before.at) < statusLasts) {
		delete(s.wanted, t)
		s.mu.Unlock()
		return
	}
	s.wanted[t] = status
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *statusSetter) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		for {
			t, status, some := s.next()
			if !some {
				break
			}
			if pause := s.send(ctx, t, status); pause > 0 {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(pause):
				}
			}
		}
	}
}

// next takes one wish. What is wished for ends is forgotten with it: a thread that
// is not working needs no memory.
func (s *statusSetter) next() (t sessions.Thread, status string, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, status = range s.wanted {
		delete(s.wanted, t)
		if status == slack.AgentSessionStatusProcessing {
			s.said[t] = saidStatus{status, time.Now()}
		} else {
			delete(s.said, t)
		}
		return t, status, true
	}
	return t, "", false
}

// send sets one status and returns how long to leave Slack alone.
func (s *statusSetter) send(ctx context.Context, t sessions.Thread, status string) time.Duration {
	if wait := s.budget.take(methodStatus, t.Channel, time.Now()); wait > 0 {
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(wait):
		}
	}
	_, err := s.api.SetAgentSessionStatusContext(ctx, slack.AgentSessionSetStatusParameters{
		Status: status, ChannelID: t.Channel, ThreadTS: t.TS,
	})
	var limited *slack.RateLimitedError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &limited):
		return limited.RetryAfter
	case unavailable[slackCode(err)]:
		s.log.Info("this workspace has no agent status; it is not set", "err", err)
		return statusPause
	}
	s.log.Debug("an agent status was not set", "err", err)
	return 0
}

// unavailable are the errors that say that the feature is missing, not that one call was wrong.
var unavailable = map[string]bool{
	"unknown_method": true, "method_deprecated": true, "not_allowed_token_type": true,
	"feature_not_enabled": true, "missing_scope": true, "access_denied": true, "not_an_agent": true,
}
