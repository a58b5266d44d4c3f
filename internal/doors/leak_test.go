package doors

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

const npmToken = "npm_5Jk2pQ9xZr7Wm3Tn"

func findToken(data []byte) string {
	if bytes.Contains(data, []byte(npmToken)) {
		return "NPM_TOKEN"
	}
	return ""
}

// newGuardedSandbox is a clone behind a door that looks for npmToken.
func newGuardedSandbox(t testing.TB) (s *gitSandbox, refused *atomic.Int32) {
	t.Helper()
	refused = new(atomic.Int32)
	s = newGitSandbox(t, func(c *GitConfig) {
		c.Secrets = func(context.Context, Access) (FindSecret, error) { return findToken, nil }
		c.Refused = func(_ context.Context, session string) error {
			if session != "s1" {
				return fmt.Errorf("session %s", session)
			}
			refused.Add(1)
			return nil
		}
	})
	return s, refused
}

func TestACommittedSecretDoesNotLeaveUntilItIsTakenOut(t *testing.T) { // I7
	t.Parallel()
	s, refused := newGuardedSandbox(t)
	s.commit("a.txt")
	if err := os.MkdirAll(filepath.Join(s.dir, "deploy", "prod"), 0o755); err != nil {
		t.Fatal(err)
	}
	commit(t, s.dir, "deploy/prod/config.env", "TOKEN="+npmToken+"\n")
	guilty := s.head()
	git(t, s.dir, nil, "rm", "-q", "deploy/prod/config.env")
	git(t, s.dir, nil, "commit", "-q", "-m", "take it away again")
	out, err := s.git("push", "-o", "ci.skip", "origin", "inspect/s1")
	if want := "[remote rejected] inspect/s1 -> inspect/s1 (commit " + guilty[:12] + " has in deploy/prod/config.env the value of NPM_TOKEN; read the value from the environment instead"; err == nil || !strings.Contains(out, want) {
		t.Fatalf("git does not say %q: %v\n%s", want, err, out)
	}
	if s.host.ref(t, "refs/heads/inspect/s1") != "" || len(s.host.recorded()) != 0 || refused.Load() != 1 {
		t.Errorf("the host has %q, %v were recorded, %d refused", s.host.ref(t, "refs/heads/inspect/s1"), s.host.recorded(), refused.Load())
	}
	git(t, s.dir, []string{"GIT_SEQUENCE_EDITOR=sed -i 2d"}, "rebase", "-q", "-i", "--root", "--onto", "main", "-X", "theirs", "--empty=drop")
	if strings.Contains(git(t, s.dir, nil, "log", "-p", "main..HEAD"), npmToken) {
		t.Fatal("the rebase left the secret: the test proves nothing")
	}
	if out, err := s.git("push", "origin", "inspect/s1"); err != nil {
		t.Fatalf("the mended branch: %v\n%s", err, out)
	}
	if got := s.host.ref(t, "refs/heads/inspect/s1"); got != s.head() || len(s.host.recorded()) != 1 {
		t.Errorf("the host has %s, recorded %v", got, s.host.recorded())
	}
}

func TestWhereverACommitHoldsASecretItIsFound(t *testing.T) {
	t.Parallel()
	filler := strings.Repeat("0123456789abcdef\n", 4000)
	for _, c := range []struct {
		name, want string
		make       func(t *testing.T, s *gitSandbox)
	}{
		{"in its message", " has in its message the value of NPM_TOKEN", func(t *testing.T, s *gitSandbox) {
			git(t, s.dir, nil, "commit", "-q", "--allow-empty", "-m", "use "+npmToken)
		}},
		{"in a file's name", " has in names of files in / the value of NPM_TOKEN", func(t *testing.T, s *gitSandbox) { s.commit(npmToken) }},
		{"in a change of a large file that was there", " has in big.txt the value of NPM_TOKEN", func(t *testing.T, s *gitSandbox) {
			commit(t, s.dir, "big.txt", filler)
			if out, err := s.git("push", "origin", "HEAD"); err != nil {
				t.Fatalf("push: %v\n%s", err, out)
			}
			commit(t, s.dir, "big.txt", filler[:100]+npmToken+filler[100:])
		}},
		{"in pieces, half of it from the version before", " has in big.txt the value of NPM_TOKEN", func(t *testing.T, s *gitSandbox) {
			commit(t, s.dir, "big.txt", filler[:1700]+npmToken[:10]+"\n"+filler[1700:]+filler) // git makes the smaller of the larger
			commit(t, s.dir, "big.txt", filler[:1700]+npmToken+"\n"+filler[1700:])
			git(t, s.dir, nil, "repack", "-q", "-a", "-d", "-f")
		}},
		{"more often than is told", ", and 1 more; read the value", func(t *testing.T, s *gitSandbox) {
			for i := range 4 {
				commit(t, s.dir, fmt.Sprintf("%d.txt", i), fmt.Sprint(npmToken, i))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, _ := newGuardedSandbox(t)
			s.commit("a.txt")
			c.make(t, s)
			before := s.host.ref(t, "refs/heads/inspect/s1")
			if out, err := s.git("push", "origin", "HEAD"); err == nil || !strings.Contains(out, c.want) {
				t.Errorf("git does not say %q: %v\n%s", c.want, err, out)
			}
			if after := s.host.ref(t, "refs/heads/inspect/s1"); after != before {
				t.Errorf("the host has %q", after)
			}
		})
	}
}

// What was pushed before and is not sent again is not held against a push.
func TestPushesWithoutSecretsPassADoorThatLooksForThem(t *testing.T) {
	t.Parallel()
	s, refused := newGuardedSandbox(t)
	for i := range 3 {
		commit(t, s.dir, "big.txt", strings.Repeat("0123456789abcdef\n", 4000)+fmt.Sprint(i))
		git(t, s.dir, nil, "commit", "-q", "--amend", "-m", "say it better")
		if out, err := s.git("push", "--force", "origin", "HEAD"); err != nil || s.host.ref(t, "refs/heads/inspect/s1") != s.head() {
			t.Fatalf("push %d: %v\n%s", i, err, out)
		}
		git(t, s.dir, nil, "reset", "-q", "--hard", "HEAD~1")
	}
	if out, err := s.git("push", "--force", "origin", "main:inspect/s1"); err != nil || s.host.ref(t, "refs/heads/inspect/s1") != s.host.ref(t, "refs/heads/main") {
		t.Errorf("a push that brings no object: %v\n%s", err, out)
	}
	if refused.Load() != 0 {
		t.Errorf("%d were refused", refused.Load())
	}
}

func TestAPushIsNotTakenWhileSecretsCannotBeLookedFor(t *testing.T) {
	t.Parallel()
	away := true
	s := newGitSandbox(t, func(c *GitConfig) {
		c.Secrets = func(context.Context, Access) (FindSecret, error) {
			if away {
				return nil, fmt.Errorf("the database is away")
			}
			return nil, nil
		}
	})
	s.commit("a.txt")
	if out, err := s.git("push", "origin", "HEAD"); err == nil || !strings.Contains(out, "cannot look for secrets in this push at the moment") {
		t.Errorf("%v\n%s", err, out)
	}
	away = false
	if out, err := s.git("push", "origin", "HEAD"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
