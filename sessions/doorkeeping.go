package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// Grant is what a sandbox's token allows. Without a Branch it may only read.
type Grant struct {
	Session       string // its id; of a sandbox that works for none, the sandbox's own name
	Repository    string // owner/name
	Branch        string // the only one it may push; empty if the sandbox works for no session
	DefaultBranch string
}

// Authenticate returns what a sandbox's token allows, or ErrNotFound. The token
// is valid as long as its sandbox.
func (e *Engine) Authenticate(ctx context.Context, token string) (Grant, error) {
	var s struct {
		ID         string `db:"id"`
		Repository string `db:"repository"`
		Default    string `db:"default_branch"`
	}
	err := e.db.GetContext(ctx, &s, `
		select s.id, r.name as repository, r.default_branch
		from sandboxes b join sessions s on s.id = b.session_id join repositories r on r.name = s.repository
		where b.token_hash = $1 and b.state in ('starting', 'booting', 'ready', 'parking')`, hashOf(token))
	if errors.Is(err, sql.ErrNoRows) {
		g, err := e.authenticateSpare(ctx, token)
		if errors.Is(err, ErrNotFound) {
			return e.authenticateBuild(ctx, token)
		}
		return g, err
	}
	if err != nil {
		return Grant{}, fmt.Errorf("checking a sandbox's token: %w", err)
	}
	return Grant{Session: s.ID, Repository: s.Repository, Branch: Session{ID: s.ID}.Branch(), DefaultBranch: s.Default}, nil
}

// authenticateBuild returns what the token of a box allows in which an image is
// built: to read its repository.
func (e *Engine) authenticateBuild(ctx context.Context, token string) (Grant, error) {
	var b build
	err := e.db.GetContext(ctx, &b, `
		select i.id, i.repository, r.default_branch, i.epoch from images i join repositories r on r.name = i.repository
		where i.token_hash = $1 and i.state = 'building'`, hashOf(token))
	if err != nil {
		return Grant{}, fmt.Errorf("checking a sandbox's token: %w", notFound(err))
	}
	return Grant{Session: b.boxName(), Repository: b.Repository, DefaultBranch: b.Branch}, nil
}

// Pushed records the head of the session's branch as the code host reported it.
// Other refs, which the git door does not let pass, are ignored.
func (e *Engine) Pushed(ctx context.Context, session, ref, _, head string) error {
	if strings.Trim(head, "0") == "" {
		head = "" // deleted
	}
	return e.transact(ctx, func(t *tx) error {
		_, err := t.ExecContext(ctx, `update sandboxes set withheld_at = null where session_id = $1`, session)
		if err != nil {
			return fmt.Errorf("recording that %s was pushed: %w", session, err)
		}
		s, err := t.lockSession(ctx, session)
		if err != nil {
			return err
		}
		if ref != "refs/heads/"+s.Branch() {
			return nil
		}
		if _, err := t.ExecContext(ctx, `update sessions set head = $2 where id = $1`, session, head); err != nil {
			return fmt.Errorf("recording the head of %s: %w", session, err)
		}
		url := strings.TrimSuffix(e.cfg.Forge.RemoteURL(s.Repository), ".git") + "/tree/" + s.Branch()
		return t.made(ctx, s, "", "branch", BodyArtifact{Kind: "branch", URL: url, Title: s.Branch()})
	})
}

// made records an artifact; one that the session has already is not told again.
func (t *tx) made(ctx context.Context, s Session, prompt, key string, a BodyArtifact) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	res, err := t.ExecContext(ctx, `
		insert into artifacts (id, session_id, prompt_id, kind, key, url, title) values ($1, $2, nullif($3, ''), $4, $5, $6, $7)
		on conflict (session_id, key) do nothing`, id, s.ID, prompt, a.Kind, key, a.URL, a.Title)
	if err != nil {
		return fmt.Errorf("recording the %s of %s: %w", a.Kind, s.ID, err)
	}
	if fresh, err := affected(res); err != nil || !fresh {
		return err
	}
	_, err = t.append(ctx, s.ID, entry{prompt: prompt, kind: KindArtifact, body: a})
	return err
}

