package doors

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAPushWhoseClientDiesAfterSendingIsStillRecorded(t *testing.T) {
	t.Parallel()
	recorded := make(chan string, 1)
	s := newGitSandbox(t, func(c *GitConfig) {
		c.Pushed = func(_ context.Context, _, _, _, newOID string) error {
			recorded <- newOID
			return nil
		}
	})
	s.commit("a.txt")
	sent, gone := make(chan struct{}), make(chan struct{})
	s.host.breakWith(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		close(sent)
		<-gone
		return false
	})
	push := exec.Command("git", "push", "origin", "HEAD")
	push.Dir, push.Env = s.dir, append([]string{"PATH=/usr/bin:/bin", "HOME=" + s.dir}, s.env...)
	push.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its transport is a process of its own
	if err := push.Start(); err != nil {
		t.Fatal(err)
	}
	<-sent
	if err := syscall.Kill(-push.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := push.Wait(); err == nil {
		t.Error("the push ended well before it was answered")
	}
	close(gone)
	select {
	case got := <-recorded:
		if got != s.head() || s.host.ref(t, "refs/heads/inspect/s1") != got {
			t.Errorf("recorded %s, the host has %s", got, s.host.ref(t, "refs/heads/inspect/s1"))
		}
	case <-time.After(20 * time.Second):
		t.Error("the push was not recorded")
	}
}

func TestAFetchThatBreaksOffOrStallsFails(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, func(c *GitConfig) { c.Idle = 500 * time.Millisecond })
	work := filepath.Join(s.host.root, "work")
	commit(t, work, "more.txt", "more\n")
	git(t, work, nil, "push", "-q", filepath.Join(s.host.root, "acme", "greeter.git"), "main")
	before := git(t, s.dir, nil, "rev-parse", "origin/main")
	for name, end := range map[string]func(*http.Request){
		"cut":   func(*http.Request) { panic(http.ErrAbortHandler) },
		"stall": func(r *http.Request) { <-r.Context().Done() },
	} {
		s.host.breakWith(func(w http.ResponseWriter, r *http.Request) bool {
			body, err := io.ReadAll(r.Body)
			if r.Method != http.MethodPost || err != nil || bytes.Contains(body, []byte("command=ls-refs")) {
				r.Body = io.NopCloser(bytes.NewReader(body))
				return false
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			io.WriteString(w, packet("packfile\n")+"2004\x01PACK")
			w.(http.Flusher).Flush()
			end(r)
			return true
		})
		if out, err := s.git("fetch", "origin", "main"); err == nil {
			t.Errorf("%s: git took half a pack for a whole one:\n%s", name, out)
		}
	}
	if after := git(t, s.dir, nil, "rev-parse", "origin/main"); after != before {
		t.Errorf("origin/main went from %s to %s", before, after)
	}
}

func TestAReportThatBreaksOffIsNoSuccess(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	s.commit("a.txt")
	s.host.breakWith(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
		report := packet("unpack ok\n") + packet("ok refs/heads/inspect/s1\n") + flush
		io.WriteString(w, packet("\x02remote speaks\n")+packet("\x01" + report)[:20])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	if out, err := s.git("push", "origin", "HEAD"); err == nil || strings.Contains(out, "new branch") {
		t.Errorf("%v\n%s", err, out)
	}
	if len(s.host.recorded()) != 0 {
		t.Errorf("recorded %v", s.host.recorded())
	}
}

// tokenless is an Upstream that has lost its credential.
type tokenless struct{ Upstream }

func (tokenless) Token(context.Context, string, bool) (string, error) {
	return "", errors.New("the App's key is gone: ghs_secret")
}

func TestAMissingCredentialIsTheOperatorsMatter(t *testing.T) {
	t.Parallel()
	s := newGitSandbox(t, nil)
	url := serveDoors(t, Config{Git: NewGit(GitConfig{Upstream: tokenless{s.host}, Pushed: s.host.pushed, Log: quiet})})
	s.env = sandboxEnv(url, sandboxToken)
	for _, args := range [][]string{{"fetch", "origin"}, {"push", "origin", "HEAD"}} {
		out, err := s.git(args...)
		if err == nil || !strings.Contains(out, "remote error: the control plane gets no credential for this repository") || strings.Contains(out, "ghs_") {
			t.Errorf("git %v: %v\n%s", args, err, out)
		}
	}
}
