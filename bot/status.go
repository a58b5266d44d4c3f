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
	wanted map[sessions.Thread]wish
	said   map[sessions.Thread]time.Time // when processing was said last
}

// wish is the status that a thread should have. Slack takes the title only when
// it has none yet.
type wish struct{ status, title string }

func newStatusSetter(log *slog.Logger, api *slack.Client) *statusSetter {
	return &statusSetter{log: log, api: api, wake: make(chan struct{}, 1), budget: newBudget(),
		wanted: make(map[sessions.Thread]wish), said: make(map[sessions.Thread]time.Time)}
}

// want asks for a thread's status. It returns at once.
func (s *statusSetter) want(t sessions.Thread, w wish) {
	if t.TS == "" {
		return
	}
	s.mu.Lock()
	at, processing := s.said[t]
	if w.status == slack.AgentSessionStatusProcessing && processing && time.Since(at) < statusLasts {
		delete(s.wanted, t)
	} else {
		s.wanted[t] = w
	}
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
			t, w, some := s.next()
			if !some {
				break
			}
			if pause := s.send(ctx, t, w); pause > 0 {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(pause):
				}
			}
		}
	}
}

// next takes one wish. A thread that is not working needs no memory.
func (s *statusSetter) next() (t sessions.Thread, w wish, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, w = range s.wanted {
		delete(s.wanted, t)
		if w.status == slack.AgentSessionStatusProcessing {
			s.said[t] = time.Now()
		} else {
			delete(s.said, t)
		}
		return t, w, true
	}
	return t, w, false
}

// send sets one status and returns how long to leave Slack alone.
func (s *statusSetter) send(ctx context.Context, t sessions.Thread, w wish) time.Duration {
	if wait := s.budget.take(methodStatus, t.Channel, time.Now()); wait > 0 {
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(wait):
		}
	}
	_, err := s.api.SetAgentSessionStatusContext(ctx, slack.AgentSessionSetStatusParameters{
		Status: w.status, Title: w.title, ChannelID: t.Channel, ThreadTS: t.TS,
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
