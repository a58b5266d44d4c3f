package slack

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	slackgo "github.com/slack-go/slack"
	"github.com/slack-go/slack/slackevents"
	"github.com/slack-go/slack/socketmode"
)

func TestMentionIsTwoEventsAndTheAnswerIsInTheThread(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	alice, general := b.seed.Users[0], b.seed.Channels[0].ID

	ts, err := b.PostAs(alice.ID, general, "", "<@"+b.seed.BotUserID+"> fix the test")
	if err != nil {
		t.Fatal(err)
	}
	mention := innerAs[*slackevents.AppMentionEvent](t, a.wait(t, 1, ofType("app_mention"))[0])
	message := innerAs[*slackevents.MessageEvent](t, a.wait(t, 1, ofType("message"))[0])
	if mention.TimeStamp != ts || message.TimeStamp != ts || mention.User != alice.ID || message.ChannelType != "channel" {
		t.Errorf("mention %+v, message %+v; want both of %s by %s", mention, message, ts, alice.ID)
	}

	_, reply, err := b.client().PostMessage(general, slackgo.MsgOptionText("on it", false), slackgo.MsgOptionTS(ts),
		slackgo.MsgOptionMetadata(slackgo.SlackMetadata{EventType: "card", EventPayload: map[string]any{"key": "k1"}}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.WaitMessage(within(t), general, ts, func(m Message) bool { return m.TS == reply && m.Text == "on it" }); err != nil {
		t.Error(err)
	}
	own := innerAs[*slackevents.MessageEvent](t, a.wait(t, 2, ofType("message"))[1])
	if own.BotID != b.seed.BotID || own.ThreadTimeStamp != ts {
		t.Errorf("the bot's own message came as %+v", own)
	}
	list, _, _, err := b.client().GetConversationReplies(&slackgo.GetConversationRepliesParameters{
		ChannelID: general, Timestamp: ts, IncludeAllMetadata: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].ReplyCount != 1 || list[1].Metadata.EventPayload["key"] != "k1" {
		t.Errorf("replies = %+v", list)
	}
}

func TestEditsAndDeletesAreEvents(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	alice, general := b.seed.Users[0].ID, b.seed.Channels[0].ID
	ts, err := b.PostAs(alice, general, "", "hello")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.EditAs(alice, general, ts, "hello <@"+b.seed.BotUserID+">"); err != nil {
		t.Fatal(err)
	}
	a.wait(t, 1, ofType("app_mention")) // an edit that adds the mention
	if err := b.DeleteAs(alice, general, ts); err != nil {
		t.Fatal(err)
	}
	events := a.wait(t, 3, ofType("message"))
	changed, deleted := innerAs[*slackevents.MessageEvent](t, events[1]), innerAs[*slackevents.MessageEvent](t, events[2])
	if changed.SubType != "message_changed" || changed.Message.Edited == nil || changed.PreviousMessage.Text != "hello" {
		t.Errorf("edit came as %+v", changed)
	}
	if deleted.SubType != "message_deleted" || deleted.DeletedTimeStamp != ts {
		t.Errorf("delete came as %+v", deleted)
	}
	if list := b.Messages(general, ""); len(list) != 0 {
		t.Errorf("messages after the delete: %+v", list)
	}
}

func TestButtonOpensModalWhoseSubmissionIsChecked(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	api := b.client()
	answers := make(chan map[string]any, 2)
	answers <- map[string]any{"response_action": "errors", "errors": map[string]string{"why": "Say more."}}
	answers <- map[string]any{"response_action": "clear"}
	a := connect(t, b, func(c *socketmode.Client, e socketmode.Event) {
		cb, ok := e.Data.(slackgo.InteractionCallback)
		switch {
		case ok && cb.Type == slackgo.InteractionTypeBlockActions:
			if _, err := api.OpenView(cb.TriggerID, feedbackModal()); err != nil {
				t.Errorf("opening the modal: %v", err)
			}
			if _, err := api.OpenView(cb.TriggerID, feedbackModal()); err == nil || err.Error() != "exchanged_trigger_id" {
				t.Errorf("second use of the trigger: %v, want exchanged_trigger_id", err)
			}
		case ok && cb.Type == slackgo.InteractionTypeViewSubmission:
			c.Ack(*e.Request, <-answers)
			return
		}
		ackAll(c, e)
	})
	general, bob := b.seed.Channels[0].ID, b.seed.Users[1].ID
	_, ts, err := api.PostMessage(general, slackgo.MsgOptionBlocks(slackgo.NewActionBlock("row",
		slackgo.NewButtonBlockElement("more", "v1", slackgo.NewTextBlockObject("plain_text", "Tell more", false, false)))))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ClickAs(bob, general, ts, "more", ""); err != nil {
		t.Fatal(err)
	}
	click := a.wait(t, 1, ofType("block_actions"))[0].Data.(slackgo.InteractionCallback)
	if click.User.ID != bob || click.ActionCallback.BlockActions[0].Value != "v1" || click.Message.Timestamp != ts {
		t.Errorf("click came as %+v", click)
	}
	views := b.Views(bob)
	if len(views) != 1 || views[0].CallbackID != "feedback" {
		t.Fatalf("modals = %+v", views)
	}
	for _, step := range []struct{ text, want string }{
		{"", "Please complete this required field."}, {"meh", "Say more."}, {"It was slow.", ""},
	} {
		wrong, err := b.SubmitAs(bob, views[0].ID, Choice{ActionID: "text", Value: step.text})
		if err != nil || wrong["why"] != step.want {
			t.Errorf("submitting %q: %v, %v; want %q", step.text, wrong, err, step.want)
		}
	}
	if left := b.Views(bob); len(left) != 0 {
		t.Errorf("modals after clear: %+v", left)
	}
	sent := a.wait(t, 2, ofType("view_submission"))[1].Data.(slackgo.InteractionCallback)
	if got := sent.View.State.Values["why"]["text"].Value; got != "It was slow." {
		t.Errorf("submitted %q", got)
	}
}

func feedbackModal() slackgo.ModalViewRequest {
	plain := func(s string) *slackgo.TextBlockObject {
		return slackgo.NewTextBlockObject("plain_text", s, false, false)
	}
	return slackgo.ModalViewRequest{
		Type: "modal", CallbackID: "feedback", Title: plain("Feedback"), Submit: plain("Send"),
		Blocks: slackgo.Blocks{BlockSet: []slackgo.Block{
			slackgo.NewInputBlock("why", plain("Why?"), nil, slackgo.NewPlainTextInputBlockElement(nil, "text")),
		}},
	}
}

func TestCommandShortcutAndSuggestionAreAnswered(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{
		Commands:  []Command{{Name: "/inspect", Description: "Sessions"}},
		Shortcuts: []Shortcut{{"Ask", "ask", "message"}},
	})
	a := connect(t, b, func(c *socketmode.Client, e socketmode.Event) {
		if e.Type == socketmode.EventTypeSlashCommand {
			c.Ack(*e.Request, map[string]any{"text": "nothing runs"})
			return
		}
		ackAll(c, e)
	})
	general, carol := b.seed.Channels[0].ID, b.seed.Users[2].ID
	if err := b.CommandAs(carol, general, "/inspect", "list"); err != nil {
		t.Fatal(err)
	}
	only, err := b.WaitEphemeral(within(t), carol, general, func(m Message) bool { return m.Text == "nothing runs" })
	if err != nil || only.OnlyFor != carol {
		t.Errorf("answer = %+v, %v", only, err)
	}
	if err := b.CommandAs(carol, general, "/other", ""); err == nil {
		t.Error("an unregistered command was accepted")
	}
	ts, err := b.PostAs(carol, general, "", "look at this")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ShortcutAs(carol, "ask", general, ts); err != nil {
		t.Fatal(err)
	}
	got := a.wait(t, 1, ofType("message_action"))[0].Data.(slackgo.InteractionCallback)
	if got.CallbackID != "ask" || got.Message.Text != "look at this" {
		t.Errorf("shortcut came as %+v", got)
	}
}

func TestResponseURLWorksFiveTimes(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	general, bob := b.seed.Channels[0].ID, b.seed.Users[1].ID
	_, ts, err := b.client().PostMessage(general, slackgo.MsgOptionBlocks(slackgo.NewActionBlock("",
		slackgo.NewButtonBlockElement("go", "", slackgo.NewTextBlockObject("plain_text", "Go", false, false)))))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ClickAs(bob, general, ts, "go", ""); err != nil {
		t.Fatal(err)
	}
	where := a.wait(t, 1, ofType("block_actions"))[0].Data.(slackgo.InteractionCallback).ResponseURL
	for i := range 6 {
		err := slackgo.PostWebhook(where, &slackgo.WebhookMessage{Text: "done", ReplaceOriginal: true})
		if (err == nil) != (i < 5) {
			t.Errorf("use %d: %v", i+1, err)
		}
	}
	if list := b.Messages(general, ""); len(list) != 1 || list[0].Text != "done" || list[0].Blocks != nil {
		t.Errorf("the original is %+v", list)
	}
}

func TestRefusalsHaveSlacksCodes(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{RateScale: -1})
	general, alice := b.seed.Channels[0].ID, b.seed.Users[0]
	theirs, err := b.PostAs(alice.ID, general, "", "mine")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := b.CreateChannelAs(alice.ID, "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	blocks := func(n int, text string) string {
		raw, _ := json.Marshal(text)
		one := `{"type":"section","text":{"type":"mrkdwn","text":` + string(raw) + `}}`
		return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]"
	}
	bot, person := b.seed.BotToken, alice.Token
	for _, tc := range []struct {
		name, method, token string
		args                args
		want                string
	}{
		{"no token", "auth.test", "", nil, "not_authed"},
		{"a wrong token", "auth.test", "xoxb-1", nil, "invalid_auth"},
		{"an app token for posting", "chat.postMessage", b.seed.AppToken, args{"channel": general, "text": "x"}, "not_allowed_token_type"},
		{"a bot token for a socket", "apps.connections.open", bot, nil, "not_allowed_token_type"},
		{"an unknown method", "chat.sing", bot, nil, "unknown_method"},
		{"a scope that is not granted", "conversations.join", bot, args{"channel": elsewhere}, "missing_scope"},
		{"an unknown channel", "chat.postMessage", bot, args{"channel": "C404", "text": "x"}, "channel_not_found"},
		{"no channel", "chat.postMessage", bot, args{"text": "x"}, "channel_not_found"},
		{"a channel without the bot", "chat.postMessage", bot, args{"channel": elsewhere, "text": "x"}, "not_in_channel"},
		{"no text", "chat.postMessage", bot, args{"channel": general, "text": " "}, "no_text"},
		{"an unknown thread", "chat.postMessage", bot, args{"channel": general, "text": "x", "thread_ts": "1.000001"}, "thread_not_found"},
		{"two kinds of text", "chat.postMessage", bot, args{"channel": general, "text": "x", "markdown_text": "y"}, "markdown_text_conflict"},
		{"blocks that are no JSON", "chat.postMessage", bot, args{"channel": general, "blocks": "{"}, "invalid_blocks_format"},
		{"a block that does not exist", "chat.postMessage", bot, args{"channel": general, "blocks": `[{"type":"poem"}]`}, "invalid_blocks"},
		{"a section too long", "chat.postMessage", bot, args{"channel": general, "blocks": blocks(1, long(3001))}, "invalid_blocks"},
		{"51 blocks", "chat.postMessage", bot, args{"channel": general, "blocks": blocks(51, "x")}, "invalid_blocks"},
		{"blocks too long together", "chat.postMessage", bot, args{"channel": general, "blocks": blocks(5, long(2700))}, "msg_blocks_too_long"},
		{"metadata without a type", "chat.postMessage", bot, args{"channel": general, "text": "x", "metadata": `{}`}, "invalid_metadata_schema"},
		{"metadata of a person", "chat.postMessage", person, args{"channel": general, "text": "x", "metadata": `{}`}, "metadata_must_be_sent_from_app"},
		{"large metadata", "chat.postMessage", bot, args{"channel": general, "text": "x",
			"metadata": `{"event_type":"t","event_payload":{"a":"` + long(9000) + `"}}`}, "metadata_too_large"},
		{"a change of another's message", "chat.update", bot, args{"channel": general, "ts": theirs, "text": "x"}, "cant_update_message"},
		{"a change of nothing", "chat.update", bot, args{"channel": general, "ts": "1.000001", "text": "x"}, "message_not_found"},
		{"a change too long", "chat.update", person, args{"channel": general, "ts": theirs, "text": long(4001)}, "msg_too_long"},
		{"a delete of another's message", "chat.delete", bot, args{"channel": general, "ts": theirs}, "cant_delete_message"},
		{"replies of nothing", "conversations.replies", bot, args{"channel": general, "ts": "1.000001"}, "thread_not_found"},
		{"an ephemeral message to nobody", "chat.postEphemeral", bot, args{"channel": general, "user": "U404", "text": "x"}, "user_not_in_channel"},
		{"an unknown user", "users.info", bot, args{"user": "U404"}, "user_not_found"},
		{"a modal without a trigger", "views.open", bot, args{"view": `{"type":"modal","title":{"type":"plain_text","text":"t"},"blocks":[]}`}, "invalid_trigger_id"},
		{"a rename without a session", "agents.sessions.rename", bot, args{"channel_id": general, "thread_ts": theirs, "title": "t"}, "not_authorized"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := b.callError(t, tc.method, tc.token, tc.args); got != tc.want {
				t.Errorf("%s answered %q, want %q", tc.method, got, tc.want)
			}
		})
	}
}

func TestSlackGoSeesRateLimits(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	general := b.seed.Channels[0].ID
	var limited *slackgo.RateLimitedError
	sent := 0
	for ; sent < 20 && limited == nil; sent++ {
		_, _, err := b.client().PostMessage(general, slackgo.MsgOptionText("x", false))
		if err != nil && !errors.As(err, &limited) {
			t.Fatal(err)
		}
	}
	if limited == nil || sent != 6 || limited.RetryAfter.Seconds() != 1 {
		t.Errorf("limited after %d messages: %v; want after 5, for a second", sent-1, limited)
	}
	if _, _, err := b.client().PostMessage(b.seed.Channels[1].ID, slackgo.MsgOptionText("x", false)); err != nil {
		t.Errorf("another channel is limited, too: %v", err)
	}
}
