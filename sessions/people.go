package sessions

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"
)

// SlackPerson finds or makes the person of a Slack identity and keeps the name,
// e-mail and picture up to date (empty ones change nothing).
func (e *Engine) SlackPerson(ctx context.Context, team, user, name, email, avatar string) (Person, error) {
	var p Person
	err := e.db.GetContext(ctx, &p, `select `+personColumns+` from people where slack_team = $1 and slack_user = $2`, team, user)
	same := func(now, known string) bool { return now == "" || now == known }
	if err == nil && same(name, p.Name) && same(email, p.Email) && same(avatar, p.AvatarURL) {
		return p, nil // as nearly always, and without the row's lock: somebody may refresh a token under it
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return p, fmt.Errorf("finding the person %s of %s: %w", user, team, err)
	}
	p, err = e.findSlackPerson(ctx, team, user, name, email, avatar)
	if errors.Is(err, ErrNotFound) { // somebody made the row after our statement began
		p, err = e.findSlackPerson(ctx, team, user, name, email, avatar)
	}
	if err != nil {
		return p, fmt.Errorf("finding the person %s of %s: %w", user, team, err)
	}
	return p, nil
}

func (e *Engine) findSlackPerson(ctx context.Context, team, user, name, email, avatar string) (Person, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Person{}, err
	}
	var p Person
	// The update is left out where nothing changes, which is nearly always.
	err = e.db.GetContext(ctx, &p, `
		with made as (
			insert into people (id, slack_team, slack_user, name, email, avatar_url, admin)
			values ($1, $2, $3, coalesce(nullif($4, ''), $3), $5, $6, coalesce($3 = any($7), false))
			on conflict (slack_team, slack_user) do update set
				name = coalesce(nullif($4, ''), people.name),
				email = coalesce(nullif($5, ''), people.email),
				avatar_url = coalesce(nullif($6, ''), people.avatar_url)
			where (people.name, people.email, people.avatar_url) is distinct from
				(coalesce(nullif($4, ''), people.name), coalesce(nullif($5, ''), people.email), coalesce(nullif($6, ''), people.avatar_url))
			returning *)
		select `+personColumns+` from made
		union all
		select `+personColumns+` from people where slack_team = $2 and slack_user = $3 and not exists (select from made)`,
		id, team, user, name, email, avatar, pq.Array(e.cfg.Admins))
	return p, notFound(err)
}

// LoginIdle ends a sign-in that nobody used for so long.
const LoginIdle = 12 * time.Hour

// Login makes a sign-in valid for ttl (absolute) and returns its secret; only a hash is stored.
func (e *Engine) Login(ctx context.Context, person uuid.UUID, ttl time.Duration) (secret string, err error) {
	secret = rand.Text() + rand.Text()
	_, err = e.db.ExecContext(ctx, `insert into logins (token_hash, person, expires_at)
		values ($1, $2, now() + make_interval(secs => $3))`, hashOf(secret), person, seconds(ttl))
	if err != nil {
		return "", fmt.Errorf("signing in: %w", err)
	}
	// Those that have expired are of no more use; this is the moment to forget them.
	if _, err := e.db.ExecContext(ctx, `delete from logins where expires_at < now() or seen_at < now() - make_interval(secs => $1)`,
		seconds(LoginIdle)); err != nil {
		e.log.Warn("expired sign-ins could not be forgotten", "err", err)
	}
	return secret, nil
}

// WhoIs returns the person of a sign-in, or ErrNotFound if it has expired or was
// not used for LoginIdle. This use counts; to the minute is often enough.
func (e *Engine) WhoIs(ctx context.Context, secret string) (Person, error) {
	var id uuid.UUID
	err := e.db.GetContext(ctx, &id, `
		with valid as (select token_hash, person, seen_at from logins
			where token_hash = $1 and expires_at > now() and seen_at > now() - make_interval(secs => $2)),
		seen as (update logins l set seen_at = now() from valid v
			where l.token_hash = v.token_hash and v.seen_at < now() - interval '1 minute')
		select person from valid`, hashOf(secret), seconds(LoginIdle))
	if err != nil {
		return Person{}, fmt.Errorf("reading a sign-in: %w", notFound(err))
	}
	return readPerson(ctx, e.db, id)
}

// Logout ends a sign-in.
func (e *Engine) Logout(ctx context.Context, secret string) error {
	if _, err := e.db.ExecContext(ctx, `delete from logins where token_hash = $1`, hashOf(secret)); err != nil {
		return fmt.Errorf("signing out: %w", err)
	}
	return nil
}

// LogoutEverywhere ends all sign-ins of a person, in whatever browser.
func (e *Engine) LogoutEverywhere(ctx context.Context, person uuid.UUID) error {
	if _, err := e.db.ExecContext(ctx, `delete from logins where person = $1`, person); err != nil {
		return fmt.Errorf("ending all sign-ins of %s: %w", person, err)
	}
	return nil
}

// hashOf is how secrets that only have to be recognised are stored. They are
// random and long, so that a plain hash is enough.
func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Watching says that a person looks at a session's page for the next ttl.
func (e *Engine) Watching(ctx context.Context, session string, person uuid.UUID, ttl time.Duration) error {
	_, err := e.db.ExecContext(ctx, `
		with gone as (delete from watchers where session_id = $1 and until < now() and person <> $2)
		insert into watchers (session_id, person, until) values ($1, $2, now() + make_interval(secs => $3))
		on conflict (session_id, person) do update set until = excluded.until`, session, person, seconds(ttl))
	if err != nil {
		return fmt.Errorf("noting who watches %s: %w", session, err)
	}
	return nil
}

// Watchers reads who looks at a session's page now, by name.
func (e *Engine) Watchers(ctx context.Context, session string) ([]Person, error) {
	var list []Person
	err := e.db.SelectContext(ctx, &list, `select `+personColumns+` from people
		where id in (select person from watchers where session_id = $1 and until >= now()) order by name, id`, session)
	if err != nil {
		return nil, fmt.Errorf("reading who watches %s: %w", session, err)
	}
	return list, nil
}
