package supervisor

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openinspect/sandbox"
)

// gitRig is a repository as a boot leaves it, without OpenCode, with a gateway
// and a code host behind it.
type gitRig struct {
	t        *testing.T
	repo     *repository
	id       *identity
	bare     string
	seed     string
	requests atomic.Int64 // to the code host
	down     atomic.Bool  // it answers nothing
}

func newGitRig(t *testing.T) *gitRig {
	t.Helper()
	dir := t.TempDir()
	g := &gitRig{t: t, bare: filepath.Join(dir, "remotes/acme/greeter.git"), seed: filepath.Join(dir, "seed")}
	g.run(dir, nil, "git init -q --bare -b main "+g.bare+" && git init -q -b main seed && cd seed && echo a > a.txt && git add . && git commit -qm first && git push -q "+g.bare+" main")
	bot := person{botName, botEmail}
	g.id = &identity{dir: filepath.Join(dir, "id"), bot: bot,
		trailers: []string{"Session: https://inspect.example/s/1", "Co-authored-by: " + bot.name + " <" + bot.email + ">"}}
	if err := g.id.install(); err != nil {
		t.Fatal(err)
	}
	gateway := startGateway(t, g.serve())
	env := append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C.UTF-8"},
		g.id.env(gateway.url(), "https://github.com/acme/greeter.git", "acme/greeter")...)
	g.repo = &repository{dir: filepath.Join(dir, "work"), branch: "inspect/1", base: "main", env: env,
		origin: "https://github.com/acme/greeter.git", url: gateway.url() + "/git/acme/greeter.git",
		family: &family{own: map[int]bool{}}, pushes: &gateway.pushes, rewritten: map[string]bool{}}
	if err := g.repo.clone(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.repo.begin(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	return g
}

// serve is the code host; it returns its address.
func (g *gitRig) serve() string {
	git := gitServer(filepath.Dir(filepath.Dir(g.bare)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.requests.Add(1)
		if g.down.Load() {
			http.Error(w, "out of order", http.StatusForbidden)
			return
		}
		git.ServeHTTP(w, r)
	}))
	g.t.Cleanup(s.Close)
	return s.URL
}

// run runs a shell script as a person outside of the box.
func (g *gitRig) run(dir string, env []string, script string) string {
	g.t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_AUTHOR_NAME=Seed", "GIT_AUTHOR_EMAIL=s@example.com",
		"GIT_COMMITTER_NAME=Seed", "GIT_COMMITTER_EMAIL=s@example.com"}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// agent runs a shell script as the agent does, in the working tree.
