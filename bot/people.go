package bot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/slack-go/slack"
	"golang.org/x/sync/singleflight"

	"openinspect/sessions"
)

const (
	profileFresh = time.Hour   // a known profile is used without asking
	nameWait     = time.Second // how long a name in a text may hold up a request
	retryPause   = 200 * time.Millisecond
	warmPages    = 10 // of users.list, a tier 2 method, 200 people each
)

// profile is what the bot knows of a Slack user.
type profile struct {
	name, email, avatar string
	team                string
	guest, bot, foreign bool
	deleted             bool // the account was deactivated
	read                time.Time
}

// people caches profiles. Whether somebody is a guest has to be known before a
// request is taken, so the cache is filled in advance: a request of a known
// person costs no call.
type people struct {
	api    *slack.Client
	flight singleflight.Group

	mu    sync.Mutex
	known map[string]profile
}

func newPeople(api *slack.Client) *people {
	return &people{api: api, known: make(map[string]profile)}
}

// warm reads the workspace's members once. It is best effort: who is missing is
// asked for when they speak.
func (p *people) warm(ctx context.Context, log *slog.Logger) {
	page := p.api.GetUsersPaginated(slack.GetUsersOptionLimit(200))
	for range warmPages {
		var err error
		page, err = page.Next(ctx)
		if page.Done(err) {
			return
		}
		if err != nil {
			log.Info("members were not read in advance", "err", err)
			return
		}
		for _, u := range page.Users {
			p.learn(u)
		}
	}
}

func (p *people) learn(u slack.User) profile {
	f := profile{
		name:    firstOf(u.RealName, u.Profile.RealName, u.Profile.DisplayName, u.Name, u.ID), // also the commits' author
		email:   u.Profile.Email,
		avatar:  u.Profile.Image72,
		team:    u.TeamID,
		guest:   u.IsRestricted || u.IsUltraRestricted,
		bot:     u.IsBot || u.ID == "USLACKBOT",
		foreign: u.IsStranger,
		deleted: u.Deleted,
		read:    time.Now(),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[u.ID] = f
	return f
}

func (p *people) recall(user string) (profile, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.known[user]
	return f, ok
}

// profile returns a user's profile, asking Slack if it is unknown or old. An old
// one is used if Slack does not answer. It tries until ctx ends.
func (p *people) profile(ctx context.Context, user string) (profile, error) {
	known, ok := p.recall(user)
	if ok && time.Since(known.read) < profileFresh {
		return known, nil
	}
	for {
		f, err := p.fetch(ctx, user)
		var limited *slack.RateLimitedError
		pause := retryPause
		switch {
		case err == nil:
			return f, nil
		case ok:
			return known, nil
		case errors.As(err, &limited):
			pause = limited.RetryAfter
		case slackCode(err) != "":
			return profile{}, err // Slack has answered: there is nothing to wait for
		}
		select {
		case <-ctx.Done():
			return profile{}, err
		case <-time.After(pause):
		}
	}
}

// recent returns a profile that was read within the time given, or asks Slack.
func (p *people) recent(ctx context.Context, user string, within time.Duration) (profile, error) {
	if known, ok := p.recall(user); ok && time.Since(known.read) < within {
		return known, nil
	}
	return p.fetch(ctx, user)
}

func (p *people) fetch(ctx context.Context, user string) (profile, error) {
	v, err, _ := p.flight.Do(user, func() (any, error) {
		u, err := p.api.GetUserInfoContext(ctx, user)
		if err != nil {
			return profile{}, err
		}
		return p.learn(*u), nil
	})
	return v.(profile), err
}

// names resolves the users that texts mention. Who cannot be found in time keeps
// the id.
func (p *people) names(ctx context.Context, texts ...string) func(user string) string {
	ctx, cancel := context.WithTimeout(ctx, nameWait)
	defer cancel()
	found := make(map[string]string)
	for _, text := range texts {
		for _, user := range mentioned(text) {
			if found[user] != "" {
				continue
			}
			found[user] = user
			if f, err := p.profile(ctx, user); err == nil {
				found[user] = f.name
			}
		}
	}
	return func(user string) string {
		return firstOf(found[user], user)
	}
}

// admission is why somebody's words are not taken, as a sentence; empty if they are.
func (b *Bot) admission(e *event, f profile) string {
	own := b.self.team
	switch {
	case f.bot:
		return onlyPeople
	case f.foreign, f.deleted, e.UserTeam != "" && e.UserTeam != own, e.SourceTeam != "" && e.SourceTeam != own, f.team != "" && f.team != own:
		return "I only take requests from members of this workspace: everybody who works with me can use its repositories."
	case f.guest:
		return "I do not take requests from guests of this workspace: everybody who works with me can use its repositories. Ask a full member to pass this on."
	}
	return ""
}

const onlyPeople = "I only take requests from people, not from other apps."

// Refusal is why the page refuses a user, as a sentence; empty for a full member
// of the workspace. It goes by what Slack said within the time given, and fails
// if Slack does not say it now. The page admits whom the bot listens to; only
// the words differ, because somebody who signs in can act on them.
func (b *Bot) Refusal(ctx context.Context, user string, within time.Duration) (string, error) {
	f, err := b.people.recent(ctx, user, within)
	if code := slackCode(err); code == "user_not_found" || code == "user_not_visible" {
		return membersOnly, nil
	}
	if err != nil {
		return "", fmt.Errorf("asking Slack who %s is: %w", user, err)
	}
	switch own := b.cfg.TeamID; { // self is not known before Run
	case f.bot:
		return "Only people can use this page, not apps. Sign in with your own Slack account.", nil
	case f.deleted:
		return "Your Slack account was deactivated, and your access to this page ended with it. If that is a mistake, ask an admin of your Slack workspace.", nil
	case f.foreign, own != "" && f.team != "" && f.team != own:
		return membersOnly, nil
	case f.guest:
		return "Guests of the Slack workspace cannot use this page: everybody who can may work on all of its repositories. " +
			"Ask a full member to make your request, or an admin of the workspace to make you one.", nil
	}
	return "", nil
}

const membersOnly = "Only members of the Slack workspace that runs this can use this page. Sign in with an account of that workspace."

// person records who spoke.
func (b *Bot) person(ctx context.Context, user string, f profile) (sessions.Person, error) {
	return b.engine.SlackPerson(ctx, b.self.team, user, f.name, f.email, f.avatar)
}
