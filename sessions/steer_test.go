package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

var thread = sessions.Thread{Team: "T1", Channel: "C1", TS: "1.0"}

func TestAQueuedMessageCanBeEditedAndDeleted(t *testing.T) { // I1
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine() // it does not run: everything stays queued
	alice := w.Person(e, "Alice")
	r := sessions.Request{Key: "k1", Source: sessions.FromSlack, Author: alice.ID, Text: "fix it", Thread: &thread, MessageTS: "1.0"}
	acc, err := e.Accept(bg, r)
	if err != nil {
		t.Fatal(err)
	}
	if acc.Session.Repository != "" {
		t.Fatalf("the repository is %q before anybody named it", acc.Session.Repository)
	}
	for range 2 { // delivered twice
		if _, err := e.Edit(bg, "edit:1", thread, "1.0", "fix acme/greeter"); err != nil {
			t.Fatal(err)
		}
	}
	s, err := e.SessionOfThread(bg, thread)
	if err != nil || s.Repository != "acme/greeter" || s.Title != "fix acme/greeter" {
		t.Errorf("after the edit the session is %+v (%v)", s, err)
	}
	if changed, err := e.Edit(bg, "edit:2", thread, "9.9", "x"); err != nil || changed {
		t.Errorf("editing a message that was no request: %v, %v", changed, err)
	}
	if changed, err := e.Withdraw(bg, "delete:1", thread, "1.0"); err != nil || !changed {
		t.Errorf("Withdraw = %v, %v", changed, err)
	}
	if changed, err := e.Edit(bg, "edit:3", thread, "1.0", "too late"); err != nil || changed {
		t.Errorf("editing a withdrawn request: %v, %v", changed, err)
	}
	p, err := e.Prompt(bg, acc.Prompt.ID)
	if err != nil || p.State != sessions.Cancelled || p.Text != "fix acme/greeter" || p.Reason == "" {
		t.Errorf("in the end the prompt is %+v (%v)", p, err)
	}
	edits := 0
	for _, ev := range log(t, e, s.ID) {
		if ev.Kind == sessions.KindEdited {
			edits++
		}
	}
	if edits != 1 {
		t.Errorf("the log has %d edits, want 1", edits)
	}
	if got := kinds(t, e, "slack"); got["answer"] != 0 || got["card"] != 1 {
		t.Errorf("a withdrawn request is due as %v: only its card is to be told", got)
	}
}

func TestCancelRefusesWhatIsNotQueued(t *testing.T) {
	t.Parallel()
	w, e, began, leave := world(t)
	alice := w.Person(e, "Alice")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	second := w.Ask(e, alice.ID, "1.0", "two")
	<-began
	cancel := func(id string) string {
		err := e.Cancel(bg, id, alice.ID)
		if err == nil {
			return ""
		}
		p, ok := errors.AsType[*sessions.Problem](err)
		if !ok {
			t.Fatal(err)
		}
		return p.Code
	}
	if got := cancel(first.Prompt.ID); got != "running" {
		t.Errorf("cancelling what runs: %q", got)
	}
	if got := cancel(second.Prompt.ID); got != "" {
		t.Errorf("cancelling what is queued: %q", got)
	}
	close(leave)
	ended(t, e, first.Prompt.ID)
	if got := cancel(first.Prompt.ID); got != "settled" {
		t.Errorf("cancelling what has ended: %q", got)
	}
}

