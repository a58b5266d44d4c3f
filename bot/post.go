package bot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/slack-go/slack"

	"openinspect/sessions"
)

const (
	// metadataType and keyField mark our messages in Slack, so that an earlier
	// success can be found (I6).
	metadataType = "inspect"
	keyField     = "key"

	recordTimeout = 5 * time.Second
	searchPages   = 10
	// clockSkew is how far Slack's timestamps and ours may be apart.
	clockSkew = 10 * time.Minute
	// giveUpAfter is how many refusals in a row, that are not known to be final,
	// end a delivery.
	giveUpAfter = 40
)

// landed is where a delivery is in Slack: the outbox keeps it as Remote.
type landed struct {
	Channel string   `json:"channel,omitempty"`
	TS      string   `json:"ts,omitempty"`
	Parts   []string `json:"parts,omitempty"` // timestamps of an answer's further messages
	File    string   `json:"file,omitempty"`  // Slack's id of a file whose bytes it has
}

func landedAt(it sessions.Delivery) (l landed) {
	_ = json.Unmarshal(it.Remote, &l) // {} is nowhere
	return l
}

func notice(it sessions.Delivery) (n sessions.Notice) {
	_ = json.Unmarshal(it.Body, &n)
	return n
}

// failure is a call of the Web API that failed.
type failure struct {
	method string
	err    error
}

func (f *failure) Error() string { return fmt.Sprintf("calling %s: %v", f.method, f.err) }
func (f *failure) Unwrap() error { return f.err }

func failed(method string, err error) error {
	if err == nil {
		return nil
	}
	return &failure{method, err}
}

// deliver makes one delivery and records what became of it. ok says that it
// succeeded.
func (d *deliverer) deliver(ctx context.Context, it sessions.Delivery, t sessions.Thread, c *card) (ok bool) {
	var err error
	switch it.Kind {
	case sessions.DeliverCard:
		err = d.deliverCard(ctx, it, t, c)
	case sessions.DeliverAnswer:
		err = d.deliverAnswer(ctx, it, t)
	case sessions.DeliverMenu:
		err = d.deliverMenu(ctx, it, t)
	case sessions.DeliverQuestion:
		err = d.deliverQuestion(ctx, it, t)
	case sessions.DeliverFile:
		err = d.deliverFile(ctx, it, t)
	case sessions.DeliverUpdate:
		err = d.postOnce(ctx, it, t, renderUpdate(it))
	case sessions.DeliverNotice:
		err = d.postOnce(ctx, it, t, renderNotice(notice(it)))
	case sessions.DeliverEphemeral:
		err = d.whisper(ctx, it, t)
	default:
		err = d.engine.Abandoned(ctx, it.ID, fmt.Errorf("deliveries of kind %q are unknown here", it.Kind))
	}
	if errors.Is(err, sessions.ErrSettled) {
		return true // what it was for is over
	}
	if err != nil {
		d.recordFailure(ctx, it, c, err)
	}
	return err == nil
}

func renderNotice(n sessions.Notice) message {
	text := escapeLinked(n.Text)
	return message{text: clipMarkup(text, notificationRoom), full: n.Text, blocks: []slack.Block{section(text)}}
}

// postOnce posts a delivery that is one message and is never edited.
func (d *deliverer) postOnce(ctx context.Context, it sessions.Delivery, t sessions.Thread, m message) error {
	ts, _, err := d.post(ctx, it, t, it.Key, m, it.Unknown, time.Time{})
	if err != nil {
		return err
	}
	return d.record(ctx, func(ctx context.Context) error {
		return d.engine.Delivered(ctx, it.ID, landed{Channel: t.Channel, TS: ts}, 0, true)
	})
}

// whisper posts an ephemeral message, at most once: it cannot be searched for, so
// an unknown outcome is left as it is.
func (d *deliverer) whisper(ctx context.Context, it sessions.Delivery, t sessions.Thread) error {
	if it.Unknown {
		return d.engine.Abandoned(ctx, it.ID, errors.New("an ephemeral message may have been shown already"))
	}
	if err := d.engine.Trying(ctx, it.ID); err != nil {
		return err
	}
	n := notice(it)
	m := renderNotice(n)
	options := []slack.MsgOption{slack.MsgOptionText(m.text, false), slack.MsgOptionBlocks(m.blocks...)}
	if t.TS != "" {
		options = append(options, slack.MsgOptionTS(t.TS))
	}
	ts, err := d.api.PostEphemeralContext(ctx, t.Channel, n.User, options...)
	if err != nil {
		return failed(methodEphemeral, err)
	}
	return d.record(ctx, func(ctx context.Context) error {
		return d.engine.Delivered(ctx, it.ID, landed{Channel: t.Channel, TS: ts}, 0, true)
	})
}

