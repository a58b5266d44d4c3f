package web

import (
	"context"
	"encoding/json"
	"sync"

	"openinspect/sandbox"
	"openinspect/sessions"
)

// outline knows, of the sessions that were looked at last, in which event a key
// occurs last (an open row in an old section may be superseded by a row in a
// newer one) and each prompt's newest to-do list. A log is read once and
// continued from there.
type outline struct {
	engine *sessions.Engine

	mu       sync.Mutex
	sessions map[string]*sessionOutline
}

// sessionOutline is guarded by its own mutex, which also makes two readers of
// one long log read it once.
type sessionOutline struct {
	mu   sync.Mutex
	seq  int64                     // read so far
	last map[string]int64          // key to the newest sequence number that carries it
	todo map[string]sessions.Event // prompt to its newest to-do list
}

// outlinesMost bounds how many sessions are remembered.
const outlinesMost = 64

func newOutline(engine *sessions.Engine) *outline {
	return &outline{engine: engine, sessions: make(map[string]*sessionOutline)}
}

func (o *outline) session(id string) *sessionOutline {
	o.mu.Lock()
	defer o.mu.Unlock()
	so, ok := o.sessions[id]
	if !ok {
		for other := range o.sessions {
			if len(o.sessions) < outlinesMost {
				break
			}
			delete(o.sessions, other)
		}
		so = &sessionOutline{last: make(map[string]int64), todo: make(map[string]sessions.Event)}
		o.sessions[id] = so
	}
	return so
}

// read continues to the end of the log. so.mu is held.
func (so *sessionOutline) read(ctx context.Context, engine *sessions.Engine, id string) error {
	for {
		const batch = 1000
		events, err := engine.Events(ctx, id, so.seq, batch)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if ev.Kind == sandbox.KindTodo {
				so.todo[ev.Prompt] = ev
			}
			if key := eventKey(ev); key != "" {
				so.last[key] = ev.Seq
			}
			so.seq = ev.Seq
		}
		if len(events) < batch {
			return nil
		}
	}
}

// superseded returns those keys of open rows that occur again after through.
func (o *outline) superseded(ctx context.Context, id string, rows []row, through int64) (map[string]bool, error) {
	so := o.session(id)
	so.mu.Lock()
	defer so.mu.Unlock()
	if err := so.read(ctx, o.engine, id); err != nil {
		return nil, err
	}
	gone := make(map[string]bool)
	for _, r := range rows {
		if r.Open && so.last[r.Key] > through {
			gone[r.Key] = true
		}
	}
	return gone, nil
}

// todo returns a prompt's newest to-do list.
func (o *outline) todo(ctx context.Context, id, prompt string) ([]sandbox.TodoItem, error) {
	so := o.session(id)
	so.mu.Lock()
	defer so.mu.Unlock()
	if err := so.read(ctx, o.engine, id); err != nil {
		return nil, err
	}
	ev, ok := so.todo[prompt]
	if !ok {
		return nil, nil
	}
	b, err := decode[sandbox.BodyTodo](ev)
	return b.Items, err
}

// eventKey is the key that an event's row would have, found without rendering it.
func eventKey(ev sessions.Event) string {
	switch ev.Kind {
	case sessions.KindQueued, sessions.KindEdited, sessions.KindStarted, sessions.KindEnded:
		return "prompt:" + ev.Prompt
	case sandbox.KindDiff:
		return "diff:" + ev.Prompt
	case sessions.KindChild:
		if body, err := decode[sessions.BodyChild](ev); err == nil {
			return childKey(body.Session)
		}
	case sessions.KindQuestion, sessions.KindAnswered:
		return questionKey(ev.Prompt)
	case sessions.KindRepository:
		return repositoryKey
	case sessions.KindWaiting:
		var body sessions.BodyWaiting
		if json.Unmarshal(ev.Body, &body) == nil && body.For == "repository" {
			return repositoryKey
		}
	case sandbox.KindTool, sandbox.KindPhase:
		var names struct{ Part, Phase string }
		if json.Unmarshal(ev.Body, &names) != nil {
			return "" // render shows nothing of it either
		}
		if ev.Kind == sandbox.KindTool {
			return "tool:" + names.Part
		}
		return "phase:" + names.Phase
	}
	return ""
}
