package web

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"openinspect/sandbox"
	"openinspect/sessions"
)

// sessionView is a session's state as header and side column show it. It is the
// same for everybody who watches.
type sessionView struct {
	Session      sessions.Session
	Status       string // queued, starting, working, waiting, idle, failed, archived
	StatusText   string
	Running      *sessions.Prompt
	Queued       []sessions.Prompt
	Last         *sessions.Prompt // settled last
	Retry        string           // the prompt to offer again, if the last one failed
	Sandbox      sessions.Sandbox
	Cost         sessions.SandboxCost
	Artifacts    []sessions.Artifact
	PR           *sessions.Artifact
	Participants []sessions.Person
	Question     *sessions.Question // that waits for an answer
	QuestionHTML template.HTML
	Children     []sessions.Child
	Parent       string             // the session whose agent began this one
	Linked       map[uuid.UUID]bool // artifacts that whoever has their link sees
	Ports        []sessions.Port    // that can be opened
	Todo         []sandbox.TodoItem
	TodoDone     int
	Elapsed      time.Duration // of work, settled prompts and the running one
	ThreadURL    string
	BranchURL    string
}

// view reads a session's state.
func (s *Server) view(ctx context.Context, id string) (sessionView, error) {
	var v sessionView
	var err error
	if v.Session, err = s.engine.Session(ctx, id); err != nil {
		return v, err
	}
	prompts, err := s.engine.Prompts(ctx, id)
	if err != nil {
		return v, err
	}
	if v.Sandbox, err = s.engine.Sandbox(ctx, id); err != nil {
		return v, err
	}
	if v.Cost, err = s.engine.SandboxCost(ctx, id); err != nil {
		return v, err
	}
	if v.Artifacts, err = s.engine.Artifacts(ctx, id); err != nil {
		return v, err
	}
	if v.Participants, err = s.engine.Participants(ctx, id); err != nil {
		return v, err
	}
	if err := s.readTools(ctx, &v); err != nil {
		return v, err
	}
	if s.ports != nil {
		if v.Ports, err = s.engine.OpenPorts(ctx, id); err != nil {
			return v, err
		}
	}
	v.sort(prompts)
	v.derive()
	v.ThreadURL = s.threadURL(v.Session)
	for i := range v.Artifacts {
		switch a := &v.Artifacts[i]; a.Kind {
		case "pull_request":
			v.PR = a
		case "branch":
			v.BranchURL = safeURL(a.URL)
		}
	}
	return v, s.readTodo(ctx, &v)
}

// sort puts each prompt where the page shows it.
func (v *sessionView) sort(prompts []sessions.Prompt) {
	for i := range prompts {
		p := &prompts[i]
		switch {
		case p.State == sessions.Running:
			v.Running = p
		case p.State == sessions.Queued:
			v.Queued = append(v.Queued, *p)
		case v.Last == nil || p.EndedAt != nil && v.Last.EndedAt != nil && !p.EndedAt.Before(*v.Last.EndedAt):
			v.Last = p
		}
		if p.StartedAt != nil && p.EndedAt != nil {
			v.Elapsed += p.EndedAt.Sub(*p.StartedAt)
		}
	}
}

// derive says in a word what the session is doing.
func (v *sessionView) derive() {
	starting := v.Sandbox.State == sessions.SandboxStarting || v.Sandbox.State == sessions.SandboxBooting
	switch {
	case v.Session.State == "archived":
		v.Status, v.StatusText = "archived", "Archived"
	case v.Running != nil && v.Running.Carried:
		v.Status, v.StatusText = "working", "Moving to a fresh sandbox"
	case v.Running != nil:
		v.Status, v.StatusText = "working", "Working"
	case len(v.Queued) > 0 && v.Session.Repository == "":
		v.Status, v.StatusText = "waiting", "Needs a repository"
	case len(v.Queued) > 0 && starting:
		v.Status, v.StatusText = "starting", "Starting"
	case len(v.Queued) > 0:
		v.Status, v.StatusText = "queued", "Queued"
	case v.Question != nil:
		v.Status, v.StatusText = "waiting", "Waiting for an answer"
	case v.Last != nil && v.Last.State == sessions.Failed:
		v.Status, v.StatusText = "failed", "Failed"
	default:
		v.Status, v.StatusText = "idle", "Idle"
	}
	if v.Last != nil && v.Running == nil && len(v.Queued) == 0 &&
		(v.Last.State == sessions.Failed || v.Last.State == sessions.Stopped) {
		v.Retry = v.Last.ID
	}
}

// readTodo finds the agent's newest list, of the running prompt or the last one.
func (s *Server) readTodo(ctx context.Context, v *sessionView) error {
	of := v.Running
	if of == nil {
		of = v.Last
	}
	if of == nil {
		return nil
	}
	list, err := s.outline.todo(ctx, v.Session.ID, of.ID)
	if err != nil {
		return err
	}
	v.Todo = list
	for _, item := range list {
		if item.State == "completed" {
			v.TodoDone++
		}
	}
	return nil
}

// threadURL leads to the session's Slack thread, or is empty.
func (s *Server) threadURL(x sessions.Session) string {
	if x.ThreadTS == "" || s.cfg.SlackWorkspaceURL == "" {
		return ""
	}
	base := strings.TrimSuffix(s.cfg.SlackWorkspaceURL, "/")
	if strings.HasSuffix(base, "/app_redirect") {
		q := url.Values{"team": {x.Team}, "channel": {x.Channel}, "message_ts": {x.ThreadTS}}
		return base + "?" + q.Encode()
	}
	return fmt.Sprintf("%s/archives/%s/p%s", base, url.PathEscape(x.Channel), strings.ReplaceAll(x.ThreadTS, ".", ""))
}

// panel renders one panel of a session.
func (s *Server) panel(name string, v any) (template.HTML, error) {
	var b bytes.Buffer
	if err := s.pages.ExecuteTemplate(&b, name, v); err != nil {
		return "", fmt.Errorf("rendering %s: %w", name, err)
	}
	return template.HTML(b.String()), nil // escaped by the template
}
