package model

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// openAI is the protocol of /v1/chat/completions, as
// https://platform.openai.com/docs/api-reference/chat describes it; reasoning
// travels as reasoning_content, where OpenAI-compatible clients look for it.
type openAI struct{}

func (openAI) name() string { return "openai" }

func (openAI) tooLong() string {
	return "This model's maximum context length is 128000 tokens. Please reduce the length of the messages."
}

type openAIRequest struct {
	Model         string          `json:"model"`
	Messages      []openAIMessage `json:"messages"`
	Stream        bool            `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	Tools []struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	} `json:"tools"`
	ResponseFormat struct {
		Type       string `json:"type"`
		JSONSchema struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	} `json:"response_format"`
}

type openAIMessage struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	ToolCallID string          `json:"tool_call_id"`
	ToolCalls  []openAICall    `json:"tool_calls"`
}

type openAICall struct {
	Index    *int   `json:"index,omitempty"`
	ID       string `json:"id,omitempty"`
	Type     string `json:"type,omitempty"`
	Function struct {
		Name      string `json:"name,omitempty"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

func (openAI) read(body []byte) (*request, error) {
	var in openAIRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("the request is not valid JSON for this endpoint: %w", err)
	}
	if in.Model == "" {
		return nil, fmt.Errorf("you must provide a model parameter")
	}
	if len(in.Messages) == 0 {
		return nil, fmt.Errorf("messages: expected at least one message")
	}
	q := &request{model: in.Model, stream: in.Stream, includeUsage: in.StreamOptions.IncludeUsage}
	switch in.ResponseFormat.Type {
	case "json_object":
		q.wantJSON = true
	case "json_schema":
		q.wantJSON, q.schema = true, in.ResponseFormat.JSONSchema.Schema
	}
	for _, t := range in.Tools {
		q.tools = append(q.tools, t.Function.Name)
	}
	return q, q.readOpenAI(in.Messages)
}

// readOpenAI fills the conversation and checks what the provider checks: each
// tool result answers a call that was made, and each call is answered.
func (q *request) readOpenAI(messages []openAIMessage) error {
	open := map[string]bool{}
	for i, m := range messages {
		text, err := plainText(m.Content)
		if err != nil {
			return fmt.Errorf("messages[%d]: %w", i, err)
		}
		if m.Role != "tool" && len(open) > 0 {
			return fmt.Errorf("messages[%d]: an assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'", i)
		}
		t := turn{role: m.Role, text: text, callID: m.ToolCallID}
		switch m.Role {
		case "system", "developer":
			q.system += text + "\n"
			continue
		case "assistant":
			for _, c := range m.ToolCalls {
				open[c.ID] = true
				t.calls = append(t.calls, toolCall{id: c.ID, name: c.Function.Name, args: json.RawMessage(c.Function.Arguments)})
			}
		case "tool":
			if !open[m.ToolCallID] {
				return fmt.Errorf("messages[%d]: 'tool_call_id' %q not found in 'tool_calls' of the previous message", i, m.ToolCallID)
			}
			delete(open, m.ToolCallID)
		case "user":
		default:
			return fmt.Errorf("messages[%d]: invalid role %q", i, m.Role)
		}
		q.turns = append(q.turns, t)
	}
	return nil
}

