package slack

import (
	"encoding/json"
	"slices"
	"time"
	"unicode/utf8"
)

var sessionStates = []string{"active", "processing", "suspended", "closed"}

// statusLife is how long a text of assistant.threads.setStatus stays.
const statusLife = 2 * time.Minute

// agentSession is what people see of an agent's work in a thread: the row
// "is working…" with its Stop button, and the thread's title.
type agentSession struct {
	Channel   string    `json:"channel"`
	Thread    string    `json:"thread_ts"`
	Status    string    `json:"status"`
	Title     string    `json:"title"`
	Initiator string    `json:"initiator"`
	Since     time.Time `json:"since"` // of the status
	// Text is the wording of assistant.threads.setStatus; empty for the usual.
	Text    string          `json:"text"`
	TextAt  time.Time       `json:"text_at"`
	Prompts json.RawMessage `json:"prompts,omitempty"` // suggested
}

func sessionKey(channel, thread string) string { return channel + "/" + thread }

// setSession sets what is not empty and shows it.
func (s *Server) setSession(in *room, thread, status, title, initiator string) *agentSession {
	key := sessionKey(in.ID, thread)
	a := s.sessions[key]
	if a == nil {
		a = &agentSession{Channel: in.ID, Thread: thread, Initiator: initiator, Status: "active", Title: title}
		s.sessions[key] = a
	}
	if status != "" {
		a.Status, a.Since = status, time.Now()
	}
	s.saveSession(a)
	return a
}

func (s *Server) saveSession(a *agentSession) {
	key := sessionKey(a.Channel, a.Thread)
	if a.Status == "closed" && a.Title == "" {
		delete(s.sessions, key)
		s.journal.remove("session", key)
	} else {
		s.journal.put("session", key, a)
	}
	copied := *a
	s.show(pageEvent{Kind: "session", Channel: a.Channel, Thread: a.Thread, Session: &copied})
	s.noteChange()
}

// sessionPlace finds the thread that a call of agents.* is about.
func (s *Server) sessionPlace(c *call) (*room, string, error) {
	in, err := s.place(c, "channel_id")
	if err != nil {
		return nil, "", err
	}
	root := in.byTS[c.args["thread_ts"]]
	if root == nil {
		return nil, "", fail("thread_not_found")
	}
	return in, root.root(), nil
}

func (s *Server) agentsSetStatus(c *call) (object, error) {
	in, thread, err := s.sessionPlace(c)
	if err != nil {
		return nil, err
	}
	status, title, initiator := c.args["status"], c.args["title"], c.args["initiator_user_id"]
	switch {
	case !slices.Contains(sessionStates, status):
		return nil, failWith("invalid_arguments", "[ERROR] unsupported status")
	case utf8.RuneCountInString(title) > 200:
		return nil, failWith("invalid_arguments", "[ERROR] title is longer than 200 characters")
	case initiator != "" && !in.has(initiator):
		return nil, fail("user_not_found")
	}
	if initiator == "" {
		initiator = in.byTS[thread].User
	}
	a := s.setSession(in, thread, status, title, initiator)
	res := object{"status": a.Status, "agent_status": a.Status, "title": a.Title}
	if status == "processing" && s.opts.Events != nil && !slices.Contains(s.opts.Events, "agent_session_stopped") {
		const warning = "missing_agent_session_stopped_event_subscription"
		res["warning"], res["response_metadata"] = warning, object{"warnings": []string{warning}}
	}
	return res, nil
}

func (s *Server) agentsRename(c *call) (object, error) {
	in, thread, err := s.sessionPlace(c)
	if err != nil {
		return nil, err
	}
	if n := utf8.RuneCountInString(c.args["title"]); n > 200 {
		return nil, failWith("invalid_arguments", "[ERROR] title is longer than 200 characters")
	}
	if s.sessions[sessionKey(in.ID, thread)] == nil {
		return nil, fail("not_authorized")
	}
	s.rename(in, thread, c.args["title"], c.user)
	return object{"title": c.args["title"]}, nil
}

// rename sets a thread's title; the app hears of it if a person did.
func (s *Server) rename(in *room, thread, title, by string) {
	a := s.sessions[sessionKey(in.ID, thread)]
	was := a.Title
	a.Title = title
	s.saveSession(a)
	if by != s.id.BotUserID {
		s.emit("agent_session_title_changed", object{
			"type": "agent_session_title_changed", "channel": in.ID, "thread_ts": thread, "user": by,
			"team_id": s.id.TeamID, "title": title, "previous_title": was,
		})
	}
}

// assistantSetStatus is the older method: custom words, cleared by "".
func (s *Server) assistantSetStatus(c *call) (object, error) {
	in, thread, err := s.sessionPlace(c)
	if err != nil {
		return nil, err
	}
	status := "processing"
	if c.args["status"] == "" {
		status = "active"
	}
	a := s.setSession(in, thread, status, "", in.byTS[thread].User)
	a.Text, a.TextAt = c.args["status"], time.Now()
	s.saveSession(a)
	return object{}, nil
}

func (s *Server) assistantSetTitle(c *call) (object, error) {
	in, thread, err := s.sessionPlace(c)
	if err != nil {
		return nil, err
	}
	s.setSession(in, thread, "", "", in.byTS[thread].User)
	s.rename(in, thread, c.args["title"], c.user)
	return object{}, nil
}

func (s *Server) assistantSetPrompts(c *call) (object, error) {
	var prompts []struct{ Title, Message string }
	if json.Unmarshal([]byte(c.args["prompts"]), &prompts) != nil || len(prompts) > 4 {
		return nil, failWith("invalid_arguments", "[ERROR] prompts must be at most 4 of {title, message}")
	}
	in, err := s.place(c, "channel_id")
	if err != nil {
		return nil, err
	}
	thread := c.args["thread_ts"] // absent: for the whole conversation
	if thread != "" && in.byTS[thread] == nil {
		return nil, fail("message_not_found")
	}
	a := s.setSession(in, thread, "", "", "")
	a.Prompts = json.RawMessage(c.args["prompts"])
	s.saveSession(a)
	return object{}, nil
}

// stop is a person pressing Stop: Slack ends the thread's streams and tells
// the app, whose job the rest is.
func (s *Server) stop(in *room, thread, user string) {
	ended := s.endStreams(in, func(m *message) bool { return m.root() == thread }, true)
	if ended == nil {
		ended = []string{}
	}
	s.emit("agent_session_stopped", object{
		"type": "agent_session_stopped", "channel": in.ID, "user": user, "thread_ts": thread, "streaming_message_ts": ended,
	})
}

func (s *Server) expireSessions(now time.Time) {
	for _, a := range s.sessions {
		if a.Status != "processing" {
			continue
		}
		life, since := s.opts.SessionLife, a.Since
		if a.Text != "" {
			life, since = min(life, statusLife), a.TextAt
		}
		if now.Sub(since) > life {
			a.Status, a.Text, a.Since = "active", "", now
			s.saveSession(a)
		}
	}
}
