package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"openinspect/sandbox"
)

// credit says under whose name a prompt's work is committed.
type credit struct {
	author   person
	trailers []string
	subject  string // of a commit of leftovers
	prompt   string
	// committer is the e-mail address of everything that is committed in here.
	committer string
}

// settleWork makes everything that changed since commit since a commit of
// author's on the session's branch and returns the new commits, oldest first,
// and sentences that people should know. Nothing that one author changed is
// left for the next, except files over the size limit.
func (r *repository) settleWork(ctx context.Context, since string, c credit) (commits []sandbox.BodyCommit, notes []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if note := r.endOperation(ctx); note != "" {
		notes = append(notes, note)
	}
	left, err := r.commitLeftovers(ctx, c)
	if err != nil {
		return nil, notes, err
	}
	note, err := r.bringHome(ctx, c)
	if err != nil {
		return nil, notes, err
	}
	if note != "" {
		notes = append(notes, note)
	}
	if err := r.reauthor(ctx, since, c); err != nil {
		return nil, notes, err
	}
	commits, err = r.describe(ctx, since)
	if len(left) > 0 {
		if len(commits) > 0 {
			last := &commits[len(commits)-1]
			last.Left, last.Omitted = capped(left, maxLeft)
		} else {
			notes = append(notes, notCommitted(left))
		}
	}
	return commits, notes, err
}

// endOperation ends a merge, rebase, cherry-pick or revert that the agent left
// in the middle, keeping the files as they are.
func (r *repository) endOperation(ctx context.Context) string {
	for _, op := range []struct{ mark, command string }{
		{"rebase-merge", "rebase"}, {"rebase-apply", "rebase"}, {"CHERRY_PICK_HEAD", "cherry-pick"},
		{"REVERT_HEAD", "revert"}, {"MERGE_HEAD", "merge"},
	} {
		if _, err := os.Stat(filepath.Join(r.dir, ".git", op.mark)); err != nil {
			continue
		}
		if _, err := r.git(ctx, op.command, "--quit"); err == nil {
			return fmt.Sprintf("A %s was left unfinished; its files were committed as they were.", op.command)
		}
	}
	return ""
}

// commitLeftovers commits what is uncommitted and returns the files left out.
func (r *repository) commitLeftovers(ctx context.Context, c credit) (left []string, err error) {
	left, clean, err := r.oversized(ctx)
	if err != nil || clean {
		return nil, err
	}
	if err := r.stage(ctx, nil, left); err != nil {
		// Files that cannot be read are no reason to lose the others.
		if staged, _ := r.line(ctx, "diff", "--cached", "--name-only"); staged == "" {
			return left, err
		}
	}
	if r.nothingStaged(ctx) {
		return left, nil
	}
	text, err := r.message(ctx, c.subject+"\n", c.trailers)
	if err != nil {
		return left, err
	}
	_, err = r.gitWith(ctx, c.author.env("AUTHOR"), text, "commit", "--quiet", "--no-verify", "--cleanup=verbatim", "--file=-")
	return left, err
}

func (r *repository) nothingStaged(ctx context.Context) bool {
	if head, err := r.head(ctx); err == nil && head == "" {
		staged, err := r.line(ctx, "ls-files", "--cached")
		return err == nil && staged == ""
	}
	return r.succeeds(ctx, "diff", "--cached", "--quiet")
}

