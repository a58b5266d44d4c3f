package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lib/pq"
)

// chooseForPeople asks the small model which repository the sessions that name
// none mean, or else has people asked. The question is a row: a replica that
// dies while the model thinks loses nothing.
func (e *Engine) chooseForPeople(ctx context.Context) error {
	wake := e.hub.listen(ctx, topicStart)
	poll := time.NewTicker(e.tempo.poll)
	defer poll.Stop()
	for {
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = e.chooseOne(ctx); err != nil && ctx.Err() == nil {
				e.log.Warn("choosing a repository", "err", err)
				more = false
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

// question is a session whose repository the small model has to choose.
type question struct {
	Session string         `db:"id"`
	From    pq.StringArray `db:"choice_from"`
	Prompt  string         `db:"prompt"`
	Text    string         `db:"text"`
}

// chooseOne answers one question; more is false if there was none.
func (e *Engine) chooseOne(ctx context.Context) (more bool, err error) {
	q, err := e.claimQuestion(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("claiming a question: %w", err)
	}
	if err := e.expectLikeliest(ctx, q); err != nil && ctx.Err() == nil {
		e.log.Warn("nothing could be prepared while a repository is chosen", "session", q.Session, "err", err)
	}
	name, why := e.askModel(ctx, q)
	if ctx.Err() != nil {
		return false, nil
	}
	return true, e.transact(ctx, func(t *tx) error {
		s, err := t.lockSession(ctx, q.Session)
		if err != nil {
			return err
		}
		if s.Repository != "" { // somebody was faster
			return nil
		}
		all, err := activeRepositories(ctx, t)
		if err != nil {
			return err
		}
		if repo, ok := findRepository(all, name); ok && name != "" {
			return t.setRepository(ctx, s, repo, why, "")
		}
		p, err := readPrompt(ctx, t, q.Prompt)
		if err != nil || p.State != Queued {
			return err // withdrawn meanwhile: the next request asks again
		}
		return t.askPeople(ctx, s, q.Prompt, q.From)
	})
}

// claimQuestion takes one for as long as the model may think, and then some.
func (e *Engine) claimQuestion(ctx context.Context) (question, error) {
	var q question
	err := e.db.GetContext(ctx, &q, `
		with q as (
			select id from sessions s where choice = 'model' and choice_at <= now()
				and exists (select from prompts p where p.session_id = s.id and p.state = 'queued')
			order by choice_at limit 1 for no key update skip locked)
		update sessions s set choice_at = now() + make_interval(secs => $1)
		from q cross join lateral (select id as prompt, text from prompts
			where session_id = q.id and state = 'queued' order by position limit 1) p
		where s.id = q.id returning s.id, s.choice_from, p.prompt, p.text`, seconds(2*e.tempo.choose))
	return q, err
}

// askModel returns the small model's choice, or "" if it is not sure, too slow
// or out of order.
func (e *Engine) askModel(ctx context.Context, q question) (name, why string) {
	if e.cfg.Chooser == nil {
		return "", ""
	}
	ctx, cancel := context.WithTimeout(ctx, e.tempo.choose)
	defer cancel()
	all, err := e.Repositories(ctx)
	if err != nil {
		return "", ""
	}
	from := slices.DeleteFunc(all, func(r Repository) bool { return !slices.Contains(q.From, r.Name) })
	name, why, err = e.cfg.Chooser.ChooseRepository(ctx, q.Text, from)
	if err != nil {
		e.log.Warn("the small model did not choose a repository; people are asked", "session", q.Session, "err", e.scrub.text(err.Error()))
		return "", ""
	}
	if !slices.Contains(q.From, name) {
		return "", ""
	}
	return name, e.scrub.text(storable(why))
}

// keepRepositories reads the code host's repositories at the start and now and then.
func (e *Engine) keepRepositories(ctx context.Context) error {
	wait := time.Second // until it worked once
	for {
		err := e.RefreshRepositories(ctx)
		switch {
		case err == nil:
			wait = e.tempo.refresh
		case ctx.Err() == nil:
			e.log.Warn("the repositories could not be read", "err", e.scrub.text(err.Error()))
			wait = min(2*wait, e.tempo.refresh)
		}
		if !e.pause(ctx, wait) {
			return nil
		}
	}
}

// RefreshRepositories reads from the code host which repositories there are.
// Those that are gone stay in the table, for their sessions, but take no more.
func (e *Engine) RefreshRepositories(ctx context.Context) error {
	list, err := e.cfg.Forge.Repositories(ctx)
	if err != nil {
		return fmt.Errorf("listing repositories: %w", err)
	}
	names := []string{} // never null: nothing differs from that
	var branches, descriptions []string
	var ids []int64
	var private []bool
	for _, r := range list {
		names = append(names, r.Name)
		ids = append(ids, r.GitHubID)
		branches = append(branches, r.DefaultBranch)
		descriptions = append(descriptions, storable(r.Description))
		private = append(private, r.Private)
	}
	return e.transact(ctx, func(t *tx) error {
		_, err := t.ExecContext(ctx, `
			insert into repositories (name, github_id, default_branch, description, private)
			select * from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::boolean[])
			on conflict (name) do update set github_id = excluded.github_id, default_branch = excluded.default_branch,
				description = excluded.description, private = excluded.private, active = true, seen_at = now()`,
			pq.Array(names), pq.Array(ids), pq.Array(branches), pq.Array(descriptions), pq.Array(private))
		if err != nil {
			return fmt.Errorf("keeping the repositories: %w", err)
		}
		_, err = t.ExecContext(ctx, `update repositories set active = false where active and name <> all($1)`, pq.Array(names))
		return err
	})
}
