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

// codeRelink is the code of a *Problem with a person's own connection.
const codeRelink = "github_relink"

// refreshAhead is how long before its end a token is exchanged.
const refreshAhead = 10 * time.Minute

// personToken returns a person's GitHub token that is good for a while. An old
// one is exchanged under the lock of the person's row, because a refresh token
// works once, and the new pair is stored before anybody uses it. A *Problem
// says that the person has to connect again.
func (e *Engine) personToken(ctx context.Context, person uuid.UUID) (string, error) {
	var token string
	var refused error
	err := e.transact(ctx, func(t *tx) (err error) {
		token, refused, err = t.goodToken(ctx, person)
		return err
	})
	if err != nil {
		return "", &Retryable{Err: err}
	}
	return token, refused
}

// goodToken does what personToken says. refused is a result that is committed.
func (t *tx) goodToken(ctx context.Context, person uuid.UUID) (token string, refused, err error) {
	var p struct {
		Access  []byte     `db:"github_access"`
		Refresh []byte     `db:"github_refresh"`
		Expires *time.Time `db:"github_expires"`
		Broken  *string    `db:"github_broken"`
		Stale   bool       `db:"stale"`
	}
	err = t.GetContext(ctx, &p, `select github_access, github_refresh, github_expires, github_broken,
		coalesce(github_expires < now() + make_interval(secs => $2), false) as stale
		from people where id = $1 for no key update`, person, seconds(refreshAhead))
	if err != nil {
		return "", nil, fmt.Errorf("reading a person's GitHub token: %w", err)
	}
	if p.Access == nil || p.Broken != nil {
		return "", &Problem{Code: codeRelink, Text: "The GitHub account is not connected."}, nil
	}
	access, err := t.e.cfg.Seal.Open(sealAccess, p.Access)
	if err != nil {
		refused, err = t.breakLink(ctx, person, "The stored connection to GitHub cannot be read any more.", err)
		return "", refused, err
	}
	if !p.Stale {
		return string(access), nil, nil
	}
	return t.refreshToken(ctx, person, p.Refresh)
}

func (t *tx) refreshToken(ctx context.Context, person uuid.UUID, sealed []byte) (token string, refused, err error) {
	refresh, err := t.e.cfg.Seal.Open(sealRefresh, sealed)
	if err != nil {
		refused, err = t.breakLink(ctx, person, "The stored connection to GitHub cannot be read any more.", err)
		return "", refused, err
	}
	fresh, err := t.e.cfg.Forge.Refresh(ctx, string(refresh))
	if err == nil {
		return fresh.Access, nil, t.keepTokens(ctx, person, fresh)
	}
	if r, ok := errors.AsType[*Retryable](err); ok && !r.Unknown {
		return "", err, nil
	}
	// Refused, or nobody knows which tokens are good now.
	refused, err = t.breakLink(ctx, person, "The connection to GitHub has ended.", err)
	return "", refused, err
}

// breakLink notes that a person has to connect again. Nothing is deleted: a new
// link may land at any moment.
func (t *tx) breakLink(ctx context.Context, person uuid.UUID, why string, cause error) (refused, err error) {
	if _, err := t.ExecContext(ctx, `update people set github_broken = $2 where id = $1`, person, why); err != nil {
		return nil, fmt.Errorf("noting a broken GitHub link: %w", err)
	}
	return &Problem{Code: codeRelink, Text: why + " Connect the GitHub account again.", Err: cause}, nil
}
