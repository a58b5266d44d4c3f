package slack

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// States of a streamed message, as Slack's message events name them.
const (
	streamOpen  = "in_progress"
	streamDone  = "completed"
	streamEnded = "errored" // stopped by a person, or out of time
)

var taskStates = []string{"pending", "in_progress", "complete", "error"}

// stream is a message being written in pieces.
type stream struct {
	State   string
	Mode    string // timeline or plan
	Started time.Time
	Stopped bool // by a person
	Plan    string
	Items   []streamItem
	Tail    json.RawMessage `json:",omitempty"` // blocks given at the end
}

// streamItem is one piece: text, a task or blocks.
type streamItem struct {
	Text   string          `json:",omitempty"`
	Task   *streamTask     `json:",omitempty"`
	Blocks json.RawMessage `json:",omitempty"`
}

type streamTask struct {
	ID, Title, Status, Details, Output string
	Sources                            json.RawMessage `json:",omitempty"`
}

// chunk is one element of the argument chunks.
type chunk struct {
	Type    string          `json:"type"`
	Text    string          `json:"text"`
	ID      string          `json:"id"`
	Title   string          `json:"title"`
	Status  string          `json:"status"`
	Details string          `json:"details"`
	Output  string          `json:"output"`
	Sources json.RawMessage `json:"sources"`
	Blocks  json.RawMessage `json:"blocks"`
}

func (s *Server) chatStartStream(c *call) (object, error) {
	in, err := s.placeToPost(c, "channel")
	if err != nil {
		return nil, err
	}
	mode := c.args["task_display_mode"]
	switch {
	case in.IM == "" && c.args["recipient_user_id"] == "":
		return nil, fail("missing_recipient_user_id")
	case in.IM == "" && c.args["recipient_team_id"] == "":
		return nil, fail("missing_recipient_team_id")
	case in.IM == "" && !in.has(c.args["recipient_user_id"]):
		return nil, fail("user_not_found")
	case mode == "":
		mode = "timeline"
	case mode != "timeline" && mode != "plan" && mode != "dense":
		return nil, failWith("invalid_arguments", "[ERROR] unsupported task_display_mode")
	}
	m := &message{User: c.user, BotID: s.id.BotID, Stream: &stream{State: streamOpen, Mode: mode, Started: time.Now()}}
	if err := s.inThread(in, m, c.args["thread_ts"]); err != nil {
		return nil, err
	}
	if err := m.write(c, true); err != nil {
		return nil, err
	}
	s.post(in, m)
	root := in.byTS[m.root()]
	if s.sessions[sessionKey(in.ID, m.root())] == nil {
		s.setSession(in, m.root(), "processing", "", root.User)
	}
	return object{"channel": in.ID, "ts": m.TS}, nil
}

// streaming finds the message of appendStream and stopStream.
func (s *Server) streaming(c *call) (*room, *message, error) {
	in, m, err := s.existing(c, "ts")
	switch {
	case err != nil:
		return nil, nil, err
	case m.User != c.user:
		return nil, nil, fail("message_not_owned_by_app")
	case m.Stream != nil && m.Stream.Stopped:
		return nil, nil, fail("stopped_by_user")
	case m.Stream == nil || m.Stream.State != streamOpen:
		return nil, nil, fail("message_not_in_streaming_state")
	}
	return in, m, nil
}

func (s *Server) chatAppendStream(c *call) (object, error) {
	in, m, err := s.streaming(c)
	if err != nil {
		return nil, err
	}
	was := *m
	if err := m.write(c, false); err != nil {
		return nil, err
	}
	s.change(in, &was, m)
	return object{"channel": in.ID, "ts": m.TS}, nil
}

func (s *Server) chatStopStream(c *call) (object, error) {
	in, m, err := s.streaming(c)
	if err != nil {
		return nil, err
	}
	status := c.args["session_status"]
	if status == "" {
		status = "active"
	}
	if !slices.Contains(sessionStates, status) {
		return nil, failWith("invalid_arguments", "[ERROR] unsupported session_status")
	}
	metadata, err := readMetadata(c)
	if err != nil {
		return nil, err
	}
	was := *m
	st := *m.Stream
	if c.args["blocks"] != "" {
		if st.Tail, err = checkBlocks(c.args["blocks"], inMessage); err != nil {
			return nil, err
		}
	}
	st.State = streamDone
	m.Stream = &st
	if err := m.write(c, true); err != nil {
		*m = was
		return nil, err
	}
	if metadata != nil {
		m.Metadata = metadata
	}
	s.change(in, &was, m)
	s.setSession(in, m.root(), status, "", "")
	return object{"channel": in.ID, "ts": m.TS, "message": s.messageJSON(m, true)}, nil
}

// write adds a call's text and chunks to the stream and renders the message.
// Nothing is changed if any of it is refused.
func (m *message) write(c *call, mayBeEmpty bool) error {
	text, raw := c.args["markdown_text"], c.args["chunks"]
	if text == "" && raw == "" && !mayBeEmpty {
		return fail("no_text")
	}
	var chunks []chunk
	if raw != "" && json.Unmarshal([]byte(raw), &chunks) != nil {
		return fail("invalid_chunks")
	}
	if text != "" {
		chunks = append([]chunk{{Type: "markdown_text", Text: text}}, chunks...)
	}
	st := *m.Stream
	st.Items = slices.Clone(st.Items)
	for _, ch := range chunks {
		if err := st.add(ch); err != nil {
			return err
		}
	}
	rendered, text, err := st.render()
	if err != nil {
		return err
	}
	m.Stream, m.Blocks, m.Text = &st, rendered, text
	return nil
}

