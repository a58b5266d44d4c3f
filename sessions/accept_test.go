package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

var bg = context.Background()

func TestAMentionDeliveredFourTimesAtOnceIsOnePrompt(t *testing.T) { // I1
	t.Parallel()
	w := sessionstest.New(t)
	engines := []*sessions.Engine{w.Engine(), w.Engine()}
	alice := w.Person(engines[0], "Alice")
	r := sessions.Request{Key: "slack:T1:C1:1.0", Source: sessions.FromSlack, Author: alice.ID, Text: "fix acme/greeter",
		Thread: &sessions.Thread{Team: "T1", Channel: "C1", TS: "1.0"}, MessageTS: "1.0"}
	got := make([]sessions.Accepted, 4)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() {
			var err error
			if got[i], err = engines[i%2].Accept(bg, r); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	fresh := 0
	for _, a := range got {
		if !a.Duplicate {
			fresh++
		}
		if a.Prompt.ID != got[0].Prompt.ID || a.Session.ID != got[0].Session.ID {
			t.Errorf("deliveries became different prompts: %s and %s", a.Prompt.ID, got[0].Prompt.ID)
		}
	}
	if fresh != 1 {
		t.Errorf("%d of four deliveries were taken as new", fresh)
	}
	prompts, err := engines[0].Prompts(bg, got[0].Session.ID)
	if err != nil || len(prompts) != 1 {
		t.Errorf("the session has %d prompts (%v), want 1", len(prompts), err)
	}
	due, err := engines[0].Due(bg, "slack", 10)
	if err != nil || len(due) != 1 || due[0].Key != "card:"+got[0].Prompt.ID {
		t.Errorf("due are %+v (%v), want one card", due, err)
	}
}

func TestManyFirstRepliesOfAThreadShareOneSession(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	alice := w.Person(e, "Alice")
	const n = 8
	ids := make([]string, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { ids[i] = w.Ask(e, alice.ID, "1.0", fmt.Sprintf("in acme/greeter do %d", i)).Session.ID })
	}
	all.Wait()
	prompts, err := e.Prompts(bg, ids[0])
	if err != nil || len(prompts) != n {
		t.Fatalf("the thread's session has %d prompts (%v), want %d", len(prompts), err, n)
	}
	for i, p := range prompts {
		if p.Position != int64(i+1) {
			t.Errorf("prompt %d has position %d", i, p.Position)
		}
	}
	events, err := e.Events(bg, ids[0], 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i, ev := range events { // I4
		if ev.Seq != int64(i+1) {
			t.Fatalf("event %d of the log has number %d", i+1, ev.Seq)
		}
	}
}

func TestWhichRepositoryAndWhy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, asked  string
		repos        []string
		want, why    string
		problem      string // part of its text
		waits        bool
		rememberedBy string
	}{
		"full name":              {text: "fix the failing test in acme/greeter", want: "acme/greeter", why: "named in the message"},
		"full name, other case":  {text: "fix Acme/Greeter.", want: "acme/greeter", why: "named in the message"},
		"URL":                    {text: "see https://github.com/acme/billing/issues/3", want: "acme/billing", why: "named in the message"},
		"clone URL":              {text: "clone https://github.com/acme/billing.git", want: "acme/billing", why: "named in the message"},
		"bare name":              {text: "the greeter, please: greet politely", want: "acme/greeter", why: "named in the message"},
		"asked for":              {text: "do it", asked: "acme/billing", want: "acme/billing", why: "asked for"},
		"path is no repository":  {text: "fix greeter's src/main.go and/or docs", want: "acme/greeter", why: "named in the message"},
		"only one":               {text: "do it", repos: []string{"acme/greeter"}, want: "acme/greeter", why: "the only one"},
		"channel's":              {text: "do it", rememberedBy: "acme/billing", want: "acme/billing", why: "this channel's repository"},
		"named beats channel's":  {text: "in acme/greeter", rememberedBy: "acme/billing", want: "acme/greeter", why: "named in the message"},
		"none named":             {text: "do it", waits: true},
		"two named":              {text: "move it from greeter to billing", waits: true},
		"unknown, known owner":   {text: "fix acme/greetr", problem: "Did you mean acme/greeter?"},
		"unknown URL":            {text: "fix https://github.com/other/thing", problem: "no repository other/thing"},
		"unknown, said so":       {text: "in the repo other/thing do it", problem: "no repository other/thing"},
		"unknown asked for":      {text: "do it", asked: "acme/nope", problem: "no repository acme/nope"},
		"no repositories at all": {text: "do it", repos: []string{}, problem: "install the GitHub App"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := sessionstest.New(t)
			if c.repos != nil {
				w.Forge.SetRepositories(c.repos...)
			}
			e := w.Engine()
			alice := w.Person(e, "Alice")
			if c.rememberedBy != "" {
				first := w.Ask(e, alice.ID, "0.1", "do something")
				if err := e.ChooseRepository(bg, "click:1", first.Session.ID, c.rememberedBy, alice.ID); err != nil {
					t.Fatal(err)
				}
			}
			acc, err := e.Accept(bg, sessions.Request{Key: "k", Source: sessions.FromSlack, Author: alice.ID, Text: c.text,
				Repository: c.asked, Thread: &sessions.Thread{Team: "T1", Channel: "C1", TS: "1.0"}})
			problem, _ := errors.AsType[*sessions.Problem](err)
			switch {
			case c.problem != "":
				if problem == nil || !strings.Contains(problem.Text, c.problem) {
					t.Errorf("error %v, want a problem with %q", err, c.problem)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			if got := acc.Session; got.Repository != c.want || got.RepositoryWhy != c.why {
				t.Errorf("repository %q, %q; want %q, %q", got.Repository, got.RepositoryWhy, c.want, c.why)
			}
			if menus := kinds(t, e, "slack")["menu"]; (menus == 1) != c.waits {
				t.Errorf("%d menus were asked for; waits: %v", menus, c.waits)
			}
		})
	}
}

