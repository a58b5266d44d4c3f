package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// A Message is a message as a test sees it.
type Message struct {
	Channel, TS, ThreadTS string // ThreadTS is empty at the top level
	User                  string
	BotID                 string
	Subtype               string
	Text                  string
	Blocks                json.RawMessage // JSON array, nil without blocks
	Metadata              json.RawMessage // {"event_type", "event_payload"}
	Edits                 int             // changes since it was posted, marked or not
	Edited                bool            // marked as edited
	OnlyFor               string          // the person who sees an ephemeral message
	Streaming             string          // in_progress, completed, errored; empty if not streamed
	Files                 []string        // ids
	Reactions             map[string][]string
}

func exportMessage(m *message) Message {
	out := Message{
		Channel: m.Channel, TS: m.TS, ThreadTS: m.Thread, User: m.User, BotID: m.BotID, Subtype: m.Subtype, Text: m.Text,
		Blocks: slices.Clone(m.Blocks), Metadata: slices.Clone(m.Metadata), Edits: m.Edits, Edited: m.EditedTS != "",
		OnlyFor: m.OnlyFor, Files: slices.Clone(m.Files), Reactions: map[string][]string{},
	}
	if m.Stream != nil {
		out.Streaming = m.Stream.State
	}
	for _, r := range m.Reactions {
		out.Reactions[r.Name] = slices.Clone(r.Users)
	}
	return out
}

// as runs a method of the Web API as somebody, past limits and faults: people
// have no rate limit and their client does not fail.
func (s *Server) as(user, method string, a args) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &call{method: method, args: a, user: user, bot: user == s.id.BotUserID}
	if s.person(user) == nil && !c.bot {
		return nil, fmt.Errorf("nobody is %q", user)
	}
	if s.standing(user) == Deactivated {
		return nil, fail("account_inactive")
	}
	res, err := methods[method].run(s, c)
	return res, errors.Join(err, s.journal.err)
}

// SetStanding makes a person a guest, ends their account or makes them a full
// member again, as an admin of the workspace does.
func (s *Server) SetStanding(userID string, to Standing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.person(userID) == nil {
		return fmt.Errorf("nobody is %q", userID)
	}
	s.standings[userID] = &to
	s.journal.put("standing", userID, to)
	return s.journal.err
}

// PostAs posts as a person; threadTS may be empty. In text, mentions are in
// Slack's form (<@U…>). It returns the message's timestamp.
func (s *Server) PostAs(userID, channel, threadTS, text string) (string, error) {
	res, err := s.as(userID, "chat.postMessage", args{"channel": channel, "thread_ts": threadTS, "text": text})
	if err != nil {
		return "", fmt.Errorf("posting as %s: %w", userID, err)
	}
	return str(res, "ts"), nil
}

// PostAsOtherBot posts as the bot of another app, with a message of the
// subtype bot_message, and returns its timestamp.
func (s *Server) PostAsOtherBot(name, channel, threadTS, text string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.rooms[channel]
	if in == nil {
		return "", fail("channel_not_found")
	}
	m := &message{BotID: "B0OTHER0001", Username: name, Subtype: "bot_message", Text: text}
	if err := s.inThread(in, m, threadTS); err != nil {
		return "", err
	}
	s.post(in, m)
	return m.TS, nil
}

// EditAs changes a person's own message.
func (s *Server) EditAs(userID, channel, ts, text string) error {
	_, err := s.as(userID, "chat.update", args{"channel": channel, "ts": ts, "text": text})
	return err
}

// DeleteAs deletes a person's own message.
func (s *Server) DeleteAs(userID, channel, ts string) error {
	_, err := s.as(userID, "chat.delete", args{"channel": channel, "ts": ts})
	return err
}

// ReactAs adds a person's reaction; name has no colons.
func (s *Server) ReactAs(userID, channel, ts, name string) error {
	_, err := s.as(userID, "reactions.add", args{"channel": channel, "timestamp": ts, "name": name})
	return err
}

// CreateChannelAs creates a channel of everybody but the bot and returns its
// id; InviteAs lets somebody in.
func (s *Server) CreateChannelAs(userID, name string) (string, error) {
	res, err := s.as(userID, "conversations.create", args{"name": name})
	if err != nil {
		return "", err
	}
	return str(res["channel"].(object), "id"), nil
}

// InviteAs brings a user, the bot for example, into a channel.
func (s *Server) InviteAs(userID, channel, invited string) error {
	_, err := s.as(userID, "conversations.invite", args{"channel": channel, "users": invited})
	return err
}

// ClickAs clicks an element of a message as a person, and waits until the app
// acknowledged it; ErrNoResponse if it did not. For a button, value may be
// empty or that of the one meant among several of the same action; for a
// select or an overflow menu it is the option's.
func (s *Server) ClickAs(userID, channel, ts, actionID, value string) error {
	return s.clickMessage(userID, channel, ts, Choice{ActionID: actionID, Value: value}, nil)
}

