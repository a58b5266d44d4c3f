package bot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"openinspect/sessions"
)

// dispatch handles one envelope and returns what its acknowledgement carries. An
// error means that nothing was committed and Slack shall send it again.
func (b *Bot) dispatch(ctx context.Context, in inbound) (payload any, err error) {
	switch {
	case in.press != nil:
		return b.onPress(ctx, in.press)
	case in.event == nil:
		return nil, nil
	}
	e := in.event
	switch e.Type {
	case "app_mention", "message":
		return nil, b.onMessageEvent(ctx, e)
	case "app_home_opened":
		return nil, b.onHomeOpened(ctx, e)
	case "member_joined_channel":
		return nil, b.onJoined(ctx, e)
	case "agent_session_stopped":
		return nil, b.onSessionStopped(ctx, e)
	case "app_uninstalled", "tokens_revoked":
		b.log.Error("the app was removed from the workspace", "event", e.Type)
	}
	return nil, nil
}

// onMessageEvent sorts message events by subtype. Those that are not named here
// (joins, topics, …) are nobody's request.
func (b *Bot) onMessageEvent(ctx context.Context, e *event) error {
	switch e.Subtype {
	case "", "file_share", "thread_broadcast", "me_message", "bot_message":
		return b.onMessage(ctx, e)
	case "message_changed":
		return b.onChanged(ctx, e)
	case "message_deleted":
		return b.onDeleted(ctx, e)
	}
	return nil
}

// said is a message that is being dispatched.
type said struct {
	*event
	key     string // I1
	thread  sessions.Thread
	session *sessions.ThreadSession // if the thread has one
	text    string                  // without the mentions that address the bot; still in Slack's form
	mention bool                    // the bot is addressed by name, or alone
}

// onMessage decides whether a message is for the bot. app_mention and message
// events of one message have the same key, so whichever comes first counts.
func (b *Bot) onMessage(ctx context.Context, e *event) error {
	if e.User.ID == b.self.user || e.BotID != "" && e.BotID == b.self.bot {
		return nil
	}
	m := said{
		event:   e,
		key:     messageKey(b.self.team, e.Channel, e.TS),
		thread:  b.thread(e.Channel, e.root()),
		text:    withoutMention(e.Text, b.self.user),
		mention: mentions(e.Text, b.self.user) || e.direct(),
	}
	if e.BotID != "" || e.Subtype == "bot_message" || e.User.ID == "" {
		return b.refuseBot(ctx, m)
	}
	if !m.mention && e.ThreadTS == "" {
		return nil
	}
	session, err := b.engine.SessionOfThread(ctx, m.thread)
	switch {
	case err == nil:
		m.session = &session
	case !errors.Is(err, sessions.ErrNotFound):
		return err
	case !m.mention:
		return nil
	}
	if !m.mention && (addressesOthers(e.Text) || m.precedes()) {
		return nil // people talk, or talked, to each other
	}
	return b.onSaid(ctx, m)
}

// messageKey is the dedupe key of a message, the same in every event about it.
func messageKey(team, channel, ts string) string {
	return fmt.Sprintf("slack:%s:%s:%s", team, channel, ts)
}

// refuseBot answers an app that mentions the bot, once per thread, so that two
// apps can never talk to each other without end.
func (b *Bot) refuseBot(ctx context.Context, m said) error {
	if !m.mention {
		return nil
	}
	key := fmt.Sprintf("slack-bots:%s:%s:%s", m.thread.Team, m.thread.Channel, m.thread.TS)
	return b.tell(ctx, key, m.thread, "", onlyPeople)
}

// onSaid handles a message that is for the bot.
func (b *Bot) onSaid(ctx context.Context, m said) error {
	f, err := b.people.profile(ctx, m.User.ID)
	if err != nil {
		return fmt.Errorf("asking who %s is: %w", m.User.ID, err)
	}
	if why := b.admission(m.event, f); why != "" {
		key := fmt.Sprintf("slack-outsider:%s:%s:%s", m.thread.Channel, m.thread.TS, m.User.ID)
		return b.tell(ctx, key, m.thread, "", why)
	}
	author, err := b.person(ctx, m.User.ID, f)
	if err != nil {
		return err
	}
	switch {
	case isStop(m.text):
		return b.stopThread(ctx, m.key, m.session, m.thread, m.TS, author)
	case m.text == "" && len(m.Files) == 0:
		return b.tell(ctx, m.key+":empty", m.thread, "",
			"What shall I do? Say it in the same message, for example: @"+b.self.name+" fix the failing test in acme/greeter")
	}
	return b.request(ctx, m, author)
}

