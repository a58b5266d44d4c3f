package sessions

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
)

// Kinds of the forge's outbox rows that change what is there already. Unlike a
// pull request, they do not wait for a person to connect GitHub: the agent is told.
const (
	deliverEdit  = "pull_request_edit" // body: wantedEffect with Edit
	deliverReply = "review_reply"      // body: wantedEffect with Reply
)

// wantedEffect is the body of such a row: what to do and in whose name.
type wantedEffect struct {
	Person uuid.UUID        `json:"person"`
	AsApp  bool             `json:"as_app,omitempty"`
	Edit   *PullRequestEdit `json:"edit,omitempty"`
	Reply  *ReviewReply     `json:"reply,omitempty"`
}

// askEffect records a change on the code host in the name of the call's person,
// or in the App's where the operator allows that (I11). Without either it is refused.
func (t *tx) askEffect(ctx context.Context, c toolCall, kind string, want wantedEffect) (*toolResult, string, error) {
	want.Person = c.author.ID
	if !c.author.Linked() {
		if !t.e.cfg.BotPullRequests {
			return t.e.unlinked(c.author.Name+" has not connected a GitHub account", c.session.ID), "", nil
		}
		want.AsApp = true
		if want.Reply != nil {
			want.Reply.Body += "\n\nFor " + c.author.Name + "."
		}
	}
	key := c.key(kind)
	err := t.enqueue(ctx, outboxRow{surface: surfaceForge, kind: kind, key: key, session: c.session.ID, prompt: c.prompt,
		priority: priorityAnswer, body: want})
	return nil, key, err
}

// unlinked is what the agent reads when somebody's GitHub account is needed.
func (e *Engine) unlinked(why, session string) *toolResult {
	return refusal(why + ", so nothing was done in their name. They can connect it at " + e.cfg.PublicURL + "/link/github?session=" + session +
		"\n\n(Tell people that in your answer. Do not try again before they say that it is done.)")
}

// deliverEffect delivers one row (I6): both kinds can be done again without harm.
func (e *Engine) deliverEffect(ctx context.Context, d Delivery) error {
	var want wantedEffect
	if err := json.Unmarshal(d.Body, &want); err != nil {
		return e.Abandoned(ctx, d.ID, err)
	}
	try, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	done, err := e.tryEffect(try, d, want)
	switch problem, retry := (*Problem)(nil), (*Retryable)(nil); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return e.effectDone(ctx, d, done)
	case errors.As(err, &problem):
		return e.effectRefused(ctx, d, want, problem)
	case d.Attempts+1 >= mostTries:
		return e.effectRefused(ctx, d, want, &Problem{Code: "github_down", Text: "GitHub did not answer, again and again.", Err: err})
	default:
		after, unknown := e.forgePause(d.Attempts), true
		if errors.As(err, &retry) {
			after, unknown = max(retry.After, after), d.Unknown || retry.Unknown
		}
		return e.Postponed(ctx, d.ID, d.Attempts, after, unknown, err)
	}
}

// mostTries is how often something is tried at the code host.
const mostTries = 12

// forgePause is how long to wait after so many tries.
func (e *Engine) forgePause(attempts int) time.Duration {
	return min(e.tempo.retry<<min(attempts, 8), 10*time.Minute)
}

// effect is what was done: a sentence for the agent, and a changed pull request
// for the log.
type effect struct {
	said string
	pull *PullRequest
}

func (e *Engine) tryEffect(ctx context.Context, d Delivery, want wantedEffect) (effect, error) {
	as := As{App: want.AsApp}
	if !want.AsApp {
		var err error
		if as.Token, err = e.personToken(ctx, want.Person); err != nil {
			return effect{}, err
		}
	}
	if err := e.Trying(ctx, d.ID); err != nil {
		return effect{}, &Retryable{Err: err}
	}
	switch {
	case want.Edit != nil:
		pr, err := e.cfg.Forge.EditPullRequest(ctx, as, *want.Edit)
		if err != nil {
			return effect{}, err
		}
		state := pr.State
		if pr.Draft {
			state = "a draft"
		}
		return effect{fmt.Sprintf("Pull request #%d is changed; it is %s: %s", pr.Number, state, pr.URL), &pr}, nil
	case want.Reply != nil:
		url, err := e.cfg.Forge.ReplyToReview(ctx, as, *want.Reply, d.Unknown)
		return effect{said: "The reply is posted: " + url}, err
	}
	return effect{}, &Problem{Code: "nothing", Text: "There is nothing to do."}
}

