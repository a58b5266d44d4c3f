package slack

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// emit sends an event to the app if it subscribed to it. The name of a
// subscription is the event's type, for messages with the kind of channel.
func (s *Server) emit(subscription string, ev object) {
	if s.opts.Events != nil && !slices.Contains(s.opts.Events, subscription) {
		return
	}
	if ev["event_ts"] == nil {
		ev["event_ts"] = s.newTS()
	}
	id := newID("Ev")
	payload, err := json.Marshal(object{
		"type": "event_callback", "token": "practice", "team_id": s.id.TeamID, "context_team_id": s.id.TeamID,
		"context_enterprise_id": nil, "api_app_id": s.id.AppID, "event": ev, "event_id": id,
		"event_time": time.Now().Unix(), "is_ext_shared_channel": false,
		"authorizations": []object{{
			"enterprise_id": nil, "team_id": s.id.TeamID, "user_id": s.id.BotUserID, "is_bot": true, "is_enterprise_install": false,
		}},
	})
	if err != nil {
		s.log.Error("encoding an event", "err", err)
		return
	}
	s.enqueue(&delivery{ID: id, Kind: kindEvents, Payload: payload})
}

func messageSubscription(c *room) string {
	if c.IM != "" {
		return "message.im"
	}
	return "message.channels"
}

// post gives a message its timestamp and tells everybody about it.
func (s *Server) post(c *room, m *message) {
	m.Channel, m.TS = c.ID, s.newTS()
	s.insert(c, m)
	s.save(c, m)
	s.prune(c)
	if m.OnlyFor != "" || !c.has(s.id.BotUserID) {
		return
	}
	ev := s.messageJSON(m, true)
	ev["channel"], ev["channel_type"], ev["event_ts"] = c.ID, c.kind(), m.TS
	if m.Broadcast {
		if root := c.byTS[m.Thread]; root != nil {
			ev["root"] = s.messageJSON(root, false)
		}
	}
	s.emit(messageSubscription(c), ev)
	if s.mentionsBot(c, m) {
		s.emitMention(c, m)
	}
}

// mentionsBot says whether Slack would send app_mention: not in direct
// messages, and not for what the bot itself says.
func (s *Server) mentionsBot(c *room, m *message) bool {
	return c.IM == "" && m.User != s.id.BotUserID &&
		(strings.Contains(m.Text, "<@"+s.id.BotUserID+">") || strings.Contains(m.Text, "<@"+s.id.BotUserID+"|"))
}

func (s *Server) emitMention(c *room, m *message) {
	ev := s.messageJSON(m, false)
	delete(ev, "subtype")
	ev["type"], ev["channel"], ev["event_ts"] = "app_mention", c.ID, m.TS
	s.emit("app_mention", ev)
}

// change tells everybody that m is no longer as it was. A mention that an edit
// added is a mention.
func (s *Server) change(c *room, was, m *message) {
	m.Edits++
	s.save(c, m)
	if m.OnlyFor != "" || !c.has(s.id.BotUserID) {
		return
	}
	s.emit(messageSubscription(c), object{
		"type": "message", "subtype": "message_changed", "hidden": true, "channel": c.ID, "channel_type": c.kind(),
		"ts": s.newTS(), "message": s.messageJSON(m, true), "previous_message": s.messageJSON(was, true),
	})
	if s.mentionsBot(c, m) && !s.mentionsBot(c, was) {
		s.emitMention(c, m)
	}
}

// erase deletes a message. The first message of a thread leaves a tombstone.
func (s *Server) erase(c *room, m *message) {
	was := *m
	if m.Thread == "" && len(c.replies(m.TS)) > 0 {
		*m = message{Channel: m.Channel, TS: m.TS, User: "USLACKBOT", Subtype: "tombstone", Text: "This message was deleted."}
		s.save(c, m)
	} else {
		s.forget(c, m)
	}
	if was.OnlyFor == "" && c.has(s.id.BotUserID) {
		s.emit(messageSubscription(c), object{
			"type": "message", "subtype": "message_deleted", "hidden": true, "channel": c.ID, "channel_type": c.kind(),
			"ts": s.newTS(), "deleted_ts": was.TS, "previous_message": s.messageJSON(&was, true),
		})
	}
}

