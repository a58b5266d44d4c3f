package model

import (
	"encoding/json"
	"regexp"
	"strings"
)

// request is a call of either protocol in the form that scripts see.
type request struct {
	model        string
	system       string
	turns        []turn
	tools        []string
	stream       bool
	includeUsage bool            // OpenAI: stream_options.include_usage
	wantJSON     bool            // response_format asks for JSON
	schema       json.RawMessage // the JSON schema asked for, if any
	caches       bool            // Anthropic: some part carries cache_control
}

// turn is one message, or one tool result, of the conversation.
type turn struct {
	role   string // user, assistant or tool
	text   string
	calls  []toolCall // of an assistant
	callID string     // of a tool result
}

type toolCall struct {
	id, name string
	args     json.RawMessage
}

// reply is what the model says in one request.
type reply struct {
	think, say string
	calls      []toolCall
	usage      Usage
}

// Usage counts a request's tokens. Input excludes what was read from or
// written to the prompt cache; Output includes reasoning.
type Usage struct {
	Input, Output, CacheRead, CacheWrite, Reasoning int
}

// tokens estimates as providers' documentation does: four bytes a token.
func tokens(s string) int { return (len(s) + 3) / 4 }

func (t turn) tokens() int {
	n := 4 + tokens(t.text)
	for _, c := range t.calls {
		n += tokens(c.name) + tokens(string(c.args))
	}
	return n
}

// usage computes what the request and its reply cost.
func (q *request) usage(p *reply) Usage {
	before, last, answered := tokens(q.system), 0, false
	for _, t := range q.tools {
		before += 8 + tokens(t)
	}
	for i, t := range q.turns {
		if i == len(q.turns)-1 {
			last = t.tokens()
			break
		}
		before += t.tokens()
		answered = answered || t.role == "assistant"
	}
	u := Usage{Input: before + last, Reasoning: tokens(p.think)}
	switch {
	case answered:
		u.CacheRead, u.Input = before, last
	case q.caches:
		u.CacheWrite, u.Input = before, last
	}
	u.Output = u.Reasoning + tokens(p.say)
	for _, c := range p.calls {
		u.Output += tokens(c.name) + tokens(string(c.args))
	}
	return u
}

// exchange is what has happened since the last user prompt. Its exported
// fields and methods are what the templates of scripts see.
type exchange struct {
	// Prompt is the latest user prompt, without the reminders that agents
	// wrap into user messages.
	Prompt string
	// Dir is the working directory that the system prompt names, or ".".
	Dir     string
	request *request
	replies int // replies with tool calls since the prompt
	results []result
}

type result struct{ tool, output string }

var (
	reminders   = regexp.MustCompile(`(?s)<system-reminder>.*?</system-reminder>`)
	workingLine = regexp.MustCompile(`(?mi)^\s*working directory:\s*(\S+)`)
)

func newExchange(q *request) *exchange {
	x := &exchange{Dir: ".", request: q}
	if m := workingLine.FindStringSubmatch(q.system); m != nil {
		x.Dir = m[1]
	}
	names := map[string]string{}
	for _, t := range q.turns {
		switch t.role {
		case "user":
			if prompt := strings.TrimSpace(reminders.ReplaceAllString(t.text, "")); prompt != "" {
				x.Prompt, x.replies, x.results = prompt, 0, nil
			}
		case "assistant":
			if len(t.calls) > 0 {
				x.replies++
			}
			for _, c := range t.calls {
				names[c.id] = c.name
			}
		case "tool":
			x.results = append(x.results, result{tool: names[t.callID], output: t.text})
		}
	}
	return x
}

// Result returns the latest output of the named tool since the prompt, or "".
func (x *exchange) Result(tool string) string {
	for i := len(x.results) - 1; i >= 0; i-- {
		if toolMatches(x.results[i].tool, tool) {
			return strings.TrimSpace(x.results[i].output)
		}
	}
	return ""
}

// Output returns the output of the nth tool call since the prompt, counted
// from 1, or "".
func (x *exchange) Output(n int) string {
	if n < 1 || n > len(x.results) {
		return ""
	}
	return strings.TrimSpace(x.results[n-1].output)
}

// offered returns the name under which the request offers the first of the
// wanted tools, or "".
func (q *request) offered(wanted []string) string {
	for _, w := range wanted {
		for _, name := range q.tools {
			if toolMatches(name, w) {
				return name
			}
		}
	}
	return ""
}

// toolMatches reports whether an offered name is the wanted tool, perhaps with
// the prefix of the server that serves it.
func toolMatches(offered, wanted string) bool {
	return offered == wanted || strings.HasSuffix(offered, "_"+wanted)
}
