package bot

import (
	"encoding/json"
	"strings"

	"github.com/slack-go/slack/socketmode"
)

// The parts of Slack's payloads that this package reads
// (https://docs.slack.dev/reference/events, …/interaction-payloads). They are
// decoded here and not by slack-go, which refuses a whole event for one field
// or block that it does not know, so that a message with a new kind of block
// would be lost.

// inbound is one decoded envelope. At most one field is set.
type inbound struct {
	event *event
	press *press
}

// event is the inner event of an events_api envelope.
type event struct {
	Type        string    `json:"type"`
	Subtype     string    `json:"subtype"`
	User        userField `json:"user"`
	BotID       string    `json:"bot_id"`
	Text        string    `json:"text"`
	TS          string    `json:"ts"`
	ThreadTS    string    `json:"thread_ts"`
	EventTS     string    `json:"event_ts"`
	Channel     string    `json:"channel"`
	ChannelType string    `json:"channel_type"`
	UserTeam    string    `json:"user_team"`
	SourceTeam  string    `json:"source_team"`
	Files       []file    `json:"files"`
	Tab         string    `json:"tab"` // app_home_opened
	DeletedTS   string    `json:"deleted_ts"`
	Message     *event    `json:"message"`          // message_changed
	Previous    *event    `json:"previous_message"` // message_changed, message_deleted
	Edited      *struct {
		TS string `json:"ts"`
	} `json:"edited"`

	again bool // Slack sends it another time
}

// userField reads a user that is an id in most events and an object in some.
type userField struct{ ID string }

// UnmarshalJSON accepts both shapes.
func (u *userField) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, &u.ID) == nil {
		return nil
	}
	var object struct {
		ID string `json:"id"`
	}
	err := json.Unmarshal(data, &object)
	u.ID = object.ID
	return err
}

// file is a file that came with a message.
type file struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Mimetype string `json:"mimetype"`
	Size     int64  `json:"size"` // bytes
	Mode     string `json:"mode"` // "tombstone" when it was deleted
	URL      string `json:"url_private_download"`
	External bool   `json:"is_external"`
}

// message is the message that the event is about: its own, or the changed one.
func (e *event) message() *event {
	switch {
	case e.Subtype == "message_changed" && e.Message != nil:
		return e.Message
	case e.Subtype == "message_deleted" && e.Previous != nil:
		return e.Previous
	}
	return e
}

// root is the thread that the message belongs to, or would begin.
func (e *event) root() string { return firstOf(e.ThreadTS, e.TS) }

// direct says whether the message was sent to the bot alone.
func (e *event) direct() bool {
	return e.ChannelType == "im" || e.ChannelType == "" && strings.HasPrefix(e.Channel, "D")
}

// press is an interactive envelope: a button, a menu's choice, or a menu that asks
// for its options.
type press struct {
	Type string `json:"type"`
	User struct {
		ID     string `json:"id"`
		TeamID string `json:"team_id"`
	} `json:"user"`
	Channel struct {
		ID string `json:"id"`
	} `json:"channel"`
	Container struct {
		ChannelID string `json:"channel_id"`
		MessageTS string `json:"message_ts"`
		ThreadTS  string `json:"thread_ts"`
	} `json:"container"`
	Message struct {
		TS       string `json:"ts"`
		ThreadTS string `json:"thread_ts"`
	} `json:"message"`
	Actions []action `json:"actions"`
	// Of a block_suggestion: which menu asks, and what was typed so far.
	ActionID string `json:"action_id"`
	Value    string `json:"value"`
}

// action is one element that was used.
type action struct {
	ID       string `json:"action_id"`
	BlockID  string `json:"block_id"`
	Value    string `json:"value"`
	TS       string `json:"action_ts"`
	Selected struct {
		Value string `json:"value"`
	} `json:"selected_option"`
}

// root is the thread in which something was pressed, or empty (App Home).
func (p *press) root() string {
	return firstOf(p.Container.ThreadTS, p.Message.ThreadTS, p.Message.TS, p.Container.MessageTS)
}

// decode reads an envelope as far as it means something to us. A payload that
// cannot be read is treated like one of an unknown type: it would not become
// readable by being sent again.
func decode(req socketmode.Request) (in inbound) {
	switch req.Type {
	case "events_api":
		var payload struct {
			Event *event `json:"event"`
		}
		if json.Unmarshal(req.Payload, &payload) == nil {
			in.event = payload.Event
		}
		if in.event != nil {
			in.event.again = req.RetryAttempt > 0
		}
	case "interactive":
		var p press
		if json.Unmarshal(req.Payload, &p) == nil {
			if p.Channel.ID == "" {
				p.Channel.ID = p.Container.ChannelID
			}
			in.press = &p
		}
	}
	return in
}