func TestStopBeforeTheSandboxIsReadyCancelsWhatWaits(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	alice := w.Person(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	stopped, err := e.Stop(bg, "k", acc.Session.ID, "", alice.ID)
	if err != nil || stopped != acc.Prompt.ID {
		t.Errorf("Stop = %q, %v", stopped, err)
	}
	if p, err := e.Prompt(bg, acc.Prompt.ID); err != nil || p.State != sessions.Cancelled || !p.StopWanted {
		t.Errorf("the prompt is %+v (%v)", p, err)
	}
	if stopped, err := e.Stop(bg, "k2", acc.Session.ID, "", alice.ID); err != nil || stopped != "" {
		t.Errorf("with nothing to stop, Stop = %q, %v", stopped, err)
	}
}

// chooser answers what a test tells it to.
type chooser func(ctx context.Context, text string, from []sessions.Repository) (string, string, error)

func (c chooser) ChooseRepository(ctx context.Context, text string, from []sessions.Repository) (string, string, error) {
	return c(ctx, text, from)
}

func TestTheSmallModelChoosesOrPeopleAreAsked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		choose chooser
		want   string
	}{
		"it is sure": {func(context.Context, string, []sessions.Repository) (string, string, error) {
			return "acme/billing", "it is about invoices", nil
		}, "acme/billing"},
		"it is not sure": {func(context.Context, string, []sessions.Repository) (string, string, error) { return "", "", nil }, ""},
		"it invents one": {func(context.Context, string, []sessions.Repository) (string, string, error) {
			return "acme/nope", "", nil
		}, ""},
		"it fails": {func(context.Context, string, []sessions.Repository) (string, string, error) {
			return "", "", errors.New("401")
		}, ""},
		"it hangs": {func(ctx context.Context, _ string, _ []sessions.Repository) (string, string, error) {
			<-ctx.Done()
			return "", "", ctx.Err()
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, e, _ := running(t, func(cfg *sessions.Config) { cfg.Chooser = c.choose })
			alice := w.Person(e, "Alice")
			acc := w.Ask(e, alice.ID, "1.0", "the invoice is wrong")
			if c.want != "" {
				ended(t, e, acc.Prompt.ID)
				s, err := e.Session(bg, acc.Session.ID)
				if err != nil || s.Repository != c.want || s.RepositoryWhy != "it is about invoices" {
					t.Errorf("the session is %+v (%v)", s, err)
				}
				return
			}
			sessionstest.Eventually(t, "people are asked", func() bool { return kinds(t, e, "slack")["menu"] == 1 })
			if err := e.ChooseRepository(bg, "click", acc.Session.ID, "acme/greeter", alice.ID); err != nil {
				t.Fatal(err)
			}
			ended(t, e, acc.Prompt.ID)
			again := w.Ask(e, alice.ID, "2.0", "and again")
			if again.Session.Repository != "acme/greeter" || again.Session.RepositoryWhy != "this channel's repository" {
				t.Errorf("the next session of the channel works on %q, %q", again.Session.Repository, again.Session.RepositoryWhy)
			}
			err := e.ChooseRepository(bg, "click2", acc.Session.ID, "acme/billing", alice.ID)
			if p, ok := errors.AsType[*sessions.Problem](err); !ok || p.Code != "repository_settled" {
				t.Errorf("changing it after the work began: %v", err)
			}
		})
	}
}

func TestACrashWhileTheSmallModelThinksLosesNothing(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	asked := make(chan struct{})
	var once sync.Once
	first := w.Engine(func(c *sessions.Config) {
		c.Chooser = chooser(func(ctx context.Context, _ string, _ []sessions.Repository) (string, string, error) {
			once.Do(func() { close(asked) })
			<-ctx.Done()
			return "", "", ctx.Err()
		})
	})
	stop := w.Run(first) // at its normal pace: it would think for three seconds
	acc := w.Ask(first, w.Person(first, "Alice").ID, "1.0", "do it")
	<-asked
	stop()
	if _, err := w.DB.Exec(`update sessions set choice_at = now() where id = $1`, acc.Session.ID); err != nil { // time passes
		t.Fatal(err)
	}
	second := w.Engine(func(c *sessions.Config) {
		c.Chooser = chooser(func(context.Context, string, []sessions.Repository) (string, string, error) {
			return "acme/billing", "it is obvious", nil
		})
	})
	sessions.Hasten(second)
	w.Run(second)
	ended(t, second, acc.Prompt.ID)
}

// Whatever people do to a queue, in whatever order and however often it is
// delivered: prompts run in order, one at a time, and each ends once.
func TestAnyOrderOfRequestsKeepsTheQueue(t *testing.T) { // I1, I2, I3
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine(func(c *sessions.Config) { c.MaxSandboxes, c.ParkAfter = 1000, 50*time.Millisecond })
	sessions.Hasten(e)
	var mu sync.Mutex
	order := map[string][]string{} // by box
	w.Provider.Agent = func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		mu.Lock()
		order[b.ID()] = append(order[b.ID()], p.ID)
		mu.Unlock()
		sessionstest.Answer(ctx, b, p)
	}
	w.Run(e)
	alice := w.Person(e, "Alice")
	rapid.Check(t, func(rt *rapid.T) {
		th := sessions.Thread{Team: "T1", Channel: "C1", TS: uuid.NewString()}
		var prompts []string
		var session string
		rt.Repeat(map[string]func(*rapid.T){
			"ask": func(rt *rapid.T) {
				key := fmt.Sprint(th.TS, rapid.IntRange(0, 5).Draw(rt, "message"))
				acc, err := e.Accept(bg, sessions.Request{Key: key, Source: sessions.FromSlack, Author: alice.ID,
					Text: "acme/greeter: " + key, Thread: &th, MessageTS: key})
				if err != nil {
					rt.Fatal(err)
				}
				session = acc.Session.ID
				if !acc.Duplicate {
					prompts = append(prompts, acc.Prompt.ID)
				}
			},
			"withdraw": func(rt *rapid.T) {
				key := fmt.Sprint(th.TS, rapid.IntRange(0, 5).Draw(rt, "message"))
				if _, err := e.Withdraw(bg, "w"+key, th, key); err != nil {
					rt.Fatal(err)
				}
			},
			"stop": func(rt *rapid.T) {
				if session == "" {
					rt.Skip()
				}
				if _, err := e.Stop(bg, uuid.NewString(), session, "", alice.ID); err != nil {
					rt.Fatal(err)
				}
			},
		})
		for _, id := range prompts {
			ended(t, e, id)
		}
		if session != "" {
			log(t, e, session)
		}
	})
	position := map[string]int64{}
	var rows []struct {
		ID       string
		Position int64
	}
	if err := w.DB.Select(&rows, `select id, position from prompts`); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		position[r.ID] = r.Position
	}
	mu.Lock()
	defer mu.Unlock()
	for box, ids := range order {
		if !sort.SliceIsSorted(ids, func(i, j int) bool { return position[ids[i]] < position[ids[j]] }) {
			t.Errorf("in %s prompts ran out of order", box)
		}
	}
}

