package sessions

import (
	"context"
	"errors"

	"github.com/google/uuid"
)

// ErrNotFound is returned by reads of one thing that does not exist.
var ErrNotFound = errors.New("not found")

// Session reads one session.
func (e *Engine) Session(ctx context.Context, id string) (Session, error) { panic("not built") }

// SessionOfThread reads the session of a Slack thread.
func (e *Engine) SessionOfThread(ctx context.Context, t Thread) (Session, error) { panic("not built") }

// Summary is a session in a list, with what people see of it.
type Summary struct {
	Session
	Status  string `db:"status"` // queued, starting, working, waiting, idle, archived; derived
	Prompts int    `db:"prompts"`
	Author  string `db:"author"`
	PR      string `db:"pr"` // URL of its pull request, or empty
}

// Sessions lists sessions, newest first; mine limits it to those a person prompted in (uuid.Nil: all).
func (e *Engine) Sessions(ctx context.Context, mine uuid.UUID, limit, offset int) ([]Summary, error) {
	panic("not built")
}

// Prompts reads a session's prompts in queue order.
func (e *Engine) Prompts(ctx context.Context, session string) ([]Prompt, error) { panic("not built") }

// Prompt reads one prompt.
func (e *Engine) Prompt(ctx context.Context, id string) (Prompt, error) { panic("not built") }

// Events reads up to limit entries of the log after a sequence number, in order.
func (e *Engine) Events(ctx context.Context, session string, after int64, limit int) ([]Event, error) {
	panic("not built")
}

// EventsOfPrompt reads the entries of one prompt, in order.
func (e *Engine) EventsOfPrompt(ctx context.Context, session, prompt string) ([]Event, error) {
	panic("not built")
}

// RunningParts reads the parts that are being written now.
func (e *Engine) RunningParts(ctx context.Context, session string) ([]RunningPart, error) {
	panic("not built")
}

// Artifacts reads what a session made, oldest first.
func (e *Engine) Artifacts(ctx context.Context, session string) ([]Artifact, error) {
	panic("not built")
}

// Sandbox reads what is known of a session's sandbox.
func (e *Engine) Sandbox(ctx context.Context, session string) (Sandbox, error) { panic("not built") }

// Participants reads the people who prompted in a session, in order of their first prompt.
func (e *Engine) Participants(ctx context.Context, session string) ([]Person, error) {
	panic("not built")
}

// Person reads one person.
func (e *Engine) Person(ctx context.Context, id uuid.UUID) (Person, error) { panic("not built") }

// Repositories reads the repositories that sessions may work on, by name.
func (e *Engine) Repositories(ctx context.Context) ([]Repository, error) { panic("not built") }