// kinds counts what is due on a surface.
func kinds(t *testing.T, e *sessions.Engine, surface string) map[string]int {
	t.Helper()
	due, err := e.Due(bg, surface, 100)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, d := range due {
		count[d.Kind]++
	}
	return count
}

func TestARefusalSaysWhatToDoAndChangesNothing(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine(func(c *sessions.Config) { c.MaxQueue = 2 })
	alice := w.Person(e, "Alice")
	full := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	w.Ask(e, alice.ID, "1.0", "two")
	before, err := e.Session(bg, full.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		r    sessions.Request
		code string
	}{
		"empty":      {sessions.Request{Text: " \n "}, "empty"},
		"200 kB":     {sessions.Request{Text: strings.Repeat("x", 200_000)}, "too_long"},
		"files":      {sessions.Request{Text: "x", Attachments: []sandbox.Attachment{{Data: make([]byte, 31<<20)}}}, "too_large"},
		"no session": {sessions.Request{Text: "x", Session: "nosuch"}, "no_session"},
		"full":       {sessions.Request{Text: "three", Session: full.Session.ID}, "queue_full"},
	} {
		c.r.Key, c.r.Author, c.r.Source = "refused:"+name, alice.ID, sessions.FromWeb
		_, err := e.Accept(bg, c.r)
		if p, ok := errors.AsType[*sessions.Problem](err); !ok || p.Code != c.code || p.Text == "" {
			t.Errorf("%s: error %v, want a problem %s", name, err, c.code)
		}
	}
	after, err := e.Session(bg, full.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("refusals changed the session (-before +after):\n%s", diff)
	}
}

func TestTheDatabaseRefusesTwoRunningPromptsOfASession(t *testing.T) { // I2
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	alice := w.Person(e, "Alice")
	w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	w.Ask(e, alice.ID, "1.0", "two")
	if _, err := w.DB.Exec(`update prompts set state = 'running'`); err == nil || !strings.Contains(err.Error(), "prompts_one_running") {
		t.Errorf("two prompts of a session run: %v", err)
	}
}
