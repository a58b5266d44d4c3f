package sessions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"openinspect/sandbox"
)

// planImages decides which images are to be built and which are to be removed.
// One replica at a time does, by lease.
func (e *Engine) planImages(ctx context.Context) error {
	if e.cfg.ImageBuilds < 0 {
		<-ctx.Done()
		return nil
	}
	wake := e.hub.listen(ctx, topicImages)
	tick := time.NewTicker(e.tempo.images)
	defer tick.Stop()
	for {
		for _, look := range []func(context.Context) error{e.endUnwantedBuilds, e.checkImages, e.removeImages} {
			e.warn(ctx, "looking after images", look(ctx))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
	}
}

// endUnwantedBuilds ends the builds of repositories that shall not have an image any
// more.
func (e *Engine) endUnwantedBuilds(ctx context.Context) error {
	_, err := e.db.ExecContext(ctx, `update images set state = 'failed', reason = 'Images were switched off.', ended_at = now(),
		token_hash = null, holder = '', held_until = null, box = ''
		where state in ('queued', 'building', 'saving') and not `+switchedOn(switchImages, "images.repository"))
	if err != nil {
		return fmt.Errorf("ending builds of images that are switched off: %w", err)
	}
	return nil
}

// check is a repository whose image has to be looked at.
type check struct {
	Repository string `db:"name"`
	Branch     string `db:"default_branch"`
	Head       string `db:"head"` // as last seen
}

// checkImages looks at the images of repositories in use whose turn it is. A
// repository with an open build waits for its end.
func (e *Engine) checkImages(ctx context.Context) error {
	var due []check
	err := e.db.SelectContext(ctx, &due, `
		select r.name, r.default_branch, coalesce(c.head, '') as head
		from repositories r left join image_checks c on c.repository = r.name
		where r.active and `+switchedOn(switchImages, "r.name")+` and (coalesce(c.asked, false) or coalesce(c.checked_at, '-infinity') < now() - make_interval(secs => $1))
			and exists (select from sessions s where s.repository = r.name and s.updated_at > now() - make_interval(secs => $2))
			and not exists (select from images i where i.repository = r.name and i.state in ('queued', 'building', 'saving'))
		order by c.checked_at nulls first`, seconds(imageCheckEvery), seconds(imageRecent))
	if err != nil {
		return fmt.Errorf("looking for images to check: %w", err)
	}
	return each(due, func(c check) error { return e.checkImage(ctx, c) })
}

// checkImage asks the code host where the default branch is, and has the image
// built if it is not of that.
func (e *Engine) checkImage(ctx context.Context, c check) error {
	// Who asks from here on asks for another look.
	if _, err := e.db.ExecContext(ctx, `insert into image_checks (repository, asked, checked_at) values ($1, false, now())
		on conflict (repository) do update set asked = false, checked_at = now()`, c.Repository); err != nil {
		return fmt.Errorf("beginning to check the image of %s: %w", c.Repository, err)
	}
	asking, cancel := context.WithTimeout(ctx, providerCall)
	head, failure := e.cfg.Forge.BranchHead(asking, c.Repository, c.Branch, c.Head)
	cancel()
	if failure != nil {
		head = c.Head
	}
	err := e.transact(ctx, func(t *tx) error {
		_, err := t.ExecContext(ctx, `update image_checks set head = $2, error = $3,
			checked_at = case when $3 = '' then checked_at else now() - make_interval(secs => $4) end where repository = $1`,
			c.Repository, head, e.scrub.text(storable(errorText(failure))), seconds(imageCheckEvery-imageAskAgain))
		if err != nil || failure != nil {
			return err
		}
		why, err := t.staleImage(ctx, c.Repository, head)
		if err != nil || why == "" {
			return err
		}
		return t.queueBuild(ctx, c.Repository, head, why)
	})
	e.hub.wake(topicImages)
	return errors.Join(err, failure)
}

// staleImage says why a repository's image has to be built; empty: it need not.
func (t *tx) staleImage(ctx context.Context, repository, head string) (why string, err error) {
	var newest struct {
		Commit      string `db:"commit"`
		Fingerprint string `db:"fingerprint"`
		Old         bool   `db:"old"`
	}
	err = t.GetContext(ctx, &newest, `select commit, fingerprint, ended_at < now() - make_interval(secs => $4) as old
		from images where id = (`+newestImage+`)`,
		repository, t.e.cfg.Provider.Caps().Name, seconds(sandbox.KeepImage-imageSpare), seconds(imageRenew))
	fingerprint, asked := t.imageFingerprint(ctx, repository)
	if asked != nil {
		return "", asked
	}
	switch err = notFound(err); {
	case errors.Is(err, ErrNotFound):
		why = "there was no image"
	case err != nil:
		return "", fmt.Errorf("reading the image of %s: %w", repository, err)
	case newest.Commit != head:
		why = "the default branch moved to " + shortSHA(head)
	case newest.Fingerprint != fingerprint:
		why = "what images are made of changed"
	case newest.Old:
		why = "the image is nearly a week old"
	default:
		return "", nil
	}
	waits, err := t.buildFailed(ctx, repository, head, fingerprint)
	if waits || err != nil {
		return "", err
	}
	return why, nil
}

// buildFailed says whether a build of the same failed lately. Whoever changed a setting
// since may have mended it.
func (t *tx) buildFailed(ctx context.Context, repository, head, fingerprint string) (bool, error) {
	var waits bool
	err := t.GetContext(ctx, &waits, `
		select coalesce(max(ended_at) > now() - make_interval(secs => least($4 * 2 ^ (count(*) - 1), $5)), false)
		from images f where f.repository = $1 and f.state = 'failed' and f.head = $2 and f.fingerprint = $3
			and not exists (select from images s where s.repository = $1 and s.state = 'succeeded' and s.ended_at > f.ended_at)
			and not exists (select from setting_changes c where c.repository in ($1, '`+ForAll+`') and c.at > f.ended_at)`,
		repository, head, fingerprint, seconds(imageRetry), seconds(imageRetryMost))
	if err != nil {
		return false, fmt.Errorf("looking for failed builds of %s: %w", repository, err)
	}
	return waits, nil
}

// imageFingerprint is of everything besides the repository's files that goes into its
// image: the base image, and the variables and secrets that its scripts are given.
func (t *tx) imageFingerprint(ctx context.Context, repository string) (string, error) {
	var given string
	err := t.GetContext(ctx, &given, `select coalesce(string_agg(concat_ws(' ', repository, name, set_at), ',' order by repository, name), '')
		from variables where repository in ('', $1) and not outside`, repository)
	if err != nil {
		return "", fmt.Errorf("reading what is set for %s: %w", repository, err)
	}
	sum := sha256.Sum256([]byte(t.e.cfg.Provider.Caps().Name + "\x00" + t.e.cfg.ImageRecipe + "\x00" + given))
	return hex.EncodeToString(sum[:8]), nil
}

func shortSHA(sha string) string { return sha[:min(len(sha), 8)] }

// removeImages removes images that no session will start from: there is a newer
// one, they are too old, they are switched off, or their repository is gone; and
// forgets builds of long ago.
func (e *Engine) removeImages(ctx context.Context) error {
	var old []image
	err := e.db.SelectContext(ctx, &old, `
		select i.id, i.ref from images i join repositories r on r.name = i.repository
		where i.image in ('ready', 'removing') and i.provider = $1 and (i.image = 'removing' or not r.active
			or not `+switchedOn(switchImages, "r.name")+` or i.ended_at < now() - make_interval(secs => $2)
			or exists (select from images n where n.repository = i.repository and n.image = 'ready' and n.provider = $1
				and n.ended_at > i.ended_at))`,
		e.cfg.Provider.Caps().Name, seconds(sandbox.KeepImage-imageSpare))
	if err != nil {
		return fmt.Errorf("looking for images to remove: %w", err)
	}
	if err := each(old, func(i image) error { return e.removeImage(ctx, i) }); err != nil {
		return err
	}
	_, err = e.db.ExecContext(ctx, `delete from images where state in ('succeeded', 'failed') and image in ('none', 'gone')
		and id not in (select n.id from repositories r cross join lateral (select id from images
			where repository = r.name order by queued_at desc limit $1) n)`, imagesShown)
	if err != nil {
		return fmt.Errorf("forgetting old builds: %w", err)
	}
	if _, err := e.db.ExecContext(ctx, `delete from image_boxes where made_at < now() - interval '30 days'`); err != nil {
		return fmt.Errorf("forgetting the boxes of old builds: %w", err)
	}
	return nil
}

// removeImage removes one, unless a box is just being started from it. That it
// is being removed is recorded first, so that no start chooses it meanwhile.
func (e *Engine) removeImage(ctx context.Context, i image) error {
	free := false
	err := e.transact(ctx, func(t *tx) error {
		free = false
		// The lock waits for starts that have chosen the image and not committed;
		// what they wrote is seen by the statement after it.
		var one int
		err := t.GetContext(ctx, &one, `select 1 from images where id = $1 and image in ('ready', 'removing') for update`, i.ID)
		if err != nil {
			return ignoreNotFound(notFound(err))
		}
		var used bool
		err = t.GetContext(ctx, &used, `select exists (select from sandboxes where image = $1 and state = 'starting')
			or exists (select from spares where ref = $2 and state = 'starting' and box = '' and ended_at is null)`, i.ID, string(i.Ref))
		if err != nil || used {
			return err
		}
		free = true
		_, err = t.ExecContext(ctx, `update images set image = 'removing' where id = $1`, i.ID)
		return err
	})
	if err != nil || !free {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, providerCall)
	defer cancel()
	if err := e.cfg.Provider.Delete(asking, i.Ref); err != nil {
		return fmt.Errorf("removing the image %s: %w", i.ID, err)
	}
	_, err = e.db.ExecContext(ctx, `update images set image = 'gone', ref = '' where id = $1 and image = 'removing'`, i.ID)
	if err != nil {
		return fmt.Errorf("noting that the image %s is removed: %w", i.ID, err)
	}
	return nil
}
