package supervisor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Whose is a commit that is new on the session's branch (I11)? The author's of
// the prompt, unless people made it: the agent merges other branches in, and
// people push to the session's. Nothing that the agent can write tells them
// apart, neither the names in a commit nor refs/remotes nor git's configuration.
// So the remote is asked, and the gateway knows what this box sent there:
//
//   - what another branch of the remote has is other people's work, since a
//     session can push to its own branch alone (I8);
//   - what the session's branch has at the remote is other people's work, less
//     what this box pushed on top of what was there (see pushes), less what the
//     control plane knew at the boot as pushed by a box of the session;
//   - everything else is the prompt's, and is made again under its author's name.
//
// If all new commits carry that name and the trailers already, as they do when
// the agent just commits, nothing is to be decided and nobody is asked. If the
// remote does not answer, only what was fetched of other branches counts as
// people's: rather a wrong name of ours than one that the agent chose.

// askWait is how long the remote may take to list its branches.
const askWait = 30 * time.Second

// commit is one that is new since a prompt began.
type commit struct {
	sha, tree string
	parents   []string
	author    person
	date      string // of authoring, as git takes it
	message   string
}

// by tells whether the commit carries the author's name and the trailers.
func (k commit) by(c credit) bool {
	lines := strings.Split(k.message, "\n")
	for _, t := range c.trailers {
		if !slices.Contains(lines, t) {
			return false
		}
	}
	return k.author == c.author
}

// reauthor makes the commits that are new since commit since, except people's,
// commits of the author, and returns them, oldest first. Trees stay what they
// are, so neither the files nor the index change. A note says what people should
// know.
func (r *repository) reauthor(ctx context.Context, since string, c credit) (own []string, note string, err error) {
	head, err := r.head(ctx)
	if err != nil || head == "" {
		return nil, "", err
	}
	fresh, unread := r.commits(ctx, head, since)
	var people map[string]bool
	if unread != nil || slices.ContainsFunc(fresh, func(k commit) bool { return !k.by(c) }) {
		branch, err := r.ask(ctx)
		if err != nil {
			note = fmt.Sprintf("The code host could not be asked which of the new commits are other people's, so they were given the name of %s.", c.author.name)
		}
		if fresh, err = r.commits(ctx, head, append([]string{since}, r.others...)...); err != nil {
			return nil, note, err
		}
		if people, err = r.people(ctx, branch, since); err != nil {
			return nil, note, err
		}
	}
	own, err = r.replace(ctx, head, fresh, people, c)
	return own, note, err
}

// replace makes again what does not carry the author's name, and what stands on
// such a commit, and moves the session's branch. It returns the author's commits.
func (r *repository) replace(ctx context.Context, head string, fresh []commit, people map[string]bool, c credit) ([]string, error) {
	var own []string
	renamed := make(map[string]string)
	for _, k := range fresh {
		moved := false
		for i, p := range k.parents {
			if to, ok := renamed[p]; ok {
				k.parents[i], moved = to, true
			}
		}
		sha, err := k.sha, error(nil)
		if people[sha] && moved {
			sha, err = r.again(ctx, k, k.author.clean(), nil)
		} else if !people[sha] && (moved || !k.by(c)) {
			sha, err = r.again(ctx, k, c.author, c.trailers)
		}
		if err != nil {
			return nil, err
		}
		if sha != k.sha {
			renamed[k.sha] = sha
		}
		if !people[k.sha] {
			own = append(own, sha)
		}
	}
	if renamed[head] == "" {
		return own, nil
	}
	if _, err := r.git(ctx, "update-ref", "-m", "openinspect: author", "refs/heads/"+r.branch, renamed[head], head); err != nil {
		return nil, err
	}
	for old := range renamed {
		r.rewritten[old] = true
	}
	return own, nil
}

// again makes a commit like k of the author's and returns its name.
func (r *repository) again(ctx context.Context, k commit, author person, trailers []string) (string, error) {
	text := strings.TrimRight(k.message, "\n") + "\n"
	if len(trailers) > 0 {
		var err error
		if text, err = r.message(ctx, text, trailers); err != nil {
			return "", err
		}
	}
	args := []string{"commit-tree", k.tree, "-F", "-"}
	for _, p := range k.parents {
		args = append(args, "-p", p)
	}
	sha, err := r.gitWith(ctx, append(author.env("AUTHOR"), "GIT_AUTHOR_DATE="+k.date), text, args...)
	return strings.TrimSpace(sha), err
}

