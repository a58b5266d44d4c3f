package sessions

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Check is what one check run or status says of a commit.
type Check struct {
	Name       string
	State      string // queued, in_progress, completed
	Conclusion string // of a completed one: success, failure, neutral, cancelled, skipped, timed_out, action_required, stale
	Title      string // what it says in a line
	Detail     string // of a failed one: its summary, annotations and the end of its log, as far as they can be read
	URL        string
}

// Failed says whether a person has to do something about it.
func (c Check) Failed() bool {
	switch c.Conclusion {
	case "failure", "timed_out", "action_required":
		return true
	}
	return false
}

// longestWait bounds how long get_checks waits for checks to end.
const longestWait = 5 * time.Minute

// longestDetail bounds what is shown of one failed check, in bytes of its end.
const longestDetail = 6000

// getChecks reads what the checks of the session's pushed head say.
func getChecks(ctx context.Context, e *Engine, c toolCall) (toolResult, error) {
	var asked struct {
		WaitSeconds float64 `json:"wait_seconds"`
	}
	if wrong := c.read(&asked); wrong != nil {
		return *wrong, nil
	}
	patience := min(time.Duration(max(0, asked.WaitSeconds)*float64(time.Second)), longestWait)
	deadline := time.Now().Add(patience)
	for {
		s, err := e.Session(ctx, c.session.ID) // its head may have moved
		if err != nil {
			return toolResult{}, err
		}
		if s.Head == "" {
			return *refusal("Nothing of this session is pushed yet, so there are no checks: create_pull_request pushes."), nil
		}
		checks, err := e.cfg.Forge.Checks(ctx, s.Repository, s.Head)
		if err != nil {
			return toolResult{}, err
		}
		if settledChecks(checks) || !time.Now().Add(e.tempo.checks).Before(deadline) || !e.pause(ctx, e.tempo.checks) {
			return toolResult{text: describeChecks(s.Head, checks)}, nil
		}
		if running, err := e.runs(ctx, c.prompt); err != nil || !running {
			return *refusal("That request has ended."), err
		}
	}
}

// settledChecks says whether nothing is to come. Before the first check has
// begun there is still something to come.
func settledChecks(checks []Check) bool {
	for _, c := range checks {
		if c.State != "completed" {
			return false
		}
	}
	return len(checks) > 0
}

// describeChecks is what the agent reads: a line for each, then why some failed.
func describeChecks(head string, checks []Check) string {
	if len(checks) == 0 {
		return fmt.Sprintf("No check has reported on commit %.8s. Either the repository has none, or they have not begun.", head)
	}
	var b strings.Builder
	failed, open := 0, 0
	var details []string
	for _, c := range checks {
		state := c.Conclusion
		switch {
		case c.State != "completed":
			open++
			state = c.State
		case c.Failed():
			failed++
		}
		fmt.Fprintf(&b, "- %s: %s", c.Name, state)
		if c.Title != "" {
			fmt.Fprintf(&b, " (%s)", c.Title)
		}
		b.WriteString("\n")
		if c.Failed() && c.Detail != "" {
			details = append(details, fmt.Sprintf("## %s\n\n%s", c.Name, lastBytes(c.Detail, longestDetail)))
		}
	}
	summary := fmt.Sprintf("Commit %.8s: %d checks, %d failed, %d not finished.\n\n", head, len(checks), failed, open)
	return strings.TrimSpace(summary + b.String() + "\n" + strings.Join(details, "\n\n"))
}

// lastBytes returns the end of a text, beginning with a whole character.
func lastBytes(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return "…" + strings.ToValidUTF8(text[len(text)-n:], "")
}
