package bot

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
)

// progress is what a prompt's events amount to for a card. It is folded from the
// log and can be folded again at any time.
type progress struct {
	seq       int64 // of the last event that was folded in
	todo      []sandbox.TodoItem
	tools     []activity // those that run, oldest first
	last      string     // what was done last, when no tool runs
	files     []sandbox.FileDiff
	note      string // the last remark for people
	pulls     []sessions.BodyArtifact
	waiting   *sessions.BodyWaiting
	stopBy    string
	ended     *sessions.BodyEnded
	asked     bool                 // people were asked something
	children  []sessions.BodyChild // sessions that were begun, as they are now
	toolCount int
}

// activity is a tool call that runs.
type activity struct {
	part, title string
	since       time.Time
}

// add folds in one event of the prompt. A body that cannot be read changes
// nothing: the card is a view, the log has the whole.
func (p *progress) add(e sessions.Event) {
	if e.Seq <= p.seq {
		return
	}
	p.seq = e.Seq
	switch e.Kind {
	case sandbox.KindTool:
		p.addTool(body[sandbox.BodyTool](e), e.At)
	case sandbox.KindTodo:
		p.todo = body[sandbox.BodyTodo](e).Items
	case sandbox.KindDiff:
		p.files = body[sandbox.BodyDiff](e).Files
	case sandbox.KindReasoning:
		p.last = "thinking"
	case sandbox.KindText:
		p.last = "writing"
	case sandbox.KindNote:
		p.note = body[sandbox.BodyNote](e).Text
	case sandbox.KindRetry:
		p.note = firstOf(body[sandbox.BodyNote](e).Text, "the model did not answer; trying again")
	case sandbox.KindCommit:
		p.last = "committed " + code(clip(body[sandbox.BodyCommit](e).Subject, 60))
	case sessions.KindArtifact:
		if a := body[sessions.BodyArtifact](e); a.Kind == "pull_request" {
			p.pulls = append(p.pulls, a)
		}
	case sessions.KindWaiting:
		w := body[sessions.BodyWaiting](e)
		p.waiting = &w
	case sessions.KindRepository:
		p.waiting = nil
	case sessions.KindChild:
		p.addChild(body[sessions.BodyChild](e))
	case sessions.KindQuestion:
		p.asked = true
	case sessions.KindStop:
		p.stopBy = body[sessions.BodyStop](e).By
	case sessions.KindEnded:
		ended := body[sessions.BodyEnded](e)
		p.ended = &ended
	}
}

func (p *progress) addChild(c sessions.BodyChild) {
	for i := range p.children {
		if p.children[i].Session == c.Session {
			p.children[i] = c
			return
		}
	}
	p.children = append(p.children, c)
}

func body[T any](e sessions.Event) (b T) {
	_ = json.Unmarshal(e.Body, &b) // what cannot be read stays zero
	return b
}

func (p *progress) addTool(t sandbox.BodyTool, at time.Time) {
	for i, running := range p.tools {
		if running.part == t.Part {
			p.tools = append(p.tools[:i:i], p.tools[i+1:]...)
			break
		}
	}
	if t.State == "running" {
		p.tools = append(p.tools, activity{t.Part, toolTitle(t), at})
		p.toolCount++
		p.note = ""
		return
	}
	p.last = toolTitle(t)
}

// toolTitle says in mrkdwn what a tool call does, for OpenCode's own tools
// (https://opencode.ai/docs/tools) and any other.
func toolTitle(t sandbox.BodyTool) string {
	in, _ := t.Input.(map[string]any)
	arg := func(names ...string) string {
		for _, n := range names {
			if s, ok := in[n].(string); ok && s != "" {
				return s
			}
		}
		return ""
	}
	file := func() string { return code(shortPath(firstOf(arg("filePath", "path", "file_path"), t.Title))) }
	switch t.Tool {
	case "bash":
		return verb("running", code(clip(firstOf(arg("command"), t.Title), 80)))
	case "read":
		return verb("reading", file())
	case "edit", "write", "multiedit", "patch", "apply_patch":
		return verb("editing", file())
	case "list", "ls":
		return verb("looking at", file())
	case "glob", "grep":
		return verb("searching for", code(clip(firstOf(arg("pattern"), t.Title), 60)))
	case "webfetch":
		return verb("fetching", code(clip(firstOf(arg("url"), t.Title), 80)))
	case "websearch", "codesearch":
		return verb("searching the web for", code(clip(firstOf(arg("query"), t.Title), 60)))
	case "task":
		return verb("delegating", code(clip(firstOf(arg("description"), t.Title), 80)))
	case "todowrite", "todoread":
		return "planning"
	case "":
		return verb("working on", code(clip(t.Title, 80)))
	}
	name := t.Tool
	if _, after, found := strings.Cut(name, "_"); found && strings.HasPrefix(name, "openinspect_") {
		name = after
	}
	return verb("using "+escape(strings.ReplaceAll(name, "_", " ")), code(clip(t.Title, 60)))
}

func verb(doing, what string) string {
	return strings.TrimSpace(doing + " " + what)
}

// shortPath gives the last parts of a path: enough to recognise a file.
func shortPath(p string) string {
	p = strings.TrimPrefix(p, sandbox.Workspace+"/")
	if len(p) <= 60 {
		return p
	}
	return "…/" + path.Join(path.Base(path.Dir(p)), path.Base(p))
}

// doing says what happens now.
func (p *progress) doing() string {
	switch {
	case len(p.tools) > 1:
		newest := p.tools[len(p.tools)-1]
		return fmt.Sprintf("%s and %d more", newest.title, len(p.tools)-1)
	case len(p.tools) == 1:
		return p.tools[0].title
	}
	return firstOf(p.last, "thinking")
}

// changed sums up the files that differ.
func (p *progress) changed() (files, additions, deletions int) {
	for _, f := range p.files {
		additions += f.Additions
		deletions += f.Deletions
	}
	return len(p.files), additions, deletions
}