// effectDone records the success and answers the call.
func (e *Engine) effectDone(ctx context.Context, d Delivery, done effect) error {
	return e.transact(ctx, func(t *tx) error {
		s, err := t.lockSession(ctx, d.Session)
		if err != nil {
			return err
		}
		_, err = t.ExecContext(ctx, `update outbox set state = 'done', done_at = now(), unknown = false, error = '' where id = $1`, d.ID)
		if err != nil {
			return fmt.Errorf("recording what was done for %s: %w", s.ID, err)
		}
		if pr := done.pull; pr != nil {
			err := t.remade(ctx, s, d.Prompt, pullRequestKey(pr.Number),
				BodyArtifact{Kind: "pull_request", URL: pr.URL, Title: pr.Title, Number: pr.Number, By: pr.Author})
			if err != nil {
				return err
			}
		}
		return t.answerCall(ctx, s.ID, d.Key, toolResult{text: done.said})
	})
}

// effectRefused tells the agent why nothing was done.
func (e *Engine) effectRefused(ctx context.Context, d Delivery, want wantedEffect, problem *Problem) error {
	e.log.Info("the code host refused", "session", d.Session, "kind", d.Kind, "code", problem.Code, "err", e.scrub.text(problem.Error()))
	return e.transact(ctx, func(t *tx) error {
		s, err := t.lockSession(ctx, d.Session)
		if err != nil {
			return err
		}
		_, err = t.ExecContext(ctx, `update outbox set state = 'dead', done_at = now(), error = $2 where id = $1`, d.ID, e.scrub.text(storable(problem.Error())))
		if err != nil {
			return fmt.Errorf("giving up what was to be done for %s: %w", s.ID, err)
		}
		if problem.Code != codeRelink || want.AsApp {
			return t.answerCall(ctx, s.ID, d.Key, *refusal("It was not done: " + problem.Text))
		}
		author, err := readPerson(ctx, t, want.Person)
		if err != nil {
			return err
		}
		if author.Linked() {
			if _, err := t.breakLink(ctx, author.ID, problem.Text, problem.Err); err != nil {
				return err
			}
		}
		return t.answerCall(ctx, s.ID, d.Key, *e.unlinked(strings.TrimSuffix(problem.Text, "."), s.ID))
	})
}

func pullRequestKey(number int) string { return fmt.Sprintf("pull_request:%d", number) }

// remade records that an artifact changed, and tells it.
func (t *tx) remade(ctx context.Context, s Session, prompt, key string, a BodyArtifact) error {
	res, err := t.ExecContext(ctx, `update artifacts set title = $3, url = $4 where session_id = $1 and key = $2 and (title, url) is distinct from ($3, $4)`,
		s.ID, key, t.e.scrub.text(storable(a.Title)), a.URL)
	if err != nil {
		return fmt.Errorf("recording the changed %s of %s: %w", a.Kind, s.ID, err)
	}
	if changed, err := affected(res); err != nil || !changed {
		return err
	}
	_, err = t.append(ctx, s.ID, entry{prompt: prompt, kind: KindArtifact, body: a})
	return err
}

// newestPullRequest is the number of the session's newest pull request, or 0.
func newestPullRequest(ctx context.Context, q sqlx.QueryerContext, session string) (int, error) {
	var number int
	err := sqlx.GetContext(ctx, q, &number, `select split_part(key, ':', 2)::int from artifacts
		where session_id = $1 and kind = 'pull_request' order by created_at desc limit 1`, session)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the pull request of %s: %w", session, err)
	}
	return number, nil
}

// noPullRequest is what the agent reads when a tool needs one.
const noPullRequest = "This session has no pull request yet: open one with create_pull_request first."
