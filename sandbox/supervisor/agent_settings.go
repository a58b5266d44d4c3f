package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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
	project                 bool // what the repository brings for the agent may run
	tools                   []sandbox.ToolServer
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
		"mcp": s.toolServers(),
	})
	return string(data), err
}

// toolServers are the MCP servers in OpenCode's configuration: the supervisor's own,
// those that the control plane reaches, and commands.
func (s agentSettings) toolServers() map[string]any {
	all := map[string]any{sandbox.OwnTools: map[string]any{
		"type": "remote", "url": s.gateway + "/mcp", "enabled": true, "oauth": false,
		"headers": map[string]string{"Authorization": "Bearer " + s.toolKey},
		"timeout": toolTimeout.Milliseconds(),
	}}
	for _, t := range s.tools {
		server := map[string]any{"type": "remote", "url": s.gateway + sandbox.ToolsPath + t.Name, "oauth": false}
		if t.Command != "" {
			server = map[string]any{"type": "local", "command": []string{"sh", "-c", t.Command}}
		}
		server["enabled"], server["timeout"] = true, serverTimeout.Milliseconds()
		all[t.Name] = server
	}
	return all
}

// serverTimeout is how long OpenCode waits for a tool of other servers.
const serverTimeout = 2 * time.Minute

// environ is OpenCode's own environment.
func (s agentSettings) environ(config, password string) []string {
	env := slices.Concat(s.env, Allocator)
	if s.project {
		env = slices.DeleteFunc(env, func(kv string) bool { return kv == noProject })
	}
	return append(env, "OPENCODE_CONFIG_CONTENT="+config, "OPENCODE_SERVER_PASSWORD="+password, sandbox.EnvSecrets+"="+s.secrets)
}

// noProject has OpenCode leave alone what the repository brings for the agent. It
// has it leave AGENTS.md alone, too, which is therefore named as an instruction.
const noProject = "OPENCODE_DISABLE_PROJECT_CONFIG=1"

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
  if (typeof value === 'string') return values.reduce((text, secret) => text.replaceAll(secret, '` + sandbox.Redacted + `'), value)
  if (value === null || typeof value !== 'object') return value
  for (const field of Object.keys(value)) value[field] = clean(value[field])
  return value
}
export const KeepFromModel = async () => values.length ? {
  'tool.execute.after': async (_, result) => { clean(result) },
} : {}
`

// ownPluginsOnly is a plugin of OpenCode that has no other code loaded than that of
// OpenCode's configuration folder. OpenCode 1.18 imports what a repository has in
// .opencode/plugin, and what its opencode.json names, whatever noProject says (its
// second reader of configuration does not ask); this plugin is read before.
const ownPluginsOnly = `import { dirname } from 'path'
import { fileURLToPath } from 'url'
const own = dirname(dirname(fileURLToPath(import.meta.url))) + '/'
Bun.plugin({
  name: 'own-plugins-only',
  setup(build) {
    build.onLoad({ filter: /^(?!\/\$bunfs\/).*\.[cm]?[jt]sx?$/ }, async ({ path }) => ({
      contents: path.startsWith(own) ? await Bun.file(path).text() : 'export default undefined',
      loader: path.match(/tsx?$/) ? 'tsx' : 'jsx',
    }))
  },
})
export const OwnPluginsOnly = async () => ({})
`

// configFiles are the files of OpenCode's configuration folder. The packages look
// installed because OpenCode would otherwise fetch them, and .gitignore is one
// that it writes itself.
func configFiles(gateway string) map[string]string {
	return map[string]string{
		"package.json":        `{"dependencies":{"@opencode-ai/plugin":"*"}}` + "\n",
		"package-lock.json":   `{"lockfileVersion":3,"packages":{"":{"dependencies":{"@opencode-ai/plugin":"*"}},"node_modules/@opencode-ai/plugin":{}}}` + "\n",
		"opencode.jsonc":      "{}\n",
		".gitignore":          "node_modules\npackage.json\npackage-lock.json\nbun.lock\n.gitignore\n",
		"plugin/allocator.js": forget(),
		"plugin/gate.js":      gatePlugin(gateway),
		"plugin/secrets.js":   keepFromModel,
	}
}

// skillsFolder is where OpenCode finds skills, within its configuration folder.
const skillsFolder = "skill"

// skillFiles are the files of skills in OpenCode's configuration folder. JSON's
// strings are YAML's, too.
func skillFiles(skills []sandbox.Skill) map[string]string {
	files := make(map[string]string)
	for _, k := range skills {
		description, _ := json.Marshal(k.Description) // a string always encodes
		files[filepath.Join(skillsFolder, k.Name, "SKILL.md")] = fmt.Sprintf("---\nname: %s\ndescription: %s\n---\n\n%s\n", k.Name, description, k.Text)
	}
	return files
}

// prepareConfig prepares OpenCode's configuration folder so that OpenCode neither
// writes to it nor fetches anything into it: the files it would write are there,
// and the folder cannot be written.
func prepareConfig(home, gateway string, project bool, skills []sandbox.Skill) error {
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
	if err := os.RemoveAll(filepath.Join(dir, skillsFolder)); err != nil { // some may not be wanted any more
		return err
	}
	files := configFiles(gateway)
	if guard := "plugin/a-own-plugins-only.js"; !project { // its name has it read first
		files[guard] = ownPluginsOnly
	} else if err := os.RemoveAll(filepath.Join(dir, guard)); err != nil {
		return err
	}
	maps.Copy(files, skillFiles(skills))
	for name, text := range files {
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
		"OPENCODE_DISABLE_CLAUDE_CODE": "1",
		"OPENCODE_CLIENT":              "openinspect",
		"HTTP_PROXY":                   gateway, "http_proxy": gateway, "HTTPS_PROXY": gateway, "https_proxy": gateway,
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
	env = append(env, noProject)
	slices.Sort(env)
	return append(env, git...)
}
