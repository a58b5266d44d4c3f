package modal

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// handle is the SDK's of one sandbox, with its connection.
type handle struct {
	id string
	sb atomic.Pointer[sdk.Sandbox] // see renew
	// dead says that the sandbox was seen to have ended, which is for good.
	dead atomic.Bool
}

func newHandle(sb *sdk.Sandbox) *handle {
	h := &handle{id: sb.SandboxID}
	h.sb.Store(sb)
	return h
}

// mostHandles bounds how many are kept. One that is dropped while it is in use
// is good until its user is done; its connection ends 30 seconds later.
const mostHandles = 512

// handles keeps one handle for each box that was asked for lately.
type handles struct {
	mu   *sync.Mutex
	byID map[string]*handle
}

func newHandles() handles { return handles{mu: new(sync.Mutex), byID: map[string]*handle{}} }

// keep returns the handle of a sandbox: the one that is kept, or else sb's.
func (h handles) keep(sb *sdk.Sandbox) *handle {
	h.mu.Lock()
	defer h.mu.Unlock()
	if kept := h.byID[sb.SandboxID]; kept != nil {
		return kept
	}
	for id := range h.byID { // which one does not matter: another takes its place when it is asked for
		if len(h.byID) < mostHandles {
			break
		}
		delete(h.byID, id)
	}
	fresh := newHandle(sb)
	h.byID[sb.SandboxID] = fresh
	return fresh
}

// bury forgets the handle of a sandbox that has ended.
func (h handles) bury(dead *handle) {
	dead.dead.Store(true)
	h.mu.Lock()
	if h.byID[dead.id] == dead {
		delete(h.byID, dead.id)
	}
	h.mu.Unlock()
	_ = dead.sb.Load().Detach() // what is being read is read to its end
}

// detach ends all connections.
func (h handles) detach() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, kept := range h.byID {
		_ = kept.sb.Load().Detach() // it returns no errors
		delete(h.byID, id)
	}
}

// onMachine makes a call to the machine that runs a box, which has a token of its
// own. The SDK asks for another one only when it believes that this one has
// expired; it may be wrong, because the token was revoked or the clocks differ. So
// a refused call is made once more with a new handle, unless it is us whom Modal
// refuses.
func onMachine[T any](ctx context.Context, b *box, call func(*sdk.Sandbox) (T, error)) (T, error) {
	sb := b.h.sb.Load()
	got, err := call(sb)
	if errors.As(err, new(sdk.ClientClosedError)) && b.h.sb.Load() != sb {
		return call(b.h.sb.Load()) // another call has just replaced it
	}
	if status.Code(err) != codes.Unauthenticated {
		return got, err
	}
	if alive, asking := b.alive(ctx); asking != nil || !alive {
		return got, err
	}
	fresh, making := b.p.client.Sandboxes.FromID(ctx, b.h.id, nil)
	if making != nil {
		return got, err
	}
	if b.h.sb.CompareAndSwap(sb, fresh) {
		_ = sb.Detach() // what goes on over it goes on
	} else {
		_ = fresh.Detach() // another call was first
	}
	return call(b.h.sb.Load())
}
