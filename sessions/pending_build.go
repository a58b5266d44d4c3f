package sessions

import "context"

func (e *Engine) startSandboxes(ctx context.Context) error { <-ctx.Done(); return nil }
func (e *Engine) watch(ctx context.Context) error          { <-ctx.Done(); return nil }
func (e *Engine) deliverToForge(ctx context.Context) error { <-ctx.Done(); return nil }
