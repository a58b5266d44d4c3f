package slack

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	triggerLife = 3 * time.Second
	hookLife    = 30 * time.Minute
	hookUses    = 5
)

// ErrNoResponse is returned when the app did not acknowledge what a person did
// in time. Slack shows a warning then; it does not try again.
var ErrNoResponse = errors.New("the app did not respond in time")

// A Choice is what a person did with one interactive element: the value of a
// button or option, a text, a date, the id of a user or channel.
type Choice struct {
	BlockID  string   `json:"block_id"` // may be empty: the first element of that action
	ActionID string   `json:"action_id"`
	Value    string   `json:"value"`
	Values   []string `json:"values"` // of elements that take several
	Label    string   `json:"label"`  // text of an option that the app suggested
}

// trigger lets the app open one modal for a person, soon.
type trigger struct {
	user string
	made time.Time
	used bool
}

// hook is a response_url.
type hook struct {
	channel, message, thread, user string
	made                           time.Time
	uses                           int
}

func (s *Server) newTrigger(user string) string {
	id := fmt.Sprintf("%d.%s", time.Now().UnixMicro(), secret(12))
	s.triggers[id] = &trigger{user: user, made: time.Now()}
	return id
}

func (s *Server) useTrigger(c *call) (string, error) {
	id := c.args["trigger_id"]
	if id == "" {
		id = c.args["interactivity_pointer"]
	}
	t := s.triggers[id]
	switch {
	case t == nil:
		return "", fail("invalid_trigger_id")
	case t.used:
		return "", fail("exchanged_trigger_id")
	case time.Since(t.made) > triggerLife:
		return "", fail("expired_trigger_id")
	}
	t.used = true
	return t.user, nil
}

func (s *Server) newHook(h hook) string {
	id := secret(16)
	h.made = time.Now()
	s.hooks[id] = &h
	return s.base + "/actions/" + id
}

func (s *Server) expireInteractions(now time.Time) {
	maps.DeleteFunc(s.triggers, func(_ string, t *trigger) bool { return now.Sub(t.made) > time.Minute })
	maps.DeleteFunc(s.hooks, func(_ string, h *hook) bool { return now.Sub(h.made) > hookLife })
	maps.DeleteFunc(s.codes, func(_ string, a *authCode) bool { return now.Sub(a.made) > codeLife })
}

// ask sends what a person did to the app and waits for its acknowledgement,
// whose payload it returns. The caller must not hold s.mu.
func (s *Server) ask(kind string, payload object) (json.RawMessage, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("encoding the interaction: %w", err)
	}
	responds := kind == kindCommand || payload["type"] == "view_submission" || payload["type"] == "block_suggestion"
	d := &delivery{ID: newID("I"), Kind: kind, Payload: raw, responds: responds, done: make(chan struct{})}
	s.mu.Lock()
	s.enqueue(d)
	s.mu.Unlock()
	timer := time.NewTimer(s.opts.AckTimeout + time.Second) // Run settles it earlier
	defer timer.Stop()
	select {
	case <-d.done:
	case <-timer.C:
		return nil, ErrNoResponse
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !d.acked {
		return nil, ErrNoResponse
	}
	return d.response, nil
}

// interaction is the part that all interactive payloads have in common.
func (s *Server) interaction(kind, user string) object {
	p := s.person(user)
	return object{
		"type": kind, "team": object{"id": s.id.TeamID, "domain": strings.ToLower(s.opts.TeamName)},
		"user":       object{"id": user, "username": p.Name, "name": p.Name, "team_id": s.id.TeamID},
		"api_app_id": s.id.AppID, "token": "practice", "enterprise": nil, "is_enterprise_install": false,
	}
}

// clickMessage builds and sends block_actions of a message.
func (s *Server) clickMessage(user, channel, ts string, ch Choice, state []Choice) error {
	s.mu.Lock()
	payload, err := s.messageAction(user, channel, ts, ch, state)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = s.ask(kindInteractive, payload)
	return err
}

