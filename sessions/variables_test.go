package sessions_test

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"openinspect/internal/seal"
	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// governed is a world with an administrator, Ada.
func governed(t *testing.T, changes ...func(*sessions.Config)) (*sessionstest.World, *sessions.Engine, sessions.Person) {
	t.Helper()
	w := sessionstest.New(t)
	e := w.Engine(append([]func(*sessions.Config){func(c *sessions.Config) { c.Admins = []string{"U1"} }}, changes...)...)
	sessions.Hasten(e)
	ada := w.Person(e, "Ada")
	if !ada.Admin {
		t.Fatal("the one whom the configuration names is no administrator")
	}
	return w, e, ada
}

func set(t *testing.T, e *sessions.Engine, by sessions.Person, repository, name, value string, secret bool) {
	t.Helper()
	kind := sessions.PlainVariable
	if secret {
		kind = sessions.SecretInside
	}
	if err := e.SetVariable(context.Background(), by.ID, repository, name, value, kind); err != nil {
		t.Fatal(err)
	}
}

func TestASandboxGetsWhatIsSetForItsRepository(t *testing.T) {
	t.Parallel()
	w, e, ada := governed(t)
	w.Run(e)
	set(t, e, ada, sessions.ForAll, "REGION", "north", false)
	set(t, e, ada, sessions.ForAll, "NPM_TOKEN", "npm-for-everybody", true)
	set(t, e, ada, sessions.ForAll, "LEVEL", "quiet-as-a-mouse", true)
	set(t, e, ada, "acme/greeter", "NPM_TOKEN", "npm-for-greeter-only", true)
	set(t, e, ada, "acme/greeter", "LEVEL", "loud", false)
	set(t, e, ada, "acme/billing", "BILLING_KEY", "key-of-billing", true)
	set(t, e, ada, sessions.ForAll, "LINEAR_TOKEN", "only-a-variable", false)
	if err := e.SetVariable(context.Background(), ada.ID, "acme/greeter", "LINEAR_TOKEN", "a-secret-for-outside", sessions.SecretOutside); err != nil {
		t.Fatal(err)
	}
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: hello")
	ended(t, e, acc.Prompt.ID)
	env := w.Provider.Specs()[0].Env
	for name, want := range map[string]string{"REGION": "north", "NPM_TOKEN": "npm-for-greeter-only", "LEVEL": "loud",
		"BILLING_KEY": "", "LINEAR_TOKEN": "", sandbox.EnvSecrets: "NPM_TOKEN"} {
		if env[name] != want {
			t.Errorf("%s is %q in the sandbox, want %q", name, env[name], want)
		}
	}
	if env[sandbox.EnvToken] == "" || env[sandbox.EnvControl] == "" {
		t.Error("the supervisor's own variables are gone")
	}
}

func TestASecretIsScrubbedFromWhatASandboxSays(t *testing.T) { // I10
	t.Parallel()
	const old, now = "hunter2-before-it-changed", "hunter2-after-it-changed"
	w, e, ada := governed(t)
	set(t, e, ada, "acme/greeter", "PASSWORD", old, true)
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		set(t, e, ada, "acme/greeter", "PASSWORD", now, true)
		w.Cut() // whoever takes the bridge over knows the new value too
		text := "old " + b.Spec().Env["PASSWORD"] + " new " + now + " coded " + base64.StdEncoding.EncodeToString([]byte("user:"+old))
		b.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: "p", Text: text})
		b.Bridge().Event(sandbox.KindSettled, p.ID, sandbox.BodySettled{Outcome: sandbox.OutcomeCompleted, Answer: text})
	}
	w.Run(e)
	acc := w.Ask(e, ada.ID, "1.0", "acme/greeter: hello")
	p := ended(t, e, acc.Prompt.ID)
	if !strings.HasPrefix(p.Answer, "old [redacted] new [redacted] coded ") || strings.Contains(p.Answer, base64.StdEncoding.EncodeToString([]byte(old))[:20]) {
		t.Errorf("the answer is %q", p.Answer)
	}
	var shown int
	if err := w.DB.Get(&shown, `select count(*) from events where body::text like '%hunter2%'`); err != nil || shown > 0 {
		t.Errorf("%d events show the secret (%v)", shown, err)
	}
}

