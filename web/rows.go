package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"strings"

	"openinspect/sandbox"
	"openinspect/sessions"
)

// row is what one event shows in the transcript; HTML is empty if it shows nothing there.
type row struct {
	Seq  int64
	Kind string
	// Key names what the row is about. An open row is superseded by the next row
	// of its key; with InPlace, the new one appears where the open one was.
	Key     string
	Open    bool
	InPlace bool
	Part    string // the running part that this row replaces
	HTML    template.HTML

	place int64 // the sequence number where fold put it
}

// rowView is what the template of a kind gets: the row's own attributes and its body.
type rowView struct {
	row
	Event sessions.Event
	Body  any
}

// rowRenderer makes rows of events. What it made is kept in a bounded cache, since
// an event never changes.
type rowRenderer struct {
	engine   *sessions.Engine
	pages    *template.Template
	markdown *markdown
	cache    *rowCache
}

func newRowRenderer(engine *sessions.Engine, pages *template.Template) *rowRenderer {
	return &rowRenderer{engine: engine, pages: pages, markdown: newMarkdown(), cache: newRowCache(12 << 20)}
}

// shape fills in a view for one kind of event. It returns the name of the
// template, or "" if the event shows nothing in the transcript.
type shape func(rd *rowRenderer, ctx context.Context, ev sessions.Event, v *rowView) (template string, err error)

// shapes are the kinds that the transcript knows. A kind that a newer program
// wrote shows nothing, but keeps its number.
var shapes = map[string]shape{
	sessions.KindCreated:    bodyShape[sessions.BodyCreated]("row-created"),
	sessions.KindRepository: shapeRepository,
	sessions.KindQueued:     shapeQueued,
	sessions.KindEdited:     shapeEdited,
	sessions.KindStarted:    shapeStarted,
	sessions.KindStop:       bodyShape[sessions.BodyStop]("row-stop"),
	sessions.KindEnded:      shapeEnded,
	sessions.KindCarried:    bodyShape[sessions.BodyCarried]("row-carried"),
	sessions.KindArchived:   bodyShape[sessions.BodyArchived]("row-archived"),
	sessions.KindSandbox:    shapeSandbox,
	sessions.KindArtifact:   bodyShape[sessions.BodyArtifact]("row-artifact"),
	sessions.KindWaiting:    shapeWaiting,
	sessions.KindUpdate:     shapeUpdate,
	sessions.KindRevoked:    bodyShape[sessions.BodyRevoked]("row-revoked"),
	sessions.KindChild:      shapeChild,
	sessions.KindQuestion:   shapeQuestion,
	sessions.KindAnswered:   shapeAnswered,
	sandbox.KindPhase:       shapePhase,
	sandbox.KindText:        shapeText,
	sandbox.KindReasoning:   shapeReasoning,
	sandbox.KindTool:        shapeTool,
	sandbox.KindDiff:        shapeDiff,
	sandbox.KindCommit:      bodyShape[sandbox.BodyCommit]("row-commit"),
	sandbox.KindPush:        bodyShape[sandbox.BodyPush]("row-push"),
	sandbox.KindRetry:       bodyShape[sandbox.BodyNote]("row-retry"),
	sandbox.KindNote:        shapeNote,
	sandbox.KindKept:        shapeKept,
}

// row renders one event, or takes it from the cache.
func (rd *rowRenderer) row(ctx context.Context, ev sessions.Event) (row, error) {
	if r, ok := rd.cache.get(ev.Session, ev.Seq); ok {
		return r, nil
	}
	r, err := rd.render(ctx, ev)
	if err != nil {
		return row{}, fmt.Errorf("rendering event %d of session %s: %w", ev.Seq, ev.Session, err)
	}
	rd.cache.put(ev.Session, r)
	return r, nil
}

func (rd *rowRenderer) render(ctx context.Context, ev sessions.Event) (row, error) {
	v := rowView{row: row{Seq: ev.Seq, Kind: ev.Kind}, Event: ev}
	make, known := shapes[ev.Kind]
	if !known {
		return v.row, nil
	}
	name, err := make(rd, ctx, ev, &v)
	if err != nil || name == "" {
		return v.row, err
	}
	var b bytes.Buffer
	if err := rd.pages.ExecuteTemplate(&b, name, v); err != nil {
		return row{}, err
	}
	v.HTML = template.HTML(b.String()) // escaped by the template
	return v.row, nil
}

// decode reads an event's body.
func decode[T any](ev sessions.Event) (T, error) {
	var body T
	if err := json.Unmarshal(ev.Body, &body); err != nil {
		return body, fmt.Errorf("reading the body of %s: %w", ev.Kind, err)
	}
	return body, nil
}

// bodyShape shows an event's body as it is.
func bodyShape[T any](name string) shape {
	return func(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
		body, err := decode[T](ev)
		v.Body = body
		return name, err
	}
}

// shapeKept shows which secrets are in the sandbox's files, if any are. The newest
// look counts.
func shapeKept(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	body, err := decode[sandbox.BodyKept](ev)
	if err != nil || body.Clean() {
		return "", err
	}
	v.Key, v.Open, v.Body = "kept", true, body
	return "row-kept", nil
}

// repositoryKey is of the question which repository is meant, and of its answer.
const repositoryKey = "repository"

func shapeRepository(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	body, err := decode[sessions.BodyRepository](ev)
	v.Key, v.Body = repositoryKey, body
	return "row-repository", err
}