// post posts one message exactly once under its key, or finds that it was posted
// before, perhaps with older content. unknown says that an earlier try may have
// posted it, since says when at the earliest.
func (d *deliverer) post(ctx context.Context, it sessions.Delivery, t sessions.Thread, key string, m message, unknown bool, since time.Time) (ts string, found bool, err error) {
	if unknown {
		if ts, err = d.search(ctx, t, key, since); err != nil || ts != "" {
			return ts, ts != "", err
		}
	}
	if err := d.engine.Trying(ctx, it.ID); err != nil {
		return "", false, err
	}
	ts, err = d.postMessage(ctx, t, key, m)
	if refusedBlocks[slackCode(err)] {
		d.log.Error("Slack refuses a message's blocks; it is posted as plain text", "key", key, "err", err)
		ts, err = d.postMessage(ctx, t, key, m.asPlain())
	}
	return ts, false, failed(methodPost, err)
}

func (d *deliverer) postMessage(ctx context.Context, t sessions.Thread, key string, m message) (ts string, err error) {
	options := []slack.MsgOption{
		slack.MsgOptionText(m.text, false),
		slack.MsgOptionBlocks(m.blocks...),
		slack.MsgOptionMetadata(slack.SlackMetadata{EventType: metadataType, EventPayload: map[string]any{keyField: key}}),
		slack.MsgOptionDisableLinkUnfurl(),
		slack.MsgOptionDisableMediaUnfurl(),
	}
	if t.TS != "" {
		options = append(options, slack.MsgOptionTS(t.TS))
	}
	_, ts, err = d.api.PostMessageContext(ctx, t.Channel, options...)
	return ts, err
}

// update edits a message.
func (d *deliverer) update(ctx context.Context, at landed, key string, m message) error {
	err := d.updateMessage(ctx, at, key, m)
	if refusedBlocks[slackCode(err)] {
		d.log.Error("Slack refuses a message's blocks; it is edited to plain text", "key", key, "err", err)
		err = d.updateMessage(ctx, at, key, m.asPlain())
	}
	return failed(methodUpdate, err)
}

// updateMessage sends the metadata again because an edit without it removes it.
func (d *deliverer) updateMessage(ctx context.Context, at landed, key string, m message) error {
	_, _, _, err := d.api.UpdateMessageContext(ctx, at.Channel, at.TS,
		slack.MsgOptionText(m.text, false),
		slack.MsgOptionBlocks(m.blocks...),
		slack.MsgOptionMetadata(slack.SlackMetadata{EventType: metadataType, EventPayload: map[string]any{keyField: key}}))
	return err
}

