package bot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// ackTimeout bounds the hand-over of an acknowledgement. slack-go queues twenty
// while a connection is down and then blocks for ever.
const ackTimeout = 2 * time.Second

// keepSocket keeps one Socket Mode connection while this replica holds its
// lease. It fails when Slack refuses the app for good.
func (b *Bot) keepSocket(ctx context.Context, n int, l *lanes) error {
	return b.engine.HoldLease(ctx, fmt.Sprintf("slack-socket-%d", n), func(ctx context.Context) error {
		err := b.socket(ctx, l)
		var status slack.StatusCodeError
		if isFatal(err) || errors.As(err, &status) && status.Code == http.StatusNotFound {
			return fmt.Errorf("slack refuses Socket Mode: %w", err)
		}
		if ctx.Err() == nil {
			b.log.Warn("a Socket Mode connection ended; another follows", "err", err)
		}
		return nil
	})
}

// socket is one slack-go client with the goroutine that drains it. slack-go
// reconnects by itself and at once; the dialer's limiter keeps a connection that
// is refused again and again from becoming a hot loop.
func (b *Bot) socket(ctx context.Context, l *lanes) error {
	pace := rate.NewLimiter(rate.Every(time.Second), 5)
	client := socketmode.New(b.client(), socketmode.OptionDialer(&websocket.Dialer{
		Proxy:            http.ProxyFromEnvironment,
		HandshakeTimeout: 20 * time.Second,
		WriteBufferSize:  32 << 10, // Slack wants an acknowledgement in one frame
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if err := pace.Wait(ctx); err != nil {
				return nil, err
			}
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return client.RunContext(ctx) })
	g.Go(func() error { return b.drain(ctx, client, l) })
	return g.Wait()
}

// drain takes every event off the client at once: a client that is not drained
// stops answering pings.
func (b *Bot) drain(ctx context.Context, client *socketmode.Client, l *lanes) error {
	up := false
	defer func() {
		if up {
			b.connected.Add(-1)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case evt := <-client.Events:
			up = b.noteConnection(evt, up)
			if req := requestOf(evt); req != nil {
				b.enqueue(client, *req, l)
			}
		}
	}
}

// noteConnection follows whether the client is connected, from slack-go's own
// events, and returns whether it is now.
func (b *Bot) noteConnection(evt socketmode.Event, up bool) bool {
	switch evt.Type {
	case socketmode.EventTypeHello:
		if !up {
			b.connected.Add(1)
		}
		all := evt.Request.NumConnections
		b.log.Info("Socket Mode is up", "connections", all)
		if all > b.cfg.Connections {
			// The leases allow no more over all replicas.
			b.log.Warn("Slack counts more Socket Mode connections than there should be: another program uses the app, "+
				"or old connections are not gone yet; they get their share of what people say", "connections", all)
		}
		return true
	case socketmode.EventTypeConnecting:
		if up {
			b.connected.Add(-1)
		}
		return false
	case socketmode.EventTypeConnectionError, socketmode.EventTypeIncomingError, socketmode.EventTypeErrorWriteFailed:
		b.log.Warn("Socket Mode has trouble", "event", evt.Type, "data", describeTrouble(evt.Data))
	}
	return up
}

// describeTrouble gives the cause of slack-go's error events without their frames,
// which hold people's words.
func describeTrouble(data any) string {
	switch d := data.(type) {
	case *slack.ConnectionErrorEvent:
		return fmt.Sprintf("%v; next attempt in %v", d.ErrorObj, d.Backoff)
	case *slack.IncomingEventError:
		return d.Error()
	case *socketmode.ErrorWriteFailed:
		return d.Cause.Error()
	}
	return fmt.Sprintf("%T", data)
}

// requestOf returns the envelope of an event, also of one that slack-go could not
// decode: it reads the whole payload strictly and gives up on a single unknown
// type; we read only what we need.
func requestOf(evt socketmode.Event) *socketmode.Request {
	if bad, is := evt.Data.(*socketmode.ErrorBadMessage); is {
		var req socketmode.Request
		if json.Unmarshal(bad.Message, &req) != nil {
			return nil
		}
		evt.Request = &req
	}
	if evt.Request == nil || evt.Request.EnvelopeID == "" {
		return nil
	}
	return evt.Request
}

// enqueue hands an envelope to its thread's lane. If the lane is full the
// envelope stays unacknowledged and Slack sends it again.
func (b *Bot) enqueue(client *socketmode.Client, req socketmode.Request, l *lanes) {
	in := decode(req)
	job := func(ctx context.Context) {
		payload, err := b.dispatch(ctx, in)
		if err != nil {
			b.log.Error("an envelope of Slack was not handled; it is left to redelivery", "type", req.Type,
				"envelope", req.EnvelopeID, "attempt", req.RetryAttempt, "err", err)
			return
		}
		ctx, cancel := context.WithTimeout(ctx, ackTimeout)
		defer cancel()
		if err := client.AckCtx(ctx, req.EnvelopeID, payload); err != nil {
			b.log.Warn("an envelope was handled but not acknowledged", "envelope", req.EnvelopeID, "err", err)
		}
	}
	if !l.offer(in.lane(), job) {
		b.log.Error("too much comes from Slack at once; an envelope is left to redelivery", "type", req.Type)
	}
}

// lane is what an envelope is kept in order with: its thread.
func (in inbound) lane() string {
	switch {
	case in.event != nil && in.event.Channel != "":
		m := in.event.message()
		return in.event.Channel + "/" + firstOf(m.ThreadTS, m.TS)
	case in.event != nil:
		return string(in.event.User.ID)
	case in.press != nil:
		return in.press.Channel.ID + "/" + in.press.root()
	}
	return ""
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v = strings.TrimSpace(v); v != "" {
			return v
		}
	}
	return ""
}
