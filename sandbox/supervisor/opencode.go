package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"openinspect/sandbox"
)

// opencode is one running OpenCode server.
type opencode struct {
	cmd    *exec.Cmd
	family *family
	client *client
	models []string
	exited chan struct{} // closed when it ended
	ending error         // why; written before exited is closed

	// Used by the goroutine that runs prompts.
	session string // id of the conversation
	sound   bool   // has begun an answer, and nothing says that it is broken; see quieten

	mu  sync.Mutex
	sub *subscription
}

// agentStart is the longest OpenCode may take to listen. It needs 1.3 s on a
// quiet machine.
const agentStart = 60 * time.Second

// pid is OpenCode's process, 0 if there is none.
func (o *opencode) pid() int {
	if o == nil {
		return 0
	}
	return o.cmd.Process.Pid
}

func (o *opencode) alive() bool {
	if o == nil {
		return false
	}
	select {
	case <-o.exited:
		return false
	default:
		return true
	}
}

// launch starts OpenCode and returns when it answers. What it needs of the
// working tree comes later, with the first request that names the directory.
func launch(ctx context.Context, f *family, s agentSettings, log *slog.Logger) (*opencode, error) {
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	password := newID("")
	cmd := exec.Command(s.binary, "serve", "--hostname", "127.0.0.1", "--port", "0")
	cmd.Dir = s.home // exists before the working tree does
	cmd.Env = append(append([]string{}, s.env...), "OPENCODE_CONFIG_CONTENT="+config, "OPENCODE_SERVER_PASSWORD="+password)
	listening := &addressWriter{found: make(chan string, 1)}
	var tail tailWriter
	cmd.Stdout, cmd.Stderr = listening, &tail
	if err := f.start(cmd); err != nil {
		return nil, fmt.Errorf("starting OpenCode: %w", err)
	}
	o := &opencode{cmd: cmd, family: f, models: slices.Clone(s.models), exited: make(chan struct{})}
	f.tasks.Go(o.watch) // ends with the process
	timeout := time.NewTimer(agentStart)
	defer timeout.Stop()
	select {
	case base := <-listening.found:
		o.client = newClient(base, password, s.directory)
	case <-o.exited:
		return nil, fmt.Errorf("OpenCode ended at once: %w: %s", o.ending, lastLines(tail.String(), 5))
	case <-timeout.C:
		err = fmt.Errorf("OpenCode did not listen within %s", agentStart)
	case <-ctx.Done():
		err = ctx.Err()
	}
	for err == nil && !o.client.healthy(ctx) {
		if !o.alive() {
			return nil, fmt.Errorf("OpenCode ended at once: %w", o.ending)
		}
		err = ctx.Err()
	}
	if err != nil {
		o.kill()
		return nil, err
	}
	log.Info("OpenCode answers", "address", o.client.base)
	return o, nil
}

// watch waits for OpenCode's end.
func (o *opencode) watch() {
	err := o.family.end(o.cmd)
	if err == nil {
		err = errors.New("exit status 0")
	}
	o.ending = err
	close(o.exited)
}

// addressWriter finds in OpenCode's output where it listens.
type addressWriter struct {
	found chan string
	line  []byte
}

// Write implements io.Writer.
func (w *addressWriter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			w.line = append(w.line, b)
			continue
		}
		if _, base, ok := strings.Cut(string(w.line), "server listening on "); ok {
			select {
			case w.found <- strings.TrimSpace(base):
			default:
			}
		}
		w.line = w.line[:0]
	}
	return len(p), nil
}

// kill ends OpenCode and waits for it.
func (o *opencode) kill() {
	if !o.alive() {
		return
	}
	_ = syscall.Kill(o.pid(), syscall.SIGKILL)
	<-o.exited
	if o.client != nil {
		o.client.http.CloseIdleConnections()
	}
}

// agentSettings is everything that a start of OpenCode depends on.
type agentSettings struct {
	binary, home, directory string
	gateway                 string // address of the gateway
	toolKey                 string // what OpenCode presents to the supervisor's tools
	protocol                string // openai or anthropic
	models                  []string
	small                   string
	instructions            []string // files
	env                     []string
}

// provider returns OpenCode's name for the provider. Anthropic's models are in
// OpenCode's own catalogue under that name; everything that speaks OpenAI's
// chat completions goes by a name of ours, because OpenCode would talk to
// "openai" by the other API.
func (s agentSettings) provider() string {
	if s.protocol == "anthropic" {
		return "anthropic"
	}
	return "openinspect"
}

// modelID strips the provider from Welcome's provider/model.
func modelID(name string) string {
	if _, id, ok := strings.Cut(name, "/"); ok {
		return id
	}
	return name
}

// Silence after which OpenCode gives up one attempt at the model, in milliseconds.
const (
	headerTimeout = 90_000
	chunkTimeout  = 120_000
)

// toolTimeout is how long OpenCode waits for a tool of the supervisor.
const toolTimeout = 10 * time.Minute

