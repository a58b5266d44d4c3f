package modal

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"openinspect/sandbox"
)

// supervisorScript stands for the program: it says as what it was run.
const supervisorScript = "#!/bin/sh\necho \"runs as $1 from $0\"\n"

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// boot runs the bootstrap as the main program of a box would be, and returns
// what it printed and, by argument lists, what it ran to fetch.
func boot(t *testing.T, home, control string, patience time.Duration) (said, commands string, ok bool) {
	t.Helper()
	bin := t.TempDir()
	real, err := exec.LookPath("curl")
	if err != nil {
		t.Fatalf("the bootstrap needs curl: %v", err)
	}
	list := filepath.Join(bin, "list")
	script := "#!/bin/sh\necho \"$*\" >>'" + list + "'\nexec '" + real + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "curl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	argv := bootstrap(hashOf(supervisorScript), patience)
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + home, sandbox.EnvControl + "=" + control, sandbox.EnvToken + "=TOKEN23456"}
	out, err := cmd.CombinedOutput()
	ran, _ := os.ReadFile(list) // nothing was run if it is missing
	return string(out), string(ran), err == nil
}

// machine serves something at the path of the program and counts who asks with the token.
func machine(t *testing.T, serve http.HandlerFunc) (url string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != sandbox.SupervisorPath+hashOf(supervisorScript) || r.Header.Get(sandbox.TokenHeader) != "TOKEN23456" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		asked.Add(1)
		serve(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func TestASupervisorIsFetchedOnceAndItsTokenIsNoArgument(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	control, asked := machine(t, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(supervisorScript)) })
	for n := range 2 {
		said, commands, ok := boot(t, home, control, time.Minute)
		if !ok || !strings.Contains(said, "runs as supervise") {
			t.Fatalf("start %d: %s", n+1, said)
		}
		if strings.Contains(commands, "TOKEN23456") {
			t.Errorf("the token is an argument: %s", commands)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("the program was fetched %d times, want once", asked.Load())
	}
	// What the agent put in its place is not run.
	kept := filepath.Join(home, ".openinspect/program", hashOf(supervisorScript))
	if err := os.WriteFile(kept, []byte("#!/bin/sh\necho evil\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if said, _, ok := boot(t, home, control, time.Minute); !ok || !strings.Contains(said, "runs as supervise") || asked.Load() != 2 {
		t.Errorf("after the kept program was replaced: %s", said)
	}
	// An older program goes when a newer one comes.
	old := filepath.Join(home, ".openinspect/program/old")
	if err := os.WriteFile(old, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	os.Remove(kept)
	boot(t, home, control, time.Minute)
	if _, err := os.Stat(old); err == nil {
		t.Error("an older program is still there")
	}
}

func TestASupervisorIsFetchedOverAUnixSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(supervisorScript)) }))
	s.Listener.Close()
	s.Listener = listenUnix(t, filepath.Join(dir, "s"))
	s.Start()
	t.Cleanup(s.Close)
	if said, _, ok := boot(t, dir, "unix:"+filepath.Join(dir, "s"), time.Minute); !ok || !strings.Contains(said, "runs as supervise") {
		t.Errorf("it said: %s", said)
	}
}

func TestABootstrapWaitsForAControlPlaneAndSaysWhyItGivesUp(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	late, _ := machine(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) < 3 { // as a proxy does while the control plane restarts
			http.Error(w, "bad gateway", http.StatusBadGateway)
			return
		}
		w.Write([]byte(supervisorScript))
	})
	if said, _, ok := boot(t, t.TempDir(), late, time.Minute); !ok || !strings.Contains(said, "runs as supervise") {
		t.Errorf("a control plane that comes late: %s", said)
	}
	other, _ := machine(t, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("#!/bin/sh\necho evil\n")) })
	upgraded, _ := machine(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "another version", http.StatusNotFound) })
	nobody := httptest.NewServer(http.NotFoundHandler())
	nobody.Close()
	for want, control := range map[string]string{
		"another program": other, "another version": upgraded, "Failed to connect": nobody.URL,
	} {
		said, _, ok := boot(t, t.TempDir(), control, 0)
		last := sandbox.LastWords(&sandbox.Gone{Log: said})
		if ok || !strings.Contains(last, want) || !strings.Contains(last, control) || strings.Contains(said, "evil") {
			t.Errorf("want it to give up with %q, but it said: %s", want, said)
		}
	}
}
