package supervisor

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// forge commits a file under Bob's name in every respect.
const forge = `echo f > forged; git add forged; GIT_COMMITTER_NAME=Bob GIT_COMMITTER_EMAIL=bob@example.com git commit -qm forged --no-verify --author "Bob <bob@example.com>"; `

// byHand lets a person commit a file on top of a branch of the remote and push
// that as another or the same.
func (g *gitRig) byHand(from, to, name string) {
	g.t.Helper()
	g.run(g.seed, nil, "git fetch -q "+g.bare+" "+from+"; git checkout -q FETCH_HEAD; echo x > "+name+"; git add .; git commit -qm '"+name+
		"'; git push -q "+g.bare+" HEAD:refs/heads/"+to)
}

// prompt is a turn and what follows it: a push, if there is something to push.
func (g *gitRig) prompt(author, script string) (pushed bool) {
	g.t.Helper()
	g.turn(author, script)
	if pushed = g.repo.unpushed(g.t.Context()); pushed {
		g.push()
	}
	return pushed
}

// wantRemote compares author and subject of what the remote has on the session's
// branch and not on main, oldest first.
func (g *gitRig) wantRemote(want string) {
	g.t.Helper()
	got := g.run(g.bare, nil, "git log --reverse --topo-order --format='%an|%s' main..inspect/1")
	if diff := cmp.Diff(want, got); diff != "" {
		g.t.Errorf("the remote's branch (-want +got):\n%s", diff)
	}
}

func TestACommitInAnotherNameBecomesTheAuthorsHoweverTheAgentHidesIt(t *testing.T) {
	t.Parallel()
	for name, hide := range map[string]string{
		"pushed by the agent":       "git push -q origin HEAD",
		"pushed and amended":        "git push -q origin HEAD; git commit -q --amend --no-edit --author 'Eve <eve@example.com>'",
		"known as a remote branch":  "git update-ref refs/remotes/origin/x HEAD; git update-ref refs/remotes/origin/main HEAD",
		"of a remote of its own":    "git init -q --bare ../own; git push -q ../own HEAD:refs/heads/main; git config url.../own.insteadOf $GATEWAY/git/acme/greeter.git; git remote set-url origin ../own; git fetch -q",
		"of the home's remote":      `git init -q --bare "$HOME/own"; git push -q "$HOME/own" HEAD:refs/heads/main; git config --global url."$HOME/own".insteadOf ` + "$GATEWAY/git/acme/greeter.git",
		"replaced for who looks":    `git replace HEAD "$(GIT_AUTHOR_NAME=Alice GIT_AUTHOR_EMAIL=alice@users.noreply.github.com git commit-tree -p HEAD~ -m "forged$T" HEAD^{tree})"`,
		"below a good one by graft": `forged=$(git rev-parse HEAD); echo 2 > 2; git add 2; git commit -qm two; mkdir -p .git/info; git rev-parse HEAD $forged~ | xargs > .git/info/grafts`,
		"below a cut of history":    "git push -q origin HEAD; echo 2 > 2; git add 2; git commit -qm two; git rev-parse HEAD > .git/shallow",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGitRig(t)
			g.repo.env = append(g.repo.env, "GATEWAY="+strings.TrimSuffix(g.repo.url, "/git/acme/greeter.git"),
				"T=\n\n"+strings.Join(g.id.trailers, "\n"))
			commits, _ := g.turn("Alice", forge+hide)
			if len(commits) == 0 || commits[0].Author != "Alice" {
				t.Errorf("reported were %+v", commits)
			}
			if !g.repo.unpushed(t.Context()) {
				t.Error("it counts as pushed")
			}
			g.agent("git remote set-url origin https://github.com/acme/greeter.git")
			g.push()
			if authors := g.run(g.bare, nil, "git log --format=%an main..inspect/1 | sort -u"); authors != "Alice\n" {
				t.Errorf("the remote has commits of %q", authors)
			}
		})
	}
}

func TestWhatTheAgentPushedAndThenTookBackIsReplaced(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.prompt("Alice", "echo 1 > 1")
	if !g.prompt("Alice", forge+"git push -q origin HEAD; git reset -q --hard HEAD~; git reflog expire --expire=now --all") {
		t.Error("nothing was pushed")
	}
	g.wantRemote("Alice|asked by Alice\n")
}

func TestGoingBackNeverTakesAPersonsWorkFromTheRemote(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.prompt("Alice", "echo 1 > 1")
	g.byHand("inspect/1", "inspect/1", "by-hand")
	g.turn("Alice", "git pull -q origin inspect/1; echo 2 > 2; git add 2; git commit -qm two; git push -q origin HEAD; git reset -q --hard HEAD~2")
	if push := g.repo.push(t.Context()); !strings.Contains(push.Error, "somebody else pushed") {
		t.Errorf("push: %+v", push)
	}
	g.wantRemote("Alice|asked by Alice\nSeed|by-hand\nAlice|two\n")
}

