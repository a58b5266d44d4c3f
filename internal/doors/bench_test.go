package doors

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkClone compares a bare clone of about 52 MB, which do not compress,
// from the code host itself with one through the git door.
func BenchmarkClone(b *testing.B) {
	host := newGitHost(b)
	fill(b, host, 520, 100<<10)
	door := NewGit(GitConfig{Upstream: host, Pushed: host.pushed, Log: quiet, PerSecond: 1e6, Burst: 1000})
	defer door.c.Transport.(*http.Transport).CloseIdleConnections()
	url := serveDoors(b, Config{Git: door})
	direct := []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader",
		"GIT_CONFIG_VALUE_0=Authorization: Basic eC1hY2Nlc3MtdG9rZW46Z2hzX2luc3RhbGxhdGlvbi50b2tlbi0x"}
	for _, way := range []struct {
		name, address string
		env           []string
	}{{"direct", host.RepositoryURL("acme/greeter"), direct}, {"door", publicURL + "acme/greeter.git", sandboxEnv(url, sandboxToken)}} {
		b.Run(way.name, func(b *testing.B) {
			for b.Loop() {
				dir := filepath.Join(b.TempDir(), "clone")
				git(b, filepath.Dir(dir), way.env, "clone", "-q", "--bare", way.address, dir)
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fill commits files of random bytes to the host's repository.
func fill(b *testing.B, host *gitHost, files, size int) {
	b.Helper()
	work := filepath.Join(host.root, "work")
	text := make([]byte, size)
	for i := range files {
		if _, err := rand.Read(text); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(work, fmt.Sprintf("f%03d", i)), text, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	git(b, work, nil, "add", "-A")
	git(b, work, nil, "commit", "-q", "-m", "fill")
	git(b, work, nil, "push", "-q", filepath.Join(host.root, "acme", "greeter.git"), "main")
}

// BenchmarkModelStream compares a stream of 500 events from the provider
// itself with one through the model door.
func BenchmarkModelStream(b *testing.B) {
	const events = 500
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for range events {
			io.WriteString(w, `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"some words "}}]}`+"\n\n")
			w.(http.Flusher).Flush()
		}
		io.WriteString(w, "data: [DONE]\n\n")
	}))
	defer upstream.Close()
	transport := plainTransport(maxSilence)
	defer transport.CloseIdleConnections()
	door := serveDoors(b, Config{Model: NewModel(ModelConfig{Meter: &budget{}, Log: quiet, Transport: transport,
		Providers: map[string]Provider{"p": {Protocol: OpenAI, BaseURL: upstream.URL, Key: providerKey}}})})
	for name, base := range map[string]string{"direct": upstream.URL, "door": door + "/model/p"} {
		b.Run(name, func(b *testing.B) {
			client := sandboxClient(sandboxToken)
			for b.Loop() {
				_, body := send(b, client, http.MethodPost, base+"/chat/completions", chat("m", true))
				if strings.Count(body, "some words") != events {
					b.Fatalf("%d events", strings.Count(body, "some words"))
				}
			}
		})
	}
}