// repositoryName is what a reply consists of that only answers which repository
// is meant.
var repositoryName = regexp.MustCompile(`^[\w.-]+/[\w.-]+$`)

// request has a message accepted as a prompt; a refusal is told in the thread.
func (b *Bot) request(ctx context.Context, m said, author sessions.Person) error {
	text := b.words(ctx, m.Text)
	if m.session != nil && m.session.Repository == "" && repositoryName.MatchString(text) && len(m.Files) == 0 {
		err := b.engine.ChooseRepository(ctx, m.key, m.session.ID, text, author.ID)
		return b.orTell(ctx, err, m.key, m.thread, "")
	}
	b.expect(ctx, m, text)
	attachments, remarks := b.attachments(ctx, m.Files)
	text = joinParagraphs(text, remarks)
	if m.session == nil && m.ThreadTS != "" {
		text = joinParagraphs(text, b.earlier(ctx, m))
	}
	accepted, err := b.engine.Accept(ctx, sessions.Request{
		Key: m.key, Source: sessions.FromSlack, Author: author.ID, Text: text,
		Attachments: attachments, Thread: &m.thread, MessageTS: m.TS,
	})
	if err == nil && m.mention && (accepted.New || accepted.Duplicate) && m.late() {
		err = b.overtaken(ctx, m)
	}
	return b.orTell(ctx, err, m.key, m.thread, "")
}

// expect has made ready what the request will need, while Slack is asked for
// files and for what was said earlier. Without such questions the request itself
// is there at once.
func (b *Bot) expect(ctx context.Context, m said, text string) {
	i := sessions.Interest{Text: text, Team: m.thread.Team, Channel: m.thread.Channel}
	switch {
	case m.session != nil && len(m.Files) > 0:
		i = sessions.Interest{Session: m.session.ID}
	case m.session != nil || len(m.Files) == 0 && m.ThreadTS == "":
		return
	}
	if err := b.engine.Interest(ctx, i); err != nil {
		b.log.Warn("nothing could be prepared for a request", "key", m.key, "err", err)
	}
}

// stopThread stops what ran in a thread when somebody said so at ts.
func (b *Bot) stopThread(ctx context.Context, key string, session *sessions.ThreadSession, t sessions.Thread, ts string, by sessions.Person) error {
	if session == nil {
		return b.tell(ctx, key+":stop", t, "", "There is nothing to stop: no session belongs to this thread.")
	}
	stopped, err := b.engine.StopSaid(ctx, key, session.ID, ts, by.ID)
	if err != nil {
		return b.orTell(ctx, err, key, t, "")
	}
	if stopped == "" {
		return b.tell(ctx, key+":stop", t, by.SlackUser, "Nothing is running in this thread.")
	}
	return nil
}

// onChanged passes on the edit of a queued prompt's message. Slack also sends
// message_changed when it adds a preview: then the text is the same.
func (b *Bot) onChanged(ctx context.Context, e *event) error {
	m, before := e.Message, e.Previous
	if m == nil || m.User.ID == "" || m.BotID != "" || before != nil && before.Text == m.Text {
		return nil
	}
	t := b.thread(e.Channel, m.root())
	prompt, err := b.promptOf(ctx, t, m.TS)
	if prompt == nil {
		return err
	}
	edited := firstOf(e.EventTS, e.TS)
	if m.Edited != nil {
		edited = m.Edited.TS
	}
	text := b.words(ctx, m.Text)
	if before != nil { // what came with the words stays: what was said earlier, remarks on files
		if rest, ok := strings.CutPrefix(prompt.Text, b.words(ctx, before.Text)); ok {
			text += rest
		}
	}
	key := messageKey(t.Team, t.Channel, m.TS) + ":edit:" + edited
	if prompt.State == sessions.Queued {
		changed, err := b.engine.Edit(ctx, key, t, m.TS, text)
		if err != nil || changed {
			return b.orTell(ctx, err, key, t, "")
		}
	}
	return b.tooLate(ctx, key, t, prompt.ID, m.User.ID, "It is being worked on already, so the edit does not reach it. Reply here to add to it.")
}

