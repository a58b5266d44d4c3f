package bot

import (
	"encoding/json"

	"openinspect/sessions"
)

// renderUpdate draws what the agent posts while it works, as one message.
func renderUpdate(it sessions.Delivery) message {
	var b sessions.BodyUpdate
	_ = json.Unmarshal(it.Body, &b) // we wrote it
	return single(renderMarkdown(b.Text, pieceRoom))
}
