package model

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// agent drives the stand-in as an agent does: it runs the tool calls of each
// reply in a folder and sends their results, until a reply calls no tool.
type agent struct {
	t        *testing.T
	url, dir string
	messages []map[string]any
	done     []string // "tool: argument" of each call
}

func (a *agent) prompt(text string) string {
	a.messages = append(a.messages, map[string]any{"role": "user", "content": text})
	for range 30 {
		body, err := json.Marshal(map[string]any{"model": "scripted", "messages": append([]map[string]any{
			{"role": "system", "content": "<env>\n  Working directory: " + a.dir + "\n</env>"}}, a.messages...),
			"tools": []any{tool("bash"), tool("read"), tool("edit"), tool("todowrite"), tool("glob"), tool("openinspect_create_pull_request")}})
		if err != nil {
			a.t.Fatal(err)
		}
		var reply any
		if err := json.Unmarshal([]byte(read(a.t, post(a.t, a.url+"/v1/chat/completions", string(body)))), &reply); err != nil {
			a.t.Fatal(err)
		}
		message, _ := at(reply, "choices", 0, "message").(map[string]any)
		if message == nil {
			a.t.Fatalf("no message in %v", reply)
		}
		a.messages = append(a.messages, message)
		calls, _ := message["tool_calls"].([]any)
		if len(calls) == 0 {
			return message["content"].(string)
		}
		for _, c := range calls {
			a.messages = append(a.messages, map[string]any{"role": "tool", "tool_call_id": at(c, "id"),
				"content": a.run(at(c, "function", "name").(string), at(c, "function", "arguments").(string))})
		}
	}
	a.t.Fatal("the script does not end")
	return ""
}

func tool(name string) map[string]any {
	return map[string]any{"type": "function", "function": map[string]any{"name": name, "parameters": map[string]any{}}}
}

func (a *agent) run(name, arguments string) string {
	var args map[string]any
	if err := json.Unmarshal([]byte(arguments), &args); err != nil {
		a.t.Fatalf("arguments of %s: %v", name, err)
	}
	a.done = append(a.done, name)
	path, _ := args["filePath"].(string)
	switch name {
	case "bash":
		cmd := exec.CommandContext(a.t.Context(), "bash", "-c", args["command"].(string))
		cmd.Dir = a.dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%s\n%v", out, err)
		}
		return string(out)
	case "read":
		text, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		return string(text)
	case "edit":
		text, err := os.ReadFile(path)
		if err != nil || strings.Count(string(text), args["oldString"].(string)) != 1 {
			return fmt.Sprintf("oldString not found in content (%v)", err)
		}
		changed := strings.Replace(string(text), args["oldString"].(string), args["newString"].(string), 1)
		if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
			a.t.Fatal(err)
		}
	case "openinspect_create_pull_request":
		return "Opened pull request #1: " + args["title"].(string)
	}
	return "ok"
}

// checkout makes the seeded repository of the practice GitHub.
func checkout(t *testing.T, seed string) string {
	t.Helper()
	dir := t.TempDir()
	script := "git init -q -b main . && git fast-import --quiet && git reset -q --hard main"
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = dir
	stream, err := os.Open(filepath.Join("..", "github", "seed", seed+".fast-import"))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	cmd.Stdin = stream
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making the checkout: %v\n%s", err, out)
	}
	return dir
}

func TestTheFailingTestOfTheSeededRepositoryIsReallyFixed(t *testing.T) {
	t.Parallel()
	_, url := start(t, nil)
	a := &agent{t: t, url: url, dir: checkout(t, "greeter")}
	if out := a.run("bash", `{"command":"go test ./..."}`); !strings.Contains(out, "FAIL") {
		t.Fatalf("the seeded repository has no failing test:\n%s", out)
	}
	answer := a.prompt("fix the failing test in acme/greeter")
	if out := a.run("bash", `{"command":"go test ./..."}`); strings.Contains(out, "FAIL") {
		t.Errorf("the test still fails:\n%s", out)
	}
	for _, want := range []string{"the failing test passes", "```go", "| 18 ", "Opened pull request #1"} {
		if !strings.Contains(answer, want) {
			t.Errorf("the answer lacks %q:\n%s", want, answer)
		}
	}
	follow := a.prompt("Please add a usage section to the README")
	if out := a.run("bash", `{"command":"git diff --stat; tail -5 README.md"}`); !strings.Contains(out, "README.md") || !strings.Contains(out, "## Usage") {
		t.Errorf("the README was not changed:\n%s\n%s", out, follow)
	}
}

func TestAnUnknownFailingTestIsNotCalledFixed(t *testing.T) {
	t.Parallel()
	_, url := start(t, nil)
	a := &agent{t: t, url: url, dir: t.TempDir()}
	a.run("bash", `{"command":"printf 'module example.com/m\n' > go.mod; printf 'package m\nimport \"testing\"\nfunc TestX(t *testing.T) { t.Fatal() }\n' > m_test.go"}`)
	if answer := a.prompt("fix the failing test"); !strings.Contains(answer, "still fail") {
		t.Errorf("the answer:\n%s", answer)
	}
}

