package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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
	since, note, err := r.restoreHistory(ctx, since)
	if note != "" {
		notes = append(notes, note)
	}
	if err != nil {
		return nil, notes, err
	}
	left, err := r.commitLeftovers(ctx, c)
	if err != nil {
		return nil, notes, err
	}
	left, begun := withoutRepositories(left)
	if len(begun) > 0 {
		notes = append(notes, "Not committed, because it is a repository of its own that has no commit yet: "+list(begun))
	}
	note, err = r.bringHome(ctx, c)
	if err != nil {
		return nil, notes, err
	}
	if note != "" {
		notes = append(notes, note)
	}
	own, note, err := r.reauthor(ctx, since, c)
	if note != "" {
		notes = append(notes, note)
	}
	if err != nil {
		return nil, notes, err
	}
	commits, err = r.describe(ctx, own)
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

// endOperation ends a merge, rebase, cherry-pick, revert or the taking of mailed
// patches that the agent left in the middle, keeping the files as they are.
func (r *repository) endOperation(ctx context.Context) string {
	for _, op := range []struct{ mark, command string }{
		{"rebase-merge", "rebase"}, {"rebase-apply/applying", "am"}, {"rebase-apply", "rebase"}, {"CHERRY_PICK_HEAD", "cherry-pick"},
		{"REVERT_HEAD", "revert"}, {"MERGE_HEAD", "merge"},
	} {
		if _, err := os.Stat(filepath.Join(r.dir, ".git", op.mark)); err != nil {
			continue
		}
		if _, err := r.git(ctx, op.command, "--quit"); err == nil {
			return fmt.Sprintf("A git %s was left unfinished; its files were committed as they were.", op.command)
		}
	}
	return ""
}

// withoutRepositories tells files from folders among what unfit lists.
func withoutRepositories(left []string) (files, folders []string) {
	for _, name := range left {
		if strings.HasSuffix(name, "/") {
			folders = append(folders, name)
		} else {
			files = append(files, name)
		}
	}
	return files, folders
}

// commitLeftovers commits what is uncommitted and returns what was left out.
func (r *repository) commitLeftovers(ctx context.Context, c credit) (left []string, err error) {
	left, clean, err := r.unfit(ctx)
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
	fresh, err := r.head(ctx)
	if err == nil && fresh != "" { // a branch was begun otherwise, and nothing committed
		fresh, err = r.line(ctx, "rev-list", "--max-count=1", "HEAD", "--not", "refs/heads/"+r.branch, "--remotes")
	}
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

// describe tells of commits.
func (r *repository) describe(ctx context.Context, commits []string) ([]sandbox.BodyCommit, error) {
	var all []sandbox.BodyCommit
	for _, sha := range commits {
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

// unpushed tells whether the remote lacks commits of the session's branch, as far
// as we know it from fetching and pushing: refs/remotes is the agent's to write.
// It does too if the agent has pushed anything else, which is to be replaced.
func (r *repository) unpushed(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	head, err := r.head(ctx)
	if err != nil || head == "" {
		return false
	}
	for _, p := range r.pushes.list()[r.seen:] {
		if p.new != head {
			return true
		}
	}
	if head == r.pushed {
		return false
	}
	lacks, err := r.reachable(ctx, head, append([]string{r.pushed}, r.others...)...)
	return err != nil || len(lacks) > 0
}

// push sends the session's branch. It overwrites the remote branch only if that
// ends in a commit which this sandbox itself replaced, pushed or still has.
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
	if err := r.restoreOrigin(ctx); err != nil {
		body.Error = pushSentence(err)
		return body
	}
	ref, seen := "refs/heads/"+r.branch, len(r.pushes.list())
	_, err = r.remote(ctx, "push", "--quiet", "origin", head+":"+ref)
	var failed *gitError
	if errors.As(err, &failed) && (strings.Contains(failed.stderr, "non-fast-forward") || strings.Contains(failed.stderr, "fetch first")) {
		err = r.overwrite(ctx, head, ref)
	}
	if err != nil {
		body.Error = pushSentence(err)
		return body
	}
	r.pushed, r.seen = head, seen
	return body
}

func (r *repository) overwrite(ctx context.Context, head, ref string) error {
	out, err := r.remote(ctx, "ls-remote", "origin", ref)
	if err != nil {
		return err
	}
	remote, _, _ := strings.Cut(strings.TrimSpace(out), "\t")
	if !r.rewritten[remote] && !r.pushes.has(remote) && !r.wasOurs(ctx, remote, ref) {
		return errForeignPush
	}
	if r.succeeds(ctx, "merge-base", "--is-ancestor", head, remote) {
		// Going back takes commits away and replaces them by nothing.
		if people, err := r.people(ctx, remote, head); err != nil || len(people) > 0 {
			return errForeignPush
		}
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

// remoteRefusal is how git prints the remote's own words: " ! [remote rejected]
// here -> there (words)".
var remoteRefusal = regexp.MustCompile(`(?m)\[remote rejected\] .*? \((.*)\)$`)

// pushSentence makes of git's answer what a person can act on: the remote's own
// words if it said any.
func pushSentence(err error) string {
	var failed *gitError
	if !errors.As(err, &failed) {
		return "The branch was not pushed: " + err.Error() + "."
	}
	if words := remoteRefusal.FindStringSubmatch(failed.stderr); words != nil {
		return "The branch was not pushed: " + beginning(words[1], maxSaid) + "."
	}
	return "The branch was not pushed: " + lastLines(failed.stderr, 3)
}
