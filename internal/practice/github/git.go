package github

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bluekeyes/go-gitdiff/gitdiff"
)

// gitTimeout bounds every local git command; the repositories are small.
const gitTimeout = 30 * time.Second

// bare is a bare repository on disk, asked through the git program.
type bare struct{ dir string }

// gitEnv keeps the machine's own git configuration out.
func gitEnv() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "LC_ALL=C", "TZ=UTC",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
	}
}

// git runs a git command and returns what it printed.
func (b bare) git(ctx context.Context, args ...string) (string, error) {
	return b.gitWith(ctx, nil, nil, args...)
}

func (b bare) gitWith(ctx context.Context, env []string, stdin []byte, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", append([]string{"--git-dir", b.dir}, args...)...)
	cmd.Env = append(gitEnv(), env...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// commit returns the full id of the commit that a branch, tag or (short) id
// names, or "" if there is none. Branches win over everything else.
func (b bare) commit(ctx context.Context, rev string) string {
	if rev == "" || strings.HasPrefix(rev, "-") {
		return ""
	}
	for _, name := range []string{"refs/heads/" + rev, rev} {
		out, err := b.git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", name+"^{commit}")
		if err == nil {
			return strings.TrimSpace(out)
		}
	}
	return ""
}

// branch returns the commit of a branch, or "".
func (b bare) branch(ctx context.Context, name string) string {
	out, err := b.git(ctx, "rev-parse", "--verify", "--quiet", "refs/heads/"+name+"^{commit}")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// refs returns all branches and tags by their full names.
func (b bare) refs(ctx context.Context) (map[string]string, error) {
	out, err := b.git(ctx, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags")
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		name, sha, _ := strings.Cut(strings.TrimSpace(line), " ")
		refs[name] = sha
	}
	return refs, nil
}

// isAncestor says whether a commit can be reached from another.
func (b bare) isAncestor(ctx context.Context, old, new string) bool {
	_, err := b.git(ctx, "merge-base", "--is-ancestor", old, new)
	return err == nil
}

// mergeBase returns the best common ancestor, or "" if there is none.
func (b bare) mergeBase(ctx context.Context, one, other string) string {
	out, err := b.git(ctx, "merge-base", one, other)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// count returns how many commits head has that base has not.
func (b bare) count(ctx context.Context, base, head string) (int, error) {
	out, err := b.git(ctx, "rev-list", "--count", base+".."+head)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// stamp is who made or committed something, and when.
type stamp struct {
	Name, Email string
	At          time.Time
}

// gitCommit is a commit as git shows it.
type gitCommit struct {
	SHA, Tree         string
	Parents           []string
	Author, Committer stamp
	Message           string
}

// Subject is the message's first line.
func (c gitCommit) Subject() string {
	first, _, _ := strings.Cut(c.Message, "\n")
	return first
}

// log lists commits, newest first. What is a revision or a range; limit 0 means all.
func (b bare) log(ctx context.Context, what string, limit int, paths ...string) ([]gitCommit, error) {
	args := []string{"log", "--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%aI%x00%cn%x00%ce%x00%cI%x00%B%x1e"}
	if limit > 0 {
		args = append(args, "-n", strconv.Itoa(limit))
	}
	out, err := b.git(ctx, append(append(args, "--end-of-options", what, "--"), paths...)...)
	if err != nil {
		return nil, err
	}
	var commits []gitCommit
	for record := range strings.SplitSeq(out, "\x1e") {
		f := strings.Split(strings.TrimLeft(record, "\n"), "\x00")
		if len(f) != 10 {
			continue // after the last record
		}
		at := func(s string) time.Time { t, _ := time.Parse(time.RFC3339, s); return t.UTC() }
		commits = append(commits, gitCommit{
			SHA: f[0], Tree: f[1], Parents: strings.Fields(f[2]),
			Author: stamp{f[3], f[4], at(f[5])}, Committer: stamp{f[6], f[7], at(f[8])},
			Message: strings.TrimRight(f[9], "\n"),
		})
	}
	return commits, nil
}

// changedFile is one file of a diff.
type changedFile struct {
	Name, OldName        string // OldName only of a renamed file
	Status               string // added, removed, modified, renamed
	Blob                 string
	Additions, Deletions int
	Binary               bool
	Fragments            []*gitdiff.TextFragment
}

// patch is the file's diff without its headers, as GitHub gives it.
func (f changedFile) patch() string {
	var s strings.Builder
	for _, fragment := range f.Fragments {
		_, lines, _ := strings.Cut(fragment.String(), "\n")
		s.WriteString(hunkHeader(fragment) + "\n" + lines)
	}
	return strings.TrimRight(s.String(), "\n")
}

// hunkHeader is a hunk's first line as git writes it: a count of one is left out.
func hunkHeader(f *gitdiff.TextFragment) string {
	part := func(sign string, from, lines int64) string {
		if lines == 1 {
			return fmt.Sprintf("%s%d", sign, from)
		}
		return fmt.Sprintf("%s%d,%d", sign, from, lines)
	}
	header := "@@ " + part("-", f.OldPosition, f.OldLines) + " " + part("+", f.NewPosition, f.NewLines) + " @@"
	if f.Comment != "" {
		header += " " + f.Comment
	}
	return header
}

// diff lists the files that differ between two commits.
func (b bare) diff(ctx context.Context, base, head string) ([]changedFile, error) {
	out, err := b.git(ctx, "diff", "--full-index", "--find-renames", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/", base, head, "--")
	if err != nil {
		return nil, err
	}
	files, _, err := gitdiff.Parse(strings.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("reading the diff of %s and %s: %w", base, head, err)
	}
	var all []changedFile
	for _, f := range files {
		c := changedFile{Name: f.NewName, Status: "modified", Blob: f.NewOIDPrefix, Binary: f.IsBinary, Fragments: f.TextFragments}
		switch {
		case f.IsNew:
			c.Status = "added"
		case f.IsDelete:
			c.Name, c.Status = f.OldName, "removed"
		case f.IsRename:
			c.OldName, c.Status = f.OldName, "renamed"
		}
		for _, fragment := range f.TextFragments {
			c.Additions += int(fragment.LinesAdded)
			c.Deletions += int(fragment.LinesDeleted)
		}
		all = append(all, c)
	}
	return all, nil
}

// entry is one name in a folder.
type entry struct {
	Name, Path, Kind, SHA string // Kind is blob, tree or commit
	Size                  int64
}

// list returns a folder's entries; path "" is the root.
func (b bare) list(ctx context.Context, rev, path string) ([]entry, error) {
	out, err := b.git(ctx, "ls-tree", "-l", "-z", "--end-of-options", rev+":"+path)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for record := range strings.SplitSeq(strings.TrimRight(out, "\x00"), "\x00") {
		meta, name, found := strings.Cut(record, "\t")
		f := strings.Fields(meta)
		if !found || len(f) != 4 {
			continue
		}
		size, _ := strconv.ParseInt(f[3], 10, 64) // "-" for folders
		entries = append(entries, entry{Name: name, Path: strings.TrimPrefix(path+"/"+name, "/"), Kind: f[1], SHA: f[2], Size: size})
	}
	return entries, nil
}

// kind says what is at a path: blob, tree or "" for nothing.
func (b bare) kind(ctx context.Context, rev, path string) string {
	out, err := b.git(ctx, "cat-file", "-t", rev+":"+path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// blob returns a file's content.
func (b bare) blob(ctx context.Context, rev, path string) (string, error) {
	return b.git(ctx, "cat-file", "blob", rev+":"+path)
}

// mergeTree merges two commits and returns the tree; ok is false if they conflict.
func (b bare) mergeTree(ctx context.Context, base, head string) (tree string, ok bool) {
	out, err := b.git(ctx, "merge-tree", "--write-tree", "--no-messages", base, head)
	if err != nil {
		return "", false
	}
	return strings.TrimSpace(out), true
}

// commitTree makes a commit of a tree.
func (b bare) commitTree(ctx context.Context, tree, message string, author, committer stamp, parents ...string) (string, error) {
	args := []string{"commit-tree", tree}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	env := []string{
		"GIT_AUTHOR_NAME=" + author.Name, "GIT_AUTHOR_EMAIL=" + author.Email, "GIT_AUTHOR_DATE=" + author.At.Format(time.RFC3339),
		"GIT_COMMITTER_NAME=" + committer.Name, "GIT_COMMITTER_EMAIL=" + committer.Email, "GIT_COMMITTER_DATE=" + committer.At.Format(time.RFC3339),
	}
	out, err := b.gitWith(ctx, env, []byte(message), args...)
	return strings.TrimSpace(out), err
}

// withFile returns the tree of a commit with one file's content set.
func (b bare) withFile(ctx context.Context, parent, path string, content []byte) (tree string, err error) {
	dir, err := os.MkdirTemp("", "index-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	index := []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	blob, err := b.gitWith(ctx, nil, content, "hash-object", "-w", "--stdin")
	if err != nil {
		return "", err
	}
	if _, err := b.gitWith(ctx, index, nil, "read-tree", parent); err != nil {
		return "", err
	}
	info := "100644," + strings.TrimSpace(blob) + "," + path
	if _, err := b.gitWith(ctx, index, nil, "update-index", "--add", "--cacheinfo", info); err != nil {
		return "", err
	}
	out, err := b.gitWith(ctx, index, nil, "write-tree")
	return strings.TrimSpace(out), err
}

// setRef moves a ref from old to new; old of zeros creates, new of zeros deletes it.
func (b bare) setRef(ctx context.Context, name, new, old string) error {
	if new == zeroSHA {
		_, err := b.git(ctx, "update-ref", "-d", name, old)
		return err
	}
	_, err := b.git(ctx, "update-ref", name, new, old)
	return err
}

// zeroSHA stands for no commit.
const zeroSHA = "0000000000000000000000000000000000000000"