func TestAQuestionIsAnsweredFromTheFiles(t *testing.T) {
	t.Parallel()
	_, url := start(t, nil)
	a := &agent{t: t, url: url, dir: checkout(t, "greeter")}
	answer := a.prompt("What does this repository do?")
	for _, want := range []string{"greeter_test.go", "func PartOfDay", "scripted stand-in", "ANTHROPIC_API_KEY"} {
		if !strings.Contains(answer, want) {
			t.Errorf("the answer lacks %q:\n%s", want, answer)
		}
	}
	if out := a.run("bash", `{"command":"git status --short"}`); out != "" {
		t.Errorf("a question changed files:\n%s", out)
	}
}

func TestAnUnknownRequestReadsTheRepositoryAndSaysWhatItIs(t *testing.T) {
	t.Parallel()
	_, url := start(t, nil)
	a := &agent{t: t, url: url, dir: checkout(t, "website")}
	answer := a.prompt("port everything to COBOL")
	for _, want := range []string{"scripted stand-in", "port everything to COBOL", "## main", "README", "OPENROUTER_API_KEY"} {
		if !strings.Contains(answer, want) {
			t.Errorf("the answer lacks %q:\n%s", want, answer)
		}
	}
}

func TestALongRequestRunsSomethingThatCanBeStopped(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	for _, prompt := range []string{"sleep for a while", "wait five minutes", "run something long", "start a long-running job"} {
		body := read(t, post(t, url+"/v1/chat/completions", fmt.Sprintf(`{"model":"m",%s,"messages":[{"role":"user","content":%q}]}`, openAITools, prompt)))
		if !strings.Contains(body, "sleep 1") {
			t.Errorf("%q was answered %s", prompt, body)
		}
	}
	for _, rec := range s.Requests() {
		if rec.Script != "40-long.txt" {
			t.Errorf("%q was answered by %s", rec.Prompt, rec.Script)
		}
	}
}

func TestTitlesComeFromTheFirstPrompt(t *testing.T) {
	t.Parallel()
	_, url := start(t, nil)
	for prompt, want := range map[string]string{
		"fix the failing test in acme/greeter":                                   "Fix the failing test in acme/greeter",
		"please rework the whole configuration so that everything is read once…": "Please rework the whole configuration so that…",
	} {
		body := fmt.Sprintf(`{"model":"m","messages":[{"role":"system","content":"You are a title generator. You output ONLY a thread title."},
			{"role":"user","content":"Generate a title for this conversation:\n"},{"role":"user","content":%q}]}`, prompt)
		var reply any
		if err := json.Unmarshal([]byte(read(t, post(t, url+"/v1/chat/completions", body))), &reply); err != nil {
			t.Fatal(err)
		}
		if got := at(reply, "choices", 0, "message", "content"); got != want {
			t.Errorf("title %q, want %q", got, want)
		}
	}
}

func TestTheRepositoryIsChosenByTheWordsOfTheRequest(t *testing.T) {
	t.Parallel()
	_, url := start(t, nil)
	const list = "Repositories:\\n- acme/greeter: a small Go program that greets\\n- acme/website: the pages of the company\\nAnswer in JSON."
	for question, want := range map[string]string{
		"fix the failing test in the greeter please": `"repository":"acme/greeter"`,
		"the pages look wrong on phones":             `"repository":"acme/website"`,
		"do what must be done":                       `"repository":""`,
	} {
		body := `{"model":"m","response_format":{"type":"json_object"},"messages":[{"role":"system","content":"` + list + `"},{"role":"user","content":"` + question + `"}]}`
		var reply any
		if err := json.Unmarshal([]byte(read(t, post(t, url+"/v1/chat/completions", body))), &reply); err != nil {
			t.Fatal(err)
		}
		answer := at(reply, "choices", 0, "message", "content").(string)
		plain := strings.ReplaceAll(body, "\\n- ", "\\n")
		if other := read(t, post(t, url+"/v1/chat/completions", plain)); !strings.Contains(other, strings.ReplaceAll(want, `"`, `\"`)) {
			t.Errorf("%q with a plain list: %s", question, other)
		}
		if !strings.Contains(answer, want) || !json.Valid([]byte(answer)) {
			t.Errorf("%q: %s", question, answer)
		}
	}
}

func TestScriptsThatCannotWorkAreRefusedWithTheirLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"match (\nstep\n":                            "x.txt:1: match",
		"say\n\thello\n":                             "x.txt:1: say",
		"step\nsing\n":                               "x.txt:2: sing: unknown directive",
		"\tlost\n":                                   "x.txt:1: an indented line",
		"match x\n":                                  "at least one step",
		"step\ncall bash\n\tcommand: ls\n":           "last step must not call",
		"step\ncall bash\n\twhat\nstep\n":            "not an argument",
		"step\ncall bash\n\ta = {\nstep\n":           "argument a",
		"step\nsay\n\t{{.Prompt\n":                   "x.txt:2: say",
		"step\nsay\n\t{{tail 1 .Result \"x\"}}\n":    "wrong number of args",
		"step\nfault nonsense\n":                     "no such fault",
		"step\ncall\nstep\n":                         "needs the name",
		"step\ncall bash\n\ta: one\n\t\ttwo\nstep\n": "begins with \"|\"",
	} {
		_, err := parseScript("x.txt", text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
