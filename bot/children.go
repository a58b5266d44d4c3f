package bot

import (
	"fmt"

	"openinspect/sessions"
)

// childStates are what is shown of a session that the agent began. The parent's log
// says when that was and how it ended, and nothing in between.
var childStates = map[sessions.PromptState]string{
	sessions.Queued: "⚙️ begun", sessions.Running: "⚙️ begun", sessions.Completed: "✅ done",
	sessions.Failed: "❌ failed", sessions.Stopped: "⏹️ stopped", sessions.Cancelled: "🚫 cancelled",
}

// childLines list the sessions that the agent began for the prompt.
func childLines(children []sessions.BodyChild) (lines []string) {
	for _, c := range children {
		lines = append(lines, fmt.Sprintf("↳ %s on *%s* — %s", link(c.URL, clip(oneLine(firstOf(c.Title, c.Session)), 80)), escape(c.Repository), childStates[c.State]))
	}
	return lines
}
