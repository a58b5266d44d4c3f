package sessions

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lib/pq"

	"openinspect/sandbox"
)

// What runs in a sandbox may call tools as it likes, past the supervisor too: it
// may have the sandbox's token. These bounds are far from what an agent needs, and
// keep such code from using up the database and what the code host allows an App.
const (
	longestCallID    = 100       // bytes, of its prompt's and its tool's name too
	longestArguments = 512 << 10 // bytes; a pull request's longest text is half of it
	callsAtOnce      = 8         // of one sandbox that are worked on
	callsWaiting     = 64        // of one sandbox, for their turn
	callsPerMinute   = 120       // of one session
	hostCalls        = 30        // of one session that ask the code host, within hostCallsWithin
	hostCallsWithin  = 5 * time.Minute
)

// hostTools ask the code host for something, or change something there in a
// person's name.
var hostTools = []string{"create_pull_request", "get_checks", "get_review", "reply_to_review", "update_pull_request"}

const tooManyAtOnce = "Too many tools are called at once: wait for their results, then call this one again."

// unusual says what is wrong with a call that no row is made for; "" if nothing is.
func unusual(c sandbox.Call) string {
	switch {
	case len(c.ID) > longestCallID || len(c.Prompt) > longestCallID || len(c.Tool) > longestCallID:
		return "A name in the call is too long."
	case len(c.Args) > longestArguments:
		return fmt.Sprintf("The arguments are too long: %d kB are the most. Put what is long into a file.", longestArguments>>10)
	}
	return ""
}

// tooMany refuses a call beyond the bounds, unless it was recorded before. The
// session's row is locked.
func (t *tx) tooMany(ctx context.Context, session, boot string, c sandbox.Call) (*toolResult, error) {
	var n struct {
		Before bool `db:"before"`
		Lately int  `db:"lately"`
		Host   int  `db:"host"`
		Waits  bool `db:"waits"`
	}
	err := t.GetContext(ctx, &n, `
		select exists (select from calls where session_id = $1 and boot = $2 and id = $3) as before,
			(select count(*) from calls where session_id = $1 and created_at > now() - interval '1 minute') as lately,
			(select count(*) from calls where session_id = $1 and tool = any($4) and created_at > now() - make_interval(secs => $5)) as host,
			exists (select from calls where session_id = $1 and boot = $2 and prompt_id = $7 and tool = $6 and result is null) as waits`,
		session, boot, c.ID, pq.Array(hostTools), seconds(hostCallsWithin), "get_checks", c.Prompt)
	if err != nil {
		return nil, fmt.Errorf("counting the calls of %s: %w", session, err)
	}
	switch {
	case n.Before:
		return nil, nil
	case n.Lately >= callsPerMinute:
		return refusal(fmt.Sprintf("%d calls of tools in a minute are enough: go on with something else first.", callsPerMinute)), nil
	case slices.Contains(hostTools, c.Tool) && n.Host >= hostCalls:
		return refusal(fmt.Sprintf("GitHub was asked %d times within %s, which is enough: go on with something else, and try again later.", hostCalls, hostCallsWithin)), nil
	case n.Waits && c.Tool == "get_checks":
		return refusal("You are waiting for the checks already: use that call's result."), nil
	}
	return nil, nil
}
