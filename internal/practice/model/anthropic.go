package model

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// anthropic is the protocol of /v1/messages, as
// https://docs.anthropic.com/en/api/messages-streaming describes it.
type anthropic struct{}

func (anthropic) name() string { return "anthropic" }

func (anthropic) tooLong() string {
	return "prompt is too long: 208310 tokens > 200000 maximum"
}

type anthropicRequest struct {
	Model     string          `json:"model"`
	MaxTokens int             `json:"max_tokens"`
	System    json.RawMessage `json:"system"`
	Stream    bool            `json:"stream"`
	Messages  []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Tools []struct {
		Name string `json:"name"`
	} `json:"tools"`
}

// anthropicBlock is a content block of either direction. The pointers are
// those fields that must be present, though empty, when their block begins.
type anthropicBlock struct {
	Type      string          `json:"type"`
	Text      *string         `json:"text,omitempty"`
	Thinking  *string         `json:"thinking,omitempty"`
	Signature *string         `json:"signature,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
	ToolUseID string          `json:"tool_use_id,omitempty"`
	Content   json.RawMessage `json:"content,omitempty"`
}

func (anthropic) read(body []byte) (*request, error) {
	var in anthropicRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("the request is not valid JSON for this endpoint: %w", err)
	}
	if in.Model == "" {
		return nil, fmt.Errorf("model: Field required")
	}
	if len(in.Messages) == 0 {
		return nil, fmt.Errorf("messages: at least one message is required")
	}
	system, err := plainText(in.System)
	if err != nil {
		return nil, fmt.Errorf("system: %w", err)
	}
	q := &request{model: in.Model, stream: in.Stream, system: system,
		caches: strings.Contains(string(body), `"cache_control"`)}
	for _, t := range in.Tools {
		q.tools = append(q.tools, t.Name)
	}
	var open map[string]bool // calls of the message before
	for i, m := range in.Messages {
		if m.Role != "user" && m.Role != "assistant" {
			return nil, fmt.Errorf("messages.%d.role: Input should be 'user' or 'assistant'", i)
		}
		blocks, err := readBlocks(m.Content)
		if err != nil {
			return nil, fmt.Errorf("messages.%d: %w", i, err)
		}
		if open, err = q.readAnthropic(m.Role, blocks, open); err != nil {
			return nil, fmt.Errorf("messages.%d: %w", i, err)
		}
	}
	return q, nil
}

func readBlocks(content json.RawMessage) ([]anthropicBlock, error) {
	if len(content) > 0 && content[0] == '"' {
		var text string
		err := json.Unmarshal(content, &text)
		return []anthropicBlock{{Type: "text", Text: &text}}, err
	}
	var blocks []anthropicBlock
	if err := json.Unmarshal(content, &blocks); err != nil {
		return nil, fmt.Errorf("content: Input should be a valid string or list")
	}
	return blocks, nil
}

// readAnthropic adds one message and checks what the provider checks: results
// belong to the calls of the message before, and none of those is missing. It
// returns the calls that the next message has to answer.
func (q *request) readAnthropic(role string, blocks []anthropicBlock, open map[string]bool) (map[string]bool, error) {
	t := turn{role: role}
	calls := map[string]bool{}
	for _, b := range blocks {
		switch b.Type {
		case "text":
			if b.Text != nil {
				t.text += *b.Text
			}
		case "tool_use":
			calls[b.ID] = true
			t.calls = append(t.calls, toolCall{id: b.ID, name: b.Name, args: b.Input})
		case "tool_result":
			if !open[b.ToolUseID] {
				return nil, fmt.Errorf("unexpected `tool_use_id` found in `tool_result` blocks: %s", b.ToolUseID)
			}
			delete(open, b.ToolUseID)
			text, err := plainText(b.Content)
			if err != nil {
				return nil, err
			}
			q.turns = append(q.turns, turn{role: "tool", text: text, callID: b.ToolUseID})
		}
	}
	for id := range open {
		return nil, fmt.Errorf("`tool_use` ids were found without `tool_result` blocks immediately after: %s", id)
	}
	if t.text != "" || len(t.calls) > 0 {
		q.turns = append(q.turns, t)
	}
	return calls, nil
}

type anthropicUsage struct {
	InputTokens   int `json:"input_tokens"`
	CacheCreation int `json:"cache_creation_input_tokens"`
	CacheRead     int `json:"cache_read_input_tokens"`
	OutputTokens  int `json:"output_tokens"`
}

func (u Usage) anthropic() anthropicUsage {
	return anthropicUsage{InputTokens: u.Input, CacheCreation: u.CacheWrite, CacheRead: u.CacheRead, OutputTokens: u.Output}
}

type anthropicMessage struct {
	ID           string           `json:"id"`
	Type         string           `json:"type"`
	Role         string           `json:"role"`
	Model        string           `json:"model"`
	Content      []anthropicBlock `json:"content"`
	StopReason   *string          `json:"stop_reason"`
	StopSequence *string          `json:"stop_sequence"`
	Usage        anthropicUsage   `json:"usage"`
}

func (p *reply) anthropicStop() *string {
	reason := "end_turn"
	if len(p.calls) > 0 {
		reason = "tool_use"
	}
	return &reason
}

// signature stands for the provider's signature of its thinking, which
// clients send back unread.
var signature = "c2NyaXB0ZWQ="

func (anthropic) write(_ context.Context, w http.ResponseWriter, q *request, p *reply) error {
	m := anthropicMessage{ID: replyID("msg_", q), Type: "message", Role: "assistant", Model: q.model,
		Content: []anthropicBlock{}, StopReason: p.anthropicStop(), Usage: p.usage.anthropic()}
	if p.think != "" {
		m.Content = append(m.Content, anthropicBlock{Type: "thinking", Thinking: &p.think, Signature: &signature})
	}
	if p.say != "" {
		m.Content = append(m.Content, anthropicBlock{Type: "text", Text: &p.say})
	}
	for _, c := range p.calls {
		m.Content = append(m.Content, anthropicBlock{Type: "tool_use", ID: c.id, Name: c.name, Input: c.args})
	}
	writeJSON(w, http.StatusOK, m)
	return nil
}

// anthropicStream sends the events of one reply; index is the open block's.
type anthropicStream struct {
	e     *emitter
	index int
}

func (s *anthropicStream) event(ctx context.Context, kind string, fields map[string]any) error {
	fields["type"] = kind
	data, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	return s.e.send(ctx, fmt.Appendf(nil, "event: %s\ndata: %s\n\n", kind, data))
}

// block sends one content block: its start, its deltas, its stop.
func (s *anthropicStream) block(ctx context.Context, start anthropicBlock, deltas []map[string]any) error {
	if err := s.event(ctx, "content_block_start", map[string]any{"index": s.index, "content_block": start}); err != nil {
		return err
	}
	for _, d := range deltas {
		if err := s.event(ctx, "content_block_delta", map[string]any{"index": s.index, "delta": d}); err != nil {
			return err
		}
	}
	err := s.event(ctx, "content_block_stop", map[string]any{"index": s.index})
	s.index++
	return err
}

func deltas(kind, field, text string) []map[string]any {
	var out []map[string]any
	for _, piece := range pieces(text) {
		out = append(out, map[string]any{"type": kind, field: piece})
	}
	return out
}

func (anthropic) stream(ctx context.Context, e *emitter, q *request, p *reply) error {
	s := &anthropicStream{e: e}
	start := anthropicMessage{ID: replyID("msg_", q), Type: "message", Role: "assistant", Model: q.model,
		Content: []anthropicBlock{}, Usage: p.usage.anthropic()}
	start.Usage.OutputTokens = 1
	if err := s.event(ctx, "message_start", map[string]any{"message": start}); err != nil {
		return err
	}
	if err := s.event(ctx, "ping", map[string]any{}); err != nil {
		return err
	}
	if err := s.blocks(ctx, p); err != nil {
		return err
	}
	err := s.event(ctx, "message_delta", map[string]any{
		"delta": map[string]any{"stop_reason": p.anthropicStop(), "stop_sequence": nil},
		"usage": map[string]any{"output_tokens": p.usage.Output},
	})
	if err != nil {
		return err
	}
	return s.event(ctx, "message_stop", map[string]any{})
}

func (s *anthropicStream) blocks(ctx context.Context, p *reply) error {
	empty := ""
	if p.think != "" {
		thoughts := append(deltas("thinking_delta", "thinking", p.think),
			map[string]any{"type": "signature_delta", "signature": signature})
		if err := s.block(ctx, anthropicBlock{Type: "thinking", Thinking: &empty, Signature: &empty}, thoughts); err != nil {
			return err
		}
	}
	if p.say != "" {
		if err := s.block(ctx, anthropicBlock{Type: "text", Text: &empty}, deltas("text_delta", "text", p.say)); err != nil {
			return err
		}
	}
	for _, c := range p.calls {
		start := anthropicBlock{Type: "tool_use", ID: c.id, Name: c.name, Input: json.RawMessage("{}")}
		if err := s.block(ctx, start, deltas("input_json_delta", "partial_json", string(c.args))); err != nil {
			return err
		}
	}
	return nil
}

func (anthropic) refuse(w http.ResponseWriter, status int, kind, message string) {
	writeJSON(w, status, anthropicError(kind, message))
}

func anthropicError(kind, message string) map[string]any {
	if kind == "context_length_exceeded" {
		kind = "invalid_request_error"
	}
	return map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": message}}
}

func (anthropic) inStream(kind, message string) []byte {
	data, _ := json.Marshal(anthropicError(kind, message)) // strings only: it cannot fail
	return fmt.Appendf(nil, "event: error\ndata: %s\n\n", data)
}
