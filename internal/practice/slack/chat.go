package slack

import (
	"encoding/json"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Limits of texts, in characters. maxMetadata is assumed: Slack refuses large
// metadata but does not say from what size.
const (
	maxText       = 40000 // longer is cut
	maxUpdateText = 4000
	maxMetadata   = 8 << 10
)

// place finds the channel a call is about and checks that the caller may see
// it. A person's id, or
// for a person the bot's, means their direct messages.
func (s *Server) place(c *call, name string) (*room, error) {
	id := c.args[name]
	in := s.rooms[id]
	if in == nil && s.person(id) != nil && c.bot {
		in = s.directRoom(id)
	}
	if in == nil && id == s.id.BotUserID && !c.bot {
		in = s.directRoom(c.user)
	}
	for _, other := range s.rooms {
		if in == nil && other.IM == "" && id == "#"+other.Name {
			in = other
		}
	}
	if in == nil || in.IM != "" && !in.has(c.user) {
		return nil, fail("channel_not_found")
	}
	return in, nil
}

// placeToPost is place for those who want to write there.
func (s *Server) placeToPost(c *call, name string) (*room, error) {
	in, err := s.place(c, name)
	if err == nil && !in.has(c.user) {
		err = fail("not_in_channel")
	}
	return in, err
}

// content is what a call wants a message to hold.
type content struct {
	text        string
	blocks      json.RawMessage
	attachments json.RawMessage
	metadata    json.RawMessage
}

// readContent reads text, blocks and metadata with Slack's checks.
func (s *Server) readContent(c *call) (content, error) {
	v := content{text: c.args["text"]}
	md := c.args["markdown_text"]
	var err error
	switch {
	case md != "" && (v.text != "" || c.args["blocks"] != ""):
		return v, fail("markdown_text_conflict")
	case utf8.RuneCountInString(md) > maxMarkdown:
		return v, fail("msg_too_long")
	case md != "":
		v.text = md
		v.blocks, err = json.Marshal([]object{{"type": "markdown", "block_id": secret(3)[:5], "text": md}})
	case c.args["blocks"] != "":
		v.blocks, err = checkBlocks(c.args["blocks"], inMessage)
	}
	if err != nil {
		return v, err
	}
	if v.attachments, err = readAttachments(c.args["attachments"]); err != nil {
		return v, err
	}
	if v.metadata, err = readMetadata(c); err != nil {
		return v, err
	}
	if strings.TrimSpace(v.text) == "" && v.blocks == nil && v.attachments == nil {
		return v, fail("no_text")
	}
	return v, nil
}

func readAttachments(raw string) (json.RawMessage, error) {
	if raw == "" {
		return nil, nil
	}
	var list []object
	if json.Unmarshal([]byte(raw), &list) != nil {
		return nil, fail("invalid_attachments")
	}
	if len(list) > 100 {
		return nil, fail("too_many_attachments")
	}
	if len(list) == 0 {
		return nil, nil
	}
	return json.RawMessage(raw), nil
}

func readMetadata(c *call) (json.RawMessage, error) {
	raw := c.args["metadata"]
	if raw == "" {
		return nil, nil
	}
	var m struct {
		Type    string          `json:"event_type"`
		Payload json.RawMessage `json:"event_payload"`
	}
	switch {
	case !c.bot:
		return nil, fail("metadata_must_be_sent_from_app")
	case json.Unmarshal([]byte(raw), &m) != nil:
		return nil, fail("invalid_metadata_format")
	case m.Type == "" || !strings.HasPrefix(strings.TrimSpace(string(m.Payload)), "{"):
		return nil, fail("invalid_metadata_schema")
	case len(raw) > maxMetadata:
		return nil, fail("metadata_too_large")
	}
	return json.RawMessage(raw), nil
}

func cutText(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most])
}

// newMessage is a message of the caller. A person's message looks as if typed
// in Slack's own client.
func (s *Server) newMessage(c *call, v content) *message {
	m := &message{
		User: c.user, Text: cutText(v.text, maxText), Blocks: v.blocks, Attachments: v.attachments, Metadata: v.metadata,
	}
	if c.bot {
		m.BotID, m.Username = s.id.BotID, c.args["username"]
		return m
	}
	if c.args.flag("link_names") || c.args["parse"] == "full" {
		m.Text = s.linkNames(m.Text)
	}
	if m.Blocks == nil {
		m.Blocks = richText(m.Text)
	}
	m.ClientMsgID = uuid.NewString()
	return m
}

