package local

import (
	"os"
	"path/filepath"
	"testing"
)

func TestConfigurationsWithSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"cafile=/etc/ssl/certs/ca-certificates.crt\n":                 true,
		"registry=https://mirror.example/npm/\n":                      true,
		"//mirror.example/:_authToken=abc\n":                          false,
		"_auth=abc\n":                                                 false,
		"index-url = https://user:word@mirror.example/simple\n":       false,
		"[credential \"https://example.com\"]\n\thelper = store\n":    false,
		"[http]\n\textraHeader = X: y\n":                              false,
		"[user]\n\tname = somebody\n\temail = somebody@example.com\n": true,
	} {
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := harmless(path); got != want {
			t.Errorf("%q is harmless: %t, want %t", text, got, want)
		}
	}
	if harmless(filepath.Join(t.TempDir(), "missing")) {
		t.Error("a file that cannot be read is harmless")
	}
}
