package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// completeEnviron is a configuration without problems.
func completeEnviron() map[string]string {
	return map[string]string{
		"SECRET_KEY":      "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"SLACK_BOT_TOKEN": "xoxb-1", "SLACK_APP_TOKEN": "xapp-1", "SLACK_CLIENT_ID": "1", "SLACK_CLIENT_SECRET": "s",
		"SLACK_TEAM_ID": "T1", "GITHUB_APP_ID": "1", "GITHUB_PRIVATE_KEY": privateKey(), "GITHUB_CLIENT_ID": "c",
		"GITHUB_CLIENT_SECRET": "s", "ANTHROPIC_API_KEY": "key",
	}
}

// privateKey is a key as GitHub gives it out.
var privateKey = sync.OnceValue(func() string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
})

func environ(m map[string]string) []string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	return out
}

func TestAWrongConfigurationNamesAllItsProblemsAtOnce(t *testing.T) {
	t.Parallel()
	vars := completeEnviron()
	delete(vars, "SLACK_TEAM_ID")
	vars["SLACK_APP_TOKEN"] = ""
	vars["PUBLIC_URL"] = "inspect"
	vars["MAX_QUEUE"] = "many"
	vars["SECRET_KEY"] = "short"
	vars["LOG_LEVEL"] = "loud"
	vars["MODEL"] = "openai/gpt-5"
	vars["SLACK_BOT_TOKEN"] = "token"
	vars["GITHUB_APP_ID"] = "inspect"
	vars["GITHUB_PRIVATE_KEY"] = "no key"
	vars["LISTEN"] = "8080"
	vars["PARK_AFTER"] = "-5s"
	vars["SNAPSHOT_AFTER"] = "-1s"
	vars["BOOT_TIMEOUT"] = "soon"
	vars["MAX_SANDBOXES"] = "0"
	_, err := loadConfig(environ(vars))
	if err == nil {
		t.Fatal("a wrong configuration was accepted")
	}
	for _, want := range []string{"SLACK_TEAM_ID is not set", "SLACK_APP_TOKEN is empty", "PUBLIC_URL", "MAX_QUEUE cannot be read", "BOOT_TIMEOUT cannot be read",
		"SLACK_BOT_TOKEN does not begin with xoxb-", "GITHUB_APP_ID is", "private key", "LISTEN is", "PARK_AFTER is", "SNAPSHOT_AFTER is", "MAX_SANDBOXES is",
		"SECRET_KEY", "LOG_LEVEL", "OPENAI_API_KEY is not set"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems do not mention %s:\n%v", want, err)
		}
	}
}