func (s *Server) chatPostMessage(c *call) (object, error) {
	in, err := s.placeToPost(c, "channel")
	if err != nil {
		return nil, err
	}
	v, err := s.readContent(c)
	if err != nil {
		return nil, err
	}
	m := s.newMessage(c, v)
	if err := s.inThread(in, m, c.args["thread_ts"]); err != nil {
		return nil, err
	}
	if m.Thread != "" && c.args.flag("reply_broadcast") {
		m.Broadcast, m.Subtype = true, "thread_broadcast"
	}
	s.post(in, m)
	if a := s.sessions[sessionKey(in.ID, m.root())]; c.bot && a != nil && a.Text != "" {
		a.Text, a.Status = "", "active" // a message ends the words of assistant.threads.setStatus
		s.saveSession(a)
	}
	return object{"channel": in.ID, "ts": m.TS, "message": s.messageJSON(m, true)}, nil
}

// inThread makes m a reply. A thread cannot hang below a reply: Slack moves
// such a message to the thread that the reply is in.
func (s *Server) inThread(in *room, m *message, ts string) error {
	if ts == "" {
		return nil
	}
	root := in.byTS[ts]
	if root == nil || root.OnlyFor != "" {
		return fail("thread_not_found")
	}
	m.Thread = root.root()
	return nil
}

func (s *Server) chatPostEphemeral(c *call) (object, error) {
	in, err := s.placeToPost(c, "channel")
	if err != nil {
		return nil, err
	}
	if !in.has(c.args["user"]) {
		return nil, fail("user_not_in_channel")
	}
	v, err := s.readContent(c)
	if err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(v.text) > maxText {
		return nil, fail("msg_too_long")
	}
	m := s.newMessage(c, v)
	m.OnlyFor = c.args["user"]
	if err := s.inThread(in, m, c.args["thread_ts"]); err != nil {
		return nil, err
	}
	s.post(in, m)
	return object{"message_ts": m.TS}, nil
}

// existing finds the message a call is about.
func (s *Server) existing(c *call, tsArg string) (*room, *message, error) {
	in, err := s.place(c, "channel")
	if err != nil {
		return nil, nil, err
	}
	m := in.byTS[c.args[tsArg]]
	if m == nil || m.OnlyFor != "" {
		return nil, nil, fail("message_not_found")
	}
	return in, m, nil
}

func (s *Server) chatUpdate(c *call) (object, error) {
	in, m, err := s.existing(c, "ts")
	switch {
	case err != nil:
		return nil, err
	case m.User != c.user || m.Subtype == "tombstone":
		return nil, fail("cant_update_message")
	case m.Stream != nil && m.Stream.State == streamOpen:
		return nil, fail("streaming_state_conflict")
	case utf8.RuneCountInString(c.args["text"]) > maxUpdateText:
		return nil, fail("msg_too_long")
	}
	v, err := s.readContent(c)
	if err != nil {
		return nil, err
	}
	was := *m
	m.Text, m.Blocks, m.Attachments = v.text, v.blocks, v.attachments
	if v.metadata != nil {
		m.Metadata = v.metadata
	}
	if !c.bot {
		m.Blocks = richText(m.Text)
	}
	if !c.bot || v.blocks == nil { // what comes with blocks is not marked
		m.EditedBy, m.EditedTS = c.user, s.newTS()
	}
	s.change(in, &was, m)
	return object{"channel": in.ID, "ts": m.TS, "text": m.Text, "message": s.messageJSON(m, true)}, nil
}

func (s *Server) chatDelete(c *call) (object, error) {
	in, m, err := s.existing(c, "ts")
	switch {
	case err != nil:
		return nil, err
	case m.User != c.user || m.Subtype == "tombstone":
		return nil, fail("cant_delete_message")
	}
	ts := m.TS
	s.erase(in, m)
	return object{"channel": in.ID, "ts": ts}, nil
}

func (s *Server) chatGetPermalink(c *call) (object, error) {
	in, m, err := s.existing(c, "message_ts")
	if err != nil {
		return nil, err
	}
	q := url.Values{"channel": {in.ID}, "thread": {m.root()}, "message": {m.TS}}
	return object{"channel": in.ID, "permalink": s.base + "/?" + q.Encode()}, nil
}
