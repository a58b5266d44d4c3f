package slack

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	slackgo "github.com/slack-go/slack"
	"github.com/slack-go/slack/slackevents"
	"github.com/slack-go/slack/socketmode"
)

// quick makes what takes minutes at Slack take moments.
func quick() Options {
	return Options{
		AckTimeout: 100 * time.Millisecond, Retries: []time.Duration{0, 50 * time.Millisecond, 100 * time.Millisecond},
		PingEvery: 100 * time.Millisecond,
	}
}

func TestEventsThatAreNotAcknowledgedComeFourTimes(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), quick())
	a := connect(t, b, func(*socketmode.Client, socketmode.Event) {})
	if _, err := b.PostAs(b.seed.Users[0].ID, b.seed.Channels[0].ID, "", "anybody?"); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for i, e := range a.wait(t, 4, ofType("message")) {
		reason := ""
		if i > 0 {
			reason = "timeout"
		}
		if e.Request.RetryAttempt != i || e.Request.RetryReason != reason {
			t.Errorf("delivery %d: attempt %d, reason %q", i, e.Request.RetryAttempt, e.Request.RetryReason)
		}
		ids[e.Data.(slackevents.EventsAPIEvent).Data.(*slackevents.EventsAPICallbackEvent).EventID] = true
	}
	if len(ids) != 1 {
		t.Errorf("the four deliveries have the event ids %v, want one", ids)
	}
	waitNoDeliveries(t, b)
	if got := len(a.matching(ofType("message"))); got != 4 {
		t.Errorf("delivered %d times, want 4", got)
	}
}

func (a *app) matching(match func(socketmode.Event) bool) []socketmode.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []socketmode.Event
	for _, e := range a.got {
		if match(e) {
			list = append(list, e)
		}
	}
	return list
}

// waitNoDeliveries waits until everything is acknowledged or given up.
func waitNoDeliveries(t *testing.T, b *bench) {
	t.Helper()
	eventually(t, "all deliveries to be settled", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.deliveries) == 0
	})
}

// eventually polls for what nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx := within(t)
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestEventOfATimeWithoutConnectionIsRetried(t *testing.T) {
	t.Parallel()
	o := quick()
	o.Retries = []time.Duration{0, 200 * time.Millisecond, time.Second}
	b := serve(t, t.TempDir(), o)
	if _, err := b.PostAs(b.seed.Users[0].ID, b.seed.Channels[0].ID, "", "hello?"); err != nil {
		t.Fatal(err)
	}
	a := connect(t, b, ackAll)
	e := a.wait(t, 1, ofType("message"))[0]
	if e.Request.RetryAttempt < 2 {
		t.Errorf("came as attempt %d, want one after the missed two", e.Request.RetryAttempt)
	}
	waitNoDeliveries(t, b)
}

func TestClicksAreNotRetried(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), quick())
	a := connect(t, b, func(*socketmode.Client, socketmode.Event) {})
	_, ts, err := b.client().PostMessage(b.seed.Channels[0].ID, slackgo.MsgOptionBlocks(cardBlocks()...))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ClickAs(b.seed.Users[0].ID, b.seed.Channels[0].ID, ts, "stop", ""); !errors.Is(err, ErrNoResponse) {
		t.Errorf("clicking gave %v, want ErrNoResponse", err)
	}
	waitNoDeliveries(t, b)
	if got := len(a.matching(ofType("block_actions"))); got != 1 {
		t.Errorf("the click came %d times", got)
	}
}