func (s *Server) messageAction(user, channel, ts string, ch Choice, state []Choice) (object, error) {
	in, m, err := s.visible(user, channel, ts)
	if err != nil {
		return nil, err
	}
	blocks := decodeBlocks(m.Blocks)
	action, err := actionOf(blocks, ch)
	if err != nil {
		return nil, err
	}
	payload := s.interaction("block_actions", user)
	container := object{"type": "message", "message_ts": ts, "channel_id": channel, "is_ephemeral": m.OnlyFor != ""}
	if m.Thread != "" {
		container["thread_ts"] = m.Thread
	}
	payload["container"], payload["actions"] = container, []object{action}
	payload["channel"] = s.channelRef(in)
	payload["trigger_id"] = s.newTrigger(user)
	payload["response_url"] = s.newHook(hook{channel: channel, message: ts, thread: m.Thread, user: user})
	payload["state"] = object{"values": stateOf(blocks, append(state, ch))}
	if m.OnlyFor == "" {
		payload["message"] = s.messageJSON(m, true)
	}
	return payload, nil
}

func (s *Server) channelRef(in *room) object {
	name := in.Name
	if in.IM != "" {
		name = "directmessage"
	}
	return object{"id": in.ID, "name": name}
}

// visible finds a message that a person sees.
func (s *Server) visible(user, channel, ts string) (*room, *message, error) {
	in := s.rooms[channel]
	if in == nil || !in.has(user) || s.person(user) == nil {
		return nil, nil, fail("channel_not_found")
	}
	m := in.byTS[ts]
	if m == nil || m.OnlyFor != "" && m.OnlyFor != user {
		return nil, nil, fail("message_not_found")
	}
	return in, m, nil
}

// actionOf describes a choice as an element of block_actions.
func actionOf(blocks []object, ch Choice) (object, error) {
	e, block := findElement(blocks, ch)
	if e == nil {
		return nil, fmt.Errorf("no element with action %q", ch.ActionID)
	}
	a, err := chosen(e, ch)
	if err != nil {
		return nil, err
	}
	a["action_id"], a["block_id"] = ch.ActionID, block
	a["action_ts"] = fmt.Sprintf("%d.%06d", time.Now().Unix(), time.Now().Nanosecond()/1000)
	return a, nil
}

// chosen is a choice in the shape of its element: as in state.values.
func chosen(e object, ch Choice) (object, error) {
	kind := str(e, "type")
	a := object{"type": kind}
	switch kind {
	case "button", "icon_button", "workflow_button":
		for _, key := range []string{"text", "value", "style", "url"} {
			if e[key] != nil {
				a[key] = e[key]
			}
		}
	case "feedback_buttons":
		for _, side := range []string{"positive_button", "negative_button"} {
			if b, ok := e[side].(object); ok && str(b, "value") == ch.Value {
				a["value"], a["text"] = ch.Value, b["text"]
			}
		}
		if a["value"] == nil {
			return nil, fmt.Errorf("no feedback button with value %q", ch.Value)
		}
	case "static_select", "radio_buttons", "overflow", "external_select":
		return a, choose(e, a, ch)
	case "multi_static_select", "checkboxes", "multi_external_select":
		return a, chooseSeveral(e, a, ch)
	default:
		key := valueKeys[kind]
		if key == "" {
			key = "value"
		}
		a[key] = nilIfEmpty(ch.Value)
		if strings.HasPrefix(kind, "multi_") {
			a[key] = orEmpty(ch.Values)
		}
	}
	return a, nil
}

// valueKeys names the field of a choice by kind of element; others use value.
var valueKeys = map[string]string{
	"users_select": "selected_user", "channels_select": "selected_channel", "conversations_select": "selected_conversation",
	"multi_users_select": "selected_users", "multi_channels_select": "selected_channels",
	"multi_conversations_select": "selected_conversations",
	"datepicker":                 "selected_date", "timepicker": "selected_time", "datetimepicker": "selected_date_time",
}

func nilIfEmpty(v string) any {
	if v == "" {
		return nil
	}
	return v
}

func choose(e, a object, ch Choice) error {
	if ch.Value == "" && str(e, "type") != "overflow" {
		a["selected_option"] = nil
		return nil
	}
	o := option(e, ch.Value, ch.Label)
	if o == nil {
		return fmt.Errorf("no option with value %q", ch.Value)
	}
	a["selected_option"] = o
	return nil
}

func chooseSeveral(e, a object, ch Choice) error {
	picked := []object{}
	for _, v := range ch.Values {
		o := option(e, v, v)
		if o == nil {
			return fmt.Errorf("no option with value %q", v)
		}
		picked = append(picked, o)
	}
	a["selected_options"] = picked
	return nil
}

