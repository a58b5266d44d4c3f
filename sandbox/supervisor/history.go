package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// exists tells whether there is a checkout to continue with.
func (r *repository) exists() bool {
	_, err := os.Stat(filepath.Join(r.dir, ".git"))
	return err == nil
}

// empty tells whether there is nothing at all where the checkout belongs.
func (r *repository) empty() bool {
	entries, err := os.ReadDir(r.dir)
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0
}

// clone makes the checkout. The whole history is fetched: agents read it, and a
// blobless clone would come back to the network at every look into the past.
func (r *repository) clone(ctx context.Context) error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	if _, err := r.remote(ctx, "clone", "--quiet", "--no-checkout", r.origin, "."); err != nil {
		return err
	}
	return r.fetched(ctx)
}

// fetch brings refs/remotes up to date.
func (r *repository) fetch(ctx context.Context) error {
	if err := r.restoreOrigin(ctx); err != nil {
		return err
	}
	if _, err := r.remote(ctx, "fetch", "--quiet", "--prune", "origin"); err != nil {
		return err
	}
	return r.fetched(ctx)
}

// restoreOrigin has origin be the remote that it was cloned from: the agent may have
// removed or renamed it, or given the name to a fork.
func (r *repository) restoreOrigin(ctx context.Context) error {
	const name, branches = "remote.origin", "+refs/heads/*:refs/remotes/origin/*"
	// It fails if there is none of them.
	is, _ := r.git(ctx, "config", "--local", "--get-regexp", `^remote\.origin\.(url|pushurl|fetch|push|mirror)$`)
	if is == name+".url "+r.origin+"\n"+name+".fetch "+branches+"\n" {
		return nil
	}
	for _, key := range []string{".pushurl", ".push", ".mirror"} {
		_, _ = r.git(ctx, "config", "--local", "--unset-all", name+key) // as well
	}
	if _, err := r.git(ctx, "config", "--local", "--replace-all", name+".url", r.origin); err != nil {
		return err
	}
	_, err := r.git(ctx, "config", "--local", "--replace-all", name+".fetch", branches)
	return err
}

// restoreHistory fetches the history anew if the agent removed it, or began another
// one in its place: commit since, which it had, is not there. The files stay as they
// are, and what differs in them from what was pushed is uncommitted work. It returns
// where that begins, and a sentence that people should know.
func (r *repository) restoreHistory(ctx context.Context, since string) (from, note string, err error) {
	was, since := since, r.goesOn(since)
	if r.exists() && (since == "" || r.succeeds(ctx, "cat-file", "-e", since+"^{commit}")) {
		return since, "", nil
	}
	if err := r.fetchHistory(ctx); err != nil {
		return "", "", fmt.Errorf("the history of the repository is gone, and could not be fetched again: %w", err)
	}
	if from, err = r.head(ctx); err == nil {
		r.instead.Store(was, from)
	}
	return from, "The history of the repository was removed from the sandbox. It was fetched again; what had not been pushed is one commit now.", err
}

// goesOn is where the history goes on that had commit since.
func (r *repository) goesOn(since string) string {
	if from, lost := r.instead.Load(since); lost {
		return from.(string)
	}
	return since
}

// fetchHistory puts the remote's history in the place of what there is.
func (r *repository) fetchHistory(ctx context.Context) error {
	beside, err := os.MkdirTemp(filepath.Dir(r.dir), ".history-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(beside)
	if _, err := r.remote(ctx, "clone", "--quiet", "--no-checkout", r.origin, beside); err != nil {
		return err
	}
	there := filepath.Join(r.dir, ".git")
	if err := os.RemoveAll(there); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(beside, ".git"), there); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(there, "info", "exclude"), r.ignored); err != nil {
		return err
	}
	if err := r.fetched(ctx); err != nil {
		return err
	}
	return r.standOn(ctx, r.start(ctx, r.recorded))
}

// standOn has the session's branch be at a commit, without touching a file.
func (r *repository) standOn(ctx context.Context, start string) error {
	if _, err := r.git(ctx, "symbolic-ref", "HEAD", "refs/heads/"+r.branch); err != nil {
		return err
	}
	if !r.succeeds(ctx, "rev-parse", "--verify", "--quiet", start) {
		return nil // nothing was ever committed
	}
	_, err := r.git(ctx, "reset", "--quiet", "--mixed", start)
	return err
}

// start is where the session's branch begins: at head if the branch was pushed
// before, else where the base branch is.
func (r *repository) start(ctx context.Context, head string) string {
	if tip := r.tip(ctx, head); tip != "" {
		return tip
	}
	return "refs/remotes/origin/" + r.base
}
