package sessions

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
)

// Images of repositories. An image is a saved filesystem with a repository's
// default branch checked out and its setup script run, from which a session's
// first box starts. One row of the table is one build and the image that it made.
//
//	build   queued ──> building ──> saving ──> succeeded
//	        queued | building | saving ──> failed
//	        building | saving ──> building (another replica begins again)
//	        building ──> queued (the provider has no room)
//	image   none ──> ready ──> removing ──> gone
//	        ready ──> gone (the provider does not have it any more)
//
// One replica at a time decides what is to be built (planImages); each replica
// builds (buildImages). A build is claimed with an epoch, which each new claim
// raises and which guards everything that a builder writes; it is also a tag of
// the build's box, so that boxes of earlier claims are orphans. A repository has
// one open build at most: a partial unique index says so. Where images are switched
// off (Settings), nothing starts from them any more, and whoever decides ends what is
// being built and removes what there is.

// BuildState is where a build of an image is.
type BuildState string

// The states of a build.
const (
	BuildQueued    BuildState = "queued"
	BuildBuilding  BuildState = "building"
	BuildSaving    BuildState = "saving"
	BuildSucceeded BuildState = "succeeded"
	BuildFailed    BuildState = "failed"
)

// Tags by which a build's box is found again.
const (
	TagBuild      = "build" // a build's box has it, and no other
	tagBuildEpoch = "build-epoch"
)

// Deadlines of images.
const (
	imageCheckEvery = 30 * time.Minute    // between two looks at a default branch that nobody asked for
	imageAskAgain   = 5 * time.Minute     // after a look that the code host did not answer
	imageRecent     = 14 * 24 * time.Hour // images are kept up for repositories that had a session since
	// imageRenew is when an image is built anew though nothing changed: a day
	// before the provider may forget it.
	imageRenew = sandbox.KeepImage - 24*time.Hour
	// imageSpare is how long before its end an image is not started from any more.
	imageSpare = time.Hour
	// imageRetry is when a build that failed is tried again though nothing changed;
	// doubled for each further failure, up to imageRetryMost.
	imageRetry     = 30 * time.Minute
	imageRetryMost = 24 * time.Hour
	imagesShown    = 20 // rows that are kept of a repository whose images are gone
)

// Build is one build of a repository's image, and the image that it made.
type Build struct {
	ID         string     `db:"id"`
	Repository string     `db:"repository"`
	Why        string     `db:"why"` // why it was wanted
	State      BuildState `db:"state"`
	Reason     string     `db:"reason"`  // why it failed
	Warning    string     `db:"warning"` // what failed and was not needed
	Commit     string     `db:"commit"`  // what is checked out in the image
	Image      string     `db:"image"`   // none, ready, removing, gone
	Usable     bool       `db:"usable"`  // sessions start from it
	LogCut     int64      `db:"log_cut"` // bytes that are missing at the log's beginning
	QueuedAt   time.Time  `db:"queued_at"`
	StartedAt  *time.Time `db:"started_at"`
	EndedAt    *time.Time `db:"ended_at"`
}

// Open says whether the build has not ended.
func (b Build) Open() bool { return b.State != BuildSucceeded && b.State != BuildFailed }

const buildColumns = `i.id, i.repository, i.why, i.state, i.reason, i.warning, i.commit, i.image, i.log_cut,
	i.queued_at, i.started_at, i.ended_at`

// Builds reads the newest builds of a repository's image, newest first, or
// returns ErrNotFound if there is no such repository.
func (e *Engine) Builds(ctx context.Context, repository string) ([]Build, error) {
	var known bool
	if err := e.db.GetContext(ctx, &known, `select exists (select from repositories where name = $1)`, repository); err != nil {
		return nil, fmt.Errorf("looking for the repository %s: %w", repository, err)
	}
	if !known {
		return nil, fmt.Errorf("the repository %s: %w", repository, ErrNotFound)
	}
	var list []Build
	err := e.db.SelectContext(ctx, &list, `select `+buildColumns+`, i.id = coalesce((`+newestImage+`), '') as usable
		from images i where i.repository = $1 order by i.queued_at desc, i.id limit $4`,
		repository, e.cfg.Provider.Caps().Name, seconds(sandbox.KeepImage-imageSpare), imagesShown)
	if err != nil {
		return nil, fmt.Errorf("reading the builds of %s: %w", repository, err)
	}
	return list, nil
}