// bringHome makes the session's branch the checked-out one. If the agent worked
// on another branch or none that goes on from the session's, the session's
// branch follows; if it went elsewhere, its work is kept on a branch of its own.
func (r *repository) bringHome(ctx context.Context, c credit) (note string, err error) {
	current, err := r.line(ctx, "symbolic-ref", "--quiet", "HEAD")
	if err == nil && current == "refs/heads/"+r.branch {
		return "", nil
	}
	if !r.succeeds(ctx, "rev-parse", "--verify", "--quiet", "refs/heads/"+r.branch) ||
		r.succeeds(ctx, "merge-base", "--is-ancestor", "refs/heads/"+r.branch, "HEAD") {
		_, err := r.git(ctx, "checkout", "--quiet", "--no-track", "-B", r.branch)
		return "", err
	}
	fresh, err := r.line(ctx, "rev-list", "--max-count=1", "HEAD", "--not", "refs/heads/"+r.branch, "--remotes")
	if err != nil {
		return "", err
	}
	if fresh != "" {
		aside := "inspect-aside/" + c.prompt
		if _, err := r.git(ctx, "branch", "--force", aside, "HEAD"); err != nil {
			return "", err
		}
		note = fmt.Sprintf("Work that does not continue the session's branch was kept on the local branch %s and is not pushed.", aside)
	}
	_, err = r.git(ctx, "checkout", "--quiet", r.branch)
	return note, err
}

// reauthor rewrites the commits that are new since commit since wherever they
// carry another author or lack a trailer. Trees stay what they are, so neither
// the files nor the index change. Commits that a remote branch other than ours
// has are other people's work that was merged in, and stay.
func (r *repository) reauthor(ctx context.Context, since string, c credit) error {
	fresh, err := r.fresh(ctx, since)
	if err != nil || len(fresh) == 0 {
		return err
	}
	head, err := r.head(ctx)
	if err != nil {
		return err
	}
	renamed := make(map[string]string)
	for _, sha := range fresh {
		replaced, err := r.rewrite(ctx, sha, renamed, c)
		if err != nil {
			return err
		}
		if replaced != sha {
			renamed[sha] = replaced
		}
	}
	if renamed[head] == "" {
		return nil
	}
	if _, err = r.git(ctx, "update-ref", "-m", "openinspect: author", "refs/heads/"+r.branch, renamed[head], head); err != nil {
		return err
	}
	for old := range renamed {
		r.rewritten[old] = true
	}
	return nil
}

// fresh lists the commits since commit since that no other remote branch has,
// oldest first.
func (r *repository) fresh(ctx context.Context, since string) ([]string, error) {
	args := []string{"rev-list", "--reverse", "--topo-order", "HEAD", "--not",
		"--exclude=origin/" + r.branch, "--remotes"}
	if since != "" {
		args = append(args, since)
	}
	out, err := r.git(ctx, args...)
	if err != nil {
		if head, headErr := r.head(ctx); headErr == nil && head == "" {
			return nil, nil
		}
		return nil, err
	}
	return strings.Fields(out), nil
}

// rewrite returns the commit that shall stand for sha: itself if all is well.
func (r *repository) rewrite(ctx context.Context, sha string, renamed map[string]string, c credit) (string, error) {
	out, err := r.git(ctx, "show", "--no-patch", "--format=%T%x00%P%x00%an%x00%ae%x00%ad%x00%ce%x00%B", "--date=raw", sha)
	if err != nil {
		return "", err
	}
	f := strings.SplitN(out, "\x00", 7)
	if len(f) < 7 {
		return "", fmt.Errorf("reading commit %s: unexpected answer of git", sha)
	}
	same := f[2] == c.author.name && f[3] == c.author.email
	parents := strings.Fields(f[1])
	for i, p := range parents {
		if to, ok := renamed[p]; ok {
			parents[i], same = to, false
		}
	}
	if f[5] != c.committer && r.isPushed(ctx, sha) {
		return sha, nil // a person pushed it to the session's branch
	}
	body := strings.TrimRight(f[6], "\n") + "\n"
	for _, t := range c.trailers {
		same = same && slices.Contains(strings.Split(body, "\n"), t)
	}
	if same {
		return sha, nil
	}
	text, err := r.message(ctx, body, c.trailers)
	if err != nil {
		return "", err
	}
	args := []string{"commit-tree", f[0], "-F", "-"}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	env := append(c.author.env("AUTHOR"), "GIT_AUTHOR_DATE="+f[4])
	replaced, err := r.gitWith(ctx, env, text, args...)
	return strings.TrimSpace(replaced), err
}

