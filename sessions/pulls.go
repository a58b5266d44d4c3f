package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// deliverPullRequest is the kind of the forge's outbox rows.
const deliverPullRequest = "pull_request"

// wantedPullRequest is the body of such a row. A row whose next_at is infinity
// waits for its person to connect GitHub.
type wantedPullRequest struct {
	Person uuid.UUID      `json:"person"`
	AsApp  bool           `json:"as_app"`
	Pull   NewPullRequest `json:"pull"`
}

// askPullRequest records that a pull request is to be opened, as the person who
// asked or not at all, unless the operator lets the App do it (I11). The
// session's row is locked.
func (t *tx) askPullRequest(ctx context.Context, s Session, prompt, key string, author Person, pr NewPullRequest) (*toolResult, string, error) {
	if !author.Linked() {
		var err error
		if author, err = t.lockPerson(ctx, author.ID); err != nil {
			return nil, "", err
		}
	}
	want := wantedPullRequest{Person: author.ID, Pull: pr}
	if !author.Linked() && t.e.cfg.BotPullRequests {
		want.AsApp = true
		want.Pull.Body += "\n\nRequested by " + author.Name + "."
	}
	err := t.enqueue(ctx, outboxRow{surface: surfaceForge, kind: deliverPullRequest, key: key, session: s.ID, prompt: prompt,
		priority: priorityAnswer, body: want})
	if err != nil {
		return nil, "", err
	}
	if author.Linked() || want.AsApp {
		return nil, key, nil
	}
	text, err := t.waitForLink(ctx, s, prompt, key, author, pr, "")
	return &toolResult{text, true}, key, err
}

// waitForLink puts a pull request off until its person has connected GitHub, and
// tells that person and the thread how. It returns what the agent reads. why is
// a sentence for a person who was connected.
func (t *tx) waitForLink(ctx context.Context, s Session, prompt, key string, author Person, pr NewPullRequest, why string) (string, error) {
	// Of several that wait for the same person, the newest counts.
	_, err := t.ExecContext(ctx, `
		update outbox set state = case when key = $1 then state else 'dead' end, error = case when key = $1 then '' else 'superseded' end,
			next_at = 'infinity'
		where surface = $2 and state = 'pending' and session_id = $3 and (key = $1 or next_at = 'infinity' and body->>'person' = $4)`,
		key, surfaceForge, s.ID, author.ID.String())
	if err != nil {
		return "", fmt.Errorf("putting off a pull request of %s: %w", s.ID, err)
	}
	link := t.e.cfg.PublicURL + "/link/github?session=" + s.ID
	compare := t.e.cfg.Forge.CompareURL(pr)
	text := why
	if text == "" {
		text = author.Name + " has not connected a GitHub account."
	}
	_, err = t.append(ctx, s.ID, entry{prompt: prompt, kind: KindWaiting, body: BodyWaiting{For: "github", URL: link, ByHand: compare,
		Text: text + " The pull request is opened as soon as that is done."}})
	if err != nil {
		return "", err
	}
	if s.ThreadTS != "" && author.SlackUser != "" {
		err = t.tell(ctx, Notice{Key: "connect:" + prompt, Session: s.ID, Thread: Thread{s.Team, s.Channel, s.ThreadTS}, User: author.SlackUser,
			Text: text + " Connect it and the pull request is opened in your name: " + link + "\nOr open it by hand: " + compare})
		if err != nil {
			return "", err
		}
	}
	return "The branch is pushed, but no pull request was opened: " + text + " " + author.Name +
		" was told how to connect it; the pull request is opened then, in their name. Until then it can be opened by hand at " + compare +
		"\n\n(Tell people that in your answer. Do not try again.)", nil
}