// Usage is what one model request used.
type Usage struct {
	Model                                string
	Input, Output, CacheRead, CacheWrite int64 // tokens
	CostUSD                              float64
	Known                                bool // the model's price is known
}

// Allow says whether a session may spend more; a *Problem says which budget is used
// up. What sandboxes cost counts as what models cost does; an interval of theirs that
// began before the 24 hours counts as a whole. The sessions that an agent began spend from the budget of the one at their root.
func (e *Engine) Allow(ctx context.Context, session string) error {
	if e.cfg.SessionBudgetUSD <= 0 && e.cfg.PersonDayBudgetUSD <= 0 && e.cfg.DayBudgetUSD <= 0 {
		return nil
	}
	var spent struct {
		Session float64 `db:"session"`
		Person  float64 `db:"person"`
		Day     float64 `db:"day"`
		Name    string  `db:"name"`
	}
	err := e.db.GetContext(ctx, &spent, `
		with author as (select author from prompts where session_id = $1 and started_at is not null order by state = 'running' desc, position desc limit 1),
			family as (select f.id, f.cost_usd from sessions s
				join sessions f on f.id = coalesce(s.root, s.id) or f.root = coalesce(s.root, s.id) where s.id = $1),
			lately as (select person, cost_usd from usage where at > now() - interval '24 hours'
				union all select person, cost_usd from sandbox_usage where ended_at > now() - interval '24 hours')
		select (select coalesce(sum(cost_usd), 0) from family)
				+ (select coalesce(sum(cost_usd), 0) from sandbox_usage where session_id in (select id from family)) as session,
			coalesce(sum(cost_usd) filter (where person = (select author from author)), 0) as person,
			coalesce(sum(cost_usd), 0) as day,
			coalesce((select name from people where id = (select author from author)), '') as name
		from lately`, session)
	if err != nil {
		return fmt.Errorf("reading what was spent: %w", err)
	}
	for _, b := range []struct {
		spent, limit float64
		whose        string
	}{
		{spent.Session, e.cfg.SessionBudgetUSD, "this session"},
		{spent.Person, e.cfg.PersonDayBudgetUSD, spent.Name + " within 24 hours"},
		{spent.Day, e.cfg.DayBudgetUSD, "everybody together within 24 hours"},
	} {
		if b.limit > 0 && b.spent >= b.limit {
			return &Problem{Code: "budget", Text: fmt.Sprintf(
				"The budget of %s is used up: $%.2f of $%.2f for models and sandboxes. An administrator can raise it.", b.whose, b.spent, b.limit)}
		}
	}
	return nil
}

// Used counts a model request's usage for the session, its running prompt and that prompt's author.
func (e *Engine) Used(ctx context.Context, session string, u Usage) error {
	return e.transact(ctx, func(t *tx) error {
		if _, err := t.lockSession(ctx, session); err != nil {
			return err
		}
		_, err := t.ExecContext(ctx, `
			with p as (select id, author from prompts where session_id = $1 and started_at is not null
				order by state = 'running' desc, position desc limit 1),
			counted as (update prompts set cost_usd = cost_usd + $2, input_tokens = input_tokens + $4 + $6 + $7,
				output_tokens = output_tokens + $5 where id = (select id from p)),
			total as (update sessions set cost_usd = cost_usd + $2 where id = $1)
			insert into usage (session_id, prompt_id, person, model, cost_usd, input, output, cache_read, cache_write, known)
			select $1, (select id from p), (select author from p), $3, $2, $4, $5, $6, $7, $8`,
			session, u.CostUSD, storable(u.Model), u.Input, u.Output, u.CacheRead, u.CacheWrite, u.Known)
		if err != nil {
			return fmt.Errorf("counting usage of %s: %w", session, err)
		}
		return nil
	})
}
