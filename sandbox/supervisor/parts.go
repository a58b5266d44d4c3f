package supervisor

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"

	"openinspect/sandbox"
)

// transcript turns OpenCode's messages and parts into events of one prompt. It
// may be shown the same message or part any number of times, from the event
// stream and from a reading of the whole session: each thing is reported once.
// It is used by one goroutine.
type transcript struct {
	session string // OpenCode's session; those of sub-agents are shown by the tool that started them
	asked   string // id of our user message
	dir     string // paths are shown relative to it
	emit    func(kind string, body any)
	delta   func(sandbox.Delta)

	assistants map[string]*messageInfo // of this prompt
	parts      map[string]*shown
	order      []string            // of parts, as they appeared
	texts      map[string][]string // finished texts by message
	withTools  map[string]bool     // messages that called a tool
	last       string              // the last finished text
	busyTools  int
	askedIn    string // the message that asked people something
}

// shown is what was reported of a part.
type shown struct {
	kind    string
	message string // that it belongs to
	text    string // as far as deltas told it
	told    string // what was reported as finished before OpenCode said so
	running bool
	done    bool
}

// maxOutput caps a tool's output in bytes: in the event, and in deltas.
const maxOutput = 64 << 10

func newTranscript(session, asked, dir string, emit func(string, any), delta func(sandbox.Delta)) *transcript {
	return &transcript{
		session: session, asked: asked, dir: dir, emit: emit, delta: delta,
		assistants: make(map[string]*messageInfo), parts: make(map[string]*shown),
		texts: make(map[string][]string), withTools: make(map[string]bool),
	}
}

// message notes an assistant's message. Messages before this prompt are not
// ours; those after it are, whatever their parent: after a compaction it is a
// message that OpenCode made up.
func (t *transcript) message(m messageInfo) {
	if m.SessionID != t.session || m.Role != "assistant" {
		return
	}
	if known := t.assistants[m.ID]; known == nil && m.Summary {
		t.emit(sandbox.KindNote, sandbox.BodyNote{Text: "The conversation had grown too long for the model and was summarised."})
	}
	t.assistants[m.ID] = &m
}

// part reports what is new of a part.
func (t *transcript) part(p part) {
	m := t.assistants[p.MessageID]
	if m == nil || bool(m.Summary) {
		return
	}
	s := t.parts[p.ID]
	if s == nil {
		s = &shown{kind: p.Type, message: p.MessageID}
		t.parts[p.ID] = s
		t.order = append(t.order, p.ID)
	}
	if s.done {
		return
	}
	switch p.Type {
	case "text":
		t.text(p, s, sandbox.KindText)
	case "reasoning":
		t.text(p, s, sandbox.KindReasoning)
	case "tool":
		t.tool(p, s)
	}
}

func (t *transcript) text(p part, s *shown, kind string) {
	if p.Time.End == 0 {
		if len(p.Text) > len(s.text) {
			t.grow(p.ID, s, kind, p.Text)
		}
		return
	}
	s.done = true
	if strings.TrimSpace(p.Text) == "" {
		return // an attempt that failed is blanked
	}
	if kind == sandbox.KindText {
		t.texts[p.MessageID] = append(t.texts[p.MessageID], p.Text)
		t.last = p.Text
	}
	if rest, told := strings.CutPrefix(p.Text, s.told); told && s.told != "" {
		if strings.TrimSpace(rest) != "" {
			t.emit(kind, sandbox.BodyText{Part: p.ID + "-rest", Text: rest})
		}
		return
	}
	t.emit(kind, sandbox.BodyText{Part: p.ID, Text: p.Text})
}

// finishTexts reports the texts of a message that stand before a tool call.
// OpenCode ends them only with the whole step, when the tool has long run, and
// the log would have them behind it.
func (t *transcript) finishTexts(message string) {
	for _, id := range t.order {
		s := t.parts[id]
		if s.message != message || s.done || s.told != "" || strings.TrimSpace(s.text) == "" {
			continue
		}
		switch s.kind {
		case "text":
			t.emit(sandbox.KindText, sandbox.BodyText{Part: id, Text: s.text})
		case "reasoning":
			t.emit(sandbox.KindReasoning, sandbox.BodyText{Part: id, Text: s.text})
		default:
			continue
		}
		s.told = s.text
	}
}

// grow reports a running part's text as a delta: the end of it if it continues
// what was reported, else from the beginning.
func (t *transcript) grow(id string, s *shown, kind, text string) {
	if len(text) > maxOutput || text == s.text || s.told != "" {
		return
	}
	offset := 0
	if strings.HasPrefix(text, s.text) {
		offset = len(s.text)
	}
	s.text = text
	t.delta(sandbox.Delta{Part: id, Kind: kind, Offset: offset, Text: text[offset:]})
}

// added reports text that OpenCode says was added to a part.
func (t *transcript) added(id, text string) {
	s := t.parts[id]
	if s == nil || s.done {
		return
	}
	switch s.kind {
	case "text":
		t.grow(id, s, sandbox.KindText, s.text+text)
	case "reasoning":
		t.grow(id, s, sandbox.KindReasoning, s.text+text)
	}
}

// quietTools are shown by what they do: the list has an event of its own.
var quietTools = map[string]bool{"todowrite": true, "todoread": true}

