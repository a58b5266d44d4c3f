package sessions_test

import (
	"errors"
	"strings"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestATokenIsGoodAsLongAsItsSandbox(t *testing.T) { // I7, I8
	t.Parallel()
	w, e, began, _ := world(t)
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	<-began
	box := w.Provider.Boxes()[0]
	token := box.Spec().Env[sandbox.EnvToken]
	got, err := e.Authenticate(bg, token)
	want := sessions.Grant{Session: acc.Session.ID, Repository: "acme/greeter", Branch: "inspect/" + acc.Session.ID, DefaultBranch: "main"}
	if err != nil || got != want {
		t.Errorf("Authenticate = %+v, %v; want %+v", got, err, want)
	}
	var kept string
	if err := w.DB.Get(&kept, `select string_agg(b::text, '') from sandboxes b`); err != nil || strings.Contains(kept, token) {
		t.Errorf("the token is in the table (%v)", err)
	}
	if _, err := e.Authenticate(bg, "made-up"); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("a made-up token: %v", err)
	}
	box.Crash()
	sessionstest.Eventually(t, "the dead sandbox's token is refused", func() bool {
		_, err := e.Authenticate(bg, token)
		return errors.Is(err, sessions.ErrNotFound)
	})
}

func TestAPushIsRecordedAndTheBranchIsAnArtifact(t *testing.T) { // I8
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
	head := strings.Repeat("ab", 20)
	for _, ref := range []string{"refs/heads/main", "refs/heads/inspect/" + acc.Session.ID, "refs/heads/inspect/" + acc.Session.ID} {
		if err := e.Pushed(bg, acc.Session.ID, ref, strings.Repeat("0", 40), head); err != nil {
			t.Fatal(err)
		}
	}
	s, err := e.Session(bg, acc.Session.ID)
	if err != nil || s.Head != head {
		t.Errorf("the head is %q (%v)", s.Head, err)
	}
	made, err := e.Artifacts(bg, acc.Session.ID)
	if err != nil || len(made) != 1 || made[0].URL != "https://github.test/acme/greeter/tree/inspect/"+acc.Session.ID {
		t.Errorf("artifacts: %+v (%v)", made, err)
	}
	if err := e.Pushed(bg, acc.Session.ID, "refs/heads/inspect/"+acc.Session.ID, head, strings.Repeat("0", 40)); err != nil {
		t.Fatal(err)
	}
	if s, err := e.Session(bg, acc.Session.ID); err != nil || s.Head != "" {
		t.Errorf("after the branch was deleted its head is %q (%v)", s.Head, err)
	}
}

func TestBudgetsCountWhatSandboxesCost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit func(*sessions.Config)
		spend string // on top of $0.40 for a model and $0.50 for a sandbox
		want  string
	}{
		"session": {func(c *sessions.Config) { c.SessionBudgetUSD = 1 },
			`insert into sandbox_usage (session_id, person, began_at, ended_at, cpu, mem_mib, cost_usd)
				values ($1, $2, now() - interval '40 hours', now() - interval '30 hours', 1, 1, 0.25)`, "The budget of this session is used up: $1.15 of $1.00 for models and sandboxes."},
		"another session's": {func(c *sessions.Config) { c.SessionBudgetUSD = 1 },
			`insert into sandbox_usage (person, began_at, ended_at, cpu, mem_mib, cost_usd) select $2, now(), now(), 1, 1, 5 where $1 <> ''`, ""},
		"person": {func(c *sessions.Config) { c.PersonDayBudgetUSD = 1 },
			`insert into sandbox_usage (person, began_at, ended_at, cpu, mem_mib, cost_usd) select $2, now(), now(), 1, 1, 0.25 where $1 <> ''`,
			"The budget of Alice within 24 hours is used up: $1.15 of $1.00 for models and sandboxes."},
		"yesterday's": {func(c *sessions.Config) { c.PersonDayBudgetUSD, c.DayBudgetUSD = 1, 1 },
			`insert into sandbox_usage (session_id, person, began_at, ended_at, cpu, mem_mib, cost_usd)
				values ($1, $2, now() - interval '40 hours', now() - interval '30 hours', 1, 1, 5)`, ""},
		"an image, for nobody": {func(c *sessions.Config) { c.PersonDayBudgetUSD, c.DayBudgetUSD = 1, 1 },
			`insert into sandbox_usage (purpose, began_at, ended_at, cpu, mem_mib, cost_usd) select 'image', now(), now(), 1, 1, 0.25 where $1 <> $2::text`,
			"The budget of everybody together within 24 hours is used up: $1.15 of $1.00 for models and sandboxes."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e, began, leave := world(t, c.limit)
			alice := w.Person(e, "Alice").ID
			acc := w.Ask(e, alice, "1.0", "acme/greeter: one")
			<-began
			if err := e.Used(bg, acc.Session.ID, sessions.Usage{Model: "m", CostUSD: 0.4, Known: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.DB.Exec(`insert into sandbox_usage (session_id, person, began_at, ended_at, cpu, mem_mib, cost_usd)
				values ($1, $2, now() - interval '1 hour', now(), 1, 1, 0.5)`, acc.Session.ID, alice); err != nil {
				t.Fatal(err)
			}
			if err := e.Allow(bg, acc.Session.ID); err != nil {
				t.Fatalf("before so much was spent: %v", err)
			}
			if _, err := w.DB.Exec(c.spend, acc.Session.ID, alice); err != nil {
				t.Fatal(err)
			}
			if err := e.Allow(bg, acc.Session.ID); !strings.HasPrefix(problem(err), c.want) || c.want == "" && err != nil {
				t.Errorf("afterwards: %v", err)
			}
			close(leave)
			ended(t, e, acc.Prompt.ID)
		})
	}
}

func TestBudgetsAreKeptAndSaid(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit func(*sessions.Config)
		whose string
	}{
		"session":  {func(c *sessions.Config) { c.SessionBudgetUSD = 1 }, "The budget of this session is used up: $1.50 of $1.00 for models and sandboxes."},
		"person":   {func(c *sessions.Config) { c.PersonDayBudgetUSD = 1 }, "The budget of Alice within 24 hours"},
		"everyone": {func(c *sessions.Config) { c.DayBudgetUSD = 1 }, "The budget of everybody together"},
		"none":     {func(*sessions.Config) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e, began, leave := world(t, c.limit)
			acc := w.Ask(e, w.Person(e, "Alice").ID, "1.0", "acme/greeter: one")
			<-began
			if err := e.Allow(bg, acc.Session.ID); err != nil {
				t.Fatalf("before anything was spent: %v", err)
			}
			u := sessions.Usage{Model: "m", Input: 100, Output: 20, CacheRead: 5, CacheWrite: 1, CostUSD: 0.75, Known: true}
			for range 2 {
				if err := e.Used(bg, acc.Session.ID, u); err != nil {
					t.Fatal(err)
				}
			}
			err := e.Allow(bg, acc.Session.ID)
			if p, ok := errors.AsType[*sessions.Problem](err); ok != (c.whose != "") || ok && !strings.HasPrefix(p.Text, c.whose) {
				t.Errorf("afterwards: %v", err)
			}
			close(leave)
			p := ended(t, e, acc.Prompt.ID)
			if p.CostUSD != 1.5 || p.InputTokens != 212 || p.OutputTokens != 40 {
				t.Errorf("the prompt cost $%.2f, %d and %d tokens", p.CostUSD, p.InputTokens, p.OutputTokens)
			}
		})
	}
}