// plainText reads content that is a string, null, or a list of parts of which
// only the texts matter here.
func plainText(content json.RawMessage) (string, error) {
	if len(content) == 0 || string(content) == "null" {
		return "", nil
	}
	var text string
	if content[0] == '"' {
		err := json.Unmarshal(content, &text)
		return text, err
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := json.Unmarshal(content, &parts); err != nil {
		return "", fmt.Errorf("content is neither text nor a list of parts")
	}
	var texts []string
	for _, p := range parts {
		if p.Type == "text" {
			texts = append(texts, p.Text)
		}
	}
	return strings.Join(texts, "\n"), nil
}

type openAIUsage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	PromptDetails    struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		ReasoningTokens int `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

func (u Usage) openAI() *openAIUsage {
	out := &openAIUsage{PromptTokens: u.Input + u.CacheRead + u.CacheWrite, CompletionTokens: u.Output}
	out.TotalTokens = out.PromptTokens + out.CompletionTokens
	out.PromptDetails.CachedTokens = u.CacheRead
	out.CompletionDetails.ReasoningTokens = u.Reasoning
	return out
}

// created is the creation time that every reply carries, so that the same
// request has the same answer.
const created = 1767225600

type openAIDelta struct {
	Role      string       `json:"role,omitempty"`
	Content   *string      `json:"content,omitempty"`
	Reasoning string       `json:"reasoning_content,omitempty"`
	ToolCalls []openAICall `json:"tool_calls,omitempty"`
}

type openAIChoice struct {
	Index        int          `json:"index"`
	Delta        *openAIDelta `json:"delta,omitempty"`
	Message      *openAIDelta `json:"message,omitempty"`
	FinishReason *string      `json:"finish_reason"`
}

type openAIChunk struct {
	ID      string         `json:"id"`
	Object  string         `json:"object"`
	Created int64          `json:"created"`
	Model   string         `json:"model"`
	Choices []openAIChoice `json:"choices"`
	Usage   *openAIUsage   `json:"usage,omitempty"`
}

func (p *reply) openAIFinish() *string {
	reason := "stop"
	if len(p.calls) > 0 {
		reason = "tool_calls"
	}
	return &reason
}

func (openAI) write(_ context.Context, w http.ResponseWriter, q *request, p *reply) error {
	message := &openAIDelta{Role: "assistant", Content: &p.say, Reasoning: p.think}
	for _, c := range p.calls {
		call := openAICall{ID: c.id, Type: "function"}
		call.Function.Name, call.Function.Arguments = c.name, string(c.args)
		message.ToolCalls = append(message.ToolCalls, call)
	}
	writeJSON(w, http.StatusOK, openAIChunk{ID: replyID("chatcmpl-", q), Object: "chat.completion", Created: created,
		Model: q.model, Choices: []openAIChoice{{Message: message, FinishReason: p.openAIFinish()}}, Usage: p.usage.openAI()})
	return nil
}

// openAIStream sends the chunks of one reply.
type openAIStream struct {
	e  *emitter
	id string
	q  *request
}

func (s *openAIStream) chunk(ctx context.Context, choices []openAIChoice, usage *openAIUsage) error {
	data, err := json.Marshal(openAIChunk{ID: s.id, Object: "chat.completion.chunk", Created: created,
		Model: s.q.model, Choices: choices, Usage: usage})
	if err != nil {
		return err
	}
	return s.e.send(ctx, fmt.Appendf(nil, "data: %s\n\n", data))
}

func (s *openAIStream) delta(ctx context.Context, d openAIDelta) error {
	return s.chunk(ctx, []openAIChoice{{Delta: &d}}, nil)
}

func (openAI) stream(ctx context.Context, e *emitter, q *request, p *reply) error {
	s := &openAIStream{e: e, id: replyID("chatcmpl-", q), q: q}
	empty := ""
	if err := s.delta(ctx, openAIDelta{Role: "assistant", Content: &empty}); err != nil {
		return err
	}
	for _, piece := range pieces(p.think) {
		if err := s.delta(ctx, openAIDelta{Reasoning: piece}); err != nil {
			return err
		}
	}
	for _, piece := range pieces(p.say) {
		if err := s.delta(ctx, openAIDelta{Content: &piece}); err != nil {
			return err
		}
	}
	for i, c := range p.calls {
		if err := s.call(ctx, i, c); err != nil {
			return err
		}
	}
	if err := s.chunk(ctx, []openAIChoice{{Delta: &openAIDelta{}, FinishReason: p.openAIFinish()}}, nil); err != nil {
		return err
	}
	if q.includeUsage {
		if err := s.chunk(ctx, []openAIChoice{}, p.usage.openAI()); err != nil {
			return err
		}
	}
	return e.send(ctx, []byte("data: [DONE]\n\n"))
}

// call streams a tool call: its id and name first, then its arguments in
// fragments that only an index connects with it.
func (s *openAIStream) call(ctx context.Context, index int, c toolCall) error {
	first := openAICall{Index: &index, ID: c.id, Type: "function"}
	first.Function.Name = c.name
	if err := s.delta(ctx, openAIDelta{ToolCalls: []openAICall{first}}); err != nil {
		return err
	}
	for _, piece := range pieces(string(c.args)) {
		next := openAICall{Index: &index}
		next.Function.Arguments = piece
		if err := s.delta(ctx, openAIDelta{ToolCalls: []openAICall{next}}); err != nil {
			return err
		}
	}
	return nil
}

func (openAI) refuse(w http.ResponseWriter, status int, kind, message string) {
	writeJSON(w, status, openAIError(kind, message))
}

func openAIError(kind, message string) map[string]any {
	codes := map[string]string{"authentication_error": "invalid_api_key", "rate_limit_error": "rate_limit_exceeded",
		"context_length_exceeded": "context_length_exceeded"}
	class := kind
	if code, ok := codes[kind]; ok && code != "rate_limit_exceeded" {
		class = "invalid_request_error"
	}
	var code any
	if c, ok := codes[kind]; ok {
		code = c
	}
	return map[string]any{"error": map[string]any{"message": message, "type": class, "param": nil, "code": code}}
}

func (openAI) inStream(kind, message string) []byte {
	data, _ := json.Marshal(openAIError(kind, message)) // strings only: it cannot fail
	return fmt.Appendf(nil, "data: %s\n\n", data)
}
