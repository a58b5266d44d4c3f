package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"openinspect/sandbox"
)

// Longest time in which git has to answer: for work on the disk, and for work
// over the network.
const (
	gitLocal  = 2 * time.Minute
	gitRemote = 15 * time.Minute
)

// maxCommitted is the largest file that is committed on the agent's behalf.
const maxCommitted = 5 << 20

// emptyTree is what a repository without commits is compared with. Every git
// knows this object (gitglossary(7) does not name it, `git hash-object -t tree
// /dev/null` computes it).
const emptyTree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

// repository is the checkout that the agent works in. mu is held by whoever
// changes commits or the index, because a tool call of the agent and the end of
// a prompt both do.
type repository struct {
	dir      string // the working tree
	branch   string // the session's branch
	base     string // the branch that it began from
	origin   string // the remote's address
	url      string // the same at the gateway, as no configuration changes it
	fresh    bool   // the session has not worked in this checkout before
	recorded string // what the control plane knew at the boot as pushed by a box of the session
	env      []string
	family   *family
	pushes   *pushes
	mu       sync.Mutex

	// rewritten holds commits of ours that were replaced by re-authoring, so
	// that a branch that already holds one of them may be overwritten.
	rewritten map[string]bool

	// ignored is what git ignores in this checkout alone, as the boot found it: see ignoreUntracked.
	ignored []byte
	// instead holds, for commits that were lost with the history, where it goes on.
	instead sync.Map

	// What the remote has, as we saw ourselves; "" and none if nothing.
	pushed string   // the session's branch, as last fetched or pushed
	others []string // its other branches: the base as fetched, then all as last asked
	seen   int      // how many pushes there were before our last one that succeeded
}

// gitError is a failed git command with what it said.
type gitError struct {
	args   []string
	stderr string
	err    error
}

func (e *gitError) Error() string {
	return fmt.Sprintf("git %s: %v: %s", e.args[0], e.err, lastLines(e.stderr, 6))
}

func (e *gitError) Unwrap() error { return e.err }

// git runs one command in the working tree, without anybody's hooks, and
// returns what it printed.
func (r *repository) git(ctx context.Context, args ...string) (string, error) {
	return r.gitWith(ctx, nil, "", args...)
}

// gitWith is git with additional environment and an input. Commits are taken as
// they are: the agent could have git show others in their place by replacements,
// grafts and a cache of their parents.
func (r *repository) gitWith(ctx context.Context, env []string, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitDeadline(args[0]))
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", append([]string{"--no-replace-objects", "-c", "core.commitGraph=false",
		"-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "commit.gpgSign=false"}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(append([]string{"GIT_GRAFT_FILE="}, r.env...), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := r.family.run(cmd); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w after %s", ctx.Err(), gitDeadline(args[0]))
		}
		return out.String(), &gitError{args, stderr.String(), err}
	}
	return out.String(), nil
}

// remote is git for a command that talks to the code host. It is tried again
// when the way there broke, as it does when the control plane is started anew:
// each of these commands may be repeated.
func (r *repository) remote(ctx context.Context, args ...string) (string, error) {
	return r.remoteWith(ctx, nil, "", args...)
}

func (r *repository) remoteWith(ctx context.Context, env []string, stdin string, args ...string) (string, error) {
	for pause := time.Second; ; pause *= 2 {
		out, err := r.gitWith(ctx, env, stdin, args...)
		if err == nil || pause > longestPause || !brokenOff(err) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, err
		case <-time.After(pause):
		}
	}
}

// longestPause is the last pause between tries of a remote command: five tries
// in fifteen seconds, besides the gateway's own patience at each.
const longestPause = 8 * time.Second

