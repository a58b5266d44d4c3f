package modal

import (
	"sync"
	"sync/atomic"

	sdk "github.com/modal-labs/modal-client/go"
)

// handle is the SDK's of one sandbox, with its connection.
type handle struct {
	sb *sdk.Sandbox
	// dead says that the sandbox was seen to have ended, which is for good.
	dead atomic.Bool
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
	fresh := &handle{sb: sb}
	h.byID[sb.SandboxID] = fresh
	return fresh
}

// bury forgets the handle of a sandbox that has ended.
func (h handles) bury(dead *handle) {
	dead.dead.Store(true)
	h.mu.Lock()
	if h.byID[dead.sb.SandboxID] == dead {
		delete(h.byID, dead.sb.SandboxID)
	}
	h.mu.Unlock()
	_ = dead.sb.Detach() // what is being read is read to its end
}

// detach ends all connections.
func (h handles) detach() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, kept := range h.byID {
		_ = kept.sb.Detach() // it returns no errors
		delete(h.byID, id)
	}
}