// ClickViewAs clicks an element of a modal or of App Home.
func (s *Server) ClickViewAs(userID, viewID string, ch Choice) error {
	return s.clickView(userID, viewID, ch, nil)
}

// SubmitAs submits a modal. What people have to correct comes back by block.
func (s *Server) SubmitAs(userID, viewID string, filled ...Choice) (map[string]string, error) {
	return s.submit(userID, viewID, filled)
}

// CloseAs closes a modal.
func (s *Server) CloseAs(userID, viewID string) error { return s.closeView(userID, viewID, false) }

// CommandAs invokes a slash command of Options.Commands.
func (s *Server) CommandAs(userID, channel, name, text string) error {
	return s.command(userID, channel, name, text)
}

// ShortcutAs invokes a shortcut by its callback id: a message's if ts is given,
// else a global one.
func (s *Server) ShortcutAs(userID, callbackID, channel, ts string) error {
	return s.shortcut(userID, callbackID, channel, ts)
}

// SuggestAs types value into an external select of a modal and returns the
// app's answer ({"options": …}).
func (s *Server) SuggestAs(userID, viewID string, ch Choice) (json.RawMessage, error) {
	return s.suggest(userID, suggestion{ViewID: viewID, Choice: ch})
}

// StopAs presses Stop in the row "is working…" of a thread.
func (s *Server) StopAs(userID, channel, threadTS string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, _, err := s.visible(userID, channel, threadTS)
	if err == nil {
		s.stop(in, threadTS, userID)
	}
	return err
}

// OpenHomeAs opens the app's "home" or "messages" tab.
func (s *Server) OpenHomeAs(userID, tab string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.person(userID) == nil {
		return fmt.Errorf("nobody is %q", userID)
	}
	s.openHome(userID, tab)
	return nil
}

// A View is a modal or App Home as a test sees it. JSON is Slack's.
type View struct {
	ID, CallbackID string
	JSON           json.RawMessage
}

// Views are a person's open modals, the topmost last.
func (s *Server) Views(userID string) []View {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []View
	for _, v := range s.stack(userID) {
		list = append(list, s.exportView(v))
	}
	return list
}

// Home is a person's App Home; false if the app has published none.
func (s *Server) Home(userID string) (View, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.homes[userID]
	if v == nil {
		return View{}, false
	}
	return s.exportView(v), true
}

func (s *Server) exportView(v *view) View {
	raw, err := json.Marshal(s.viewJSON(v))
	if err != nil {
		s.log.Error("encoding a view", "err", err)
	}
	return View{v.ID, str(v.Spec, "callback_id"), raw}
}

// SessionStatus is the agent's status in a thread ("processing", "active", …)
// and the thread's title; both empty if the app has set none.
func (s *Server) SessionStatus(channel, threadTS string) (status, title string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.sessions[sessionKey(channel, threadTS)]; a != nil {
		return a.Status, a.Title
	}
	return "", ""
}

// Messages are a thread's messages, the first one included, or the channel's
// top level if threadTS is empty, oldest first. Ephemeral ones are left out.
func (s *Server) Messages(channel, threadTS string) []Message {
	return s.collect(channel, func(m *message) bool { return m.OnlyFor == "" && inScope(m, threadTS) })
}

// Ephemerals are what only that person sees in a channel and its threads.
func (s *Server) Ephemerals(userID, channel string) []Message {
	return s.collect(channel, func(m *message) bool { return m.OnlyFor == userID })
}

func inScope(m *message, thread string) bool {
	if thread == "" {
		return m.Thread == ""
	}
	return m.root() == thread
}

func (s *Server) collect(channel string, keep func(*message) bool) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Message
	if in := s.rooms[channel]; in != nil {
		for _, m := range in.messages {
			if keep(m) {
				list = append(list, exportMessage(m))
			}
		}
	}
	return list
}

// WaitMessage waits for a message of Messages(channel, threadTS) that ok
// accepts, one that is there already included, and returns it.
func (s *Server) WaitMessage(ctx context.Context, channel, threadTS string, ok func(Message) bool) (Message, error) {
	return s.wait(ctx, func() []Message { return s.Messages(channel, threadTS) }, ok)
}

// WaitEphemeral waits for a message of Ephemerals that ok accepts.
func (s *Server) WaitEphemeral(ctx context.Context, userID, channel string, ok func(Message) bool) (Message, error) {
	return s.wait(ctx, func() []Message { return s.Ephemerals(userID, channel) }, ok)
}

func (s *Server) wait(ctx context.Context, list func() []Message, ok func(Message) bool) (Message, error) {
	for {
		changed := s.Changed()
		for _, m := range list() {
			if ok(m) {
				return m, nil
			}
		}
		select {
		case <-ctx.Done():
			return Message{}, fmt.Errorf("waiting for a message: %w", context.Cause(ctx))
		case <-changed:
		}
	}
}

// Changed is closed at the next change of any message, session or view, for
// tests that wait for a condition of their own.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