// newestImage finds the id of the image that sessions on repository $1 start
// from: of provider $2, not older than $3 seconds.
var newestImage = `select n.id from images n where n.repository = $1 and n.image = 'ready' and n.provider = $2
	and n.ended_at > now() - make_interval(secs => $3) and ` + switchedOn(switchImages, "n.repository") + ` order by n.ended_at desc limit 1`

// BuildLog reads what a build printed.
func (e *Engine) BuildLog(ctx context.Context, repository, id string) (string, error) {
	var log string
	err := e.db.GetContext(ctx, &log, `select log from images where id = $1 and repository = $2`, id, repository)
	if err != nil {
		return "", fmt.Errorf("reading the log of the build %s: %w", id, notFound(err))
	}
	return log, nil
}

// FailingBuilds reads the newest build of each repository in use that shall have an
// image and whose newest build failed.
func (e *Engine) FailingBuilds(ctx context.Context) ([]Build, error) {
	var list []Build
	err := e.db.SelectContext(ctx, &list, `
		select `+buildColumns+`, false as usable from repositories r
		join lateral (select * from images where repository = r.name and state in ('succeeded', 'failed')
			order by ended_at desc limit 1) i on i.state = 'failed'
		where r.active and `+switchedOn(switchImages, "r.name")+` order by r.name`)
	if err != nil {
		return nil, fmt.Errorf("looking for failing builds: %w", err)
	}
	return list, nil
}

// RepositoryChanged says that a repository has changed at the code host: its
// image is looked at now instead of within half an hour. One that is not known,
// or not in use, is ignored.
func (e *Engine) RepositoryChanged(ctx context.Context, repository string) error {
	if err := e.transact(ctx, func(t *tx) error { return t.askForImage(ctx, repository) }); err != nil {
		return err
	}
	e.hub.wake(topicImages)
	return nil
}

// topicImages is woken when images have to be looked at.
const topicImages = "images"

// askForImage has the image of a repository, or those ForAll, looked at as soon as possible.
func (t *tx) askForImage(ctx context.Context, repository string) error {
	_, err := t.ExecContext(ctx, `
		insert into image_checks (repository) select name from repositories where $1 in (name, '`+ForAll+`') order by name
		on conflict (repository) do update set asked = true`, repository)
	if err != nil {
		return fmt.Errorf("asking for the image of %q: %w", repository, err)
	}
	return nil
}

// NoImages says why there are no images of a repository, in a sentence; empty: there are.
func (e *Engine) NoImages(ctx context.Context, repository string) (string, error) {
	if e.cfg.ImageBuilds < 0 {
		return "Images are not built here: sandboxes of this deployment run one at a time.", nil
	}
	set, err := e.SettingsFor(ctx, repository)
	if err != nil || set.Images != No {
		return "", err
	}
	return "Images are switched off in the settings of this repository, or in those for all.", nil
}

// RebuildImage begins a build because an administrator wants it, whether anything
// changed or not. One that waits or runs already is returned as it is.
func (e *Engine) RebuildImage(ctx context.Context, repository string, by uuid.UUID) (Build, error) {
	switch none, err := e.NoImages(ctx, repository); {
	case err != nil:
		return Build{}, err
	case none != "":
		return Build{}, &Problem{Code: "no_images", Text: none}
	}
	var b Build
	err := e.transact(ctx, func(t *tx) error {
		if err := t.mayAdminister(ctx, by); err != nil {
			return err
		}
		person, err := readPerson(ctx, t, by)
		if err != nil {
			return err
		}
		if err := t.queueBuild(ctx, repository, "", "asked for by "+person.Name); err != nil {
			return err
		}
		err = t.GetContext(ctx, &b, `select `+buildColumns+`, false as usable from images i
			where i.repository = $1 and i.state in ('queued', 'building', 'saving')`, repository)
		return notFound(err)
	})
	if err == nil {
		e.hub.wake(topicImages)
	}
	return b, err
}