// deliverToForge does what is due at the code host, while it holds the lease.
func (e *Engine) deliverToForge(ctx context.Context) error {
	wake := e.hub.listen(ctx, surfaceTopic(surfaceForge))
	poll := time.NewTicker(e.tempo.poll)
	defer poll.Stop()
	for {
		due, err := e.Due(ctx, surfaceForge, 20)
		e.warn(ctx, "reading what is due on the code host", err)
		for _, d := range due {
			deliver := e.deliverEffect
			if d.Kind == deliverPullRequest {
				deliver = e.openPullRequest
			}
			if err := deliver(ctx, d); err != nil && ctx.Err() == nil {
				e.log.Warn("delivering to the code host", "session", d.Session, "kind", d.Kind, "err", e.scrub.text(err.Error()))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-poll.C:
		}
	}
}

// openTimeout bounds one try.
const openTimeout = 30 * time.Second

// openPullRequest delivers one row (I6).
func (e *Engine) openPullRequest(ctx context.Context, d Delivery) error {
	var want wantedPullRequest
	if err := json.Unmarshal(d.Body, &want); err != nil {
		return e.Abandoned(ctx, d.ID, err)
	}
	try, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	pr, err := e.tryPullRequest(try, d, want)
	if ctx.Err() != nil {
		return ctx.Err() // the row says Unknown: whoever comes next looks first
	}
	if err == nil {
		return e.pullRequestOpened(ctx, d, pr)
	}
	if problem, ok := errors.AsType[*Problem](err); ok {
		return e.pullRequestRefused(ctx, d, want, problem)
	}
	if d.Attempts+1 >= mostTries {
		return e.pullRequestRefused(ctx, d, want, &Problem{Code: "github_down", Text: "GitHub did not answer, again and again.", Err: err})
	}
	after, unknown := e.forgePause(d.Attempts), true
	if r, ok := errors.AsType[*Retryable](err); ok {
		after, unknown = max(r.After, after), d.Unknown || r.Unknown // whoever could not look still has to
	}
	return e.Postponed(ctx, d.ID, d.Attempts, after, unknown, err)
}

// tryPullRequest opens it, or finds what an earlier try of unknown outcome opened.
func (e *Engine) tryPullRequest(ctx context.Context, d Delivery, want wantedPullRequest) (PullRequest, error) {
	if d.Unknown {
		found, err := e.cfg.Forge.FindPullRequest(ctx, want.Pull.Repository, want.Pull.Head)
		if err != nil {
			return PullRequest{}, err
		}
		if found != nil {
			return *found, nil
		}
	}
	token := ""
	if !want.AsApp {
		var err error
		if token, err = e.personToken(ctx, want.Person); err != nil {
			return PullRequest{}, err
		}
	}
	if err := e.Trying(ctx, d.ID); err != nil {
		return PullRequest{}, &Retryable{Err: err}
	}
	if want.AsApp {
		app, ok := e.cfg.Forge.(AppForge)
		if !ok {
			return PullRequest{}, &Problem{Code: "github_app", Text: "The App cannot open pull requests here."}
		}
		return app.OpenPullRequestAsApp(ctx, want.Pull)
	}
	return e.cfg.Forge.OpenPullRequest(ctx, token, want.Pull)
}

// pullRequestOpened records the effect and answers the call that asked for it.
func (e *Engine) pullRequestOpened(ctx context.Context, d Delivery, pr PullRequest) error {
	return e.transact(ctx, func(t *tx) error {
		s, err := t.lockSession(ctx, d.Session)
		if err != nil {
			return err
		}
		remote, err := json.Marshal(pr)
		if err != nil {
			return err
		}
		_, err = t.ExecContext(ctx, `update outbox set state = 'done', done_at = now(), unknown = false, error = '', remote = $2 where id = $1`, d.ID, string(remote))
		if err != nil {
			return fmt.Errorf("recording pull request %s: %w", pr.URL, err)
		}
		err = t.made(ctx, s, d.Prompt, pullRequestKey(pr.Number),
			BodyArtifact{Kind: "pull_request", URL: pr.URL, Title: pr.Title, Number: pr.Number, By: pr.Author})
		if err != nil {
			return err
		}
		if err := t.tellOpenedLate(ctx, s, d, pr); err != nil {
			return err
		}
		return t.answerCall(ctx, s.ID, d.Key, toolResult{text: fmt.Sprintf("Pull request #%d is open: %s", pr.Number, pr.URL)})
	})
}

// tellOpenedLate tells the thread of a pull request whose prompt has ended
// meanwhile: its answer could not name it.
func (t *tx) tellOpenedLate(ctx context.Context, s Session, d Delivery, pr PullRequest) error {
	p, err := readPrompt(ctx, t, d.Prompt)
	if err != nil {
		return err
	}
	if s.ThreadTS == "" || !p.State.Settled() {
		return nil
	}
	return t.tell(ctx, Notice{Key: "opened:" + d.Key, Session: s.ID, Thread: Thread{s.Team, s.Channel, s.ThreadTS},
		Text: fmt.Sprintf("Pull request #%d is open now, as %s: %s", pr.Number, pr.Author, pr.URL)})
}

// pullRequestRefused tells the agent and the person why there is none. A person
// whose connection does not work is asked to connect again; anybody may open it
// by hand.
func (e *Engine) pullRequestRefused(ctx context.Context, d Delivery, want wantedPullRequest, problem *Problem) error {
	e.log.Info("a pull request was refused", "session", d.Session, "code", problem.Code, "err", e.scrub.text(problem.Error()))
	return e.transact(ctx, func(t *tx) error {
		s, err := t.lockSession(ctx, d.Session)
		if err != nil {
			return err
		}
		author, err := readPerson(ctx, t, want.Person)
		if err != nil {
			return err
		}
		if problem.Code == codeRelink && !want.AsApp {
			if author, err = t.lockPerson(ctx, want.Person); err != nil {
				return err
			}
			if author.Linked() { // settings and App Home say so too
				if _, err := t.breakLink(ctx, author.ID, problem.Text, problem.Err); err != nil {
					return err
				}
			}
			text, err := t.waitForLink(ctx, s, d.Prompt, d.Key, author, want.Pull, problem.Text)
			if err != nil {
				return err
			}
			return t.answerCall(ctx, s.ID, d.Key, toolResult{text, true})
		}
		_, err = t.ExecContext(ctx, `update outbox set state = 'dead', done_at = now(), error = $2 where id = $1`, d.ID, e.scrub.text(storable(problem.Error())))
		if err != nil {
			return fmt.Errorf("giving up a pull request of %s: %w", s.ID, err)
		}
		compare := e.cfg.Forge.CompareURL(want.Pull)
		if s.ThreadTS != "" && author.SlackUser != "" {
			err := t.tell(ctx, Notice{Key: "refused:" + d.Key, Session: s.ID, Thread: Thread{s.Team, s.Channel, s.ThreadTS}, User: author.SlackUser,
				Text: "The pull request was not opened: " + problem.Text + "\nIt can be opened by hand: " + compare})
			if err != nil {
				return err
			}
		}
		return t.answerCall(ctx, s.ID, d.Key, toolResult{"No pull request was opened: " + problem.Text +
			" Somebody who may can open it by hand at " + compare, true})
	})
}

// answerCall gives the call that waits for an outbox row its result. One that
// has a result keeps it.
func (t *tx) answerCall(ctx context.Context, session, key string, r toolResult) error {
	_, err := t.ExecContext(ctx, `update calls set result = $3, error = $4 where session_id = $1 and outbox_key = $2 and result is null`,
		session, key, t.e.scrub.text(storable(r.text)), r.failed)
	if err != nil {
		return fmt.Errorf("answering the call for %s: %w", key, err)
	}
	t.wakeSession(session)
	return nil
}
