package sessions_test

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
)

func change(t *testing.T, e *sessions.Engine, by sessions.Person, repository string, s sessions.Settings) {
	t.Helper()
	_, version, err := e.ReadSettings(context.Background(), repository)
	if err == nil {
		err = e.ChangeSettings(context.Background(), by.ID, repository, version, s)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestASandboxIsStartedAsItsRepositoryIsSet(t *testing.T) {
	t.Parallel()
	w, e, ada := governed(t)
	w.Provider.Lifetime = 2 * time.Hour
	w.Run(e)
	change(t, e, ada, sessions.ForAll, sessions.Settings{CPU: 2, MemMiB: 4096, Regions: []string{"eu-west"}, LifetimeMinutes: 24 * 60,
		Ports: []sessions.Port{{Port: 3000, Label: "Site"}, {Port: 6006}}})
	change(t, e, ada, "acme/greeter", sessions.Settings{MemMiB: 8192, Ports: []sessions.Port{{Port: 3000, Label: "Shop"}}})
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: hello")
	ended(t, e, acc.Prompt.ID)
	spec := w.Provider.Specs()[0]
	if spec.CPU != 2 || spec.MemMiB != 8192 || strings.Join(spec.Regions, " ") != "eu-west" {
		t.Errorf("the sandbox has %g cores and %d MiB in %q", spec.CPU, spec.MemMiB, spec.Regions)
	}
	if spec.Lifetime != w.Provider.Lifetime {
		t.Errorf("it lives for %s; the provider's most is %s", spec.Lifetime, w.Provider.Lifetime)
	}
	if len(spec.Ports) != 2 || spec.Ports[0] != 6006 || spec.Ports[1] != 3000 {
		t.Errorf("its ports are %v", spec.Ports)
	}
}

func TestTwoWhoChangeSettingsAtOnceLoseNothing(t *testing.T) {
	t.Parallel()
	_, e, ada := governed(t)
	ctx := context.Background()
	for _, version := range []int64{0, 1} { // the first settings, and later ones
		var both sync.WaitGroup
		results := make([]error, 2)
		for i := range results {
			both.Go(func() {
				results[i] = e.ChangeSettings(ctx, ada.ID, "acme/greeter", version, sessions.Settings{CPU: float64(1 + i), MemMiB: 1024 * int(1+version)})
			})
		}
		both.Wait()
		if (results[0] == nil) == (results[1] == nil) {
			t.Fatalf("of two changes at once: %v, %v", results[0], results[1])
		}
		for _, err := range results {
			if p, ok := errors.AsType[*sessions.Problem](err); err != nil && (!ok || p.Code != "changed_meanwhile") {
				t.Errorf("the second one is told %v", err)
			}
		}
	}
	changes, err := e.SettingChanges(ctx, "acme/greeter", 10)
	if err != nil || len(changes) != 2 || !strings.Contains(changes[1].What, "CPU, memory") {
		t.Errorf("recorded are %+v (%v)", changes, err)
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	t.Parallel()
	_, e, ada := governed(t)
	for want, s := range map[string]sessions.Settings{
		"CPU has to be between":            {CPU: 1000},
		"Memory has to be between":         {MemMiB: 1},
		"The lifetime has to be":           {LifetimeMinutes: -5},
		"The time of a request has to be":  {PromptMinutes: 100_000},
		"no region":                        {Regions: []string{"eu", "Mars; rm"}},
		"The region eu is there twice.":    {Regions: []string{"eu", "eu"}},
		"brings may run is \"maybe\": say": {Project: "maybe"},
		"there are images is \"off\": say": {Images: "off"},
		"warm sandboxes is \"0\": say yes": {Spares: "0"},
		"The instructions are too long":    {Instructions: strings.Repeat("x", 100_000)},
		"The instructions are not text":    {Instructions: "a\x00b"},
		"0 is no port":                     {Ports: []sessions.Port{{Port: 0}}},
		"Port 4100 is the sandbox's own":   {Ports: []sessions.Port{{Port: 4100}}},
		"Port 3000 is there twice":         {Ports: []sessions.Port{{Port: 3000}, {Port: 3000}}},
		"one line":                         {Ports: []sessions.Port{{Port: 3000, Label: "a\nb"}}},
		"small letters":                    {Tools: []sessions.MCPServer{{Name: "No Good", Command: "x"}}},
		"agent's own tools":                {Tools: []sessions.MCPServer{{Name: sandbox.OwnTools, Command: "x"}}},
		"two servers":                      {Tools: []sessions.MCPServer{{Name: "a", Command: "x"}, {Name: "a", Command: "y"}}},
		"either a URL or a command":        {Tools: []sessions.MCPServer{{Name: "a"}}},
		"begin with https://":              {Tools: []sessions.MCPServer{{Name: "a", URL: "http://x.example/mcp"}}},
		"headers are for those":            {Tools: []sessions.MCPServer{{Name: "a", Command: "x", Headers: map[string]string{"A": "b"}}}},
		"cannot be a header":               {Tools: []sessions.MCPServer{{Name: "a", URL: "https://x.example", Headers: map[string]string{"A b": "c"}}}},
		"belongs to the connection":        {Tools: []sessions.MCPServer{{Name: "a", URL: "https://x.example", Headers: map[string]string{"Host": "c"}}}},
		"everybody sees":                   {Tools: []sessions.MCPServer{{Name: "a", URL: "https://x.example", Headers: map[string]string{"Authorization": "Bearer lin_api_1234"}}}},
		"cannot be a skill's name":         {Skills: []sessions.Skill{{Name: "../x", Description: "d", Text: "t"}}},
		"needs a description":              {Skills: []sessions.Skill{{Name: "x", Text: "t"}}},
		"is empty":                         {Skills: []sessions.Skill{{Name: "x", Description: "d"}}},
	} {
		err := e.ChangeSettings(context.Background(), ada.ID, "acme/greeter", 0, s)
		if p, ok := errors.AsType[*sessions.Problem](err); !ok || !strings.Contains(p.Text, want) {
			t.Errorf("%+v: %v; want a sentence with %q", s, err, want)
		}
	}
}

func TestAServerOfToolsGetsTheHeadersThatAreSet(t *testing.T) {
	t.Parallel()
	w, e, ada := governed(t)
	w.Run(e)
	ctx := context.Background()
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: hello")
	ended(t, e, acc.Prompt.ID)
	change(t, e, ada, sessions.ForAll, sessions.Settings{Tools: []sessions.MCPServer{
		{Name: "linear", URL: "https://mcp.linear.test/mcp", Headers: map[string]string{"Authorization": "Bearer ${LINEAR}", "X-Team": "${TEAM}/a"}}}})
	if _, err := e.ToolServer(ctx, acc.Session.ID, "linear"); err == nil || !strings.Contains(err.Error(), "is not set") {
		t.Errorf("without its secret: %v", err)
	}
	set(t, e, ada, sessions.ForAll, "TEAM", "north", false)
	for repository, value := range map[string]string{sessions.ForAll: "token-for-all", "acme/greeter": "token-of-greeter\n", "acme/billing": "token-of-billing"} {
		if err := e.SetVariable(ctx, ada.ID, repository, "LINEAR", value, sessions.SecretOutside); err != nil {
			t.Fatal(err)
		}
	}
	got, err := e.ToolServer(ctx, acc.Session.ID, "linear")
	if err != nil || got.URL != "https://mcp.linear.test/mcp" || got.Headers["Authorization"] != "Bearer token-of-greeter" ||
		got.Headers["X-Team"] != "north/a" {
		t.Errorf("the server is asked with %+v (%v)", got, err)
	}
	// A server may repeat what it got, encoded as well (I7).
	for form, kept := range map[string]bool{"token-of-greeter": true, "dG9rZW4tb2YtZ3JlZXRl": true, hex.EncodeToString([]byte("token-of-greeter")): true, "north/a": false} {
		if is := slices.ContainsFunc(got.Secrets, func(s string) bool { return strings.Contains(s, form) }); is != kept {
			t.Errorf("%s is kept from the answers: %v", form, is)
		}
	}
	set(t, e, ada, sessions.ForAll, "TEAM", "north\nsouth", false)
	if _, err := e.ToolServer(ctx, acc.Session.ID, "linear"); err == nil || !strings.Contains(err.Error(), "names TEAM, whose value has several lines") {
		t.Errorf("with a header of two lines: %v", err)
	}
	if _, err := e.ToolServer(ctx, acc.Session.ID, "other"); err == nil {
		t.Error("a server that is not set is found")
	}
}

func TestARequestMayRunAsLongAsItsRepositoryAllows(t *testing.T) {
	t.Parallel()
	w, e, ada := governed(t, func(c *sessions.Config) { c.PromptTimeout = time.Millisecond })
	began, leave := make(chan string, 1), make(chan struct{})
	w.Provider.Agent = held(began, leave)
	change(t, e, ada, "acme/greeter", sessions.Settings{PromptMinutes: 5})
	w.Run(e)
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: take your time")
	<-began
	var seconds float64
	if err := w.DB.Get(&seconds, `select prompt_seconds from sandboxes where session_id = $1`, acc.Session.ID); err != nil || seconds != 300 {
		t.Errorf("the sandbox was given %g seconds (%v)", seconds, err)
	}
	if _, err := w.DB.Exec(`update prompts set started_at = now() - interval '4 minutes' where id = $1`, acc.Prompt.ID); err != nil {
		t.Fatal(err)
	}
	leave <- struct{}{}
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("after four minutes the request ended as %s: %s", p.State, p.Reason)
	}
	next := w.Ask(e, ada.ID, "1.0", "again")
	<-began
	if _, err := w.DB.Exec(`update prompts set started_at = now() - interval '6 minutes' where id = $1`, next.Prompt.ID); err != nil {
		t.Fatal(err)
	}
	if p := ended(t, e, next.Prompt.ID); p.State != sessions.Failed || !strings.Contains(p.Reason, "longer than 5m0s") {
		t.Errorf("after six minutes the request ended as %s: %s", p.State, p.Reason)
	}
	close(leave)
}