func TestDeliveriesAreSpreadAndCanBeRepeated(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	one, two := connect(t, b, ackAll), connect(t, b, ackAll)
	if n := two.wait(t, 1, ofType("hello"))[0].Request.NumConnections; n != 2 {
		t.Errorf("the second hello counts %d connections", n)
	}
	for range 4 {
		if _, err := b.PostAs(b.seed.Users[0].ID, b.seed.Channels[0].ID, "", "x"); err != nil {
			t.Fatal(err)
		}
	}
	one.wait(t, 2, ofType("message"))
	two.wait(t, 2, ofType("message"))
	b.RepeatEvents(1, 4)
	if _, err := b.PostAs(b.seed.Users[0].ID, b.seed.Channels[0].ID, "", "four times"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*app{one, two} {
		list := a.wait(t, 4, ofType("message"))
		if third, fourth := list[2].Request.EnvelopeID, list[3].Request.EnvelopeID; third == fourth {
			t.Error("copies share an envelope")
		}
	}
	waitNoDeliveries(t, b)
}

func TestDisconnectsAndDropsLeadToNewConnections(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	if err := b.Disconnect("refresh_requested"); err != nil {
		t.Fatal(err)
	}
	a.wait(t, 2, ofType("hello"))
	b.DropSockets()
	a.wait(t, 3, ofType("hello"))
	if _, err := b.PostAs(b.seed.Users[0].ID, b.seed.Channels[0].ID, "", "still there?"); err != nil {
		t.Fatal(err)
	}
	a.wait(t, 1, ofType("message"))
}

func TestStalledConnectionSwallowsAnEventThatComesAgain(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), quick())
	a := connect(t, b, ackAll)
	b.StallSockets()
	if _, err := b.PostAs(b.seed.Users[0].ID, b.seed.Channels[0].ID, "", "into the void"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first delivery to time out", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.deliveries) == 1 && b.deliveries[0].Attempt > 0
	})
	b.DropSockets()
	if e := a.wait(t, 1, ofType("message"))[0]; e.Request.RetryAttempt == 0 {
		t.Error("the stalled connection delivered after all")
	}
}

func TestEleventhConnectionIsTurnedAway(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	var first string
	for i := range 11 {
		_, where, err := b.client().StartSocketModeContext(within(t))
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := websocket.DefaultDialer.DialContext(within(t), where, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		var hello struct {
			Type, Reason   string
			NumConnections int `json:"num_connections"`
		}
		if err := conn.ReadJSON(&hello); err != nil {
			t.Fatal(err)
		}
		if i < 10 && (hello.Type != "hello" || hello.NumConnections != i+1) || i == 10 && hello.Reason != "too_many_websockets" {
			t.Errorf("connection %d was greeted with %+v", i+1, hello)
		}
		if i == 0 {
			first = where
		}
	}
	_, res, err := websocket.DefaultDialer.DialContext(within(t), first, nil)
	if err == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("a used ticket was accepted: %v", err)
	}
}

func TestCallsFailAsAsked(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	api, general := b.client(), b.seed.Channels[0].ID
	post := func() error {
		_, _, err := api.PostMessage(general, slackgo.MsgOptionText("x", false))
		return err
	}
	b.FailNext("chat.postMessage", 1, Fault{Status: 429, RetryAfter: 7})
	var limited *slackgo.RateLimitedError
	if err := post(); !errors.As(err, &limited) || limited.RetryAfter != 7*time.Second {
		t.Errorf("got %v, want to wait 7 s", err)
	}
	b.FailNext("chat.postMessage", 1, Fault{Error: "channel_not_found"})
	if err := post(); err == nil || err.Error() != "channel_not_found" {
		t.Errorf("got %v", err)
	}
	if n := len(b.Messages(general, "")); n != 0 {
		t.Fatalf("refused calls posted %d messages", n)
	}
	b.FailNext("chat.postMessage", 1, Fault{Drop: true, AfterEffect: true})
	if err := post(); err == nil {
		t.Error("a cut connection went unnoticed")
	}
	b.FailNext("chat.postMessage", 1, Fault{Status: 500, AfterEffect: true})
	if err := post(); err == nil {
		t.Error("a 500 went unnoticed")
	}
	if n := len(b.Messages(general, "")); n != 2 {
		t.Errorf("%d messages after two calls of unknown outcome, want 2", n)
	}
	if err := post(); err != nil {
		t.Errorf("the next call: %v", err)
	}
	b.SetLatency("chat.postMessage", 50*time.Millisecond)
	began := time.Now()
	if err := post(); err != nil || time.Since(began) < 50*time.Millisecond {
		t.Errorf("with latency: %v after %v", err, time.Since(began))
	}
	calls, err := b.WaitCalls(within(t), "chat.postMessage", 6)
	if err != nil || calls[0].Args["channel"] != general || calls[0].Args["token"] != "" {
		t.Errorf("recorded %+v, %v", calls, err)
	}
}
