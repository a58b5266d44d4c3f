package bot

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"openinspect/sandbox"
	"openinspect/sessions"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// logged makes an entry of a log as the core stores it.
func logged(t testing.TB, seq int64, kind string, body any) sessions.Event {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return sessions.Event{Session: "s1", Seq: seq, Prompt: "p1", Kind: kind, Body: data, At: noon}
}

// folded is the progress of a log.
func folded(t testing.TB, bodies ...any) *progress {
	t.Helper()
	kinds := map[string]string{}
	for kind, body := range map[string]any{
		sandbox.KindTool: sandbox.BodyTool{}, sandbox.KindTodo: sandbox.BodyTodo{}, sandbox.KindDiff: sandbox.BodyDiff{},
		sandbox.KindNote: sandbox.BodyNote{}, sandbox.KindText: sandbox.BodyText{}, sandbox.KindCommit: sandbox.BodyCommit{},
		sessions.KindStop: sessions.BodyStop{}, sessions.KindWaiting: sessions.BodyWaiting{}, sessions.KindEnded: sessions.BodyEnded{},
	} {
		kinds[fmt.Sprintf("%T", body)] = kind
	}
	var p progress
	for i, b := range bodies {
		p.add(logged(t, int64(i+1), kinds[fmt.Sprintf("%T", b)], b))
	}
	return &p
}

// cardOf is a card of a running prompt, changed.
func cardOf(p *progress, change func(*cardView)) cardView {
	started := noon.Add(-72 * time.Second)
	v := cardView{
		Session:  sessions.Session{ID: "s1", Repository: "acme/greeter", RepositoryWhy: "named in the message"},
		Prompt:   sessions.Prompt{ID: "p1", SessionID: "s1", AuthorName: "Alice <Ahmed>", Source: sessions.FromSlack, Text: "fix the *failing* test\nplease <!channel>", State: sessions.Running, StartedAt: &started},
		Author:   "UALICE",
		Progress: p, PageURL: "https://inspect.example.org/sessions/s1", Now: noon,
	}
	change(&v)
	return v
}

func ended(v *cardView, state sessions.PromptState, reason string) {
	at := noon
	v.Prompt.State, v.Prompt.Reason, v.Prompt.EndedAt = state, reason, &at
	v.Prompt.Files, v.Prompt.Additions, v.Prompt.Deletions, v.Prompt.CostUSD = 1, 2, 1, 0.004
}

func queued(v *cardView) { v.Prompt.State, v.Prompt.StartedAt = sessions.Queued, nil }

func TestOnlyTheFirstCardSaysWhyThatRepository(t *testing.T) {
	t.Parallel()
	v := cardOf(folded(t), func(*cardView) {})
	why := "(" + v.Session.RepositoryWhy + ")"
	for position, want := range map[int64]bool{1: true, 2: false} {
		v.Prompt.Position = position
		if said := strings.Contains(v.origin(), why); said != want || !strings.Contains(v.origin(), v.Session.Repository) {
			t.Errorf("the card of request %d says %q", position, v.origin())
		}
	}
}

