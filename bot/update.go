package bot

import (
	"encoding/json"

	"openinspect/sessions"
)

// renderUpdate draws what the agent posts while it works. It is short, so it is
// one message.
func renderUpdate(it sessions.Delivery) message {
	var b sessions.BodyUpdate
	_ = json.Unmarshal(it.Body, &b) // we wrote it
	return pack(renderMarkdown(b.Text, pieceRoom))[0]
}