// isPushed tells whether the session's branch at the remote has the commit.
func (r *repository) isPushed(ctx context.Context, sha string) bool {
	return r.succeeds(ctx, "merge-base", "--is-ancestor", sha, "refs/remotes/origin/"+r.branch)
}

// describe tells of the commits that are new since commit since.
func (r *repository) describe(ctx context.Context, since string) ([]sandbox.BodyCommit, error) {
	fresh, err := r.fresh(ctx, since)
	if err != nil {
		return nil, err
	}
	var all []sandbox.BodyCommit
	for _, sha := range fresh {
		out, err := r.git(ctx, "show", "--no-patch", "--format=%s%x00%an%x00%ae", sha)
		if err != nil {
			return all, err
		}
		f := strings.SplitN(strings.TrimSuffix(out, "\n"), "\x00", 3)
		if len(f) < 3 {
			return all, fmt.Errorf("reading commit %s: unexpected answer of git", sha)
		}
		raw, err := r.git(ctx, "diff-tree", "--root", "--no-commit-id", "-r", "-M", "--raw", "--numstat", "-z", sha)
		if err != nil {
			return all, err
		}
		c := parseDiff(raw)
		all = append(all, sandbox.BodyCommit{SHA: sha, Subject: beginning(f[0], maxTitle), Author: f[1], Email: f[2],
			Files: len(c.files), Additions: c.additions, Deletions: c.deletions})
	}
	return all, nil
}

// unpushed tells whether the session's branch has commits that no remote branch has.
func (r *repository) unpushed(ctx context.Context) bool {
	out, err := r.line(ctx, "rev-list", "--max-count=1", "HEAD", "--not", "--remotes")
	return err == nil && out != ""
}

// push sends the session's branch. It overwrites the remote branch only if that
// ends in a commit which this sandbox itself replaced or still has.
func (r *repository) push(ctx context.Context) sandbox.BodyPush {
	r.mu.Lock()
	defer r.mu.Unlock()
	body := sandbox.BodyPush{Branch: r.branch}
	head, err := r.head(ctx)
	if err != nil || head == "" {
		body.Error = "There is no commit to push."
		return body
	}
	body.Head = head
	ref := "refs/heads/" + r.branch
	_, err = r.remote(ctx, "push", "--quiet", "origin", head+":"+ref)
	var failed *gitError
	if errors.As(err, &failed) && (strings.Contains(failed.stderr, "non-fast-forward") || strings.Contains(failed.stderr, "fetch first")) {
		err = r.overwrite(ctx, head, ref)
	}
	if err != nil {
		body.Error = pushSentence(err)
	}
	return body
}

func (r *repository) overwrite(ctx context.Context, head, ref string) error {
	out, err := r.remote(ctx, "ls-remote", "origin", ref)
	if err != nil {
		return err
	}
	remote, _, _ := strings.Cut(strings.TrimSpace(out), "\t")
	if !r.rewritten[remote] && !r.wasOurs(ctx, remote, ref) {
		return errForeignPush
	}
	_, err = r.remote(ctx, "push", "--quiet", "--force-with-lease="+ref+":"+remote, "origin", head+":"+ref)
	return err
}

// wasOurs tells whether the session's branch was at sha at some time.
func (r *repository) wasOurs(ctx context.Context, sha, ref string) bool {
	out, err := r.git(ctx, "reflog", "show", "--format=%H", ref)
	return err == nil && slices.Contains(strings.Fields(out), sha)
}

var errForeignPush = errors.New("somebody else pushed to the session's branch; ask the agent to fetch and merge it")

// pushSentence makes of git's answer what a person can act on: the remote's own
// words if it said any.
func pushSentence(err error) string {
	var failed *gitError
	if !errors.As(err, &failed) {
		return "The branch was not pushed: " + err.Error() + "."
	}
	for line := range strings.SplitSeq(failed.stderr, "\n") {
		if _, reason, ok := strings.Cut(line, "[remote rejected]"); ok {
			return "The branch was not pushed: " + beginning(strings.TrimSpace(reason), maxSaid)
		}
	}
	return "The branch was not pushed: " + lastLines(failed.stderr, 3)
}