// brokenOff tells whether git lost its connection, as opposed to having been
// refused. The words are git's own (2.39, remote-curl.c and fetch-pack.c) and
// the gateway's.
func brokenOff(err error) bool {
	var failed *gitError
	if !errors.As(err, &failed) {
		return false
	}
	for _, words := range []string{"HTTP 502", "error: 502", "unexpected disconnect", "early EOF", "RPC failed",
		"hung up unexpectedly", "Empty reply from server", "Connection reset", "Recv failure", "Send failure"} {
		if strings.Contains(failed.stderr, words) {
			return true
		}
	}
	return false
}

func gitDeadline(command string) time.Duration {
	switch command {
	case "clone", "fetch", "push":
		return gitRemote
	}
	return gitLocal
}

// line is git with one line as its answer.
func (r *repository) line(ctx context.Context, args ...string) (string, error) {
	out, err := r.git(ctx, args...)
	return strings.TrimSpace(out), err
}

// succeeds runs a command whose exit status is its answer.
func (r *repository) succeeds(ctx context.Context, args ...string) bool {
	_, err := r.git(ctx, args...)
	return err == nil
}

// head returns the commit that is checked out, "" before the first one. Every
// prompt waits for it, and a process costs more than two files.
func (r *repository) head(ctx context.Context) (string, error) {
	if sha := r.looseHead(); sha != "" {
		return sha, nil
	}
	sha, err := r.line(ctx, "rev-parse", "--verify", "--quiet", "HEAD")
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 {
			return "", nil
		}
	}
	return sha, err
}

// objectName is the form of a commit's name, SHA-1 or SHA-256.
var objectName = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// looseHead reads the checked-out commit from HEAD and the branch's own file,
// which outranks all other places (gitrepository-layout(5)). It returns "" if
// git keeps it elsewhere, as it does with packed references.
func (r *repository) looseHead() string {
	path := "HEAD"
	for range 2 {
		data, err := os.ReadFile(filepath.Join(r.dir, ".git", path))
		if err != nil {
			return ""
		}
		text := strings.TrimSpace(string(data))
		if objectName.MatchString(text) {
			return text
		}
		ref, symbolic := strings.CutPrefix(text, "ref: ")
		if !symbolic || !strings.HasPrefix(ref, "refs/") || strings.Contains(ref, "..") {
			return ""
		}
		path = ref
	}
	return ""
}

// fetched notes what the remote has, before the agent can write refs/remotes, and what
// is ignored.
func (r *repository) fetched(ctx context.Context) error {
	r.ignored, _ = os.ReadFile(filepath.Join(r.dir, ".git", "info", "exclude")) // there may be none
	const origin = "refs/remotes/origin/"
	out, err := r.git(ctx, "for-each-ref", "--format=%(refname) %(objectname)", origin+r.base, origin+r.branch)
	for line := range strings.Lines(out) {
		switch ref, sha, _ := strings.Cut(strings.TrimSpace(line), " "); ref {
		case origin + r.base:
			r.others = []string{sha}
		case origin + r.branch:
			r.pushed = sha
		}
	}
	return err
}

// begin checks out the session's branch: at head if the branch was pushed
// before, else where the base branch is. Without a session it is the base branch
// as it is now.
func (r *repository) begin(ctx context.Context, head string) error {
	start := r.start(ctx, head)
	if !r.succeeds(ctx, "rev-parse", "--verify", "--quiet", start) {
		if r.succeeds(ctx, "rev-parse", "--verify", "--quiet", "HEAD") {
			return fmt.Errorf("the repository has no branch %s", r.base)
		}
		if r.branch == "" {
			return nil
		}
		_, err := r.git(ctx, "symbolic-ref", "HEAD", "refs/heads/"+r.branch) // nothing was ever committed
		return err
	}
	where := []string{"--no-track", "-B", r.branch}
	if r.branch == "" {
		where = []string{"--detach"}
	}
	_, err := r.git(ctx, append(append([]string{"checkout", "--quiet"}, where...), start)...)
	return err
}