// config is OpenCode's configuration as JSON. Snapshots are off: the
// supervisor's own git knows what changed, and a second copy of a large
// repository's objects would cost every start and every step.
func (s agentSettings) config() (string, error) {
	npm := "@ai-sdk/openai-compatible"
	if s.protocol == "anthropic" {
		npm = "@ai-sdk/anthropic"
	}
	models := make(map[string]any)
	for _, name := range append(slices.Clone(s.models), s.small) {
		models[modelID(name)] = map[string]any{
			"name": modelID(name), "tool_call": true, "attachment": true, "reasoning": true, "temperature": true,
			"limit":      map[string]int{"context": 200_000, "output": 32_000},
			"modalities": map[string]any{"input": []string{"text", "image"}, "output": []string{"text"}},
		}
	}
	data, err := json.Marshal(map[string]any{
		"share": "disabled", "autoupdate": false, "snapshot": false,
		"permission":        map[string]string{"*": "allow"},
		"enabled_providers": []string{s.provider()},
		"model":             s.provider() + "/" + modelID(s.models[0]),
		"small_model":       s.provider() + "/" + modelID(s.small),
		"instructions":      s.instructions,
		"provider": map[string]any{s.provider(): map[string]any{
			"npm": npm, "name": "Open-Inspect",
			"options": map[string]any{
				"baseURL": s.gateway + "/model/" + s.protocol + "/v1", "apiKey": "added-by-the-model-door",
				"headerTimeout": headerTimeout, "chunkTimeout": chunkTimeout,
			},
			"models": models,
		}},
		"mcp": map[string]any{"openinspect": map[string]any{
			"type": "remote", "url": s.gateway + "/mcp", "enabled": true, "oauth": false,
			"headers": map[string]string{"Authorization": "Bearer " + s.toolKey},
			"timeout": toolTimeout.Milliseconds(),
		}},
	})
	return string(data), err
}

// quietConfig prepares OpenCode's configuration folder so that it neither
// writes to it nor fetches anything into it: a .gitignore that is already
// there, a folder that cannot be written, and, for root, to whom every folder
// can be written, a package that looks installed.
func quietConfig(home string) error {
	dir := filepath.Join(home, ".config", "opencode")
	if _, err := os.Stat(filepath.Join(dir, ".gitignore")); err == nil {
		return nil
	}
	modules := filepath.Join(dir, "node_modules", "@opencode-ai", "plugin")
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return err
	}
	manifest := []byte(`{"dependencies":{"@opencode-ai/plugin":"*"}}` + "\n")
	lock := []byte(`{"lockfileVersion":3,"packages":{"":{"dependencies":{"@opencode-ai/plugin":"*"}},"node_modules/@opencode-ai/plugin":{}}}` + "\n")
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"package.json", manifest}, {"package-lock.json", lock},
		{"opencode.jsonc", []byte("{}\n")},
		{".gitignore", []byte("node_modules\npackage.json\npackage-lock.json\nbun.lock\n.gitignore\n")},
	} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, 0o444); err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o555)
}

// agentEnv is the environment of OpenCode and all it starts: what the
// supervisor was given except its own secrets, and the settings by which
// OpenCode stays quiet and everybody finds the gateway.
func agentEnv(given []string, home, gateway string, git []string) []string {
	drop := map[string]bool{sandbox.EnvToken: true, sandbox.EnvControl: true, "PWD": true, "OLDPWD": true}
	var env []string
	set := map[string]string{
		"HOME": home, "LANG": "C.UTF-8", "TERM": "dumb",
		"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1",
		"OPENCODE_DISABLE_LSP_DOWNLOAD": "1", "OPENCODE_DISABLE_SHARE": "1",
		"OPENCODE_DISABLE_DEFAULT_PLUGINS": "1", "OPENCODE_DISABLE_EXTERNAL_SKILLS": "1",
		"OPENCODE_DISABLE_CLAUDE_CODE": "1", "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
		"OPENCODE_CLIENT": "openinspect",
		"HTTP_PROXY":      gateway, "http_proxy": gateway, "HTTPS_PROXY": gateway, "https_proxy": gateway,
		"NO_PROXY": "localhost,127.0.0.1,::1", "no_proxy": "localhost,127.0.0.1,::1",
		"NODE_USE_ENV_PROXY": "1", "npm_config_update_notifier": "false",
	}
	for _, kv := range given {
		name, _, _ := strings.Cut(kv, "=")
		_, ours := set[name]
		if drop[name] || ours || strings.HasPrefix(name, "XDG_") || strings.HasPrefix(name, "GIT_") || strings.HasPrefix(name, "OPENCODE_") {
			continue
		}
		env = append(env, kv)
	}
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return append(env, git...)
}

// tailWriter keeps the last bytes that were written to it.
type tailWriter struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailSize = 16 << 10

// Write implements io.Writer.
func (w *tailWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if extra := w.buf.Len() - tailSize; extra > tailSize {
		w.buf.Next(extra)
	}
	return len(p), nil
}

// String returns the last tailSize bytes.
func (w *tailWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.buf.Bytes()
	return strings.ToValidUTF8(string(b[max(0, len(b)-tailSize):]), "")
}
