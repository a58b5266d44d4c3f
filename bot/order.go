package bot

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/slack-go/slack"
)

// Slack promises no order between events: there are several connections, and what
// was not acknowledged comes again after seconds or minutes, when what was said
// meanwhile has long been handled. When people said something counts, then, not
// when it arrived: a reply belongs to a session if it was said after the request
// that began it.

// lateAfter is how old a message may be when it arrives without anybody looking
// for what was said after it. Nobody answers a message faster than that.
const lateAfter = 2 * time.Second

// late says whether replies to the message may have come before it.
func (m said) late() bool { return m.again || time.Since(spokenAt(m.TS)) > lateAfter }

// spokenAt is when a message was posted, by Slack's clock.
func spokenAt(ts string) time.Time {
	seconds, err := strconv.ParseFloat(ts, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(seconds * 1000))
}

// precedes says whether a reply was said before the request that began its
// thread's session. The agent has read it then, as what was said earlier.
func (m said) precedes() bool {
	return m.TS < m.session.FirstTS // equally long decimals: they sort as text
}

// overtaken handles the replies that came before the request that they continue:
// there was no session yet, and so they were nobody's business. Those that it
// has handled before are known by their keys.
func (b *Bot) overtaken(ctx context.Context, m said) error {
	replies, err := b.replies(ctx, slack.GetConversationRepliesParameters{ChannelID: m.Channel, Timestamp: m.thread.TS, Oldest: m.TS})
	if slices.Contains(finalCodes, slackCode(err)) {
		return nil // it was deleted since, or may not be read: nobody can reply to it
	}
	if err != nil {
		return fmt.Errorf("reading what was said after a late request: %w", err)
	}
	for _, r := range replies {
		if r.Timestamp <= m.TS || mentions(r.Text, b.self.user) {
			continue
		}
		if err := b.onMessageEvent(ctx, replyEvent(m.event, r)); err != nil {
			return err
		}
	}
	return nil
}

// replyEvent is the event in which Slack sent a reply.
func replyEvent(root *event, r slack.Message) *event {
	e := &event{Type: "message", Subtype: r.SubType, User: userField{r.User}, BotID: r.BotID, Text: r.Text, TS: r.Timestamp,
		ThreadTS: r.ThreadTimestamp, Channel: root.Channel, ChannelType: root.ChannelType}
	for _, f := range r.Files {
		e.Files = append(e.Files, file{ID: f.ID, Name: f.Name, Mimetype: f.Mimetype, Size: int64(f.Size), Mode: f.Mode,
			URL: f.URLPrivateDownload, External: f.IsExternal})
	}
	return e
}

// replies reads the messages of a thread, the first pages of it: its root comes
// first, whatever was asked for, and the latest last.
func (b *Bot) replies(ctx context.Context, which slack.GetConversationRepliesParameters) ([]slack.Message, error) {
	const pages = 5
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	which.Limit = 200
	var out []slack.Message
	for range pages {
		msgs, more, next, err := b.api.GetConversationRepliesContext(ctx, &which)
		if err != nil {
			return out, err
		}
		out = append(out, msgs...)
		if !more || next == "" {
			break
		}
		which.Cursor = next
	}
	return out, nil
}