func (st *stream) add(ch chunk) error {
	switch ch.Type {
	case "markdown_text":
		if utf8.RuneCountInString(ch.Text) > maxMarkdown {
			return fail("msg_too_long")
		}
		last := len(st.Items) - 1
		if last >= 0 && st.Items[last].Text != "" {
			st.Items[last].Text += ch.Text
		} else if ch.Text != "" {
			st.Items = append(st.Items, streamItem{Text: ch.Text})
		}
	case "task_update":
		return st.addTask(ch)
	case "plan_update":
		st.Plan = ch.Title
	case "blocks":
		blocks, err := checkBlocks(string(ch.Blocks), inMessage)
		if err != nil {
			return err
		}
		st.Items = append(st.Items, streamItem{Blocks: blocks})
	default:
		return fail("invalid_chunks")
	}
	return nil
}

// addTask adds a task or updates the one of that id: what is given replaces,
// except details and output, which grow.
func (st *stream) addTask(ch chunk) error {
	if ch.ID == "" || ch.Status != "" && !slices.Contains(taskStates, ch.Status) {
		return fail("invalid_chunks")
	}
	for i, item := range st.Items {
		if item.Task != nil && item.Task.ID == ch.ID {
			t := *item.Task
			t.update(ch)
			st.Items[i].Task = &t
			return nil
		}
	}
	if ch.Title == "" {
		return fail("invalid_chunks")
	}
	t := &streamTask{ID: ch.ID, Status: "pending"}
	t.update(ch)
	st.Items = append(st.Items, streamItem{Task: t})
	return nil
}

func (t *streamTask) update(ch chunk) {
	if ch.Title != "" {
		t.Title = ch.Title
	}
	if ch.Status != "" {
		t.Status = ch.Status
	}
	t.Details += ch.Details
	t.Output += ch.Output
	if ch.Sources != nil {
		t.Sources = ch.Sources
	}
}

// render makes the message's blocks and text of the pieces so far.
func (st *stream) render() (json.RawMessage, string, error) {
	var blocks, tasks []object
	var text strings.Builder
	planAt := -1
	for i, item := range st.Items {
		id := "stream" + string(rune('a'+i%26)) + st.Started.Format("05") // stable while it grows
		switch {
		case item.Task != nil && st.Mode == "plan":
			if planAt < 0 {
				planAt = len(blocks)
				blocks = append(blocks, nil)
			}
			tasks = append(tasks, item.Task.block(""))
		case item.Task != nil:
			blocks = append(blocks, item.Task.block(id))
		case item.Blocks != nil:
			blocks = append(blocks, decodeBlocks(item.Blocks)...)
		default:
			text.WriteString(item.Text)
			blocks = append(blocks, object{"type": "markdown", "block_id": id, "text": item.Text})
		}
	}
	if planAt >= 0 {
		title := st.Plan
		if title == "" {
			title = "Plan"
		}
		blocks[planAt] = object{"type": "plan", "block_id": "plan", "title": title, "tasks": tasks}
	}
	if len(blocks) > maxMessageBlocks {
		return nil, "", fail("msg_blocks_too_many")
	}
	blocks = append(blocks, decodeBlocks(st.Tail)...)
	if blocks == nil {
		return nil, text.String(), nil
	}
	raw, err := json.Marshal(blocks)
	return raw, text.String(), err
}

func (t *streamTask) block(id string) object {
	b := object{"type": "task_card", "task_id": t.ID, "title": t.Title, "status": t.Status}
	if id != "" {
		b["block_id"] = id
	}
	for name, text := range map[string]string{"details": t.Details, "output": t.Output} {
		if text != "" {
			b[name] = object{"type": "rich_text", "elements": []object{{
				"type": "rich_text_section", "elements": []object{{"type": "text", "text": text}},
			}}}
		}
	}
	if t.Sources != nil {
		b["sources"] = t.Sources
	}
	return b
}

// decodeBlocks reads blocks that were checked before.
func decodeBlocks(raw json.RawMessage) []object {
	var list []object
	if len(raw) > 0 && json.Unmarshal(raw, &list) != nil {
		return nil
	}
	return list
}

// endStreams ends the open streams of a thread, or all that are too old, and
// returns their timestamps.
func (s *Server) endStreams(in *room, due func(*message) bool, stopped bool) []string {
	var ended []string
	for _, m := range in.messages {
		if m.Stream == nil || m.Stream.State != streamOpen || !due(m) {
			continue
		}
		was := *m
		st := *m.Stream
		st.State, st.Stopped = streamEnded, stopped
		m.Stream = &st
		s.change(in, &was, m)
		ended = append(ended, m.TS)
	}
	return ended
}

// expireStreams ends streams that have lived too long. Their session becomes
// active, as if the app had finished.
func (s *Server) expireStreams(now time.Time) {
	for _, in := range s.rooms {
		old := func(m *message) bool { return now.Sub(m.Stream.Started) > s.opts.StreamLife }
		for _, ts := range s.endStreams(in, old, false) {
			s.setSession(in, in.byTS[ts].root(), "active", "", "")
		}
	}
}