// queueBuild records that an image is to be built. A build of the repository
// that has not ended is left to end.
func (t *tx) queueBuild(ctx context.Context, repository, head, why string) error {
	_, err := t.ExecContext(ctx, `
		insert into images (id, repository, why, head)
		select $1, name, $4, $3 from repositories where name = $2 and active and `+switchedOn(switchImages, "repositories.name")+`
		on conflict (repository) where state in ('queued', 'building', 'saving') do nothing`,
		newID(12), repository, head, why)
	if err != nil {
		return fmt.Errorf("recording that the image of %s is to be built: %w", repository, err)
	}
	return nil
}

// image is one that a box can start from.
type image struct {
	ID  string      `db:"id"`
	Ref sandbox.Ref `db:"ref"`
}

// imageFor finds the image from which a session's next box starts, if it has no
// files of its own, and has it spared until the transaction ends. After a boot
// from an image that failed, they do without until one succeeds. The session's sandbox
// is locked.
func (t *tx) imageFor(ctx context.Context, next candidate) (image, error) {
	if next.Ref != "" {
		return image{}, nil // it continues a filesystem of its own
	}
	var last struct {
		Repository string `db:"repository"`
		Image      string `db:"image"`
		Without    bool   `db:"without_image"`
	}
	err := t.GetContext(ctx, &last, `select s.repository, b.image, b.without_image from sessions s join sandboxes b on b.session_id = s.id where s.id = $1`,
		next.Session)
	if err != nil {
		return image{}, fmt.Errorf("reading what %s started from: %w", next.Session, err)
	}
	if last.Image != "" && (next.State == SandboxFailed || next.Failures > 0) {
		_, err := t.ExecContext(ctx, `update sandboxes set without_image = true where session_id = $1`, next.Session)
		if err != nil {
			return image{}, fmt.Errorf("noting that %s starts without an image: %w", next.Session, err)
		}
		return image{}, nil
	}
	if last.Without {
		return image{}, nil
	}
	return t.newestImage(ctx, last.Repository)
}

// newestImage finds the image of a repository. Where there is none, one is asked for.
func (t *tx) newestImage(ctx context.Context, repository string) (image, error) {
	if t.e.cfg.ImageBuilds < 0 {
		return image{}, nil
	}
	var found image
	err := t.GetContext(ctx, &found, `select id, ref from images where id = (`+newestImage+`) and image = 'ready' for share`,
		repository, t.e.cfg.Provider.Caps().Name, seconds(sandbox.KeepImage-imageSpare))
	if err = notFound(err); errors.Is(err, ErrNotFound) {
		return image{}, t.askForImage(ctx, repository)
	}
	if err != nil {
		return image{}, fmt.Errorf("looking for the image of %s: %w", repository, err)
	}
	return found, nil
}

// startWithoutImage gives back a start from an image that the provider does not
// have any more: the next one takes another image, or begins with a clone.
func (t *tx) startWithoutImage(ctx context.Context, c claim) error {
	const reason = "The repository's image is gone: starting with a clone."
	if err := t.imageGone(ctx, c.image.ID); err != nil {
		return err
	}
	if err := t.unclaim(ctx, c, SandboxLost, "", reason); err != nil {
		return err
	}
	_, err := t.append(ctx, c.session, entry{kind: KindSandbox, body: BodySandbox{State: SandboxLost, Reason: reason}})
	return err
}

// imageGone notes that the provider does not have an image any more.
func (t *tx) imageGone(ctx context.Context, id string) error {
	var repository string
	err := t.GetContext(ctx, &repository, `update images set image = 'gone', ref = '' where id = $1 and image in ('ready', 'removing')
		returning repository`, id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // somebody has noted it
	}
	if err != nil {
		return fmt.Errorf("noting that the image %s is gone: %w", id, err)
	}
	return t.askForImage(ctx, repository)
}