func TestPeoplesWorkStaysTheirsWhenTheAgentPushesItself(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.prompt("Alice", "echo 1 > 1")
	g.byHand("inspect/1", "inspect/1", "by-hand")
	g.byHand("main", "feature", "feature")
	g.byHand("main", "main", "newer-main")
	since := g.begin("Bob")
	g.agent("git pull -q origin inspect/1; git fetch -q; git merge -q --no-edit origin/feature origin/main; " + forge + "git push -q origin HEAD; echo 2 > 2")
	g.byHand("main", "main", "even-newer-main")
	commits, _ := g.settle("Bob", since)
	for _, c := range commits {
		if c.Author != "Bob" {
			t.Errorf("a person's commit counts as the prompt's: %+v", c)
		}
	}
	g.push()
	g.wantRemote("Alice|asked by Alice\nSeed|by-hand\nSeed|feature\nBob|Merge remote-tracking branches 'origin/feature' and 'origin/main' into inspect/1\nBob|forged\nBob|asked by Bob\n")
}

func TestAPersonsCommitOnTopOfAForgedOneStaysTheirsOnTopOfTheRightOne(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	since, err := g.repo.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.agent(forge + "git push -q origin HEAD")
	g.byHand("inspect/1", "inspect/1", "by-hand")
	g.agent("git reset -q --hard " + since)
	g.prompt("Alice", "git pull -q origin inspect/1")
	g.wantRemote("Alice|forged\nSeed|by-hand\n")
}

func TestWhatAnEarlierBoxOfTheSessionPushedIsNoPersons(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.agent(forge + "git push -q origin HEAD; git reset -q --hard HEAD~")
	g.repo.recorded = strings.TrimSpace(g.run(g.bare, nil, "git rev-parse inspect/1"))
	g.repo.pushes = &pushes{}
	g.turn("Alice", "git pull -q origin inspect/1")
	g.wantBranch("Alice|forged\n")
}

func TestAPromptThatJustCommitsAsksTheCodeHostNothing(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	before := g.requests.Load()
	g.turn("Alice", "echo 1 > 1; git add 1; git commit -qm one; echo 2 > 2")
	if asked := g.requests.Load() - before; asked > 0 {
		t.Errorf("it was asked %d times", asked)
	}
	g.push()
	before = g.requests.Load()
	for _, author := range []string{"Alice", "Bob"} {
		if g.prompt(author, "true") || g.requests.Load() > before {
			t.Errorf("%s, who changed nothing, made it be asked", author)
		}
	}
}

func TestACommitIsPushedThoughTheAgentMadeItLookAsIfItWere(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.prompt("Alice", "echo 1 > 1; git add 1; git commit -qm one; git update-ref refs/remotes/origin/x HEAD; git update-ref refs/remotes/origin/inspect/1 HEAD")
	g.wantRemote("Alice|one\n")
}

func TestTheNewestMainWithoutItsHistoryCanBeWorkedOn(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.byHand("main", "main", "newer-main")
	g.byHand("main", "main", "newest-main")
	g.prompt("Alice", "git fetch -q --depth 1 origin main; git reset -q --hard FETCH_HEAD; echo 1 > 1")
	g.wantRemote("Alice|asked by Alice\n")
}

func TestAPromptThatOnlyFollowsMainPushesNothing(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.byHand("main", "main", "newer-main")
	if g.prompt("Alice", "git pull -q origin main") {
		t.Error("main was pushed as the session's branch")
	}
	g.wantBranch("")
}

func TestWithoutAnAnswerOfTheCodeHostOnlyWhatWasFetchedIsPeoples(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	g.byHand("main", "main", "newer-main")
	if err := g.repo.fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.byHand("main", "feature", "feature")
	g.agent("git fetch -q")
	g.down.Store(true)
	_, notes := g.turn("Alice", "git merge -q --no-edit origin/main; git merge -q --no-edit origin/feature")
	g.wantBranch("Alice|feature\n")
	if len(notes) != 1 || !strings.Contains(notes[0], "could not be asked") || !strings.Contains(notes[0], "the name of Alice") {
		t.Errorf("notes: %q", notes)
	}
}

func TestAPushThatCannotBeReadDoesNotPassTheGateway(t *testing.T) {
	t.Parallel()
	g := newGitRig(t)
	head, err := g.repo.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line := head + " " + head + " refs/heads/inspect/1\x00 report-status"
	good := fmt.Sprintf("%04x%s0000", len(line)+4, line)
	for body, want := range map[string]int64{good: 1, good[:40]: 0, "0003": 0, "zzzz": 0, "": 0, "000ahello\n0000": 0, strings.Repeat("0034shallow "+head, 1500) + "0000": 0} {
		before := g.requests.Load()
		resp, err := http.Post(g.repo.url+"/git-receive-pack", "application/x-git-receive-pack-request", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if passed := g.requests.Load() - before; passed != want || want == 0 && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%.60q was answered with %s and passed %d times", body, resp.Status, passed)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if list := g.repo.pushes.list(); len(list) != 1 || list[0] != (push{old: head, new: head}) {
		t.Errorf("noted were %+v", list)
	}
}