func TestSandboxesAtModalNeedATokenAndAWayBack(t *testing.T) {
	t.Parallel()
	vars := completeEnviron()
	vars["SANDBOX_PROVIDER"] = "modal"
	vars["SANDBOX_LIFETIME"] = "25h"
	vars["SANDBOX_CPU"] = "0"
	vars["SANDBOX_MEMORY_MIB"] = "4"
	vars["MODAL_SERVER_URL"] = "modal"
	_, err := loadConfig(environ(vars))
	if err == nil {
		t.Fatal("sandboxes at Modal without anything were accepted")
	}
	for _, want := range []string{"MODAL_TOKEN_ID is not set", "MODAL_TOKEN_SECRET is not set", "MACHINE_URL is not set", "SANDBOX_LIFETIME is 25h",
		"SANDBOX_CPU is 0", "SANDBOX_MEMORY_MIB is 4", "MODAL_SERVER_URL is"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems do not mention %s:\n%v", want, err)
		}
	}
	good := map[string]string{
		"MODAL_TOKEN_ID": "ak-1", "MODAL_TOKEN_SECRET": "as-1", "MACHINE_URL": "https://machines.example.org", "MACHINE_LISTEN": "0.0.0.0:8081",
		"SANDBOX_LIFETIME": "24h", "SANDBOX_CPU": "0.5", "SANDBOX_MEMORY_MIB": "512", "MODAL_SERVER_URL": "", "MODAL_REGIONS": "eu,us-east",
	}
	for name, tc := range map[string]struct{ name, value, problem string }{
		"all that is needed":                 {},
		"a name whose port Modal closes":     {"MACHINE_URL", "https://machines.example.org:8443", "MACHINE_URL"},
		"a token in clear over the internet": {"MACHINE_URL", "http://192.0.2.7", "MACHINE_URL is http://192.0.2.7: give an https URL"},
		"a socket of another machine":        {"MACHINE_URL", "unix:/run/machine.sock", "MACHINE_URL is a Unix socket"},
		"nothing behind the address":         {"MACHINE_LISTEN", "", "MACHINE_LISTEN is not set"},
		"a region that is none":              {"MODAL_REGIONS", "eu,us east", `MODAL_REGIONS: "us east" is no region: use the provider's own names, such as`},
		"a region twice":                     {"MODAL_REGIONS", "eu,us,eu", "MODAL_REGIONS: the region eu is there twice"},
		"a provider that there is not":       {"SANDBOX_PROVIDER", "docker", "the providers are: local, modal"},
	} {
		changed := maps.Clone(vars)
		maps.Copy(changed, good)
		changed[tc.name] = tc.value
		_, err := loadConfig(environ(changed))
		if tc.problem == "" && err != nil || tc.problem != "" && (err == nil || !strings.Contains(err.Error(), tc.problem)) {
			t.Errorf("%s: got the problems %v", name, err)
		}
	}
}

func TestASecretMayBeGivenAsAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("xoxb-from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := completeEnviron()
	delete(vars, "SLACK_BOT_TOKEN")
	vars["SLACK_BOT_TOKEN_FILE"] = path
	cfg, err := loadConfig(environ(vars))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.SlackBotToken != "xoxb-from-file" {
		t.Errorf("token is %q", cfg.SlackBotToken)
	}
	vars["SLACK_BOT_TOKEN"] = "xoxb-too"
	if _, err := loadConfig(environ(vars)); err == nil || !strings.Contains(err.Error(), "both set") {
		t.Errorf("giving a secret twice: %v", err)
	}
	delete(vars, "SLACK_BOT_TOKEN")
	vars["SLACK_BOT_TOKEN_FILE"] = path + ".missing"
	if _, err := loadConfig(environ(vars)); err == nil || !strings.Contains(err.Error(), "SLACK_BOT_TOKEN_FILE") {
		t.Errorf("a missing secret file: %v", err)
	}
}

func TestTheModelIsWorkedOutFromWhatIsSet(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		cfg  Config
		want modelRoute
		err  string
	}{
		{"any compatible server", Config{ModelBaseURL: "http://m/v1", Model: "x"}, modelRoute{"custom", "openai", "x", "x", "http://m/v1", "", "MODEL_API_KEY"}, ""},
		{"a server without a model", Config{ModelBaseURL: "http://m/v1"}, modelRoute{}, "MODEL is not set"},
		{"a named provider", Config{Model: "anthropic/claude", AnthropicKey: "k", AnthropicURL: "u", SmallModel: "anthropic/haiku"},
			modelRoute{"anthropic", "anthropic", "claude", "haiku", "u", "k", "ANTHROPIC_API_KEY"}, ""},
		{"a key alone", Config{OpenRouterKey: "k", OpenRouterURL: "u"},
			modelRoute{"openrouter", "openai", defaultModels["openrouter"], defaultModels["openrouter"], "u", "k", "OPENROUTER_API_KEY"}, ""},
		{"a provider without its key", Config{Model: "openai/gpt"}, modelRoute{}, "OPENAI_API_KEY is not set"},
		{"nothing", Config{}, modelRoute{}, "no model is configured"},
	} {
		got, err := tc.cfg.modelRoute()
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error %v, want %q", tc.name, err, tc.err)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("%s: got %+v, %v", tc.name, got, err)
		}
	}
}
