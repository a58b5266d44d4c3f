package sessions_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// interval is one of a session's, as it is stored.
type interval struct {
	Person  uuid.UUID `db:"person"`
	Prompt  string    `db:"prompt"`
	Began   time.Time `db:"began_at"`
	Ended   time.Time `db:"ended_at"`
	MemMiB  int       `db:"mem_mib"`
	CostUSD float64   `db:"cost_usd"`
}

func intervals(t *testing.T, w *sessionstest.World, session string) []interval {
	t.Helper()
	var list []interval
	err := w.DB.Select(&list, `select person, coalesce(prompt_id, '') as prompt, began_at, ended_at, mem_mib, cost_usd
		from sandbox_usage where session_id = $1 order by id`, session)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestASandboxIsChargedToWhoseRequestRanOrRanLast(t *testing.T) {
	t.Parallel()
	w, e, began, leave := world(t, func(c *sessions.Config) { c.ParkAfter, c.SnapshotAfter = 300*time.Millisecond, -1 })
	w.Provider.CPU, w.Provider.MemMiB = 2, 100 // less than the 500 MiB that are used
	w.Provider.Price = sandbox.Price{CoreSecond: 1, GiBSecond: 0.5}
	alice, bob := w.Person(e, "Alice"), w.Person(e, "Bob")
	first := w.Ask(e, alice.ID, "1.0", "acme/greeter: one")
	heard(t, began)
	second := w.Ask(e, bob.ID, "1.0", "two")
	close(leave)
	p1, p2 := ended(t, e, first.Prompt.ID), ended(t, e, second.Prompt.ID)
	parked(t, w, first.Session.ID)
	list := intervals(t, w, first.Session.ID)
	total, of := 0.0, map[string]float64{}
	for i, iv := range list {
		if i > 0 && !iv.Began.Equal(list[i-1].Ended) {
			t.Errorf("interval %d begins at %s, the one before ended at %s", i, iv.Began, list[i-1].Ended)
		}
		want := alice.ID
		if iv.Prompt == second.Prompt.ID || iv.Prompt == "" && iv.Began.After(*p2.StartedAt) {
			want = bob.ID
		}
		if iv.Person != want {
			t.Errorf("interval %d (request %q) is charged to %s, want %s", i, iv.Prompt, iv.Person, want)
		}
		total += iv.CostUSD
		of[iv.Prompt] += iv.CostUSD
	}
	lasted := list[len(list)-1].Ended.Sub(list[0].Began).Seconds()
	if mem := list[len(list)-1].MemMiB; mem != 500 {
		t.Errorf("%d MiB are charged, want what was used", mem)
	}
	// Until the first heartbeat what was asked for counts, then what is used.
	if least, most := lasted*(2+0.5*100/1024), lasted*(2+0.5*500/1024); total < least-1e-6 || total > most+1e-6 {
		t.Errorf("%.1f s cost $%f, want between $%f and $%f", lasted, total, least, most)
	}
	if got, err := e.SandboxCost(bg, first.Session.ID); err != nil || math.Abs(got.USD-total) > 1e-9 || math.Abs(got.Seconds-lasted) > 1e-3 {
		t.Errorf("SandboxCost = %+v, %v, want $%f in %f s", got, err, total, lasted)
	}
	for _, p := range []sessions.Prompt{p1, p2} {
		if math.Abs(p.SandboxUSD-of[p.ID]) > 1e-9 || p.SandboxUSD <= 0 {
			t.Errorf("%q cost $%f of the sandbox, want $%f", p.Text, p.SandboxUSD, of[p.ID])
		}
		if ran := p.EndedAt.Sub(*p.StartedAt).Seconds(); p.SandboxUSD > 1.01*ran*(2+0.5*500/1024)+0.05 {
			t.Errorf("%q ran for %f s and cost $%f", p.Text, ran, p.SandboxUSD)
		}
	}
	checkDays(t, e, map[uuid.UUID]string{alice.ID: "Alice", bob.ID: "Bob"}, total)
}

// checkDays checks what the statistics say of today.
func checkDays(t *testing.T, e *sessions.Engine, people map[uuid.UUID]string, total float64) {
	t.Helper()
	days, err := e.DayCosts(bg, 30)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, d := range days {
		if people[d.Person] != d.Name || d.SandboxUSD <= 0 {
			t.Errorf("the statistics have %+v", d)
		}
		sum += d.SandboxUSD
	}
	if len(days) < len(people) || math.Abs(sum-total) > 1e-9 {
		t.Errorf("the statistics sum up to $%f in %d lines, want $%f", sum, len(days), total)
	}
}

// A sandbox that dies while its control plane is away is charged up to its last
// heartbeat.
func TestALostSandboxIsChargedUpToItsLastSignOfLife(t *testing.T) {
	t.Parallel()
	w := sessionstest.New(t)
	began, leave := make(chan string, 1), make(chan struct{})
	defer close(leave)
	w.Provider.Agent = held(began, leave)
	first := w.Engine()
	sessions.Hasten(first)
	stop := w.Run(first)
	acc := w.Ask(first, w.Person(first, "Alice").ID, "1.0", "acme/greeter: one")
	heard(t, began)
	sessionstest.Eventually(t, "a heartbeat is charged", func() bool { return len(intervals(t, w, acc.Session.ID)) > 0 })
	stop()
	w.Provider.Boxes()[0].Crash()
	_, err := w.DB.Exec(`with box as (update sandboxes set born_at = now() - interval '2 hours',
			heartbeat_at = now() - interval '1 hour', held_until = now() - interval '1 hour')
		update sandbox_usage set began_at = now() - interval '2 hours', ended_at = now() - interval '1 hour'`)
	if err != nil {
		t.Fatal(err)
	}
	second := w.Engine()
	sessions.Hasten(second)
	w.Run(second)
	ended(t, second, acc.Prompt.ID)
	list := intervals(t, w, acc.Session.ID)
	if away := time.Since(list[len(list)-1].Ended); away < 50*time.Minute {
		t.Errorf("it is charged until %s ago, and was heard last an hour ago", away)
	}
}

func TestASandboxThatEndedUnsavedCostsNothingMore(t *testing.T) {
	t.Parallel()
	w, first, ada := governed(t)
	set(t, first, ada, "acme/greeter", "NPM_TOKEN", "npm-token-of-greeter", true)
	w.Provider.Kept = nil
	stop := w.Run(first)
	acc := w.Ask(first, ada.ID, "1.0", "acme/greeter: one")
	ended(t, first, acc.Prompt.ID)
	sessionstest.Eventually(t, "a heartbeat is charged", func() bool { return len(intervals(t, w, acc.Session.ID)) > 0 })
	stop()
	e := w.Engine(func(c *sessions.Config) { c.ParkAfter = 50 * time.Millisecond })
	sessions.Hasten(e)
	ctx, leave := context.WithCancel(bg)
	left := make(chan error, 1)
	go func() { left <- e.Run(ctx) }() // it answers no bridge
	dropped(t, w, acc.Session.ID)
	leave()
	if err := <-left; err != nil {
		t.Fatal(err)
	}
	age(t, w, `with box as (update sandboxes set born_at = now() - interval '2 hours', claimed_at = now() - interval '2 hours',
			heartbeat_at = now() - interval '1 hour')
		update sandbox_usage set began_at = now() - interval '2 hours', ended_at = now() - interval '1 hour'`)
	before, err := e.SandboxCost(bg, acc.Session.ID)
	if err != nil || before.Seconds == 0 {
		t.Fatalf("it has cost %.0f s (%v)", before.Seconds, err)
	}
	next := w.Ask(e, ada.ID, "1.0", "two")
	if err := e.Cancel(bg, next.Prompt.ID, ada.ID); err != nil {
		t.Fatal(err)
	}
	if after, err := e.SandboxCost(bg, acc.Session.ID); err != nil || after != before {
		t.Errorf("an hour after its end it has cost %.0f s, and when it ended %.0f s (%v)", after.Seconds, before.Seconds, err)
	}
}
