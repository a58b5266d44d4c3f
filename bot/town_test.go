package bot

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"openinspect/internal/devpg/pgtest"
	practice "openinspect/internal/practice/slack"
	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// town is a Slack workspace with people, a running Engine and a running Bot.
type town struct {
	*sessionstest.World
	slack   *practice.Server
	seed    practice.Seed
	engine  *sessions.Engine
	cfg     Config
	channel string
	alice   string
	bob     string
	carol   string
}

// option changes a town before it runs.
type option struct {
	workspace func(*practice.Options)
	engine    func(*sessions.Config)
	agent     sessionstest.Script
}

// agent has every sandbox's agent do this.
func agent(script sessionstest.Script) option { return option{agent: script} }

// noSandboxes keeps every prompt queued.
var noSandboxes = option{engine: func(c *sessions.Config) { c.Provider = fullHouse{} }}

// newTown starts everything and waits until the bot hears.
func newTown(t testing.TB, options ...option) *town {
	t.Helper()
	tw := quietTown(t, options...)
	tw.Run(tw.engine)
	tw.startBot()
	return tw
}

// quietTown has neither Engine nor Bot running.
func quietTown(t testing.TB, options ...option) *town {
	t.Helper()
	tw := &town{World: sessionstest.New(t)}
	o := practice.Options{RateScale: -1, Log: tw.Log}
	var changes []func(*sessions.Config)
	for _, opt := range options {
		if opt.workspace != nil {
			opt.workspace(&o)
		}
		if opt.engine != nil {
			changes = append(changes, opt.engine)
		}
		if opt.agent != nil {
			tw.Provider.Agent = opt.agent
		}
	}
	var err error
	if tw.slack, err = practice.Open(t.TempDir(), o); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(tw.slack.Handler())
	tw.slack.SetURL(server.URL)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := tw.slack.Run(ctx); err != nil {
			t.Errorf("the workspace ended with %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		server.Close()
		if err := tw.slack.Close(); err != nil {
			t.Error(err)
		}
	})
	tw.seed = tw.slack.Seed()
	tw.engine = tw.Engine(changes...)
	tw.channel = tw.seed.Channels[0].ID
	tw.alice, tw.bob, tw.carol = tw.seed.Users[0].ID, tw.seed.Users[1].ID, tw.seed.Users[2].ID
	tw.cfg = Config{APIURL: server.URL + "/api/", BotToken: tw.seed.BotToken, AppToken: tw.seed.AppToken,
		TeamID: tw.seed.TeamID, PublicURL: "https://inspect.test"}
	return tw
}

// startBot runs a Bot and waits until it hears; stop ends it as a crash would
// and waits for its goroutines.
func (tw *town) startBot() (stop func()) {
	tw.T.Helper()
	b, err := New(tw.Log, tw.engine, tw.cfg)
	if err != nil {
		tw.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tw.T.Errorf("the bot ended with %v", err)
		}
	})
	tw.T.Cleanup(stop)
	sessionstest.Eventually(tw.T, "the bot hears", func() bool { return int(b.connected.Load()) == b.cfg.Connections })
	return stop
}

// say posts as a person, at the top level if thread is empty.
func (tw *town) say(who, thread, text string) (ts string) {
	tw.T.Helper()
	ts, err := tw.slack.PostAs(who, tw.channel, thread, text)
	if err != nil {
		tw.T.Fatal(err)
	}
	return ts
}

// mention begins a text with the bot's mention.
func (tw *town) mention(text string) string {
	return strings.TrimSpace(fmt.Sprintf("<@%s> %s", tw.seed.BotUserID, text))
}

// soon bounds a wait.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// see waits for a message of the bot in a thread that shows the text.
func (tw *town) see(thread, text string) practice.Message {
	tw.T.Helper()
	m, err := tw.slack.WaitMessage(soon(tw.T), tw.channel, thread, func(m practice.Message) bool {
		return m.BotID == tw.seed.BotID && strings.Contains(shows(m), text)
	})
	if err != nil {
		for _, m := range tw.slack.Messages(tw.channel, thread) {
			tw.T.Logf("%s: %s", m.User, shows(m))
		}
		tw.T.Fatalf("nothing shows %q: %v", text, err)
	}
	return m
}

// whispered waits for a message that one person alone sees.
func (tw *town) whispered(who, text string) {
	tw.T.Helper()
	_, err := tw.slack.WaitEphemeral(soon(tw.T), who, tw.channel, func(m practice.Message) bool { return strings.Contains(shows(m), text) })
	if err != nil {
		tw.T.Fatalf("nobody whispers %q to %s: %v", text, who, err)
	}
}

// shows is everything that a message says, with its blocks.
func shows(m practice.Message) string {
	var blocks any
	if len(m.Blocks) > 0 && json.Unmarshal(m.Blocks, &blocks) != nil {
		return m.Text
	}
	flat, err := json.MarshalIndent(blocks, "", " ")
	if err != nil {
		return m.Text
	}
	return m.Text + "\n" + strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(flat))
}

// ours are the bot's messages of a thread.
func (tw *town) ours(thread string) (out []practice.Message) {
	for _, m := range tw.slack.Messages(tw.channel, thread) {
		if m.BotID == tw.seed.BotID {
			out = append(out, m)
		}
	}
	return out
}

// session is the one of a thread.
func (tw *town) session(thread string) sessions.Session {
	tw.T.Helper()
	s, err := tw.engine.SessionOfThread(context.Background(), sessions.Thread{Team: tw.seed.TeamID, Channel: tw.channel, TS: thread})
	if err != nil {
		tw.T.Fatal(err)
	}
	return s.Session
}

// prompts are those of a thread's session.
func (tw *town) prompts(thread string) []sessions.Prompt {
	tw.T.Helper()
	all, err := tw.engine.Prompts(context.Background(), tw.session(thread).ID)
	if err != nil {
		tw.T.Fatal(err)
	}
	return all
}

// heard waits until everything said before was handled: a request in a thread of
// its own that comes after it and is answered.
func (tw *town) heard() {
	tw.T.Helper()
	ts := tw.say(tw.carol, "", tw.mention("look at acme/billing"))
	tw.see(ts, "acme/billing")
}

// fullHouse is a provider that never has room.
type fullHouse struct{}

func (fullHouse) Caps() sandbox.Caps { return sandbox.Caps{Name: "full"} }
func (fullHouse) Build(context.Context, sandbox.Ref, []string, io.Writer) (sandbox.Ref, error) {
	return "", sandbox.ErrCapacity
}
func (fullHouse) Start(context.Context, sandbox.Spec) (sandbox.Box, error) {
	return nil, sandbox.ErrCapacity
}
func (fullHouse) Attach(context.Context, string) (sandbox.Box, error) { return nil, sandbox.ErrGone }
func (fullHouse) List(context.Context, map[string]string) iter.Seq2[sandbox.Info, error] {
	return func(func(sandbox.Info, error) bool) {}
}
func (fullHouse) Delete(context.Context, sandbox.Ref) error { return nil }