// search looks for our message with the key in a thread, or in the channel if
// there is no thread, and returns its timestamp or nothing.
func (d *deliverer) search(ctx context.Context, t sessions.Thread, key string, since time.Time) (ts string, err error) {
	oldest, cursor := "", ""
	if !since.IsZero() {
		oldest = fmt.Sprintf("%d.000000", since.Add(-clockSkew).Unix())
	}
	for range searchPages {
		if err := d.await(ctx, methodReplies, ""); err != nil {
			return "", err
		}
		msgs, next, err := d.read(ctx, t, oldest, cursor)
		if err != nil {
			return "", failed(methodReplies, err)
		}
		for _, m := range msgs {
			if m.Metadata.EventType == metadataType && m.Metadata.EventPayload[keyField] == key {
				return m.Timestamp, nil
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	return "", nil
}

// read reads a page of a thread or channel.
func (d *deliverer) read(ctx context.Context, t sessions.Thread, oldest, cursor string) (msgs []slack.Message, next string, err error) {
	if t.TS == "" {
		h, err := d.api.GetConversationHistoryContext(ctx, &slack.GetConversationHistoryParameters{
			ChannelID: t.Channel, Oldest: oldest, Cursor: cursor, Limit: 200, IncludeAllMetadata: true})
		if err != nil {
			return nil, "", err
		}
		return h.Messages, h.ResponseMetaData.NextCursor, nil
	}
	msgs, _, next, err = d.api.GetConversationRepliesContext(ctx, &slack.GetConversationRepliesParameters{
		ChannelID: t.Channel, Timestamp: t.TS, Oldest: oldest, Cursor: cursor, Limit: 200, IncludeAllMetadata: true})
	return msgs, next, err
}

// await waits for the budget.
func (d *deliverer) await(ctx context.Context, method, channel string) error {
	for {
		wait := d.budget.take(method, channel, time.Now())
		if wait <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return failed(method, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// record writes to the outbox even if ctx has just ended: what happened in Slack
// should be known.
func (d *deliverer) record(ctx context.Context, write func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return write(ctx)
}

// refusedBlocks are errors of rendering, not of Slack's health.
var refusedBlocks = map[string]bool{
	"invalid_blocks": true, "invalid_blocks_format": true, "msg_blocks_too_long": true, "msg_blocks_too_many": true,
	"msg_too_long": true, "invalid_attachments": true,
}

// finalCodes are refusals that time does not mend: the place or the message is gone.
var finalCodes = []string{
	"channel_not_found", "is_archived", "thread_not_found", "message_not_found", "cant_update_message",
	"edit_window_closed", "user_not_in_channel", "user_not_found", "is_inactive",
}

// doubtfulCodes are answers after which the call may have had its effect
// (https://docs.slack.dev/reference/methods/chat.postMessage, "errors").
var doubtfulCodes = []string{"internal_error", "fatal_error", "request_timeout", "service_unavailable"}

// recordFailure decides what becomes of a delivery that failed.
func (d *deliverer) recordFailure(ctx context.Context, it sessions.Delivery, c *card, cause error) {
	if c != nil {
		c.shown = "" // not known any more
	}
	var f *failure
	if !errors.As(cause, &f) {
		// The outbox has the truth already: whether a try was begun. finish
		// holds the delivery back.
		if ctx.Err() == nil {
			d.log.Error("a delivery failed on our side", "delivery", it.ID, "kind", it.Kind, "err", cause)
		}
		return
	}
	err := d.record(ctx, func(ctx context.Context) error { return d.refused(ctx, it, c, f) })
	if err != nil {
		d.log.Error("what became of a delivery was not recorded", "delivery", it.ID, "err", err)
	}
}

// refused postpones or gives up what Slack did not take.
func (d *deliverer) refused(ctx context.Context, it sessions.Delivery, c *card, f *failure) error {
	code := slackCode(f.err)
	after, limited := retryAfter(f.err)
	switch {
	case limited:
		d.budget.close(f.method, after)
		return d.engine.Postponed(ctx, it.ID, it.Attempts, after, it.Unknown && f.method != methodPost, f)
	case slices.Contains(finalCodes, code), refusedBlocks[code], code != "" && it.Attempts >= giveUpAfter:
		if c != nil {
			c.over = true
		}
		return d.engine.Abandoned(ctx, it.ID, f)
	}
	unknown := code == "" || slices.Contains(doubtfulCodes, code)
	switch f.method {
	case methodUpdate, methodReplies, methodUpload:
		unknown = it.Unknown // these post nothing; a message that was found before the edit is looked for again
	}
	d.log.Warn("a delivery is tried again", "delivery", it.ID, "kind", it.Kind, "unknown", unknown, "err", f)
	tries := it.Attempts
	if code != "" && !slices.Contains(doubtfulCodes, code) { // it was refused, and may be for ever
		tries++
	}
	return d.engine.Postponed(ctx, it.ID, tries, pauseAfter(it.Attempts), unknown, f)
}

// retryAfter is how long Slack wants to be left alone, if it said so. Some methods
// say it with 200 and without a time.
func retryAfter(err error) (after time.Duration, limited bool) {
	var r *slack.RateLimitedError
	if errors.As(err, &r) {
		return r.RetryAfter, true
	}
	code := slackCode(err)
	return 10 * time.Second, code == "ratelimited" || code == "rate_limited"
}

// pauseAfter is how long to wait after so many tries. The first pause is long
// enough for Slack to show a message that it took although it said otherwise.
func pauseAfter(attempts int) time.Duration {
	return min(time.Second<<min(attempts, 6), time.Minute)
}
