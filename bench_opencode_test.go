package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// startOpenCode starts the pinned OpenCode on a clone of acme/greeter, with the
// practice's scripted model, the settings that the supervisor uses, and env.
func startOpenCode(b testing.TB, r *rig, env ...string) lone {
	b.Helper()
	binary, err := ensureOpenCode(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	home, work := b.TempDir(), filepath.Join(b.TempDir(), "greeter")
	if out, err := exec.Command("git", "clone", "-q", r.remoteAs("alice", "greeter"), work).CombinedOutput(); err != nil {
		b.Fatalf("cloning: %v\n%s", err, out)
	}
	config, err := json.Marshal(map[string]any{
		"model": "practice/practice", "small_model": "practice/practice", "enabled_providers": []string{"practice"},
		"share": "disabled", "autoupdate": false, "snapshot": false,
		"permission": map[string]string{"*": "allow"},
		"provider": map[string]any{"practice": map[string]any{
			"npm": "@ai-sdk/openai-compatible", "options": map[string]any{"baseURL": r.info.Model.URL, "apiKey": r.practice.state.ModelKey},
			"models": map[string]any{"practice": map[string]any{"limit": map[string]int{"context": 200000, "output": 32000}}},
		}},
	})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	cmd := exec.Command(binary, "serve", "--hostname", "127.0.0.1", "--port", port)
	cmd.Dir = work
	cmd.Env = append(slices.Concat(os.Environ(), env), "HOME="+home, "PWD="+work, "XDG_CONFIG_HOME="+home+"/config", "XDG_DATA_HOME="+home+"/data",
		"XDG_STATE_HOME="+home+"/state", "XDG_CACHE_HOME="+home+"/cache", "OPENCODE_CONFIG_CONTENT="+string(config),
		"OPENCODE_DISABLE_MODELS_FETCH=1", "NPM_CONFIG_OFFLINE=true", "OPENCODE_DISABLE_AUTOUPDATE=1", "OPENCODE_CLIENT=bench",
		"OPENCODE_DISABLE_LSP_DOWNLOAD=1", "OPENCODE_DISABLE_DEFAULT_PLUGINS=1", "OPENCODE_DISABLE_EXTERNAL_SKILLS=1", "OPENCODE_DISABLE_CLAUDE_CODE=1")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	alone := lone{TB: b, url: "http://127.0.0.1:" + port}
	probe := &http.Client{Timeout: 250 * time.Millisecond} // a request while it binds is never answered
	r.eventually("OpenCode is healthy", 30*time.Second, func() error {
		resp, err := probe.Get(alone.url + "/global/health")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	var session struct {
		ID string `json:"id"`
	}
	alone.post("/session", map[string]string{"title": "bench"}, &session)
	alone.session = session.ID
	return alone
}
