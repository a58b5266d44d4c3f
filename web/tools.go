package web

import (
	"cmp"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"openinspect/sandbox"
)

// toolLabels name OpenCode's and our own tools by what they do.
var toolLabels = map[string]string{
	"bash": "Ran", "read": "Read", "edit": "Edited", "write": "Wrote", "patch": "Patched", "apply_patch": "Patched",
	"grep": "Searched", "glob": "Looked for", "list": "Listed", "webfetch": "Fetched", "websearch": "Searched the web",
	"task": "Delegated", "todowrite": "Planned", "todoread": "Looked at the plan", "skill": "Used a skill",
	"create_pull_request": "Pull request", "update_pull_request": "Changed the pull request", "get_checks": "Looked at checks",
	"get_review": "Read the review", "reply_to_review": "Answered a reviewer", "post_update": "Told people", "ask": "Asked",
	"set_title": "Named the session", "upload_artifact": "Uploaded", "screenshot": "Took a picture",
	"start_session": "Began a session", "get_session": "Looked at a session",
}

// runningLabels name the tools that take a while, as long as they do.
var runningLabels = map[string]string{
	"bash": "Running", "read": "Reading", "edit": "Editing", "write": "Writing", "grep": "Searching", "glob": "Looking for",
	"webfetch": "Fetching", "websearch": "Searching the web", "task": "Delegating", "create_pull_request": "Opening a pull request",
}

// toolInputs are the fields of a tool's input that say best what it is about, in order.
var toolInputs = []string{"command", "filePath", "file_path", "path", "pattern", "query", "url", "description", "title", "question"}

// viewTool prepares a tool call for its template.
func viewTool(b sandbox.BodyTool) toolView {
	name := strings.TrimPrefix(b.Tool, "openinspect_")
	v := toolView{BodyTool: b, Label: cmp.Or(toolLabels[name], b.Tool)}
	if b.State == "running" {
		v.Label = cmp.Or(runningLabels[name], v.Label)
	}
	v.Output, v.Error = plain(b.Output), plain(b.Error)
	fields, _ := b.Input.(map[string]any)
	v.What = b.Title
	for _, name := range toolInputs {
		if text, ok := fields[name].(string); ok && text != "" {
			if v.What == "" || name == "command" {
				v.What = text
			}
			break
		}
	}
	v.What = clip(oneLine(v.What), 160)
	v.Detail = inputDetail(fields, b)
	if b.Diff != "" {
		v.Files = patchView(b.Diff)
	}
	return v
}

// inputDetail shows a tool's input whole: a command as it was typed, other
// inputs as JSON. An edit's input is its diff.
func inputDetail(fields map[string]any, b sandbox.BodyTool) string {
	if command, ok := fields["command"].(string); ok {
		return plain(command)
	}
	if b.Input == nil || b.Diff != "" || len(fields) == 0 {
		return ""
	}
	data, err := json.MarshalIndent(b.Input, "", "  ")
	if err != nil {
		return ""
	}
	return clip(string(data), 20_000)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// clip shortens a text to n bytes at most, at a character's border.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
