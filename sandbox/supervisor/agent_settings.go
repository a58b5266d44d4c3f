package supervisor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"openinspect/sandbox"
)

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
	secrets                 string // names of those variables in env that are secrets, as in sandbox.EnvSecrets
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
		"mcp": map[string]any{sandbox.OwnTools: map[string]any{
			"type": "remote", "url": s.gateway + "/mcp", "enabled": true, "oauth": false,
			"headers": map[string]string{"Authorization": "Bearer " + s.toolKey},
			"timeout": toolTimeout.Milliseconds(),
		}},
	})
	return string(data), err
}

// Allocator are the settings by which OpenCode's JavaScript engine keeps the memory
// that it has freed. Its own allocator gives every free page back to the kernel
// within half a second and takes it again, zeroed, at the next prompt; glibc's
// keeps what it has if it is told to. With OpenCode 1.18.33 a prompt is accepted in
// 12–14 ms instead of 15–17 and a short one answered in 69–79 ms instead of 86–91
// (BenchmarkAllocator of the main package), for about 100 MB more of resident memory
// at work and 280 MB more when idle (from /proc, after 80 prompts). "Malloc" is
// the switch of WebKit's bmalloc (Environment.cpp); the others are in mallopt(3).
var Allocator = []string{
	"Malloc=1", "MALLOC_TRIM_THRESHOLD_=268435456", "MALLOC_MMAP_THRESHOLD_=268435456", "MALLOC_TOP_PAD_=16777216",
}

// forget is a plugin of OpenCode that keeps the allocator's settings from what
// the agent starts. OpenCode reads its plugins before it takes the first prompt.
func forget() string {
	var names []string
	for _, setting := range Allocator {
		name, _, _ := strings.Cut(setting, "=")
		names = append(names, strconv.Quote(name))
	}
	return "for (const name of [" + strings.Join(names, ", ") + "]) delete process.env[name]\n" +
		"export const Forget = async () => ({})\n"
}

// keepFromModel is a plugin of OpenCode that takes the values of secrets out of what
// tools return, before the model gets it and before it is kept in the conversation.
// It knows them by their names, which OpenCode alone is told (sandbox.EnvSecrets).
const keepFromModel = `const names = (process.env.` + sandbox.EnvSecrets + ` ?? '').split(',').filter(Boolean)
delete process.env.` + sandbox.EnvSecrets + `
const values = names.map((name) => (process.env[name] ?? '').trim())
  .filter((value) => value.length >= 8).sort((a, b) => b.length - a.length)
function clean(value) {
  if (typeof value === 'string') return values.reduce((text, secret) => text.replaceAll(secret, '` + redacted + `'), value)
  if (value === null || typeof value !== 'object') return value
  for (const field of Object.keys(value)) value[field] = clean(value[field])
  return value
}
export const KeepFromModel = async () => values.length ? {
  'tool.execute.after': async (_, result) => { clean(result) },
} : {}
`

// configFiles are the files of OpenCode's configuration folder. The packages look
// installed because OpenCode would otherwise fetch them, and .gitignore is one
// that it writes itself.
func configFiles() map[string]string {
	return map[string]string{
		"package.json":        `{"dependencies":{"@opencode-ai/plugin":"*"}}` + "\n",
		"package-lock.json":   `{"lockfileVersion":3,"packages":{"":{"dependencies":{"@opencode-ai/plugin":"*"}},"node_modules/@opencode-ai/plugin":{}}}` + "\n",
		"opencode.jsonc":      "{}\n",
		".gitignore":          "node_modules\npackage.json\npackage-lock.json\nbun.lock\n.gitignore\n",
		"plugin/allocator.js": forget(),
		"plugin/secrets.js":   keepFromModel,
	}
}

// prepareConfig prepares OpenCode's configuration folder so that OpenCode neither
// writes to it nor fetches anything into it: the files it would write are there,
// and the folder cannot be written.
func prepareConfig(home string) error {
	dir := filepath.Join(home, ".config", "opencode")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // as an earlier start closed it
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "node_modules", "@opencode-ai", "plugin"), 0o755); err != nil {
		return err
	}
	for name, text := range configFiles() {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // it cannot be written over
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o555)
}

// agentEnv is the environment of OpenCode and all it starts: what the
// supervisor was given except its own secrets, and the settings by which
// OpenCode stays quiet and everybody finds the gateway.
func agentEnv(given []string, home, gateway string, git []string) []string {
	drop := map[string]bool{sandbox.EnvToken: true, sandbox.EnvControl: true, sandbox.EnvSecrets: true, "PWD": true, "OLDPWD": true}
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
