package slack

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	slackgo "github.com/slack-go/slack"
	"pgregory.net/rapid"
)

// anyJSON draws JSON that looks more or less like blocks.
func anyJSON(depth int) *rapid.Generator[any] {
	words := []string{
		"section", "actions", "input", "button", "static_select", "plan", "task_card", "table", "container", "rich_text",
		"context", "mrkdwn", "plain_text", "header", "overflow", "feedback_buttons", "carousel", "card", "", "x",
	}
	keys := []string{
		"type", "text", "elements", "element", "accessory", "fields", "options", "option_groups", "rows", "tasks", "child_blocks",
		"title", "block_id", "action_id", "value", "confirm", "label", "positive_button", "details", "actions",
	}
	scalar := rapid.OneOf(
		rapid.Map(rapid.SampledFrom(words), func(s string) any { return s }),
		rapid.Map(rapid.Int(), func(i int) any { return i }),
		rapid.Just[any](nil), rapid.Just[any](true),
	)
	if depth == 0 {
		return scalar
	}
	inner := anyJSON(depth - 1)
	return rapid.OneOf(scalar,
		rapid.Map(rapid.SliceOfN(inner, 0, 3), func(v []any) any { return v }),
		rapid.Map(rapid.MapOfN(rapid.SampledFrom(keys), inner, 0, 6), func(v map[string]any) any { return v }),
	)
}

func TestAnyBlocksAreTakenOrRefusedByName(t *testing.T) {
	t.Parallel()
	known := []string{"invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long"}
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(rapid.SliceOfN(anyJSON(4), 0, 4).Draw(t, "blocks"))
		if err != nil {
			t.Fatal(err)
		}
		clean, err := checkBlocks(string(raw), inMessage)
		if err != nil && !slices.Contains(known, err.Error()) {
			t.Fatalf("%s: %v", raw, err)
		}
		blocks := decodeBlocks(clean)
		stateOf(blocks, []Choice{{ActionID: "x", Value: "y"}})
		if again, err := checkBlocks(string(clean), inMessage); clean != nil && (err != nil || len(decodeBlocks(again)) != len(blocks)) {
			t.Fatalf("%s was accepted and then refused: %v", clean, err)
		}
	})
}

func TestBodiesOfAllKindsAreRead(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{RateScale: -1})
	general, token := b.seed.Channels[0].ID, b.seed.BotToken
	for name, tc := range map[string]struct{ kind, body, want string }{
		"form":              {"application/x-www-form-urlencoded", "token=" + token + "&channel=" + general + "&text=a", ""},
		"json":              {"application/json", `{"token":"` + token + `","channel":"` + general + `","text":"a"}`, ""},
		"json with charset": {"application/json; charset=utf-8", `{"token":"` + token + `","channel":"` + general + `","text":"a","blocks":[{"type":"divider"}]}`, ""},
		"broken json":       {"application/json", `{"token":`, "invalid_arguments"},
		"json of a list":    {"application/json", `[]`, "invalid_arguments"},
		"broken multipart":  {"multipart/form-data; boundary=x", "nothing", "invalid_arguments"},
		"no type":           {"", "token=" + token, "not_authed"},
		"nothing":           {"application/json", "", "not_authed"},
	} {
		req, err := http.NewRequestWithContext(within(t), http.MethodPost, b.url+"/api/chat.postMessage", strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", tc.kind)
		if out, _ := do(t, req); out["ok"] != (tc.want == "") || tc.want != "" && out["error"] != tc.want {
			t.Errorf("%s: answered %v, want %q", name, out, tc.want)
		}
	}
}

func TestHistoryIsReadPageByPage(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	general := b.seed.Channels[0].ID
	for i := range 7 {
		if _, err := b.PostAs(b.seed.Users[0].ID, general, "", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	cursor := ""
	for pages := 1; ; pages++ {
		res, err := b.client().GetConversationHistory(&slackgo.GetConversationHistoryParameters{ChannelID: general, Limit: 3, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range res.Messages {
			got = append(got, m.Text)
		}
		if cursor = res.ResponseMetaData.NextCursor; cursor == "" {
			if pages != 3 || res.HasMore {
				t.Errorf("%d pages, more: %v", pages, res.HasMore)
			}
			break
		}
	}
	if want := "6 5 4 3 2 1 0"; strings.Join(got, " ") != want {
		t.Errorf("read %v, want %s", got, want)
	}
	list := b.Messages(general, "")
	res, err := b.client().GetConversationHistory(&slackgo.GetConversationHistoryParameters{
		ChannelID: general, Oldest: list[2].TS, Latest: list[4].TS, Inclusive: true,
	})
	if err != nil || len(res.Messages) != 3 {
		t.Errorf("between two timestamps: %+v, %v", res, err)
	}
	if _, err := b.client().GetConversationHistory(&slackgo.GetConversationHistoryParameters{ChannelID: general, Cursor: "?"}); err == nil || err.Error() != "invalid_cursor" {
		t.Errorf("a wrong cursor: %v", err)
	}
}

func TestOldestMessagesAndFilesGoFirst(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{RateScale: -1})
	general, alice := b.seed.Channels[2].ID, b.seed.Users[0].ID
	first, err := b.PostAs(alice, general, "", "first")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.PostAs(alice, general, first, "its reply"); err != nil {
		t.Fatal(err)
	}
	for range maxMessages - 1 {
		if _, err := b.PostAs(alice, general, "", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if list := b.Messages(general, first); len(list) != 0 {
		t.Errorf("the oldest thread is still there: %+v", list)
	}
	if n := len(b.Messages(general, "")); n != maxMessages-1 {
		t.Errorf("%d messages are kept, want %d", n, maxMessages-1)
	}
	api := b.client()
	var names []string
	for i := range maxFiles + 2 {
		res, err := api.GetUploadURLExternalContext(within(t), slackgo.GetUploadURLExternalParameters{FileName: fmt.Sprintf("%d.txt", i), FileSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, res.FileID)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.files) != maxFiles || b.files[names[len(names)-1]] == nil {
		t.Errorf("%d files are kept, the newest: %v", len(b.files), b.files[names[len(names)-1]])
	}
}