// shapeWaiting shows a question. That for a repository gives way to the answer.
func shapeWaiting(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	body, err := decode[sessions.BodyWaiting](ev)
	v.Body = body
	if body.For == "repository" {
		v.Key, v.Open = repositoryKey, true
	}
	return "row-waiting", err
}

// promptView is a person's request.
type promptView struct {
	ID, Author, Text string
	Source           sessions.Source
	State            sessions.PromptState
	Reason           string
	Edited           bool
	Ahead            int
	Files            []string // names of attachments
}

func shapeQueued(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sessions.BodyQueued](ev)
	v.Key, v.Open = "prompt:"+ev.Prompt, true
	v.Body = promptView{ID: ev.Prompt, Author: b.Author, Text: b.Text, Source: b.Source,
		State: sessions.Queued, Ahead: b.Ahead, Files: b.Files}
	return "row-prompt", err
}

func shapeEdited(rd *rowRenderer, ctx context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sessions.BodyEdited](ev)
	if err != nil {
		return "", err
	}
	p, err := rd.engine.Prompt(ctx, ev.Prompt)
	if err != nil {
		return "", err
	}
	v.Key, v.Open, v.InPlace = "prompt:"+ev.Prompt, true, true
	v.Body = promptView{ID: p.ID, Author: p.AuthorName, Text: b.Text, Source: p.Source,
		State: sessions.Queued, Edited: true, Files: p.FileNames()}
	return "row-prompt", nil
}

// shapeStarted shows the request where its work begins; its text cannot change any more.
func shapeStarted(rd *rowRenderer, ctx context.Context, ev sessions.Event, v *rowView) (string, error) {
	p, err := rd.engine.Prompt(ctx, ev.Prompt)
	if err != nil {
		return "", err
	}
	v.Key = "prompt:" + ev.Prompt
	v.Body = promptView{ID: p.ID, Author: p.AuthorName, Text: p.Text, Source: p.Source,
		State: sessions.Running, Files: p.FileNames()}
	return "row-prompt", nil
}

// endView is a prompt's end.
type endView struct {
	sessions.BodyEnded
	ID string
}

// shapeEnded shows how a request ended. One that never ran has no other row
// than its own, so that one shows it.
func shapeEnded(rd *rowRenderer, ctx context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sessions.BodyEnded](ev)
	if err != nil {
		return "", err
	}
	p, err := rd.engine.Prompt(ctx, ev.Prompt)
	if err != nil {
		return "", err
	}
	if p.StartedAt == nil {
		v.Key, v.InPlace = "prompt:"+ev.Prompt, true
		v.Body = promptView{ID: p.ID, Author: p.AuthorName, Text: p.Text, Source: p.Source,
			State: b.State, Reason: b.Reason, Files: p.FileNames()}
		return "row-prompt", nil
	}
	v.Body = endView{b, ev.Prompt}
	return "row-ended", nil
}

func shapeSandbox(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sessions.BodySandbox](ev)
	v.Body = b
	switch b.State {
	case sessions.SandboxStarting, sessions.SandboxParked, sessions.SandboxLost, sessions.SandboxFailed:
		return "row-sandbox", err
	}
	return "", err // the phases tell it better
}

// shapeNote shows a remark on a request as a box. One on the sandbox itself, such
// as its last word before it is parked, is normal and no more than a line.
func shapeNote(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sandbox.BodyNote](ev)
	v.Body = b
	if ev.Prompt == "" {
		return "row-remark", err
	}
	return "row-note", err
}

func shapePhase(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sandbox.BodyPhase](ev)
	b.Log = plain(b.Log)
	v.Key, v.Open, v.InPlace, v.Body = "phase:"+b.Phase, b.State == "running", true, b
	return "row-phase", err
}

func shapeText(rd *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sandbox.BodyText](ev)
	if err != nil || b.Text == "" {
		return "", err
	}
	v.Part, v.Body = b.Part, rd.markdown.html(b.Text)
	return "row-text", nil
}

// unmarked removes the marks of Markdown that would stand in a single line.
var unmarked = strings.NewReplacer("**", "", "`", "", "\n# ", "\n", "\n## ", "\n")

// textView is text with the words that it begins with.
type textView struct {
	Begin string
	HTML  template.HTML
}

func shapeReasoning(rd *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sandbox.BodyText](ev)
	if err != nil || b.Text == "" {
		return "", err
	}
	v.Part, v.Body = b.Part, textView{clip(oneLine(unmarked.Replace(b.Text)), 90), rd.markdown.html(b.Text)}
	return "row-reasoning", nil
}

func shapeDiff(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sandbox.BodyDiff](ev)
	if err != nil || len(b.Files) == 0 {
		return "", err
	}
	v.Key, v.Open = "diff:"+ev.Prompt, true
	v.Body = changedView{changesView(b.Files), len(b.Files) + b.Omitted, b.Omitted}
	return "row-diff", nil
}

// changedView is what a request changed.
type changedView struct {
	Files          []fileView
	Count, Omitted int // of all files, and of those that are not listed
}

// toolView is one call of a tool.
type toolView struct {
	sandbox.BodyTool
	Label  string // what it does, in a word
	What   string // to what
	Detail string // its input, if it says more than What
	Files  []fileView
}

func shapeTool(_ *rowRenderer, _ context.Context, ev sessions.Event, v *rowView) (string, error) {
	b, err := decode[sandbox.BodyTool](ev)
	if err != nil {
		return "", err
	}
	v.Key, v.Open, v.Part = "tool:"+b.Part, b.State == "running", ""
	if !v.Open {
		v.Part = b.Part
	}
	v.Body = viewTool(b)
	return "row-tool", nil
}