func (g *gitRig) agent(script string) {
	g.t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir, cmd.Env = g.repo.dir, g.repo.env
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// turn lets somebody's prompt do something and settles its work.
func (g *gitRig) turn(author, script string) ([]sandbox.BodyCommit, []string) {
	g.t.Helper()
	since := g.begin(author)
	g.agent(script)
	return g.settle(author, since)
}

func personNamed(name string) person {
	return person{name, strings.ToLower(name) + "@users.noreply.github.com"}
}

// begin returns where somebody's prompt begins.
func (g *gitRig) begin(author string) string {
	g.t.Helper()
	if err := g.id.setAuthor(personNamed(author)); err != nil {
		g.t.Fatal(err)
	}
	since, err := g.repo.head(context.Background())
	if err != nil {
		g.t.Fatal(err)
	}
	return since
}

// settle settles the work of somebody's prompt.
func (g *gitRig) settle(author, since string) ([]sandbox.BodyCommit, []string) {
	g.t.Helper()
	commits, notes, err := g.repo.settleWork(context.Background(), since,
		credit{author: personNamed(author), trailers: g.id.trailers, subject: "asked by " + author, prompt: "p-" + author})
	if err != nil {
		g.t.Fatal(err)
	}
	return commits, notes
}

// push pushes the branch, which nothing may keep it from.
func (g *gitRig) push() {
	g.t.Helper()
	if push := g.repo.push(g.t.Context()); push.Error != "" {
		g.t.Fatalf("it was not pushed: %s", push.Error)
	}
}

// somebodyPushes has somebody else commit a file on the session's branch.
func (g *gitRig) somebodyPushes(file string) {
	g.t.Helper()
	g.run(g.seed, nil, "git pull -q "+g.bare+" inspect/1 && echo c > "+file+" && git add . && git commit -qm more && git push -q "+g.bare+" HEAD:inspect/1")
}

// wantResumed brings the checkout up to date, as a boot does, and wants a file in it.
func (g *gitRig) wantResumed(file string) {
	g.t.Helper()
	if err := g.repo.fetch(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	if err := g.repo.resume(g.t.Context(), ""); err != nil {
		g.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(g.repo.dir, file)); err != nil {
		g.t.Error(err)
	}
}

// branch lists author and subject of the session's branch since main, oldest first.
func (g *gitRig) branch() string {
	return g.run(g.repo.dir, []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
		"git log --reverse --topo-order --format='%an|%s' refs/remotes/origin/main..inspect/1")
}

func (g *gitRig) wantBranch(want string) {
	g.t.Helper()
	if diff := cmp.Diff(want, g.branch()); diff != "" {
		g.t.Errorf("the branch (-want +got):\n%s", diff)
	}
}

func TestCommitsCarryTheAuthorWhateverTheAgentDoes(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.turn("Alice", `echo 1 > 1; git add 1; git commit -qm one
		echo 2 > 2; git add 2; git commit -qm two --no-verify --author "Eve <eve@example.com>"
		git checkout -qb elsewhere; echo 3 > 3; git add 3; git commit -qm three
		git checkout -q --detach; echo 4 > 4; git add 4; git commit -qm four; echo 5 > 5`)
	g.wantBranch("Alice|one\nAlice|two\nAlice|three\nAlice|four\nAlice|asked by Alice\n")
	first := g.branch()
	g.turn("Bob", `true`)
	g.wantBranch(first)
	g.turn("Bob", `echo 6 > 6; git add 6; git commit -q --amend --no-edit; true`)
	g.wantBranch("Alice|one\nAlice|two\nAlice|three\nAlice|four\nBob|asked by Alice\n")
	g.push()
}

func TestWorkOfPeopleThatIsMergedInStaysTheirs(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.turn("Alice", "echo 1 > 1")
	g.push()
	g.run(g.seed, nil, "echo m > m.txt; git add .; git commit -qm 'on main'; git push -q "+g.bare+" main; git fetch -q "+g.bare+
		" inspect/1; git checkout -q FETCH_HEAD; echo h > h.txt; git add .; git commit -qm 'by hand'; git push -q "+g.bare+" HEAD:inspect/1")
	g.turn("Bob", "git fetch -q; git merge -q --no-edit origin/inspect/1; git merge -q --no-edit origin/main; echo 2 > 2")
	g.wantBranch("Alice|asked by Alice\nSeed|by hand\nBob|Merge remote-tracking branch 'origin/main' into inspect/1\nBob|asked by Bob\n")
	g.push()
}

func TestAPushOverSomebodyElsesWorkIsRefusedInWords(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.turn("Alice", "echo 1 > 1")
	g.push()
	g.run(g.seed, nil, "git fetch -q "+g.bare+" inspect/1; git checkout -q FETCH_HEAD; echo h > h.txt; git add .; git commit -qm 'by hand'; git push -q "+g.bare+" HEAD:inspect/1")
	g.turn("Bob", "echo 2 > 2")
	if push := g.repo.push(t.Context()); !strings.Contains(push.Error, "somebody else pushed") {
		t.Errorf("push: %+v", push)
	}
	if err := os.WriteFile(filepath.Join(g.bare, "hooks/update"), []byte("#!/bin/sh\necho this session may only push its own branch >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.agent("git fetch -q; git merge -q --no-edit origin/inspect/1")
	if push := g.repo.push(t.Context()); !strings.Contains(push.Error, "hook declined") {
		t.Errorf("push: %+v", push)
	}
}

func TestABranchThatTheAgentPushedUnderAnotherNameIsReplaced(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.turn("Alice", `echo 1 > 1; git add 1; git commit -qm one --author "Eve <eve@example.com>"; git push -q origin HEAD`)
	g.push()
	if log := g.run(g.bare, nil, "git log --format=%an main..inspect/1"); log != "Alice\n" {
		t.Errorf("the remote branch is by %s", log)
	}
}

func TestWorkInTheMiddleOfAMergeOrRebaseIsKept(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.run(g.seed, nil, "echo theirs > a.txt; git commit -qam theirs; git push -q "+g.bare+" main")
	_, notes := g.turn("Alice", "echo ours > a.txt; git commit -qam ours; git fetch -q; git merge -q origin/main >/dev/null || true")
	if len(notes) != 1 || !strings.Contains(notes[0], "merge was left unfinished") {
		t.Errorf("notes: %q", notes)
	}
	_, notes = g.turn("Bob", "git checkout -q .; echo b > b.txt; git add b.txt; git commit -qm b; git rebase -q origin/main >/dev/null 2>&1 || true; echo late > late.txt")
	if status := g.run(g.repo.dir, g.repo.env, "git status --porcelain; git symbolic-ref HEAD"); status != "refs/heads/inspect/1\n" {
		t.Errorf("after it: %s (notes %q)", status, notes)
	}
	_, notes = g.turn("Alice", "git format-patch -q -1 --stdout HEAD >../mail; echo own > b.txt; git commit -qam own; git am -q ../mail >/dev/null 2>&1 || true")
	if _, err := os.Stat(filepath.Join(g.repo.dir, ".git", "rebase-apply")); err == nil || len(notes) != 1 || !strings.Contains(notes[0], "am was left unfinished") {
		t.Errorf("after taking patches: %v (notes %q)", err, notes)
	}
}

func TestTheRepositorysOwnHooksRunToo(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.agent("mkdir -p .husky; printf '#!/bin/sh\\necho pre >> ../ran\\n' > .husky/pre-commit; printf '#!/bin/sh\\necho msg >> ../ran\\n' > .git/hooks/commit-msg; chmod +x .husky/pre-commit .git/hooks/commit-msg")
	g.turn("Alice", "echo 1 > 1; git add 1; git commit -qm one; git config core.hooksPath .husky; echo 2 > 2; git add 2; git commit -qm two")
	ran, err := os.ReadFile(filepath.Join(g.repo.dir, "../ran"))
	if err != nil || string(ran) != "msg\npre\n" {
		t.Errorf("hooks ran: %q (%v)", ran, err)
	}
	if body := g.run(g.repo.dir, g.repo.env, "git log -3 --format=%B"); strings.Count(body, "Session: ") != 3 {
		t.Errorf("trailers are missing or doubled:\n%s", body)
	}
}

func TestADiffShowsNewRenamedBinaryAndDeletedFiles(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.turn("Alice", "seq 50 > numbers; echo x > gone")
	since, err := g.repo.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.agent("git mv numbers 'new name'; rm gone; printf 'a\\0b' > bin; echo \"ü\" > 'ü \"q\".txt'")
	c, err := g.repo.changes(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range c.files {
		got[f.Path] = f.Status
		if (f.Patch == "") != (f.Path == "bin") {
			t.Errorf("the patch of %s is %q", f.Path, f.Patch)
		}
	}
	want := map[string]string{"new name": "renamed", "gone": "deleted", "bin": "added", "ü \"q\".txt": "added"}
	if diff := cmp.Diff(want, got); diff != "" || c.additions != 1 || c.deletions != 1 {
		t.Errorf("+%d -%d, files (-want +got):\n%s", c.additions, c.deletions, diff)
	}
}

func TestADiffOfVeryManyFilesListsTheFirstAndCountsAll(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	since, err := g.repo.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.agent("mkdir many; cd many; seq 3000 | split -l 1 -a 3")
	c, err := g.repo.changes(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.files) != maxFiles || c.omitted != 3000-maxFiles || c.additions != 3000 || c.files[0].Path != "many/xaaa" || c.files[0].Patch == "" {
		t.Errorf("%d files are listed, %d left out, %d lines added; the first is %+v", len(c.files), c.omitted, c.additions, c.files[:1])
	}
}

func TestFilesThatAreTooLargeToCommitAreNamedUpToANumber(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	const big = "for i in $(seq 130); do truncate -s 6M big$i; done"
	commits, _ := g.turn("Alice", "echo 1 > 1; "+big)
	if len(commits) != 1 || len(commits[0].Left) != maxLeft || commits[0].Omitted != 130-maxLeft || commits[0].Files != 1 {
		t.Errorf("commits: %+v", commits)
	}
	_, notes := g.turn("Bob", big)
	if len(notes) != 1 || !strings.HasSuffix(notes[0], "and 30 more") {
		t.Errorf("notes: %q", notes)
	}
}

func TestTheCheckedOutCommitIsKnownWhereverGitKeepsIt(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	work := g.repo.dir
	for name, change := range map[string]string{
		"on a branch":               "git checkout -q -B inspect/1",
		"in packed references":      "git checkout -q -B inspect/1; git pack-refs --all",
		"detached":                  "git checkout -q -B inspect/1; git checkout -q --detach",
		"behind a second name":      "git branch -f real; git symbolic-ref refs/heads/alias refs/heads/real; git symbolic-ref HEAD refs/heads/alias",
		"in another working tree":   "git checkout -q -B inspect/1; rm -rf ../other; git worktree prune; git worktree add -q --detach ../other; cd ../other",
		"before the first commit":   "git symbolic-ref HEAD refs/heads/unborn",
		"a branch outside of heads": "git update-ref refs/elsewhere/x refs/remotes/origin/main; git symbolic-ref HEAD refs/elsewhere/x",
	} {
		g.repo.dir = work
		dir := strings.TrimSpace(g.run(work, nil, "git symbolic-ref HEAD refs/heads/inspect/1 && git reset -q --hard origin/main && ("+change+") && "+
			"if [ -e ../other ]; then cd ../other; fi; pwd"))
		want := strings.TrimSpace(g.run(dir, nil, "git rev-parse --verify --quiet HEAD || true"))
		g.repo.dir = dir
		if got, err := g.repo.head(t.Context()); err != nil || got != want {
			t.Errorf("%s: head is %q, %v; git says %q", name, got, err, want)
		}
		g.run(work, nil, "rm -rf ../other; git worktree prune")
	}
	g.repo.dir = work
}

func TestASandboxBeginsWhereTheBranchWasPushedThoughNobodyRecordedIt(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.turn("Alice", "echo new > new.txt")
	recorded := strings.TrimSpace(g.run(g.repo.dir, nil, "git rev-parse origin/main"))
	g.push()
	pushed, err := g.repo.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, head := range map[string]string{"nothing recorded": "", "an older head recorded": recorded, "a head that is no more": strings.Repeat("1", 40)} {
		fresh := &repository{dir: filepath.Join(t.TempDir(), "work"), branch: g.repo.branch, base: g.repo.base, origin: g.repo.origin, env: g.repo.env,
			family: g.repo.family, pushes: &pushes{}, rewritten: map[string]bool{}}
		if err := fresh.clone(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := fresh.begin(t.Context(), head); err != nil {
			t.Fatal(err)
		}
		if got, err := fresh.head(t.Context()); err != nil || got != pushed {
			t.Errorf("%s: the new sandbox begins at %s, %v; the branch is at %s", name, got, err, pushed)
		}
	}
}

// A box that is killed while it fetches or pushes leaves locks at its own branch,
// which lies deeper than others.
func TestALockThatAKilledGitLeftAtABranchIsInNobodysWay(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.turn("Alice", "echo b > b.txt")
	if push := g.repo.push(t.Context()); push.Error != "" {
		t.Fatal(push.Error)
	}
	g.somebodyPushes("c.txt")
	g.run(g.repo.dir, nil, "touch .git/refs/remotes/origin/inspect/1.lock .git/refs/heads/inspect/1.lock .git/packed-refs.lock")
	g.repo.clearLocks()
	g.wantResumed("c.txt")
}

// Git takes no folder in which a repository was begun and nothing committed.
func TestARepositoryThatTheAgentBeganKeepsNothingElseFromBeingCommitted(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	commits, notes := g.turn("Alice", "git init -q sub && echo s > sub/s.txt && echo b > b.txt && git add b.txt && git commit -qm b")
	if len(commits) != 1 || len(notes) != 1 || !strings.Contains(notes[0], "no commit yet: sub/") {
		t.Errorf("commits %+v, notes %q", commits, notes)
	}
	since := g.begin("Bob")
	g.agent("echo c > c.txt")
	if c, err := g.repo.changes(t.Context(), since); err != nil || len(c.files) != 1 || c.files[0].Path != "c.txt" {
		t.Errorf("changed are %+v (%v)", c.files, err)
	}
	if commits, _ := g.settle("Bob", since); len(commits) != 1 || commits[0].Files != 1 {
		t.Errorf("commits %+v", commits)
	}
}

func TestABranchWithoutACommitIsLeftForTheSessions(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	if commits, notes := g.turn("Alice", "git checkout -q --orphan other && git rm -rqf ."); len(commits) > 0 || len(notes) > 0 {
		t.Errorf("commits %+v, notes %q", commits, notes)
	}
	if commits, _ := g.turn("Bob", "echo c > c.txt"); len(commits) != 1 || commits[0].Files != 1 {
		t.Errorf("commits %+v", commits)
	}
	g.wantBranch("Bob|asked by Bob\n")
}

func TestAnAgentThatRemovesTheRemoteLosesNothing(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"removed": "git remote remove origin", "renamed": "git remote remove upstream || true; git remote rename origin upstream",
		"of a fork": "git remote set-url origin https://github.com/somebody/else.git",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGitRig(t)
			if commits, notes := g.turn("Alice", "git config commit.gpgSign true; echo b > b.txt; "+script); len(commits) != 1 || len(notes) > 0 {
				t.Errorf("commits %+v, notes %q", commits, notes)
			}
			g.push()
			g.somebodyPushes("c.txt")
			g.agent(script)
			g.wantResumed("c.txt")
		})
	}
}

func TestAnAgentThatRemovesTheHistoryLosesNoFile(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"removed":       "rm -rf .git",
		"begun anew":    "rm -rf .git; git init -q -b main; git add .; git commit -qm 'fresh start'",
		"broken":        "rm -rf .git/objects",
		"of our branch": "rm -rf .git; git init -q -b inspect/1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGitRig(t)
			g.agent("echo /junk >> .git/info/exclude; echo 1 > junk") // as an image's scripts
			if err := g.repo.fetch(t.Context()); err != nil {
				t.Fatal(err)
			}
			g.turn("Alice", "echo b > b.txt; git add .; git commit -qm b")
			g.push()
			since := g.begin("Bob")
			g.agent("echo c > c.txt; git add .; git commit -qm c; echo d > d.txt; rm a.txt; " + script)
			commits, notes := g.settle("Bob", since)
			if len(commits) != 1 || len(notes) != 1 || !strings.Contains(notes[0], "history of the repository was removed") {
				t.Fatalf("commits %+v, notes %q", commits, notes)
			}
			if c, err := g.repo.changes(t.Context(), since); err != nil || len(c.files) != 3 {
				t.Errorf("changed %+v (%v)", c.files, err)
			}
			g.push()
			if got := g.branch(); got != "Alice|b\nBob|asked by Bob\n" {
				t.Errorf("the branch has %q", got)
			}
			if got := g.run(g.bare, nil, "git ls-tree --name-only inspect/1"); got != "b.txt\nc.txt\nd.txt\n" {
				t.Errorf("the branch holds %q", got)
			}
			// What follows goes on from there.
			if commits, notes := g.settle("Bob", since); len(commits) != 1 || len(notes) > 0 {
				t.Errorf("at the end again commits %+v, notes %q", commits, notes)
			}
			if commits, notes := g.turn("Alice", "echo e > e.txt"); len(commits) != 1 || len(notes) > 0 {
				t.Errorf("of the next commits %+v, notes %q", commits, notes)
			}
			g.push()
		})
	}
}
