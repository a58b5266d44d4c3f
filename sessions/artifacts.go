package sessions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"openinspect/sandbox"
)

// Bounds of the files of one session. They are kept until what is saved of it is
// deleted (emptyArchive).
const (
	maxSessionFiles = 200 << 20 // bytes of all together
	mostFiles       = 200
	filesAtOnce     = 20 // within filesWithin: each is a message in the thread
	filesWithin     = 5 * time.Minute
)

// DeliverFile is the outbox row of a file that is shared in the thread; body: BodyArtifact.
const DeliverFile = "file"

// File is what an artifact of the kinds screenshot, image and file holds.
type File struct {
	Artifact uuid.UUID `db:"artifact"`
	Session  string    `db:"session_id"`
	Title    string    `db:"title"`
	Name     string    `db:"name"`
	MIME     string    `db:"mime"` // as its first bytes say
	Data     []byte    `db:"data"`
}

// pictureTypes are the types that browsers show and that cannot do anything.
var pictureTypes = map[string]bool{"image/png": true, "image/jpeg": true, "image/gif": true, "image/webp": true}

// Picture says whether the file is a picture that can be shown as it is.
func (f File) Picture() bool { return pictureTypes[f.MIME] }

// ArtifactFile reads an artifact's file, or returns ErrNotFound. A *Problem says that
// it is deleted.
func (e *Engine) ArtifactFile(ctx context.Context, artifact uuid.UUID) (File, error) {
	var f struct {
		File
		Gone bool `db:"gone"`
	}
	err := e.db.GetContext(ctx, &f, `select f.artifact, f.session_id, a.title, f.name, f.mime, f.data, f.gone_at is not null as gone
		from artifact_files f join artifacts a on a.id = f.artifact where f.artifact = $1`, artifact)
	if err != nil {
		return f.File, fmt.Errorf("reading the file of artifact %s: %w", artifact, notFound(err))
	}
	if f.Gone {
		return f.File, &Problem{Code: "file_gone", Text: fmt.Sprintf("“%s” is deleted, with everything that was saved of its session, because that was archived long ago.", f.Title)}
	}
	return f.File, nil
}

// deleteFiles deletes the files of sessions that were archived long enough ago, and
// those that no call claimed. Pictures that a pull request shows stay until their
// link is revoked, files that are still to be shown until they are.
func (e *Engine) deleteFiles(ctx context.Context) error {
	_, err := e.db.ExecContext(ctx, `
		with unclaimed as (delete from artifact_files where artifact is null and created_at < now() - interval '1 hour')
		update artifact_files f set data = '', gone_at = now() from sessions s
		where s.id = f.session_id and s.state = 'archived' and s.archived_at < now() - make_interval(secs => $1)
			and f.artifact is not null and f.gone_at is null
			and not exists (select from pictures p where p.artifact = f.artifact and p.revoked_at is null)
			and not exists (select from outbox o where o.key = 'file:' || f.artifact and o.state = 'pending')`, seconds(e.cfg.DeleteAfter))
	if err != nil {
		return fmt.Errorf("deleting files of archived sessions: %w", err)
	}
	return nil
}

// AdmitUpload says whether a sandbox may send files. Refusals are *sandbox.RefusedUpload.
func (e *Engine) AdmitUpload(ctx context.Context, token string) error {
	_, err := e.uploader(ctx, token)
	return err
}

func (e *Engine) uploader(ctx context.Context, token string) (Grant, error) {
	grant, err := e.Authenticate(ctx, token)
	if errors.Is(err, ErrNotFound) || err == nil && grant.Branch == "" {
		err = &sandbox.RefusedUpload{Text: "This sandbox works for no session, so nobody would see the file."}
	}
	return grant, err
}

// TakeUpload keeps a file that a sandbox sent until a call claims it. Refusals are
// *sandbox.RefusedUpload.
func (e *Engine) TakeUpload(ctx context.Context, token string, u sandbox.Upload) error {
	grant, err := e.uploader(ctx, token)
	if err != nil {
		return err
	}
	id, err := uuid.Parse(u.ID)
	if err != nil {
		return &sandbox.RefusedUpload{Text: "The file has no proper id."}
	}
	if len(u.Data) == 0 {
		return &sandbox.RefusedUpload{Text: "The file is empty."}
	}
	around, err := e.surroundings(ctx, grant.Repository)
	if err = unlessProblem(err); err != nil {
		return err
	}
	scrub := e.scrub.with(append(around.values(), token)...)
	if u.Data, err = cleanFile(scrub, u.Data); err != nil {
		return err
	}
	u.Name = scrub.text(u.Name)
	return e.transact(ctx, func(t *tx) error {
		if _, err := t.lockSession(ctx, grant.Session); err != nil {
			return err
		}
		return t.keepUpload(ctx, grant.Session, id, u)
	})
}

