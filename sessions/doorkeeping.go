package sessions

import (
	"context"

	"openinspect/sandbox"
)

// Grant is what a sandbox's token allows.
type Grant struct {
	Session       string
	Repository    string // owner/name
	Branch        string // the only one it may push
	DefaultBranch string
}

// Authenticate returns what a sandbox's token allows, or ErrNotFound. The token
// is valid as long as its sandbox.
func (e *Engine) Authenticate(ctx context.Context, token string) (Grant, error) { panic("not built") }

// Pushed records the head of the session's branch as the code host reported it.
func (e *Engine) Pushed(ctx context.Context, session, ref, old, new string) error {
	panic("not built")
}

// Usage is what one model request used.
type Usage struct {
	Model                                string
	Input, Output, CacheRead, CacheWrite int64 // tokens
	CostUSD                              float64
	Known                                bool // the model's price is known
}

// Allow says whether a session may spend more; a *Problem says which budget is used up.
func (e *Engine) Allow(ctx context.Context, session string) error { panic("not built") }

// Used counts a model request's usage for the session, its running prompt and that prompt's author.
func (e *Engine) Used(ctx context.Context, session string, u Usage) error { panic("not built") }

// ServeBridge is the session's actor while its sandbox's bridge is connected:
// it delivers prompts and stops, appends events, answers calls. It returns when
// the bridge is cut, the lease is lost or ctx ends.
func (e *Engine) ServeBridge(ctx context.Context, token string, l *sandbox.Link) { panic("not built") }