// words is what a message says to the agent.
func (b *Bot) words(ctx context.Context, text string) string {
	raw := withoutMention(text, b.self.user)
	return decodeText(raw, b.people.names(ctx, raw))
}

// onDeleted withdraws a queued prompt whose message was deleted.
func (b *Bot) onDeleted(ctx context.Context, e *event) error {
	m := e.Previous
	if m == nil || m.BotID != "" || m.User.ID == "" {
		return nil
	}
	ts := firstOf(e.DeletedTS, m.TS)
	t := b.thread(e.Channel, firstOf(m.ThreadTS, ts))
	prompt, err := b.promptOf(ctx, t, ts)
	if prompt == nil {
		return err
	}
	key := messageKey(t.Team, t.Channel, ts) + ":delete"
	if prompt.State == sessions.Queued {
		withdrawn, err := b.engine.Withdraw(ctx, key, t, ts)
		if err != nil || withdrawn {
			return b.orTell(ctx, err, key, t, "")
		}
	}
	return b.tooLate(ctx, key, t, prompt.ID, m.User.ID, "It is being worked on already. Reply “stop” to end it.")
}

// promptOf is the prompt that a message became, or nil: most messages that
// people edit or delete are none of our business.
func (b *Bot) promptOf(ctx context.Context, t sessions.Thread, ts string) (*sessions.Prompt, error) {
	session, err := b.engine.SessionOfThread(ctx, t)
	if errors.Is(err, sessions.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	prompts, err := b.engine.Prompts(ctx, session.ID)
	if err != nil {
		return nil, err
	}
	for i := range prompts {
		if prompts[i].MessageTS == ts {
			return &prompts[i], nil
		}
	}
	return nil, nil
}

// tooLate tells the author alone that a change of their message came while its
// prompt was running.
func (b *Bot) tooLate(ctx context.Context, key string, t sessions.Thread, prompt, user, text string) error {
	p, err := b.engine.Prompt(ctx, prompt)
	if err != nil || p.State != sessions.Running {
		return err
	}
	return b.tell(ctx, key, t, user, text)
}

// onSessionStopped is the Stop of Slack's own "is working…" row.
func (b *Bot) onSessionStopped(ctx context.Context, e *event) error {
	t := b.thread(e.Channel, e.ThreadTS)
	session, err := b.engine.SessionOfThread(ctx, t)
	if errors.Is(err, sessions.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	by, refusal, err := b.presser(ctx, e.User.ID, "")
	if err != nil {
		return err
	}
	key := fmt.Sprintf("slack-session-stop:%s:%s:%s", t.Channel, t.TS, e.EventTS)
	if refusal != "" {
		return b.tell(ctx, key, t, e.User.ID, refusal)
	}
	return b.stopThread(ctx, key, &session, t, e.EventTS, by)
}

// tell records a notice; user makes it visible to that person alone.
func (b *Bot) tell(ctx context.Context, key string, t sessions.Thread, user, text string) error {
	if err := b.engine.Tell(ctx, sessions.Notice{Key: key, Thread: t, User: user, Text: text}); err != nil {
		return fmt.Errorf("recording a notice: %w", err)
	}
	return nil
}

// orTell turns an error that is for people into a notice.
func (b *Bot) orTell(ctx context.Context, err error, key string, t sessions.Thread, user string) error {
	var problem *sessions.Problem
	if !errors.As(err, &problem) {
		return err
	}
	b.log.Info("refused", "code", problem.Code, "key", key, "err", problem.Err)
	return b.tell(ctx, key+":refused", t, user, problem.Text)
}

func joinParagraphs(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "\n\n" + b
}