// cleanFile removes secrets from text, and refuses other files that hold one (I10).
func cleanFile(scrub *scrubber, data []byte) ([]byte, error) {
	clean := []byte(scrub.text(string(data)))
	if !bytes.Equal(clean, data) && (!utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0) {
		return nil, &sandbox.RefusedUpload{Text: "The file contains the value of a secret, so it is not taken."}
	}
	return clean, nil
}

func (t *tx) keepUpload(ctx context.Context, session string, id uuid.UUID, u sandbox.Upload) error {
	var used int64
	err := t.GetContext(ctx, &used, `select coalesce(sum(size), 0) from artifact_files where session_id = $1 and id <> $2 and gone_at is null`, session, id)
	if err != nil {
		return fmt.Errorf("adding up the files of %s: %w", session, err)
	}
	if used+int64(len(u.Data)) > maxSessionFiles {
		return &sandbox.RefusedUpload{Text: fmt.Sprintf("The files of one session together may have %d MB, and this one does not fit any more: show a smaller one, or say in words what is in it.", maxSessionFiles>>20)}
	}
	name := storable(path.Base("/" + strings.ReplaceAll(u.Name, "\\", "/")))
	if name == "/" || name == "." {
		name = "file"
	}
	_, err = t.ExecContext(ctx, `insert into artifact_files (id, session_id, name, mime, size, data) values ($1, $2, $3, $4, $5, $6) on conflict (id) do nothing`,
		id, session, shorten(name, 100), mimeOf(u.Data), len(u.Data), u.Data)
	if err != nil {
		return fmt.Errorf("keeping a file of %s: %w", session, err)
	}
	return nil
}

// tooManyFiles refuses one more file. The session's row is locked.
func (t *tx) tooManyFiles(ctx context.Context, session string) (*toolResult, error) {
	var n struct {
		All    int `db:"total"`
		Lately int `db:"lately"`
	}
	err := t.GetContext(ctx, &n, `select count(*) as total, count(*) filter (where created_at > now() - make_interval(secs => $2)) as lately
		from artifacts where session_id = $1 and key like 'file:%'`, session, seconds(filesWithin))
	switch {
	case err != nil:
		return nil, fmt.Errorf("counting the files of %s: %w", session, err)
	case n.All >= mostFiles:
		return refusal(fmt.Sprintf("This session has shown %d files, which is the most: say in words what else there is.", mostFiles)), nil
	case n.Lately >= filesAtOnce:
		return refusal(fmt.Sprintf("%d files within %s are enough: show people the most telling ones, others later.", filesAtOnce, filesWithin)), nil
	}
	return nil, nil
}

// mimeOf says what a file is by its first bytes, whatever its name claims.
func mimeOf(data []byte) string {
	kind, _, _ := strings.Cut(http.DetectContentType(data), ";")
	return kind
}

// madeFile records the artifact of a file that was sent, and has it shown.
func (t *tx) madeFile(ctx context.Context, c toolCall, upload uuid.UUID, kind, title string) (BodyArtifact, error) {
	var f struct {
		Name string `db:"name"`
		MIME string `db:"mime"`
		Size int64  `db:"size"`
	}
	s := c.session
	err := t.GetContext(ctx, &f, `select name, mime, size from artifact_files where id = $1 and session_id = $2 and artifact is null`, upload, s.ID)
	if err != nil {
		return BodyArtifact{}, notFound(err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return BodyArtifact{}, err
	}
	if kind == "" {
		kind = "file"
		if pictureTypes[f.MIME] {
			kind = "image"
		}
	}
	if title = strings.TrimSpace(title); title == "" {
		title = f.Name
	}
	a := BodyArtifact{Kind: kind, ID: id.String(), Title: t.e.scrub.text(shorten(title, 200)), Name: f.Name, MIME: f.MIME, Size: f.Size,
		URL: t.e.cfg.PublicURL + "/artifacts/" + id.String() + "/" + url.PathEscape(f.Name)}
	_, err = t.ExecContext(ctx, `insert into artifacts (id, session_id, prompt_id, kind, key, url, title) values ($1, $2, $3, $4, $5, $6, $7)`,
		id, s.ID, c.prompt, kind, "file:"+id.String(), a.URL, a.Title)
	if err == nil {
		_, err = t.ExecContext(ctx, `update artifact_files set artifact = $2 where id = $1`, upload, id)
	}
	if err != nil {
		return a, fmt.Errorf("recording a file of %s: %w", s.ID, err)
	}
	if _, err := t.append(ctx, s.ID, entry{prompt: c.prompt, kind: KindArtifact, body: a}); err != nil || s.ThreadTS == "" {
		return a, err
	}
	return a, t.enqueue(ctx, outboxRow{surface: surfaceSlack, kind: DeliverFile, key: "file:" + id.String(), session: s.ID, prompt: c.prompt,
		priority: priorityNotice, body: a})
}
