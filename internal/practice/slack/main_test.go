package slack

import (
	"context"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	slackgo "github.com/slack-go/slack"
	"github.com/slack-go/slack/slackevents"
	"github.com/slack-go/slack/socketmode"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a stand-in being served.
type bench struct {
	*Server
	url  string
	seed Seed
}

// serve opens a workspace in dir and serves it until the test ends.
func serve(t *testing.T, dir string, o Options) *bench {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	web := httptest.NewServer(s)
	s.SetURL(web.URL)
	t.Cleanup(func() {
		cancel()
		run.Wait()
		web.CloseClientConnections()
		web.Close()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &bench{s, web.URL, s.Seed()}
}

func (b *bench) client(options ...slackgo.Option) *slackgo.Client {
	return b.clientAs(b.seed.BotToken, options...)
}

func (b *bench) clientAs(token string, options ...slackgo.Option) *slackgo.Client {
	options = append([]slackgo.Option{
		slackgo.OptionAPIURL(b.url + "/api/"), slackgo.OptionAppLevelToken(b.seed.AppToken),
	}, options...)
	return slackgo.New(token, options...)
}

// app is what a Socket Mode client received.
type app struct {
	client *socketmode.Client

	mu      sync.Mutex
	got     []socketmode.Event
	changed chan struct{}
}

// connect runs a slack-go Socket Mode client until the test ends. Each event
// goes to handle, which acknowledges or does not.
func connect(t *testing.T, b *bench, handle func(*socketmode.Client, socketmode.Event)) *app {
	t.Helper()
	a := &app{client: socketmode.New(b.client()), changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { a.client.RunContext(ctx) }) // ends with ctx's error
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-a.client.Events:
				a.note(e)
				handle(a.client, e)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	a.wait(t, 1, func(e socketmode.Event) bool { return e.Type == socketmode.EventTypeHello })
	return a
}

// ackAll acknowledges whatever came in an envelope.
func ackAll(c *socketmode.Client, e socketmode.Event) {
	if e.Request != nil && e.Request.EnvelopeID != "" {
		c.Ack(*e.Request)
	}
}

func (a *app) note(e socketmode.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, e)
	close(a.changed)
	a.changed = make(chan struct{})
}

// wait returns the first n events that match.
func (a *app) wait(t *testing.T, n int, match func(socketmode.Event) bool) []socketmode.Event {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		a.mu.Lock()
		var found []socketmode.Event
		for _, e := range a.got {
			if match(e) {
				found = append(found, e)
			}
		}
		changed := a.changed
		a.mu.Unlock()
		if len(found) >= n {
			return found[:n]
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("got %d events, want %d; all: %v", len(found), n, a.kinds())
		}
	}
}

func (a *app) kinds() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []string
	for _, e := range a.got {
		list = append(list, innerType(e))
	}
	return list
}

func innerType(e socketmode.Event) string {
	if ev, ok := e.Data.(slackevents.EventsAPIEvent); ok {
		return ev.InnerEvent.Type
	}
	if cb, ok := e.Data.(slackgo.InteractionCallback); ok {
		return string(cb.Type)
	}
	return string(e.Type)
}

func ofType(kinds ...string) func(socketmode.Event) bool {
	return func(e socketmode.Event) bool { return slices.Contains(kinds, innerType(e)) }
}

func innerAs[T any](t *testing.T, e socketmode.Event) T {
	t.Helper()
	v, ok := e.Data.(slackevents.EventsAPIEvent).InnerEvent.Data.(T)
	if !ok {
		t.Fatalf("event is a %T", e.Data.(slackevents.EventsAPIEvent).InnerEvent.Data)
	}
	return v
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