func TestOnlyAdministratorsChangeVariablesAndItIsKnownWhoDid(t *testing.T) {
	t.Parallel()
	w, e, ada := governed(t)
	ctx := context.Background()
	bob := w.Person(e, "Bob")
	for what, err := range map[string]error{
		"setting":  e.SetVariable(ctx, bob.ID, "acme/greeter", "NAME", "value", sessions.PlainVariable),
		"for all":  e.SetVariable(ctx, bob.ID, sessions.ForAll, "NAME", "value", sessions.PlainVariable),
		"removing": e.RemoveVariable(ctx, bob.ID, "acme/greeter", "NAME"),
	} {
		if p, ok := errors.AsType[*sessions.Problem](err); !ok || p.Code != "not_admin" {
			t.Errorf("%s by somebody else: %v", what, err)
		}
	}
	set(t, e, ada, "acme/greeter", "TOKEN", "a-secret-value", true)
	if err := e.RemoveVariable(ctx, ada.ID, "acme/greeter", "OTHER"); err != nil {
		t.Fatal(err)
	}
	list, err := e.Variables(ctx, "acme/greeter")
	if err != nil || len(list) != 1 || list[0].Name != "TOKEN" || list[0].Value != "" || list[0].By != "Ada" || list[0].At.IsZero() {
		t.Errorf("the variables are %+v (%v)", list, err)
	}
	if err := e.RemoveVariable(ctx, ada.ID, "acme/greeter", "TOKEN"); err != nil {
		t.Fatal(err)
	}
	changes, err := e.SettingChanges(ctx, "acme/greeter", 10)
	if err != nil || len(changes) != 2 || changes[0].What != "removed TOKEN" || changes[1].What != "set the secret TOKEN" || changes[1].By != "Ada" {
		t.Errorf("the changes are %+v (%v)", changes, err)
	}
}

func TestVariablesThatCannotBe(t *testing.T) {
	t.Parallel()
	_, e, ada := governed(t)
	for _, c := range []struct {
		name, value string
		secret      bool
		says        string
	}{
		{"", "x", false, "needs a name"},
		{"npm-token", "x", false, "capital letters"},
		{"1ST", "x", false, "capital letters"},
		{strings.Repeat("A", 101), "x", false, "too long"},
		{"PATH", "/bin", false, "belongs to the sandbox"},
		{"OPENINSPECT_TOKEN", "mine", false, "belongs to the sandbox"},
		{"GIT_SSH_COMMAND", "mine", false, "belongs to the sandbox"},
		{"LD_PRELOAD", "/tmp/x.so", false, "belongs to the sandbox"},
		{"HTTPS_PROXY", "http://elsewhere", false, "belongs to the sandbox"},
		{"KEY", "a\x00b", false, "not text"},
		{"KEY", "\xff\xfe", false, "not text"},
		{"KEY", strings.Repeat("x", 32<<10+1), false, "too long"},
		{"KEY", "short", true, "8 characters"},
	} {
		kind := sessions.PlainVariable
		if c.secret {
			kind = sessions.SecretOutside
		}
		err := e.SetVariable(context.Background(), ada.ID, "acme/greeter", c.name, c.value, kind)
		if p, ok := errors.AsType[*sessions.Problem](err); !ok || !strings.Contains(p.Text, c.says) {
			t.Errorf("%q = %.20q: %v; want a sentence with %q", c.name, c.value, err, c.says)
		}
	}
	err := e.SetVariable(context.Background(), ada.ID, "acme/nothing", "KEY", "value", sessions.PlainVariable)
	if p, ok := errors.AsType[*sessions.Problem](err); !ok || p.Code != "no_repository" {
		t.Errorf("a repository that is not there: %v", err)
	}
}

func TestASecretSealedUnderAnotherKeyStartsNoSandbox(t *testing.T) {
	t.Parallel()
	w, e, ada := governed(t)
	set(t, e, ada, "acme/greeter", "TOKEN", "a-secret-value", true)
	key, err := seal.Parse(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("z", 32))))
	if err != nil {
		t.Fatal(err)
	}
	other := w.Engine(func(c *sessions.Config) { c.Seal, c.Admins = key, []string{"U1"} })
	sessions.Hasten(other)
	w.Run(other)
	acc := w.Ask(other, ada.ID, "1.0", "acme/greeter: hello")
	if p := ended(t, other, acc.Prompt.ID); p.State != sessions.Failed || !strings.HasPrefix(p.Reason, "The secret TOKEN cannot be read any more") {
		t.Errorf("the request ended as %s: %s", p.State, p.Reason)
	}
	if n := len(w.Provider.Specs()); n != 0 {
		t.Errorf("%d sandboxes were started without the secret", n)
	}
	set(t, other, ada, "acme/greeter", "TOKEN", "a-secret-value", true)
	again := w.Ask(other, ada.ID, "1.0", "again")
	if p := ended(t, other, again.Prompt.ID); p.State != sessions.Completed {
		t.Errorf("after it was set again the request ended as %s: %s", p.State, p.Reason)
	}
}
