package sessions

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

// Pictures in pull requests. Their readers are not signed in here, and GitHub
// fetches pictures itself, so each gets a link that nobody can guess and that
// people can revoke. GitHub's API has no way to attach a file to a pull request:
// what its website uploads goes to an address that takes a browser's sign-in only.

// Ways of showing pictures in pull requests (Config.PullRequestPictures).
const (
	PicturesLink = "link" // by a link for whoever has it
	PicturesNone = "none" // not at all: their titles link to the session's page
)

// pictureScheme begins how the agent names an artifact in a description.
const pictureScheme = "artifact:"

// pictureRef is such a name, as Markdown's picture.
var pictureRef = regexp.MustCompile(`!\[([^\]\n]*)\]\(\s*` + pictureScheme + `([0-9a-fA-F-]{36})\s*\)`)

// withPictures puts links where a description names artifacts of its session.
// Others, and files that are no pictures, become a note.
func (t *tx) withPictures(ctx context.Context, s Session, body string) (string, error) {
	var failed error
	return pictureRef.ReplaceAllStringFunc(body, func(ref string) string {
		m := pictureRef.FindStringSubmatch(ref)
		link, err := t.pictureLink(ctx, s, m[2])
		failed = errors.Join(failed, err)
		switch {
		case link == "":
			return "(" + m[1] + ": no such picture)"
		case t.e.cfg.PullRequestPictures == PicturesNone:
			return "[" + m[1] + "](" + t.e.pageURL(s.ID) + ")"
		}
		return "![" + m[1] + "](" + link + ")"
	}), failed
}

// pictureLink returns the good link of a picture of the session, a new one if it
// has none; empty if the session has no such picture.
func (t *tx) pictureLink(ctx context.Context, s Session, artifact string) (string, error) {
	id, err := uuid.Parse(artifact)
	if err != nil {
		return "", nil
	}
	var mime, token string
	err = t.GetContext(ctx, &mime, `select mime from artifact_files where artifact = $1 and session_id = $2 and gone_at is null`, id, s.ID)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !pictureTypes[mime] {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for a picture of %s: %w", s.ID, err)
	}
	if t.e.cfg.PullRequestPictures == PicturesNone {
		return t.e.pageURL(s.ID), nil
	}
	err = t.GetContext(ctx, &token, `
		with made as (insert into pictures (token, artifact) values ($1, $2) on conflict (artifact) where revoked_at is null do nothing returning token)
		select token from made union all select token from pictures where artifact = $2 and revoked_at is null limit 1`,
		strings.ToLower(rand.Text()+rand.Text()), id)
	if err != nil {
		return "", fmt.Errorf("making a link to a picture of %s: %w", s.ID, err)
	}
	return t.e.cfg.PublicURL + "/pictures/" + token, nil
}

// LinkedPicture reads the picture of a link that is good, or returns ErrNotFound.
func (e *Engine) LinkedPicture(ctx context.Context, token string) (File, error) {
	var artifact uuid.UUID
	err := e.db.GetContext(ctx, &artifact, `select artifact from pictures where token = $1 and revoked_at is null`, token)
	if err != nil {
		return File{}, fmt.Errorf("reading a linked picture: %w", notFound(err))
	}
	return e.ArtifactFile(ctx, artifact)
}

// LinkedPictures are those artifacts of a session that have a good link.
func (e *Engine) LinkedPictures(ctx context.Context, session string) (map[uuid.UUID]bool, error) {
	var ids []uuid.UUID
	err := e.db.SelectContext(ctx, &ids, `select artifact from pictures
		where revoked_at is null and artifact in (select id from artifacts where session_id = $1)`, session)
	if err != nil {
		return nil, fmt.Errorf("reading the linked pictures of %s: %w", session, err)
	}
	linked := map[uuid.UUID]bool{}
	for _, id := range ids {
		linked[id] = true
	}
	return linked, nil
}

// RevokePicture ends the link to a picture, for good: what shows it shows nothing
// any more, except from caches. A picture without a link is left as it is.
func (e *Engine) RevokePicture(ctx context.Context, artifact, by uuid.UUID) error {
	return e.transact(ctx, func(t *tx) error {
		var of struct {
			Session string `db:"session_id"`
			Title   string `db:"title"`
		}
		err := t.GetContext(ctx, &of, `select session_id, title from artifacts where id = $1`, artifact)
		if err != nil {
			return fmt.Errorf("reading artifact %s: %w", artifact, notFound(err))
		}
		person, err := readPerson(ctx, t, by)
		if err != nil {
			return err
		}
		if _, err := t.lockSession(ctx, of.Session); err != nil {
			return err
		}
		res, err := t.ExecContext(ctx, `update pictures set revoked_at = now(), revoked_by = $2 where artifact = $1 and revoked_at is null`, artifact, by)
		if err != nil {
			return fmt.Errorf("revoking the link of artifact %s: %w", artifact, err)
		}
		if good, err := affected(res); err != nil || !good {
			return err
		}
		_, err = t.append(ctx, of.Session, entry{kind: KindRevoked, body: BodyRevoked{By: person.Name, Title: of.Title}})
		return err
	})
}

// KindRevoked is a picture's link that somebody ended.
const KindRevoked = "picture.revoked" // BodyRevoked

// BodyRevoked says who ended the link to which picture.
type BodyRevoked struct {
	By    string `json:"by"`
	Title string `json:"title"`
}
