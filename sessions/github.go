package sessions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
)

// Purposes of sealed columns.
const (
	sealAccess  = "people.github_access"
	sealRefresh = "people.github_refresh"
)

// LinkGitHub gives a person a GitHub identity with its tokens (sealed at rest).
// A *Problem says if that GitHub account belongs to another Slack identity.
// Afterwards pull requests that waited for the link are opened.
func (e *Engine) LinkGitHub(ctx context.Context, person uuid.UUID, id int64, login string, tokens GitHubTokens) error {
	return e.transact(ctx, func(t *tx) error {
		res, err := t.ExecContext(ctx, `update people set github_id = $2, github_login = $3, github_broken = null where id = $1`,
			person, id, login)
		if pqErr, ok := errors.AsType[*pq.Error](err); ok && pqErr.Code == "23505" { // unique_violation
			return &Problem{Code: "github_taken", Text: "The GitHub account " + login +
				" is connected to somebody else here. They have to disconnect it first.", Err: err}
		}
		if err != nil {
			return fmt.Errorf("linking GitHub: %w", err)
		}
		if known, err := affected(res); err != nil || !known {
			return errors.Join(err, fmt.Errorf("linking GitHub to person %s: %w", person, ErrNotFound))
		}
		if err := t.keepTokens(ctx, person, tokens); err != nil {
			return err
		}
		_, err = t.ExecContext(ctx, `update outbox set next_at = now(), attempts = 0
			where surface = $1 and state = 'pending' and next_at = 'infinity' and body->>'person' = $2`, surfaceForge, person.String())
		if err != nil {
			return fmt.Errorf("opening what waited for the link: %w", err)
		}
		t.wakeSurface(surfaceForge)
		return nil
	})
}

// keepTokens stores a person's tokens, sealed.
func (t *tx) keepTokens(ctx context.Context, person uuid.UUID, tokens GitHubTokens) error {
	var expires *time.Time
	if !tokens.Expires.IsZero() {
		expires = &tokens.Expires
	}
	_, err := t.ExecContext(ctx, `update people set github_access = $2, github_refresh = $3, github_expires = $4 where id = $1`,
		person, t.e.cfg.Seal.Seal(sealAccess, []byte(tokens.Access)), t.e.cfg.Seal.Seal(sealRefresh, []byte(tokens.Refresh)), expires)
	if err != nil {
		return fmt.Errorf("keeping a person's GitHub tokens: %w", err)
	}
	return nil
}

// UnlinkGitHub forgets it.
func (e *Engine) UnlinkGitHub(ctx context.Context, person uuid.UUID) error {
	_, err := e.db.ExecContext(ctx, `update people set github_id = null, github_login = null, github_access = null,
		github_refresh = null, github_expires = null, github_broken = null where id = $1`, person)
	if err != nil {
		return fmt.Errorf("unlinking GitHub: %w", err)
	}
	return nil
}
