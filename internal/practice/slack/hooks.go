package slack

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// response is what an app answers to a slash command or posts to a
// response_url.
type response struct {
	Text            string          `json:"text"`
	Blocks          json.RawMessage `json:"blocks"`
	ResponseType    string          `json:"response_type"`
	ReplaceOriginal bool            `json:"replace_original"`
	DeleteOriginal  bool            `json:"delete_original"`
	ThreadTS        string          `json:"thread_ts"`
}

func (s *Server) serveHook(w http.ResponseWriter, r *http.Request) {
	var body response
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body); err != nil {
		http.Error(w, "invalid_payload", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hooks[r.PathValue("id")]
	if h == nil || h.uses >= hookUses {
		http.Error(w, "used_url", http.StatusNotFound)
		return
	}
	h.uses++
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	s.reply(w, nil, s.respond(h, body))
}

// respond does what a response asks for, in the place the hook is of.
func (s *Server) respond(h *hook, body response) error {
	in := s.rooms[h.channel]
	if in == nil {
		return fail("channel_not_found")
	}
	original := in.byTS[h.message]
	if body.DeleteOriginal && original != nil {
		s.erase(in, original)
		return nil
	}
	m := &message{User: s.id.BotUserID, BotID: s.id.BotID, Text: cutText(body.Text, maxText)}
	if len(body.Blocks) > 0 {
		blocks, err := checkBlocks(string(body.Blocks), inMessage)
		if err != nil {
			return err
		}
		m.Blocks = blocks
	}
	if strings.TrimSpace(m.Text) == "" && m.Blocks == nil {
		return fail("no_text")
	}
	if body.ReplaceOriginal && original != nil {
		was := *original
		original.Text, original.Blocks = m.Text, m.Blocks
		s.change(in, &was, original)
		return nil
	}
	m.Thread = h.thread
	if body.ThreadTS != "" {
		if err := s.inThread(in, m, body.ThreadTS); err != nil {
			return err
		}
	}
	if body.ResponseType != "in_channel" {
		m.OnlyFor = h.user
	}
	s.post(in, m)
	return nil
}

// command invokes a slash command and shows the answer in the acknowledgement.
func (s *Server) command(user, channel, name, text string) error {
	s.mu.Lock()
	payload, h, err := s.commandPayload(user, channel, name, text)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	raw, err := s.ask(kindCommand, payload)
	if err != nil || len(raw) == 0 {
		return err
	}
	var body response
	if err := json.Unmarshal(raw, &body); err != nil {
		return fmt.Errorf("reading the answer to %s: %w", name, err)
	}
	if body.Text == "" && len(body.Blocks) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.respond(h, body)
}

func (s *Server) commandPayload(user, channel, name, text string) (object, *hook, error) {
	in, p := s.rooms[channel], s.person(user)
	if p == nil || in == nil || !in.has(user) {
		return nil, nil, fail("channel_not_found")
	}
	if !slices.ContainsFunc(s.opts.Commands, func(c Command) bool { return c.Name == name }) {
		return nil, nil, fmt.Errorf("%s is not a valid command", name)
	}
	h := hook{channel: channel, user: user}
	ref := s.channelRef(in)
	return object{
		"token": "practice", "team_id": s.id.TeamID, "team_domain": strings.ToLower(s.opts.TeamName),
		"channel_id": channel, "channel_name": ref["name"], "user_id": user, "user_name": p.Name,
		"command": name, "text": text, "api_app_id": s.id.AppID, "is_enterprise_install": "false",
		"response_url": s.newHook(h), "trigger_id": s.newTrigger(user),
	}, &h, nil
}
