package doors

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sandboxToken = "sandbox-token-1"

// tokens is an Authenticator that knows its keys.
type tokens map[string]Access

func (t tokens) Authenticate(_ context.Context, token string) (Access, error) {
	if token == "unlucky" {
		return Access{}, errors.New("the database is away")
	}
	a, ok := t[token]
	if !ok {
		return Access{}, ErrUnknownToken
	}
	return a, nil
}

var access = Access{Session: "s1", Repository: "acme/greeter", Branch: "inspect/s1", DefaultBranch: "main"}

// waitingToken is of a sandbox that works for no session.
const waitingToken = "sandbox-token-waiting"

// slowTokens are of sandboxes with sessions of their own.
var slowTokens = []string{"sandbox-token-slow-1", "sandbox-token-slow-2", "sandbox-token-slow-3"}

func slow(name string) Access {
	return Access{Session: name, Repository: "acme/greeter", Branch: "inspect/" + name, DefaultBranch: "main"}
}

var waiting = Access{Session: "waiting-1", Repository: "acme/greeter", DefaultBranch: "main"}

var quiet = slog.New(slog.DiscardHandler)

// serveDoors serves what is configured, for sandboxToken and waitingToken.
func serveDoors(t testing.TB, c Config) string {
	t.Helper()
	known := tokens{sandboxToken: access, waitingToken: waiting}
	for _, token := range slowTokens {
		known[token] = slow(token)
	}
	c.Auth, c.Log = known, quiet
	server := httptest.NewServer(New(c))
	t.Cleanup(server.Close)
	return server.URL
}

// sandboxClient sends the token with each request and keeps no connections.
func sandboxClient(token string) *http.Client {
	return &http.Client{Transport: withToken{token, &http.Transport{DisableKeepAlives: true, DisableCompression: true}}}
}

type withToken struct {
	token string
	next  http.RoundTripper
}

func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(TokenHeader, t.token)
	return t.next.RoundTrip(r)
}

func send(t testing.TB, c *http.Client, method, url, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v after %q", err, text)
	}
	return res, string(text)
}

func TestAnUnknownTokenIsRefusedInTheWordsOfTheDoor(t *testing.T) {
	t.Parallel()
	url := serveDoors(t, Config{Git: NewGit(GitConfig{Log: quiet}), Model: NewModel(ModelConfig{Log: quiet}), Egress: NewEgress(EgressConfig{Log: quiet})})
	for _, c := range []struct {
		token, path, want string
		status            int
	}{
		{"wrong", "/git/acme/greeter/info/refs?service=git-upload-pack", "ERR this sandbox's credential is not known", 200},
		{"", "/model/openai/v1/models", `"message":"this sandbox's credential is not known`, 401},
		{"", "/model/anthropic/v1/messages", `"type":"error"`, 401},
		{"unlucky", "/model/openai/v1/models", "cannot check this sandbox's credential at the moment", 503},
	} {
		res, body := send(t, sandboxClient(c.token), http.MethodGet, url+c.path, "")
		if res.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s with %q: %d %s", c.path, c.token, res.StatusCode, body)
		}
	}
}

func TestADoorThatIsNotSetUpSaysSo(t *testing.T) {
	t.Parallel()
	url := serveDoors(t, Config{})
	for _, path := range []string{"/git/acme/greeter/info/refs?service=git-upload-pack", "/model/openai/v1/models"} {
		if _, body := send(t, sandboxClient(sandboxToken), http.MethodGet, url+path, ""); !strings.Contains(body, "has not set up") {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestWhatIsForNoDoorGoesOnWithItsToken(t *testing.T) {
	t.Parallel()
	url := serveDoors(t, Config{Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.URL.Path+" "+r.Header.Get(TokenHeader))
	})})
	if _, body := send(t, sandboxClient(sandboxToken), http.MethodGet, url+"/bridge", ""); body != "/bridge "+sandboxToken {
		t.Errorf("next saw %q", body)
	}
}