// resume brings a checkout that was fetched up to date: the session's branch
// moves forward to head, if it can without losing work.
func (r *repository) resume(ctx context.Context, head string) error {
	if !r.succeeds(ctx, "rev-parse", "--verify", "--quiet", "refs/heads/"+r.branch) {
		r.fresh = true
		return r.begin(ctx, head)
	}
	if err := r.returnToBranch(ctx); err != nil {
		return err
	}
	tip := r.tip(ctx, head)
	if tip == "" || !r.succeeds(ctx, "merge-base", "--is-ancestor", "HEAD", tip) {
		return nil
	}
	_, err := r.git(ctx, "merge", "--quiet", "--ff-only", tip)
	return err
}

// tip is the newest commit of the session's branch that the remote is known to
// have: head, which the control plane recorded, or what was pushed after it. A
// control plane that dies in the middle of a push does not record it.
func (r *repository) tip(ctx context.Context, head string) string {
	if head != "" && !r.succeeds(ctx, "cat-file", "-e", head+"^{commit}") {
		head = ""
	}
	remote, err := r.line(ctx, "rev-parse", "--verify", "--quiet", "refs/remotes/origin/"+r.branch)
	if err != nil || head != "" && !r.succeeds(ctx, "merge-base", "--is-ancestor", head, remote) {
		return head
	}
	return remote
}

// returnToBranch checks out the session's branch if another one is.
func (r *repository) returnToBranch(ctx context.Context) error {
	current, err := r.line(ctx, "symbolic-ref", "--quiet", "HEAD")
	if err == nil && current == "refs/heads/"+r.branch {
		return nil
	}
	_, err = r.git(ctx, "checkout", "--quiet", r.branch)
	return err
}

// clearLocks removes lock files that a killed git left. Only for moments in
// which no git runs.
func (r *repository) clearLocks() {
	r.mu.Lock()
	defer r.mu.Unlock()
	dir := filepath.Join(r.dir, ".git")
	for _, pattern := range []string{"*.lock", "objects/info/*.lock"} {
		locks, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, lock := range locks {
			_ = os.Remove(lock)
		}
	}
	// No branch's name ends so (git-check-ref-format(1)), however deep it lies.
	_ = filepath.WalkDir(filepath.Join(dir, "refs"), func(path string, _ fs.DirEntry, _ error) error {
		if strings.HasSuffix(path, ".lock") {
			_ = os.Remove(path)
		}
		return nil
	})
}

// unfit lists changed and new files that are left alone: those over maxCommitted, and
// folders, with a slash behind, in which a repository was begun that has no commit,
// which git does not take. It tells whether nothing is changed or new at all.
func (r *repository) unfit(ctx context.Context) (left []string, clean bool, err error) {
	out, err := r.git(ctx, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
	if err != nil {
		return nil, false, err
	}
	for entry := range strings.SplitSeq(out, "\x00") {
		if len(entry) < 4 {
			continue
		}
		name := entry[3:]
		if strings.HasSuffix(name, "/") { // a repository: of other folders the files are listed
			if !r.succeeds(ctx, "-C", name, "rev-parse", "--verify", "--quiet", "HEAD") {
				left = append(left, name)
			}
			continue
		}
		info, err := os.Lstat(filepath.Join(r.dir, name))
		if err == nil && info.Mode().IsRegular() && info.Size() > maxCommitted {
			left = append(left, name)
		}
	}
	return left, out == "", nil
}

// stage puts all changes except those of the files in left into an index.
func (r *repository) stage(ctx context.Context, index, left []string) error {
	args := []string{"add", "--all", "--ignore-errors", "--", "."}
	for _, path := range left {
		args = append(args, ":(exclude,literal)"+path)
	}
	_, err := r.gitWith(ctx, index, "", args...)
	return err
}

// change is what two trees differ by. The numbers are those of all files.
type change struct {
	files                []sandbox.FileDiff
	omitted              int // files beyond these
	additions, deletions int
}

// changes compares the working tree, new files included, with commit since. The
// agent's own index is not touched.
func (r *repository) changes(ctx context.Context, since string) (change, error) {
	since = r.goesOn(since)
	left, clean, err := r.unfit(ctx)
	if err != nil {
		return change{}, err
	}
	if head := r.looseHead(); clean && head != "" && head == since {
		return change{}, nil
	}
	tmp, err := os.MkdirTemp("", "openinspect-index-")
	if err != nil {
		return change{}, err
	}
	defer os.RemoveAll(tmp)
	name := filepath.Join(tmp, "index")
	if data, err := os.ReadFile(filepath.Join(r.dir, ".git", "index")); err == nil {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return change{}, err
		}
	}
	index := []string{"GIT_INDEX_FILE=" + name}
	if err := r.stage(ctx, index, left); err != nil {
		return change{}, err
	}
	if since == "" {
		since = emptyTree
	}
	return r.diff(ctx, index, "--cached", since)
}

