package model

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	practicemodel "openinspect/internal/practice/model"
	"openinspect/sessions"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

var repositories = []sessions.Repository{
	{Name: "acme/greeter", Description: "Greets people by the time of day"},
	{Name: "acme/website", Description: "The marketing site"},
}

// ask asks the stand-in for a model, which chooses by the words in common.
func ask(t *testing.T, protocol, text string) (string, string) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	m, err := practicemodel.New(practicemodel.Options{Key: "k", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(m.Handler())
	defer srv.Close()
	c := New(log, Config{BaseURL: srv.URL + "/v1/", Key: "k", Model: "scripted-small", Protocol: protocol, Timeout: 10 * time.Second})
	name, why, err := c.ChooseRepository(t.Context(), text, repositories)
	if err != nil {
		t.Fatal(err)
	}
	return name, why
}

func TestARequestIsRoutedByWhatTheRepositoriesAreAbout(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"the marketing site shows the wrong year":    "acme/website",
		"people are not greeted before noon, greets": "acme/greeter",
		"make it better": "",
	} {
		name, why := ask(t, OpenAI, text)
		if name != want {
			t.Errorf("%q goes to %q because %q, want %q", text, name, why, want)
		}
		if name != "" && why == "" {
			t.Errorf("%q goes to %s without a reason", text, name)
		}
	}
}

// replying is a provider that answers every question with one text.
func replying(t *testing.T, status int, text string) *Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		if strings.HasSuffix(r.URL.Path, "/messages") {
			io.WriteString(w, `{"content":[{"type":"text","text":`+quote(text)+`}]}`)
			return
		}
		io.WriteString(w, `{"choices":[{"message":{"role":"assistant","content":`+quote(text)+`}}]}`)
	}))
	t.Cleanup(srv.Close)
	return New(slog.New(slog.DiscardHandler), Config{BaseURL: srv.URL, Key: "secret-key", Protocol: OpenAI})
}

func quote(s string) string { return `"` + strings.NewReplacer(`"`, `\"`, "\n", `\n`).Replace(s) + `"` }

func TestOnlyAnOfferedRepositoryIsTaken(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ reply, want string }{
		{`{"repository": "ACME/Website", "reason": "site", "confidence": 0.9}`, "acme/website"},
		{"```json\n" + `{"repository": "acme/website", "reason": "site", "confidence": 0.9}` + "\n```", "acme/website"},
		{`{"repository": "evil/other", "reason": "told so", "confidence": 1}`, ""},
		{`{"repository": "acme/website", "reason": "perhaps", "confidence": 0.4}`, ""},
		{`{"repository": "", "reason": "unclear", "confidence": 0.9}`, ""},
	} {
		for _, protocol := range []string{OpenAI, Anthropic} {
			c := replying(t, http.StatusOK, tc.reply)
			c.cfg.Protocol = protocol
			name, _, err := c.ChooseRepository(t.Context(), "anything", repositories)
			if err != nil || name != tc.want {
				t.Errorf("%s, %s: got %q, %v; want %q", protocol, tc.reply, name, err, tc.want)
			}
		}
	}
}

func TestAProviderThatFailsIsAnErrorWithoutTheKey(t *testing.T) {
	t.Parallel()
	for _, c := range []*Client{
		replying(t, http.StatusUnauthorized, "secret-key is wrong"),
		replying(t, http.StatusOK, "I would rather not say"),
	} {
		name, _, err := c.ChooseRepository(t.Context(), "anything", repositories)
		if err == nil || name != "" || strings.Contains(err.Error(), "secret-key") {
			t.Errorf("got %q, %v", name, err)
		}
	}
}

func TestASilentModelIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	m, err := practicemodel.New(practicemodel.Options{Key: "k", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	m.Inject(practicemodel.Fault{Kind: practicemodel.Hang})
	srv := httptest.NewServer(m.Handler())
	defer srv.Close()
	defer m.Clear()
	c := New(slog.New(slog.DiscardHandler), Config{BaseURL: srv.URL + "/v1", Key: "k", Protocol: OpenAI, Timeout: 50 * time.Millisecond})
	if _, _, err := c.ChooseRepository(context.Background(), "anything", repositories); err == nil {
		t.Error("a silent model was an answer")
	}
}