func TestCardsShowHowItGoes(t *testing.T) {
	t.Parallel()
	working := []any{
		sandbox.BodyTodo{Items: []sandbox.TodoItem{{Text: "read", State: "completed"}, {Text: "fix *it*", State: "in_progress"}, {Text: "test", State: "pending"}, {Text: "rest", State: "cancelled"}}},
		sandbox.BodyTool{Part: "a", Tool: "bash", State: "running", Input: map[string]any{"command": "go test ./... # `all`"}},
		sandbox.BodyTool{Part: "b", Tool: "read", State: "running", Input: map[string]any{"filePath": sandbox.Workspace + "/greeter/greet.go"}},
		sandbox.BodyTool{Part: "b", Tool: "read", State: "completed"},
		sandbox.BodyDiff{Files: []sandbox.FileDiff{{Path: "greet.go", Additions: 2, Deletions: 1}, {Path: "a.go"}, {Path: "b.go"}, {Path: "c.go"}}},
	}
	for name, v := range map[string]cardView{
		"queued":    cardOf(folded(t), func(v *cardView) { queued(v); v.Ahead = 2 }),
		"choosing":  cardOf(folded(t, sessions.BodyWaiting{For: "repository"}), func(v *cardView) { queued(v); v.Session.Repository, v.Session.RepositoryWhy = "", "" }),
		"switching": cardOf(folded(t), func(v *cardView) { queued(v); v.Switch = []string{"acme/billing", "acme/other"} }),
		"booting": cardOf(folded(t), func(v *cardView) {
			queued(v)
			v.Sandbox = sessions.Sandbox{State: sessions.SandboxBooting, Phase: sandbox.PhaseSetup}
		}),
		"no room": cardOf(folded(t), func(v *cardView) {
			queued(v)
			v.Sandbox = sessions.Sandbox{State: sessions.SandboxNone, Reason: "All 20 sandboxes are in use."}
		}),
		"files gone": cardOf(folded(t, sandbox.BodyNote{Text: "The session's saved files are gone."}), queued),
		"moving": cardOf(folded(t, working...), func(v *cardView) {
			v.Prompt.Carried = true
			v.Sandbox = sessions.Sandbox{State: sessions.SandboxBooting, Phase: sandbox.PhaseSync}
		}),
		"thinking": cardOf(folded(t), func(*cardView) {}),
		"working":  cardOf(folded(t, working...), func(v *cardView) { v.Prompt.CostUSD, v.Prompt.SandboxUSD = 0.25, 0.03 }),
		"retrying": cardOf(folded(t, append(working, sandbox.BodyNote{Text: "The model <did> not answer."})...), func(*cardView) {}),
		"stopping": cardOf(folded(t, sessions.BodyStop{By: "Bob"}), func(*cardView) {}),
		"done":     cardOf(folded(t, working...), func(v *cardView) { ended(v, sessions.Completed, "") }),
		"failed":   cardOf(folded(t), func(v *cardView) { ended(v, sessions.Failed, "The sandbox was lost & gone.") }),
		"stopped":  cardOf(folded(t), func(v *cardView) { ended(v, sessions.Stopped, "Stopped by Bob Brandt.") }),
		"cancelled": cardOf(folded(t), func(v *cardView) {
			ended(v, sessions.Cancelled, "Withdrawn by Bob.")
			v.Prompt.StartedAt = nil
			v.Author, v.Prompt.Source = "", sessions.FromWeb
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := renderCard(v)
			golden(t, "card_"+strings.ReplaceAll(name, " ", "_")+".json", m.blocks)
			if m.text == "" || strings.Contains(m.text, "<!") {
				t.Errorf("the notification is %q", m.text)
			}
		})
	}
}

func TestALongToDoListShowsWhatIsWorkedOn(t *testing.T) {
	t.Parallel()
	var items []sandbox.TodoItem
	for i := range 20 {
		items = append(items, sandbox.TodoItem{Text: "step " + string(rune('a'+i)), State: "pending"})
	}
	items[12].State = "in_progress"
	lines := todoLines(items)
	if len(lines) != maxTodo+2 || lines[0] != "_8 before_" || lines[len(lines)-1] != "_4 more_" || !strings.Contains(strings.Join(lines, "\n"), "▣ *step m*") {
		t.Errorf("got %q", lines)
	}
}

func TestToolsAreNamedAsPeopleSayIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		tool, title string
		input       map[string]any
		want        string
	}{
		{"bash", "", map[string]any{"command": "make\n  test"}, "running `make test`"},
		{"edit", "", map[string]any{"filePath": "/workspace/greeter/greet.go"}, "editing `greeter/greet.go`"},
		{"grep", "", map[string]any{"pattern": "<!channel>"}, "searching for `&lt;!channel&gt;`"},
		{"todowrite", "4 todos", nil, "planning"},
		{"openinspect_create_pull_request", "", nil, "using create pull request"},
		{"weird<tool>", "x", nil, "using weird&lt;tool&gt; `x`"},
		{"read", "greet.go", nil, "reading `greet.go`"},
		{"webfetch", "", map[string]any{"url": 7}, "fetching"},
		{"", "", nil, "working on"},
	} {
		in := any(c.input)
		if c.input == nil {
			in = nil
		}
		if got := toolTitle(sandbox.BodyTool{Tool: c.tool, Title: c.title, Input: in}); got != c.want {
			t.Errorf("%s: %q, want %q", c.tool, got, c.want)
		}
	}
}

func TestAnEventThatComesTwiceOrCannotBeReadChangesNothing(t *testing.T) {
	t.Parallel()
	var p progress
	run := logged(t, 1, sandbox.KindTool, sandbox.BodyTool{Part: "a", Tool: "bash", State: "running"})
	p.add(run)
	p.add(run)
	p.add(sessions.Event{Seq: 2, Kind: sandbox.KindTodo, Body: json.RawMessage(`{"items":"none"}`)})
	p.add(sessions.Event{Seq: 3, Kind: "something.new", Body: json.RawMessage(`null`)})
	if len(p.tools) != 1 || len(p.todo) != 0 || p.seq != 3 {
		t.Errorf("got %+v", p)
	}
}

func TestNoCardExceedsWhatSlackTakes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		long := rapid.SampledFrom([]string{"", "x", strings.Repeat("<&>", 3000), strings.Repeat("word ", 2000), "ü\n\n*_`"})
		text := func(name string) string { return long.Draw(rt, name) }
		items := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) sandbox.TodoItem {
			return sandbox.TodoItem{Text: long.Draw(r, "todo"), State: rapid.SampledFrom([]string{"pending", "in_progress", "completed"}).Draw(r, "state")}
		}), 0, 30).Draw(rt, "items")
		v := cardOf(folded(t, sandbox.BodyTodo{Items: items}, sandbox.BodyNote{Text: text("note")},
			sandbox.BodyTool{Part: "a", Tool: "bash", State: "running", Input: map[string]any{"command": text("command")}}), func(v *cardView) {
			v.Prompt.Text, v.Prompt.Reason, v.Session.RepositoryWhy = text("prompt"), text("reason"), text("why")
			v.Prompt.State = rapid.SampledFrom([]sessions.PromptState{sessions.Queued, sessions.Running, sessions.Failed}).Draw(rt, "state")
		})
		data, err := json.Marshal(renderCard(v).blocks)
		if err != nil {
			rt.Fatal(err)
		}
		for _, s := range textsIn(rt, data) {
			if n := utf8.RuneCountInString(s); n > 3000 || n == 0 {
				rt.Fatalf("a text of %d characters", n)
			}
		}
	})
}

func TestOutsidersAreRefused(t *testing.T) {
	t.Parallel()
	b := &Bot{self: identity{team: "T1"}}
	for name, c := range map[string]struct {
		e    event
		f    profile
		want string
	}{
		"member":                  {f: profile{team: "T1"}},
		"guest":                   {f: profile{team: "T1", guest: true}, want: "guests"},
		"Slack Connect":           {f: profile{team: "T2"}, want: "members of this workspace"},
		"deactivated":             {f: profile{team: "T1", deleted: true}, want: "members of this workspace"},
		"stranger":                {f: profile{team: "T1", foreign: true}, want: "members of this workspace"},
		"message of another team": {e: event{UserTeam: "T2"}, f: profile{team: "T1"}, want: "members of this workspace"},
		"bot user":                {f: profile{team: "T1", bot: true}, want: "from people"},
	} {
		got := b.admission(&c.e, c.f)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