// ask learns from the remote which branches it has: it sets r.others, returns
// the session's branch ("" if there is none) and fetches the commits of these
// that are missing here. Git is run as if outside of the repository and without
// the home's configuration, because the agent can write both and so could
// answer itself. The fetch needs no such care, as a commit's name says what it
// is; and what it fails to get cannot make anything people's.
func (r *repository) ask(ctx context.Context) (branch string, err error) {
	listing, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	own := []string{"GIT_DIR=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_COUNT=0"}
	out, err := r.remoteWith(listing, own, "", "ls-remote", "--heads", r.url)
	if err != nil {
		return "", err
	}
	refs := make(map[string]string) // by commit
	var others []string
	for line := range strings.Lines(out) {
		sha, ref, _ := strings.Cut(strings.TrimSpace(line), "\t")
		refs[sha] = ref
		if ref == "refs/heads/"+r.branch {
			branch = sha
		} else {
			others = append(others, sha)
		}
	}
	r.others = others
	var asked, missing strings.Builder
	for sha := range refs {
		asked.WriteString(sha + "\n")
	}
	known, _ := r.gitWith(ctx, nil, asked.String(), "cat-file", "--batch-check")
	for line := range strings.Lines(known) {
		if sha, ok := strings.CutSuffix(strings.TrimSpace(line), " missing"); ok {
			missing.WriteString(refs[sha] + "\n")
		}
	}
	if missing.Len() > 0 {
		_, _ = r.remoteWith(ctx, nil, missing.String(), "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
			"--no-recurse-submodules", "--stdin", r.url)
	}
	return branch, nil
}

// people lists the commits since commit since that people pushed to the
// session's branch, which is at tip at the remote.
func (r *repository) people(ctx context.Context, tip, since string) (map[string]bool, error) {
	there, err := r.reachable(ctx, tip, append([]string{since}, r.others...)...)
	if err != nil || len(there) == 0 {
		return nil, err
	}
	found := make(map[string]bool)
	for _, sha := range there {
		found[sha] = true
	}
	for _, p := range append(r.pushes.list(), push{new: r.recorded}) {
		sent, err := r.reachable(ctx, p.new, p.old, since)
		if err != nil {
			return nil, err
		}
		for _, sha := range sent {
			delete(found, sha)
		}
	}
	return found, nil
}

// reachable lists the commits that tip has and not has not. Names of commits
// that do not exist here are ignored.
func (r *repository) reachable(ctx context.Context, tip string, not ...string) ([]string, error) {
	out, err := r.walk(ctx, tip, not)
	return strings.Fields(out), err
}

// commits reads what reachable lists, oldest first.
func (r *repository) commits(ctx context.Context, tip string, not ...string) ([]commit, error) {
	out, err := r.walk(ctx, tip, not, "--reverse", "--topo-order", "--date=raw", "--encoding=UTF-8",
		"--format=%x00%H%x00%T%x00%P%x00%an%x00%ae%x00%ad%x00%B%x00")
	if err != nil {
		return nil, err
	}
	const fields = 8 // the first is git's own heading
	all := strings.Split(out, "\x00")
	commits := make([]commit, 0, len(all)/fields)
	for ; len(all) > fields; all = all[fields:] {
		commits = append(commits, commit{sha: all[1], tree: all[2], parents: strings.Fields(all[3]),
			author: person{all[4], all[5]}, date: all[6], message: all[7]})
	}
	return commits, nil
}

// walk runs git rev-list from tip. It goes on where .git/shallow says that the
// history is cut off, because the agent can write that to hide what is behind; a
// commit whose parents are really missing is an error, unless not leaves it out.
func (r *repository) walk(ctx context.Context, tip string, not []string, options ...string) (string, error) {
	if strings.Trim(tip, "0") == "" {
		return "", nil
	}
	var in strings.Builder
	in.WriteString(tip + "\n")
	for _, sha := range not {
		if strings.Trim(sha, "0") != "" {
			in.WriteString("^" + sha + "\n")
		}
	}
	return r.gitWith(ctx, []string{"GIT_SHALLOW_FILE="}, in.String(), append([]string{"rev-list", "--stdin", "--ignore-missing"}, options...)...)
}