// option finds an element's option by value. The options of an external
// select are the app's own, sent before; their label comes with the choice.
func option(e object, value, label string) object {
	list := objects(e["options"])
	for _, g := range objects(e["option_groups"]) {
		list = append(list, objects(g["options"])...)
	}
	for _, o := range list {
		if str(o, "value") == value {
			return o
		}
	}
	if strings.HasSuffix(str(e, "type"), "external_select") && value != "" {
		if label == "" {
			label = value
		}
		return object{"text": object{"type": "plain_text", "text": label, "emoji": true}, "value": value}
	}
	return nil
}

// stateless elements do not appear in state.values.
var stateless = []string{"button", "icon_button", "workflow_button", "feedback_buttons", "overflow", "image"}

// stateOf is what all elements of blocks hold: what was chosen, else what they
// began with.
func stateOf(blocks []object, choices []Choice) object {
	values := object{}
	for _, b := range blocks {
		maps.Copy(values, stateOf(objects(b["child_blocks"]), choices))
		in := object{}
		for _, e := range elementsOf(b) {
			if kind := str(e, "type"); str(e, "action_id") != "" && !slices.Contains(stateless, kind) {
				in[str(e, "action_id")] = elementState(e, str(b, "block_id"), choices)
			}
		}
		if len(in) > 0 {
			values[str(b, "block_id")] = in
		}
	}
	return values
}

func elementState(e object, block string, choices []Choice) object {
	for _, ch := range slices.Backward(choices) {
		if ch.ActionID == str(e, "action_id") && (ch.BlockID == "" || ch.BlockID == block) {
			if a, err := chosen(e, ch); err == nil {
				return a
			}
		}
	}
	a, err := chosen(e, Choice{Value: str(e, "initial_value")})
	if err != nil {
		a = object{"type": str(e, "type")}
	}
	for key, v := range e {
		if part, ok := strings.CutPrefix(key, "initial_"); ok && key != "initial_value" {
			a["selected_"+part] = v
		}
	}
	return a
}

// suggest asks the app for the options of an external select.
func (s *Server) suggest(user string, where suggestion) (json.RawMessage, error) {
	s.mu.Lock()
	payload, err := s.suggestionPayload(user, where)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return s.ask(kindInteractive, payload)
}

// suggestion is what a person typed into an external select of a message or a
// view.
type suggestion struct {
	Channel, TS, ViewID string
	Choice              Choice
}

func (s *Server) suggestionPayload(user string, where suggestion) (object, error) {
	payload := s.interaction("block_suggestion", user)
	payload["action_id"], payload["block_id"], payload["value"] = where.Choice.ActionID, where.Choice.BlockID, where.Choice.Value
	if where.ViewID != "" {
		v := s.views[where.ViewID]
		if v == nil || v.User != user {
			return nil, fail("not_found")
		}
		payload["view"], payload["container"] = s.viewJSON(v), object{"type": "view", "view_id": v.ID}
		return payload, nil
	}
	in, m, err := s.visible(user, where.Channel, where.TS)
	if err != nil {
		return nil, err
	}
	payload["message"], payload["channel"] = s.messageJSON(m, true), s.channelRef(in)
	payload["container"] = object{"type": "message", "message_ts": m.TS, "channel_id": in.ID, "is_ephemeral": m.OnlyFor != ""}
	return payload, nil
}

// shortcut invokes a registered shortcut, of a message if ts is given.
func (s *Server) shortcut(user, callbackID, channel, ts string) error {
	s.mu.Lock()
	payload, err := s.shortcutPayload(user, callbackID, channel, ts)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = s.ask(kindInteractive, payload)
	return err
}

func (s *Server) shortcutPayload(user, callbackID, channel, ts string) (object, error) {
	kind := "shortcut"
	if ts != "" {
		kind = "message_action"
	}
	payload := s.interaction(kind, user)
	payload["callback_id"], payload["trigger_id"], payload["action_ts"] = callbackID, s.newTrigger(user), s.newTS()
	if ts == "" {
		return payload, nil
	}
	in, m, err := s.visible(user, channel, ts)
	if err != nil {
		return nil, err
	}
	payload["message_ts"], payload["message"], payload["channel"] = m.TS, s.messageJSON(m, true), s.channelRef(in)
	payload["response_url"] = s.newHook(hook{channel: channel, message: ts, thread: m.Thread, user: user})
	return payload, nil
}
