package model

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKey = "sk-practice-1"

// start serves the stand-in with further scripts given as name and text.
func start(t *testing.T, scripts map[string]string) (*Server, string) {
	t.Helper()
	files := fstest.MapFS{}
	for name, text := range scripts {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	s, err := New(Options{Key: testKey, Scripts: files, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	t.Cleanup(s.Clear)
	return s, server.URL
}

// client does not reuse connections, so that none outlives its test.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func post(t *testing.T, url, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testKey)
	r.Header.Set("Content-Type", "application/json")
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func read(t *testing.T, res *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// dataLines returns the JSON payloads of an event stream.
func dataLines(t *testing.T, stream string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(stream) {
		data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			t.Fatalf("event %q: %v", data, err)
		}
		out = append(out, v)
	}
	return out
}

// at walks into decoded JSON by keys and indexes; nil where there is nothing.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

const twoSteps = `match tidy up
step
think
	First I look.
say
	Looking at {{.Dir}} for “{{.Prompt}}”.
call missing_tool|bash
	description: Look around
	command: |
		ls
		pwd
call create_pull_request
	title: {{line .Prompt}}
	labels = ["a", "{{.Dir}}"]
step
call not_offered
	x: y
step
say
	It said: {{.Result "bash"}}, and {{.Result "create_pull_request"}}.
`

const openAITools = `"tools":[{"type":"function","function":{"name":"bash","parameters":{}}},{"type":"function","function":{"name":"openinspect_create_pull_request","parameters":{}}}]`

func TestOpenAIStreamsReasoningTextAndToolCallsInFragments(t *testing.T) {
	t.Parallel()
	s, url := start(t, map[string]string{"a.txt": twoSteps})
	stream := read(t, post(t, url+"/v1/chat/completions", `{"model":"m1","stream":true,"stream_options":{"include_usage":true},`+openAITools+`,
		"messages":[{"role":"system","content":"<env>\n  Working directory: /srv/repo\n</env>"},{"role":"user","content":[{"type":"text","text":"Tidy up, please"}]}]}`))
	if !strings.HasSuffix(stream, "data: [DONE]\n\n") {
		t.Errorf("stream does not end with [DONE]: %q", stream)
	}
	var think, say, finish string
	type call struct{ ID, Name, Args string }
	calls := make([]call, 2)
	events := dataLines(t, stream)
	for _, e := range events {
		delta := at(e, "choices", 0, "delta")
		if text, ok := at(delta, "reasoning_content").(string); ok {
			think += text
		}
		if text, ok := at(delta, "content").(string); ok {
			say += text
		}
		if reason, ok := at(e, "choices", 0, "finish_reason").(string); ok {
			finish = reason
		}
		if c := at(delta, "tool_calls", 0); c != nil {
			i := int(at(c, "index").(float64))
			if id, ok := at(c, "id").(string); ok {
				calls[i].ID, calls[i].Name = id, at(c, "function", "name").(string)
			}
			calls[i].Args += at(c, "function", "arguments").(string)
		}
	}
	if think != "First I look." || say != "Looking at /srv/repo for “Tidy up, please”." || finish != "tool_calls" {
		t.Errorf("got reasoning %q, text %q, finish %q", think, say, finish)
	}
	want := []call{
		{calls[0].ID, "bash", `{"command":"ls\npwd","description":"Look around"}`},
		{calls[1].ID, "openinspect_create_pull_request", `{"labels":["a","/srv/repo"],"title":"Tidy up, please"}`},
	}
	if diff := cmp.Diff(want, calls); diff != "" || calls[0].ID == calls[1].ID || calls[0].ID == "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	last, usage := events[len(events)-1], s.Requests()[0].Usage
	if len(at(last, "choices").([]any)) != 0 ||
		at(last, "usage", "prompt_tokens") != float64(usage.Input) || at(last, "usage", "completion_tokens") != float64(usage.Output) {
		t.Errorf("last chunk %v is not the usage %+v", last, usage)
	}
}

func TestTheNextStepIsComputedFromTheMessagesAlone(t *testing.T) {
	t.Parallel()
	_, url := start(t, map[string]string{"a.txt": twoSteps})
	body := `{"model":"m1",` + openAITools + `,"messages":[{"role":"user","content":"tidy up"},
		{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"bash","arguments":"{}"}},{"id":"c2","type":"function","function":{"name":"openinspect_create_pull_request","arguments":"{}"}}]},
		{"role":"tool","tool_call_id":"c1","content":"greeter.go\n"},{"role":"tool","tool_call_id":"c2","content":"opened #7"}]}`
	first := read(t, post(t, url+"/v1/chat/completions", body))
	again := read(t, post(t, url+"/v1/chat/completions", body))
	if first != again {
		t.Errorf("the same request was answered differently:\n%s\n%s", first, again)
	}
	_, restarted := start(t, map[string]string{"a.txt": twoSteps})
	if other := read(t, post(t, restarted+"/v1/chat/completions", body)); other != first {
		t.Errorf("after a restart: %s", other)
	}
	if !strings.Contains(first, `"It said: greeter.go, and opened #7."`) || !strings.Contains(first, `"finish_reason":"stop"`) {
		t.Errorf("not the last step: %s", first)
	}
}

const anthropicTurn = `{"model":"claude-test","max_tokens":1000,"stream":true,"system":[{"type":"text","text":"Working directory: /w","cache_control":{"type":"ephemeral"}}],
	"tools":[{"name":"bash","input_schema":{}},{"name":"openinspect_create_pull_request","input_schema":{}}],"messages":[{"role":"user","content":"tidy up"}%s]}`

func TestAnthropicStreamsThinkingTextAndToolUse(t *testing.T) {
	t.Parallel()
	s, url := start(t, map[string]string{"a.txt": twoSteps})
	stream := read(t, post(t, url+"/v1/messages", strings.Replace(anthropicTurn, "%s", "", 1)))
	var kinds []string
	blocks := map[int]string{}
	for _, e := range dataLines(t, stream) {
		kind := e["type"].(string)
		if len(kinds) == 0 || kinds[len(kinds)-1] != kind {
			kinds = append(kinds, kind)
		}
		if kind != "content_block_delta" {
			continue
		}
		i := int(e["index"].(float64))
		for _, field := range []string{"thinking", "text", "partial_json"} {
			if text, ok := at(e, "delta", field).(string); ok {
				blocks[i] += text
			}
		}
	}
	wantBlocks := map[int]string{0: "First I look.", 1: "Looking at /w for “tidy up”.",
		2: `{"command":"ls\npwd","description":"Look around"}`, 3: `{"labels":["a","/w"],"title":"tidy up"}`}
	if diff := cmp.Diff(wantBlocks, blocks); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	block := []string{"content_block_start", "content_block_delta", "content_block_stop"}
	want := []string{"message_start", "ping"}
	for range 4 {
		want = append(want, block...)
	}
	want = append(want, "message_delta", "message_stop")
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	start, usage := dataLines(t, stream)[0], s.Requests()[0].Usage
	if at(start, "message", "usage", "cache_creation_input_tokens") != float64(usage.CacheWrite) || usage.CacheWrite == 0 {
		t.Errorf("message_start %v does not carry %+v", start, usage)
	}
	if !strings.Contains(stream, `"stop_reason":"tool_use"`) {
		t.Error("no stop_reason tool_use")
	}
}

func TestAnthropicToolResultsAreNotAPromptAndTextBesideThemIs(t *testing.T) {
	t.Parallel()
	_, url := start(t, map[string]string{"a.txt": twoSteps})
	results := `,{"role":"assistant","content":[{"type":"tool_use","id":"c1","name":"bash","input":{}}]},
		{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":[{"type":"text","text":"one file"}]}%s]}`
	end := strings.Replace(anthropicTurn, "%s", strings.Replace(results, "%s", "", 1), 1)
	if got := read(t, post(t, url+"/v1/messages", strings.Replace(end, `"stream":true,`, "", 1))); !strings.Contains(got, "It said: one file, and .") ||
		!strings.Contains(got, `"stop_reason":"end_turn"`) {
		t.Errorf("not the last step: %s", got)
	}
	reminder := `,{"type":"text","text":"<system-reminder>be careful</system-reminder>"}`
	withReminder := strings.Replace(anthropicTurn, "%s", strings.Replace(results, "%s", reminder, 1), 1)
	if got := read(t, post(t, url+"/v1/messages", withReminder)); !strings.Contains(got, "end_turn") {
		t.Errorf("a reminder began a new exchange: %s", got)
	}
	next := `,{"type":"text","text":"now tidy up again"}`
	withPrompt := strings.Replace(anthropicTurn, "%s", strings.Replace(results, "%s", next, 1), 1)
	if got := read(t, post(t, url+"/v1/messages", withPrompt)); !strings.Contains(got, "tool_use") {
		t.Errorf("a new prompt did not begin again: %s", got)
	}
}

func TestAWrongKeyIsRefusedInTheProtocolsForm(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	for path, want := range map[string]string{
		"/v1/chat/completions": `"code":"invalid_api_key"`,
		"/v1/messages":         `"type":"authentication_error"`,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, bytes.NewBufferString("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("x-api-key", "wrong")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body := read(t, res); res.StatusCode != http.StatusUnauthorized || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	if got := s.Requests(); len(got) != 2 || got[0].Keyed || got[0].Status != http.StatusUnauthorized {
		t.Errorf("records: %+v", got)
	}
}

func TestMalformedRequestsAreRefusedAsAProviderDoes(t *testing.T) {
	t.Parallel()
	_, url := start(t, nil)
	cases := map[string]struct{ path, body, want string }{
		"not JSON":             {"/v1/chat/completions", `{`, "not valid JSON"},
		"no model":             {"/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}]}`, "model parameter"},
		"no messages":          {"/v1/messages", `{"model":"m","messages":[]}`, "at least one message"},
		"unanswered call":      {"/v1/chat/completions", `{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"x","arguments":"{}"}}]},{"role":"user","content":"x"}]}`, "must be followed by tool messages"},
		"result without call":  {"/v1/chat/completions", `{"model":"m","messages":[{"role":"tool","tool_call_id":"a","content":"x"}]}`, "not found in 'tool_calls'"},
		"unanswered tool_use":  {"/v1/messages", `{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"x","input":{}}]},{"role":"user","content":"x"}]}`, "without `tool_result` blocks"},
		"unexpected result":    {"/v1/messages", `{"model":"m","messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":"x"}]}]}`, "unexpected `tool_use_id`"},
		"role nobody has":      {"/v1/messages", `{"model":"m","messages":[{"role":"robot","content":"x"}]}`, "should be 'user' or 'assistant'"},
		"content of no kind":   {"/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":7}]}`, "neither text"},
		"unknown role, openai": {"/v1/chat/completions", `{"model":"m","messages":[{"role":"robot","content":"x"}]}`, "invalid role"},
	}
	for name, c := range cases {
		res := post(t, url+c.path, c.body)
		if body := read(t, res); res.StatusCode != http.StatusBadRequest || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
}

func TestModelsAreListedInTheCallersProtocol(t *testing.T) {
	t.Parallel()
	_, url := start(t, nil)
	for version, want := range map[string]string{"": `"object":"list"`, "2023-06-01": `"display_name":"scripted"`} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/models", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("x-api-key", testKey)
		if version != "" {
			r.Header.Set("anthropic-version", version)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body := read(t, res); !strings.Contains(body, want) {
			t.Errorf("version %q: %s", version, body)
		}
	}
}
