package web

import (
	"context"
	"net/http"
	"sync"
	"time"

	"openinspect/sessions"
)

// Members knows who belongs to the workspace. The bot implements it, which
// refuses the same people in Slack.
type Members interface {
	// Refusal is the sentence that is told to somebody who is not a full member:
	// a guest, a stranger, an app, or a person whose account was deactivated. It
	// is empty for a full member. It goes by what Slack said within the time
	// given; an error means that Slack did not say it now.
	Refusal(ctx context.Context, slackUser string, within time.Duration) (string, error)
}

// admit refuses a person who signs in and is not a full member at this moment.
func (s *Server) admit(ctx context.Context, slackUser string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	refusal, err := s.cfg.Members.Refusal(ctx, slackUser, 0)
	if err != nil {
		return &failure{status: http.StatusBadGateway, code: "slack_unreachable",
			text: "Slack could not be asked whether you are a member of the workspace. Try again in a moment.", err: err}
	}
	return notMember(refusal)
}

// stillMember refuses a person who is signed in and has ceased to be a full
// member, and ends all their sign-ins: should Slack be silent later, or another
// replica be asked, they stay out. While Slack is silent people go on: they were
// members a moment ago, and an outage of Slack should not be one of the page.
func (s *Server) stillMember(ctx context.Context, p sessions.Person) error {
	if s.unanswered.has(p.SlackUser) {
		return nil
	}
	// Others may wait for the same answer, so it is not given up with this request.
	ctx = context.WithoutCancel(ctx)
	ask, cancel := context.WithTimeout(ctx, s.timing.ask)
	defer cancel()
	refusal, err := s.cfg.Members.Refusal(ask, p.SlackUser, s.timing.member)
	if err != nil {
		s.unanswered.add(p.SlackUser, s.timing.askAgain)
		s.log.Warn("Slack did not say whether somebody still is a member; they go on", "person", p.ID, "err", err)
		return nil
	}
	if refusal == "" {
		return nil
	}
	s.log.Info("ending the sign-ins of somebody who is not a full member any more", "person", p.ID)
	end, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.engine.LogoutEverywhere(end, p.ID); err != nil {
		s.log.Error("sign-ins were not ended; the next request is refused again", "person", p.ID, "err", err)
	}
	return notMember(refusal)
}

// notMember is the failure that carries a refusal, nil if it is empty.
func notMember(refusal string) error {
	if refusal == "" {
		return nil
	}
	return &failure{status: http.StatusForbidden, code: "not_member", text: refusal}
}

// unanswered remembers for whom Slack did not answer, so that a silent Slack
// holds up a person's requests now and then and not each of them.
type unanswered struct {
	mu    sync.Mutex
	until map[string]time.Time // by Slack user
}

func newUnanswered() *unanswered { return &unanswered{until: make(map[string]time.Time)} }

func (u *unanswered) has(user string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return time.Now().Before(u.until[user])
}

func (u *unanswered) add(user string, pause time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	for other, end := range u.until {
		if end.Before(now) {
			delete(u.until, other)
		}
	}
	u.until[user] = now.Add(pause)
}