func (t *transcript) tool(p part, s *shown) {
	body := sandbox.BodyTool{Part: p.ID, Tool: p.Tool, State: p.State.Status,
		Title: t.title(p), Input: p.State.Input}
	ended := p.State.Status == "completed" || p.State.Status == "error"
	if !ended && p.State.Status != "running" {
		return
	}
	if !s.running {
		s.running = true
		t.finishTexts(p.MessageID)
		t.withTools[p.MessageID] = true
		t.busyTools++
		if !ended && !quietTools[p.Tool] {
			t.emit(sandbox.KindTool, body)
		}
	}
	if !ended {
		t.grow(p.ID, s, sandbox.KindTool, p.State.Metadata.Output)
		return
	}
	s.done = true
	t.busyTools--
	if p.Tool == askTool {
		t.askedIn = p.MessageID
	}
	if quietTools[p.Tool] {
		return
	}
	body.Output, body.Cut = capOutput(p.State.Output)
	body.Diff = p.State.Metadata.Diff
	body.Error, _ = capOutput(p.State.Error)
	if len(body.Diff) > maxOutput {
		body.Diff = ""
	}
	if p.State.Time.End > 0 {
		body.Millis = int64(p.State.Time.End - p.State.Time.Start)
	}
	t.emit(sandbox.KindTool, body)
}

// capOutput keeps the beginning and, since the outcome usually stands there,
// twice as much of the end.
func capOutput(s string) (string, int) {
	if len(s) <= maxOutput {
		return s, 0
	}
	head, tail := maxOutput/3, 2*maxOutput/3
	cut := len(s) - head - tail
	return strings.ToValidUTF8(s[:head], "") + fmt.Sprintf("\n\n[… %d bytes left out …]\n\n", cut) +
		strings.ToValidUTF8(s[len(s)-tail:], ""), cut
}

// title says in a few words what a tool call is about.
func (t *transcript) title(p part) string {
	input := func(name string) string { s, _ := p.State.Input[name].(string); return s }
	path := input("filePath")
	if rel, err := filepath.Rel(t.dir, path); err == nil && path != "" && !strings.HasPrefix(rel, "..") {
		path = rel
	}
	return cmp.Or(input("description"), p.State.Title, path, input("command"), input("pattern"), input("url"), input("title"))
}

// reply is the agent's answer: the text of its newest message if that called no
// tool, or failing that its last text. Order within a message says nothing: a
// text may be finished after the tool call that follows it has begun.
func (t *transcript) reply() string {
	if t.askedIn != "" {
		return t.leadIn()
	}
	if m := t.newest(); m != nil && !t.withTools[m.ID] {
		return cmp.Or(strings.Join(t.texts[m.ID], "\n\n"), t.last)
	}
	return t.last
}

// leadIn is what the agent said in the message with which it asked something. Its
// texts are not finished yet, as a rule.
func (t *transcript) leadIn() string {
	if ended := t.texts[t.askedIn]; len(ended) > 0 {
		return strings.Join(ended, "\n\n")
	}
	var said []string
	for _, id := range t.order {
		if s := t.parts[id]; s.message == t.askedIn && s.kind == "text" && s.told != "" {
			said = append(said, s.told)
		}
	}
	return strings.Join(said, "\n\n")
}

// newest is the assistant's last message, nil before the first.
func (t *transcript) newest() *messageInfo {
	var newest *messageInfo
	for _, m := range t.assistants {
		if newest == nil || m.Time.Created > newest.Time.Created || m.Time.Created == newest.Time.Created && m.ID > newest.ID {
			newest = m
		}
	}
	return newest
}

// finished tells whether the newest assistant's message has ended, and how.
// none means that the agent has not begun to answer.
func (t *transcript) finished() (done, none bool, failure *apiError) {
	newest := t.newest()
	if newest == nil {
		return false, true, nil
	}
	return newest.Time.Completed > 0, false, newest.Error
}

// begun tells whether there is anything of the agent's answer.
func (t *transcript) begun() bool { return len(t.parts) > 0 }

// aborted tells whether OpenCode was interrupted; the second form is that of its
// runtime, for what it does before it has a message to say it in.
func (e *apiError) aborted() bool {
	return e.Name == "MessageAbortedError" || strings.Contains(e.Data.Message, "All fibers interrupted")
}

// failureSentence says what went wrong so that a person can act on it.
func failureSentence(e *apiError) string {
	message := strings.TrimSpace(e.Data.Message)
	switch {
	case e.Name == "ProviderAuthError", e.Data.StatusCode == 401, e.Data.StatusCode == 403:
		return fmt.Sprintf("The model provider refused the key (%d). An operator has to check it. It said: %s", cmp.Or(e.Data.StatusCode, 401), message)
	case e.Data.StatusCode == 429:
		return "The model provider has no capacity for us at the moment (429). Try again later. It said: " + message
	case e.Data.StatusCode >= 500:
		return fmt.Sprintf("The model provider did not work (%d), also after several tries. Try again later. It said: %s", e.Data.StatusCode, message)
	case e.Name == "ContextOverflowError":
		return "The conversation has grown too long for the model: start a new session."
	case e.Name == "MessageOutputLengthError":
		return "The model's answer was longer than it may be, and was cut."
	case e.aborted():
		return "The agent was interrupted. It is started anew."
	case message != "":
		return "The model did not answer: " + message
	}
	return "The agent failed: " + e.Name
}