func TestSignInsEndAndOnlyHashesAreKept(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	alice := w.Person(e, "Alice")
	secret, err := e.Login(bg, alice.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := e.WhoIs(bg, secret); err != nil || p.ID != alice.ID {
		t.Errorf("WhoIs = %+v, %v", p, err)
	}
	var kept string
	if err := w.DB.Get(&kept, `select string_agg(l::text, '') from logins l`); err != nil || strings.Contains(kept, secret) {
		t.Errorf("the secret is in the table (%v)", err)
	}
	expired, err := e.Login(bg, alice.ID, -time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Logout(bg, secret); err != nil {
		t.Fatal(err)
	}
	unused, err := e.Login(bg, alice.ID, 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.DB.MustExec(`update logins set seen_at = now() - interval '11 hours'`)
	for range 2 { // the first use makes it last as long again
		if _, err := e.WhoIs(bg, unused); err != nil {
			t.Errorf("a sign-in of this morning: %v", err)
		}
		w.DB.MustExec(`update logins set seen_at = seen_at - interval '2 hours'`)
	}
	w.DB.MustExec(`update logins set seen_at = now() - interval '13 hours'`)
	for what, s := range map[string]string{"signed out": secret, "expired": expired, "unused": unused, "made up": "x"} {
		if _, err := e.WhoIs(bg, s); !errors.Is(err, sessions.ErrNotFound) {
			t.Errorf("%s: WhoIs says %v", what, err)
		}
	}
}

func TestSigningAPersonOutEverywhereLeavesOthersIn(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	alice, bob := w.Person(e, "Alice"), w.Person(e, "Bob")
	var secrets [3]string
	for i, of := range []sessions.Person{alice, alice, bob} {
		var err error
		if secrets[i], err = e.Login(bg, of.ID, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.LogoutEverywhere(bg, alice.ID); err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets[:2] {
		if _, err := e.WhoIs(bg, s); !errors.Is(err, sessions.ErrNotFound) {
			t.Errorf("Alice: WhoIs says %v", err)
		}
	}
	if p, err := e.WhoIs(bg, secrets[2]); err != nil || p.ID != bob.ID {
		t.Errorf("Bob: WhoIs = %+v, %v", p, err)
	}
}

func TestPeopleKeepWhatASurfaceDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	e := w.Engine()
	first, err := e.SlackPerson(bg, "T1", "U1", "Alice", "alice@acme.test", "https://a.test/a.png")
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.SlackPerson(bg, "T1", "U1", "", "", "")
	if err != nil || again != first {
		t.Errorf("an empty update changed %+v to %+v (%v)", first, again, err)
	}
	renamed, err := e.SlackPerson(bg, "T1", "U1", "Alice B.", "", "")
	if err != nil || renamed.Name != "Alice B." || renamed.Email != first.Email || renamed.ID != first.ID {
		t.Errorf("after a new name: %+v (%v)", renamed, err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := e.SlackPerson(bg, "T1", "U2", "Bob", "", ""); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	acc := w.Ask(e, first.ID, "", "acme/greeter: x")
	if err := e.Watching(bg, acc.Session.ID, first.ID, time.Minute); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Watchers(bg, acc.Session.ID); err != nil || len(list) != 1 || list[0].ID != first.ID {
		t.Errorf("watchers: %+v (%v)", list, err)
	}
	if err := e.Watching(bg, acc.Session.ID, first.ID, -time.Second); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Watchers(bg, acc.Session.ID); err != nil || len(list) != 0 {
		t.Errorf("watchers who left: %+v (%v)", list, err)
	}
}
