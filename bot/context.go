package bot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/slack-go/slack"
	"golang.org/x/sync/errgroup"

	"openinspect/sandbox"
)

// What comes with a request besides its words: files, and what people said in the
// thread before.

const (
	maxImage      = 5 << 20         // bytes; larger than models take
	maxText       = 1 << 20         // bytes
	maxFiles      = 20 << 20        // bytes of all files of a message together
	downloadTime  = 6 * time.Second // of all files of a message together: the rest of jobTimeout is for the request itself
	downloads     = 4               // at the same time
	earlierCount  = 50              // messages
	earlierLength = 8000            // characters
)

// attachments downloads what the agent can read, and says in sentences what was
// not passed on and why.
func (b *Bot) attachments(ctx context.Context, files []file) (out []sandbox.Attachment, remarks string) {
	ctx, cancel := context.WithTimeout(ctx, downloadTime)
	defer cancel()
	data, why := make([][]byte, len(files)), make([]string, len(files))
	room := int64(maxFiles)
	var all errgroup.Group
	all.SetLimit(downloads)
	for i, f := range files {
		limit := min(room, fileLimit(f.Mimetype))
		if why[i] = unreadable(f, limit); why[i] != "" {
			continue
		}
		room -= f.Size
		all.Go(func() error {
			data[i], why[i] = b.download(ctx, f, limit)
			return nil
		})
	}
	_ = all.Wait() // they return no errors
	var left []string
	for i, f := range files {
		if why[i] != "" {
			left = append(left, fmt.Sprintf("%s (%s)", oneLine(f.Name), why[i]))
			continue
		}
		out = append(out, sandbox.Attachment{Name: f.Name, MIME: f.Mimetype, Data: data[i]})
	}
	if len(left) > 0 {
		remarks = "Attached in Slack but not passed on: " + strings.Join(left, ", ") + "."
	}
	return out, remarks
}

// unreadable says why a file is not worth a download, if it is not.
func unreadable(f file, limit int64) string {
	switch {
	case f.Mode == "tombstone":
		return "deleted"
	case f.External || f.URL == "":
		return "not kept by Slack"
	case fileLimit(f.Mimetype) == 0:
		return firstOf(f.Mimetype, "unknown type") + ": only images and text can be read"
	case f.Size > limit:
		return fmt.Sprintf("%d bytes, the limit is %d", f.Size, limit)
	}
	return ""
}

// download reads one file of at most limit bytes, or says why it does not.
func (b *Bot) download(ctx context.Context, f file, limit int64) (data []byte, why string) {
	w := &limitedBuffer{limit: limit}
	if err := b.api.GetFileContext(ctx, f.URL, w); err != nil {
		b.log.Warn("a file of Slack could not be downloaded", "file", f.ID, "err", err)
		return nil, "the download failed"
	}
	if !strings.HasPrefix(f.Mimetype, "image/") && !utf8.Valid(w.Bytes()) {
		return nil, "not text in UTF-8"
	}
	return w.Bytes(), ""
}

// fileLimit is the largest file of a type that is passed on; 0 if none is.
func fileLimit(mime string) int64 {
	switch {
	case mime == "image/svg+xml", strings.HasPrefix(mime, "text/"):
		return maxText
	case strings.HasPrefix(mime, "image/"):
		return maxImage
	case mime == "application/json", mime == "application/xml", mime == "application/yaml", mime == "application/x-yaml",
		mime == "application/toml", mime == "application/javascript", mime == "application/sql":
		return maxText
	}
	return 0
}

// limitedBuffer refuses more than limit bytes, whatever size Slack had named.
type limitedBuffer struct {
	bytes.Buffer
	limit int64
}

var errTooLarge = errors.New("the file is larger than Slack said")

// Write implements io.Writer.
func (w *limitedBuffer) Write(p []byte) (int, error) {
	if int64(w.Len()+len(p)) > w.limit {
		return 0, errTooLarge
	}
	return w.Buffer.Write(p)
}

// earlierBegins begins what earlier adds to a request.
const earlierBegins = "Earlier in the Slack thread:"

// earlier quotes what people said in a thread before the bot was mentioned in it,
// the latest if it is much. A thread that cannot be read is not worth losing the
// request for, but the agent is told.
func (b *Bot) earlier(ctx context.Context, m said) string {
	msgs, err := b.before(ctx, m)
	if err != nil {
		b.log.Warn("the thread before a mention could not be read", "channel", m.Channel, "err", err)
		return "(This was asked in a Slack thread whose earlier messages could not be read.)"
	}
	var texts []string
	for _, msg := range msgs {
		texts = append(texts, msg.Text, "<@"+msg.User+">") // who spoke has to be named as well
	}
	name := b.people.names(ctx, texts...)
	var quotes []string
	length := 0
	for i := len(msgs) - 1; i >= 0 && len(quotes) < earlierCount; i-- {
		msg := msgs[i]
		said := fmt.Sprintf("%s: %s", name(msg.User), decodeText(msg.Text, name))
		if length += len(said); length > earlierLength {
			break
		}
		quotes = append([]string{"> " + strings.ReplaceAll(said, "\n", "\n> ")}, quotes...)
	}
	if len(quotes) == 0 {
		return ""
	}
	return earlierBegins + "\n" + strings.Join(quotes, "\n>\n")
}

// before reads the people's messages of a thread up to the mention.
func (b *Bot) before(ctx context.Context, m said) ([]slack.Message, error) {
	all, err := b.replies(ctx, slack.GetConversationRepliesParameters{ChannelID: m.Channel, Timestamp: m.ThreadTS, Latest: m.TS})
	if err != nil {
		return nil, err
	}
	var out []slack.Message
	for _, msg := range all {
		if msg.BotID == "" && msg.User != b.self.user && msg.Timestamp < m.TS && strings.TrimSpace(msg.Text) != "" {
			out = append(out, msg)
		}
	}
	return out, nil
}
