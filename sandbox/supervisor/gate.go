package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Read before synced. Where a checkout is there already, of an image or a parked
// box, prompts begin as soon as OpenCode is up: the agent reads while the checkout
// is brought up to date and the repository's scripts run. Whatever could change
// something waits for that, in a plugin of OpenCode which asks the gateway (see
// gatePlugin). Files may change under a reader: git replaces a file as a whole, and
// OpenCode refuses to edit one that has changed since it was read.
//
// A turn has begun (turn.begin) when it is known which commit its work starts
// from. One that began to read early begins when the gate opens, before anything
// that waits is let through; if it ends before, it has changed nothing, and there
// is nothing to commit or to compare. An OpenCode that is interrupted while
// something waits in it is ended: what waits would be done later all the same.

// gate is shut until the checkout is ready to be changed.
type gate struct {
	opened  chan struct{}  // closed when err is valid
	syncing sync.WaitGroup // what has to happen before

	mu    sync.Mutex
	err   error // why the checkout will never be ready
	early *turn // it runs, and has not begun
}

// isOpen says whether the gate was opened, and why nothing may pass all the same.
func (g *gate) isOpen() (bool, error) {
	select {
	case <-g.opened:
		return true, g.err
	default:
		return false, nil
	}
}

// openGate lets changes begin, or says why there will be none. Only its first
// call counts.
func (s *supervisor) openGate(ctx context.Context, err error) {
	g := &s.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if open, _ := g.isOpen(); open {
		return
	}
	if err == nil && g.early != nil {
		err = s.begin(ctx, g.early)
	}
	if errors.Is(err, errStopped) { // its end alone: the box is as ready as any
		s.currentAgent().kill() // see leave
		err = nil
	}
	if err != nil {
		s.cfg.Log.Error("the boot failed", "err", err)
		if g.early != nil {
			g.early.fail("%s", err)
		}
	}
	g.err = err
	close(g.opened)
}

// enter begins a turn; if the gate is shut, when it opens.
func (s *supervisor) enter(ctx context.Context, t *turn) error {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	open, err := s.gate.isOpen()
	switch {
	case err != nil:
		return err
	case open:
		return s.begin(ctx, t)
	}
	s.gate.early = t
	return nil
}

// leave ends the time in which a turn can begin.
func (s *supervisor) leave(t *turn, interrupted bool) {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	s.gate.early = nil
	if interrupted && !t.hasBegun() {
		s.currentAgent().kill()
	}
}

// begin notes where a turn's work starts.
func (s *supervisor) begin(ctx context.Context, t *turn) error {
	head, err := s.repo.head(ctx)
	if err != nil {
		return fmt.Errorf("the repository could not be read: %w", err)
	}
	if !t.begin(head) {
		return errStopped
	}
	return s.remember(t)
}

// gatePause is how long a request waits at the gate at most; who asked asks again.
const gatePause = 20 * time.Second

// ServeHTTP answers when the gate is open: 204, or 409 with the reason if it
// never will be. 202 says that it is still shut.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	timer := time.NewTimer(gatePause)
	defer timer.Stop()
	select {
	case <-g.opened:
		if g.err != nil {
			http.Error(w, "Nothing can be changed: "+g.err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case <-timer.C:
		w.WriteHeader(http.StatusAccepted)
	case <-r.Context().Done():
	}
}

// afterSync has calls of the supervisor's own tools wait at the gate. OpenCode's
// plugin holds them already; these must not run early whoever calls.
func (s *supervisor) afterSync(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, r mcp.Request) (mcp.Result, error) {
		if method != "tools/call" {
			return next(ctx, method, r)
		}
		select {
		case <-s.gate.opened:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if s.gate.err != nil {
			return nil, errors.New("nothing can be done: " + s.gate.err.Error())
		}
		return next(ctx, method, r)
	}
}

// gatePlugin is the plugin of OpenCode by which tools wait that may change
// something. Those that are named only read; a shell command may do anything. The
// boot's own deadlines are shorter than the plugin's.
func gatePlugin(gateway string) string {
	return `const reads = new Set(["read", "glob", "grep", "list", "lsp", "skill", "todoread", "todowrite", "webfetch", "websearch", "codesearch", "invalid"])
let open = false
export const Gate = async () => ({
  "tool.execute.before": async ({ tool }) => {
    if (open || reads.has(tool)) return
    const until = Date.now() + ` + strconv.FormatInt(gateMost.Milliseconds(), 10) + `
    while (Date.now() < until) {
      const answer = await fetch("` + gateway + gatePath + `")
      if (answer.status === 204) {
        open = true
        return
      }
      if (answer.status !== 202) throw new Error(await answer.text())
    }
    throw new Error("The repository was not up to date within ` + gateMost.String() + `. Only reading works; say so in your answer.")
  },
})
`
}

const (
	gatePath = "/synced"
	gateMost = 2 * time.Hour
)