// Caps of the patches in one BodyDiff, in bytes.
const (
	maxFilePatch = 64 << 10
	maxAllPatch  = 512 << 10
)

// diff runs git diff with the given arguments and reads its summary and the
// first files' patches.
func (r *repository) diff(ctx context.Context, env []string, args ...string) (change, error) {
	raw, err := r.gitWith(ctx, env, "", append([]string{"diff", "--raw", "--numstat", "-z", "-M", "--no-ext-diff"}, args...)...)
	if err != nil {
		return change{}, err
	}
	c := parseDiff(raw)
	patches, err := r.gitWith(ctx, env, "", append([]string{"diff", "-M", "--no-color", "--no-ext-diff", "--no-textconv"}, args...)...)
	if err != nil {
		return change{}, err
	}
	attachPatches(c.files, patches)
	c.files, c.omitted = capped(c.files, maxFiles)
	return c, nil
}

// parseDiff reads `git diff --raw --numstat -z`: first the raw entries
// (":modes shas STATUS", path, and a second path if renamed), then the numbers
// ("added TAB deleted TAB path", or an empty path and two more if renamed).
func parseDiff(out string) change {
	var c change
	fields := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	at := make(map[string]int)
	for i := 0; i < len(fields); i++ {
		if strings.HasPrefix(fields[i], ":") {
			status := fields[i][strings.LastIndexByte(fields[i], ' ')+1:]
			if status == "" || i+1 >= len(fields) {
				continue
			}
			i++
			if status[0] == 'R' || status[0] == 'C' {
				i++
			}
			at[fields[i]] = len(c.files)
			c.files = append(c.files, sandbox.FileDiff{Path: fields[i], Status: statusWord(status[0])})
			continue
		}
		numbers := strings.SplitN(fields[i], "\t", 3)
		if len(numbers) < 3 {
			continue
		}
		path := numbers[2]
		if path == "" && i+2 < len(fields) {
			i += 2
			path = fields[i]
		}
		if n, ok := at[path]; ok {
			// Binary files have "-", which counts as nothing.
			c.files[n].Additions, _ = strconv.Atoi(numbers[0])
			c.files[n].Deletions, _ = strconv.Atoi(numbers[1])
			c.additions += c.files[n].Additions
			c.deletions += c.files[n].Deletions
		}
	}
	return c
}

func statusWord(letter byte) string {
	switch letter {
	case 'A', 'C':
		return "added"
	case 'D':
		return "deleted"
	case 'R':
		return "renamed"
	}
	return "modified"
}

// attachPatches splits a whole diff at its file headers. The files come in the
// same order in both forms.
func attachPatches(files []sandbox.FileDiff, all string) {
	patches := strings.Split("\n"+all, "\ndiff --git ")
	if len(patches) != len(files)+1 {
		return
	}
	room := maxAllPatch
	for i := range files {
		patch := "diff --git " + patches[i+1]
		if len(patch) > maxFilePatch || len(patch) > room || strings.Contains(patch, "\nBinary files ") {
			continue
		}
		room -= len(patch)
		files[i].Patch = strings.ToValidUTF8(patch, "\uFFFD")
	}
}