// save stores a message as it is now and shows it to pages and waiters.
func (s *Server) save(c *room, m *message) {
	s.journal.put("message", c.ID+"/"+m.TS, m)
	s.showMessage(c, m)
	if root := c.byTS[m.Thread]; root != nil {
		s.showMessage(c, root)
	}
	s.noteChange()
}

func (s *Server) forget(c *room, m *message) {
	c.drop(m.TS)
	s.journal.remove("message", c.ID+"/"+m.TS)
	s.show(pageEvent{Kind: "deleted", Channel: c.ID, TS: m.TS, Thread: m.Thread, only: m.OnlyFor})
	if root := c.byTS[m.Thread]; root != nil {
		s.showMessage(c, root)
	}
	s.noteChange()
}

func (s *Server) noteChange() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// prune lets the oldest messages go, replies with their thread's first.
func (s *Server) prune(c *room) {
	for len(c.messages) > maxMessages {
		oldest := c.messages[0]
		for _, m := range c.replies(oldest.TS) {
			s.forget(c, m)
		}
		s.forget(c, oldest)
	}
}

// replies are the messages of a thread without its first.
func (c *room) replies(ts string) []*message {
	var list []*message
	for _, m := range c.messages {
		if m.Thread == ts {
			list = append(list, m)
		}
	}
	return list
}

// messageJSON is a message as the Web API and events show it.
func (s *Server) messageJSON(m *message, withMetadata bool) object {
	o := object{"type": "message", "ts": m.TS, "text": m.Text, "user": m.User, "team": s.id.TeamID}
	set := func(key string, v any, when bool) {
		if when {
			o[key] = v
		}
	}
	set("subtype", m.Subtype, m.Subtype != "")
	set("thread_ts", m.Thread, m.Thread != "")
	set("client_msg_id", m.ClientMsgID, m.ClientMsgID != "")
	set("blocks", m.Blocks, m.Blocks != nil)
	set("attachments", m.Attachments, m.Attachments != nil)
	set("metadata", m.Metadata, withMetadata && m.Metadata != nil)
	set("username", m.Username, m.Username != "")
	set("edited", object{"user": m.EditedBy, "ts": m.EditedTS}, m.EditedTS != "")
	set("reactions", reactionsJSON(m), len(m.Reactions) > 0)
	if m.BotID != "" {
		o["bot_id"] = m.BotID
		set("app_id", s.id.AppID, m.BotID == s.id.BotID)
		set("bot_profile", s.botProfile(), m.BotID == s.id.BotID)
	}
	if m.User == "" {
		delete(o, "user")
	}
	if m.Stream != nil {
		o["streaming_state"] = m.Stream.State
	}
	if len(m.Files) > 0 {
		var list []object
		for _, id := range m.Files {
			list = append(list, s.fileJSON(id))
		}
		o["files"], o["upload"] = list, false
	}
	s.threadJSON(m, o)
	return o
}

// threadJSON adds what the first message of a thread says about it, and a
// reply about its parent.
func (s *Server) threadJSON(m *message, o object) {
	c := s.rooms[m.Channel]
	if c == nil {
		return
	}
	if m.Thread != "" {
		if root := c.byTS[m.Thread]; root != nil {
			o["parent_user_id"] = root.User
		}
		return
	}
	var users []string
	latest, count := "", 0
	for _, r := range c.replies(m.TS) {
		if r.OnlyFor != "" {
			continue
		}
		count++
		latest = r.TS
		if !slices.Contains(users, r.User) {
			users = append(users, r.User)
		}
	}
	if count > 0 {
		o["thread_ts"], o["reply_count"], o["reply_users"] = m.TS, count, users
		o["reply_users_count"], o["latest_reply"], o["is_locked"], o["subscribed"] = len(users), latest, false, true
	}
}

func reactionsJSON(m *message) []object {
	var list []object
	for _, r := range m.Reactions {
		list = append(list, object{"name": r.Name, "users": r.Users, "count": len(r.Users)})
	}
	return list
}

func (s *Server) botProfile() object {
	return object{
		"id": s.id.BotID, "app_id": s.id.AppID, "user_id": s.id.BotUserID, "name": s.opts.AppName,
		"team_id": s.id.TeamID, "deleted": false, "updated": 1, "icons": object{},
	}
}
