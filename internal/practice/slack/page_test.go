package slack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	slackgo "github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"
)

// browser opens the page in a tab of its own Chromium.
func browser(t *testing.T, address string) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.WindowSize(1360, 860))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		closeTab()
		stop()
		cancel()
	})
	run(t, ctx, chromedp.Navigate(address), chromedp.WaitVisible(chromedp.CSS("body[data-ready=true]")))
	return ctx
}

func run(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		shoot(t, ctx, "failed")
		t.Fatalf("in the page: %v", err)
	}
}

// shoot keeps a picture of the page where SCREENSHOTS says, if it does.
func shoot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Logf("screenshot: %v", err)
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600); err != nil {
		t.Error(err)
	}
}

func click(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.Click(chromedp.CSS(selector))
}

func see(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.WaitVisible(chromedp.CSS(selector))
}

func typeInto(selector, text string) chromedp.Action[chromedp.Void] {
	return chromedp.SendKeys(chromedp.CSS(selector), text)
}

func textOf(t *testing.T, ctx context.Context, selector string) string {
	t.Helper()
	text, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS(selector)))
	if err != nil {
		t.Fatalf("reading %s: %v", selector, err)
	}
	return text
}

func testid(id string) string { return "[data-testid='" + id + "']" }

func TestPersonMentionsTheBotReadsTheThreadAndStopsIt(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	general, alice, bob := b.seed.Channels[0].ID, b.seed.Users[0], b.seed.Users[1]
	a := connect(t, b, ackAll)
	ctx := browser(t, b.url+"/?channel="+general+"&as="+alice.ID)

	run(t, ctx, typeInto(testid("composer"), "@inspect fix <b>the</b> test"+kb.Enter), see(testid("messages")+" [data-user="+alice.ID+"]"))
	m, err := b.WaitMessage(within(t), general, "", func(m Message) bool { return m.User == alice.ID })
	if err != nil {
		t.Fatal(err)
	}
	if want := "<@" + b.seed.BotUserID + "> fix &lt;b&gt;the&lt;/b&gt; test"; m.Text != want {
		t.Errorf("the composer sent %q, want %q", m.Text, want)
	}
	a.wait(t, 1, ofType("app_mention"))
	if got := textOf(t, ctx, "[data-ts='"+m.TS+"'] .body"); !strings.Contains(got, "@inspect fix <b>the</b> test") {
		t.Errorf("the page shows %q", got)
	}

	api := b.client()
	if _, err := api.SetAgentSessionStatus(slackgo.AgentSessionSetStatusParameters{
		Status: "processing", ChannelID: general, ThreadTS: m.TS, Title: "Fix the test",
	}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := api.PostMessage(general, slackgo.MsgOptionTS(m.TS), slackgo.MsgOptionBlocks(cardBlocks()...)); err != nil {
		t.Fatal(err)
	}
	run(t, ctx, click("[data-ts='"+m.TS+"'] "+testid("open-thread")), see(testid("thread")+" [data-action-id=stop]"), see(testid("session-status")))
	run(t, ctx, click(testid("person-"+bob.ID)), see("body[data-as="+bob.ID+"][data-ready=true]"),
		typeInto(testid("thread-composer"), "and add a changelog line"+kb.Enter), see(testid("thread")+" [data-user="+bob.ID+"]"))
	shoot(t, ctx, "thread")
	run(t, ctx, click(testid("session-stop")))
	a.wait(t, 1, ofType("agent_session_stopped"))
	if _, err := b.WaitMessage(within(t), general, m.TS, func(m Message) bool { return m.User == bob.ID }); err != nil {
		t.Error(err)
	}
}

func cardBlocks() []slackgo.Block {
	text := func(s string) *slackgo.TextBlockObject { return slackgo.NewTextBlockObject("mrkdwn", s, false, false) }
	plain := func(s string) *slackgo.TextBlockObject {
		return slackgo.NewTextBlockObject("plain_text", s, true, false)
	}
	stop := slackgo.NewButtonBlockElement("stop", "s1", plain("Stop")).WithStyle("danger")
	stop.Confirm = slackgo.NewConfirmationBlockObject(plain("Stop the run?"), plain("What it has changed stays."), plain("Stop it"), plain("Let it run"))
	return []slackgo.Block{
		slackgo.NewSectionBlock(text("*Working* on `acme/greeter` for <@U0ALICE0001>\n> the only repository here"), []*slackgo.TextBlockObject{
			text("*Branch*\n`inspect/k3v9`"), text("*Elapsed*\n0:42")}, nil),
		slackgo.NewPlanBlock("Fixing the greeting").WithTasks(
			slackgo.NewTaskCardBlock("1", "Run the tests").WithStatus("complete"),
			slackgo.NewTaskCardBlock("2", "Find the wrong comma").WithStatus("in_progress"),
			slackgo.NewTaskCardBlock("3", "Open a pull request").WithStatus("pending")),
		slackgo.NewActionBlock("row", stop,
			slackgo.NewOptionsSelectBlockElement("static_select", plain("Model"), "model",
				slackgo.NewOptionBlockObject("small", plain("Small"), nil), slackgo.NewOptionBlockObject("large", plain("Large"), nil)),
			slackgo.NewOverflowBlockElement("menu", slackgo.NewOptionBlockObject("archive", plain("Archive"), nil))),
		slackgo.NewContextBlock("", text(":hourglass_flowing_sand: session <https://example.com|k3v9>")),
	}
}

func TestPersonUsesButtonsMenusAndModals(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	general, carol := b.seed.Channels[0].ID, b.seed.Users[2].ID
	api := b.client()
	a := connect(t, b, func(c *socketmode.Client, e socketmode.Event) {
		if cb, ok := e.Data.(slackgo.InteractionCallback); ok && cb.Type == slackgo.InteractionTypeBlockActions &&
			cb.ActionCallback.BlockActions[0].ActionID == "menu" {
			if _, err := api.OpenView(cb.TriggerID, feedbackModal()); err != nil {
				t.Errorf("opening the modal: %v", err)
			}
		}
		ackAll(c, e)
	})
	_, ts, err := api.PostMessage(general, slackgo.MsgOptionBlocks(cardBlocks()...))
	if err != nil {
		t.Fatal(err)
	}
	ctx := browser(t, b.url+"/?channel="+general+"&as="+carol)
	card := "[data-ts='" + ts + "'] "
	run(t, ctx, click(card+"[data-action-id=stop]"), see(testid("confirm")), click(testid("confirm")))
	stop := a.wait(t, 1, ofType("block_actions"))[0].Data.(slackgo.InteractionCallback)
	if got := stop.ActionCallback.BlockActions[0]; got.ActionID != "stop" || got.Value != "s1" || stop.User.ID != carol {
		t.Errorf("the button sent %+v", got)
	}
	run(t, ctx, click(card+"[data-action-id=model]"), click(testid("option")+"[data-value=large]"))
	if got := a.wait(t, 2, ofType("block_actions"))[1].Data.(slackgo.InteractionCallback).ActionCallback.BlockActions[0]; got.SelectedOption.Value != "large" {
		t.Errorf("the select sent %+v", got)
	}
	run(t, ctx, click(card+"[data-action-id=menu]"), click(testid("option")+"[data-value=archive]"), see(testid("modal")),
		click(testid("modal-submit")), see(testid("field-error")))
	if got := textOf(t, ctx, testid("field-error")); got != "Please complete this required field." {
		t.Errorf("the empty field says %q", got)
	}
	run(t, ctx, typeInto(testid("modal")+" [data-action-id=text]", "too slow"))
	shoot(t, ctx, "modal")
	run(t, ctx, click(testid("modal-submit")), chromedp.WaitNotPresent(chromedp.CSS(testid("modal"))))
	sent := a.wait(t, 1, ofType("view_submission"))[0].Data.(slackgo.InteractionCallback)
	if got := sent.View.State.Values["why"]["text"].Value; got != "too slow" {
		t.Errorf("the modal sent %q", got)
	}
}

func TestWhatOnlyOnePersonSeesIsShownToNobodyElse(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	general, alice, bob := b.seed.Channels[0].ID, b.seed.Users[0].ID, b.seed.Users[1].ID
	ctx := browser(t, b.url+"/?channel="+general+"&as="+alice)
	if _, err := b.client().PostEphemeral(general, alice, slackgo.MsgOptionText("just you <script>alert(1)</script>", false)); err != nil {
		t.Fatal(err)
	}
	run(t, ctx, see("[data-ephemeral="+alice+"]"), click(testid("person-"+bob)), see("body[data-as="+bob+"][data-ready=true]"))
	count, err := chromedp.Run(ctx, chromedp.Evaluate[int](`document.querySelectorAll("[data-ephemeral]").length`))
	if err != nil || count != 0 {
		t.Errorf("Bob sees %d ephemeral messages of Alice (%v)", count, err)
	}
}

func TestEveryKindOfBlockIsDrawn(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{RateScale: -1})
	general := b.seed.Channels[0].ID
	gallery := `[{"type":"header","text":{"type":"plain_text","text":"Every block"}},
	{"type":"section","text":{"type":"mrkdwn","text":"*bold* _italic_ ~gone~ ` + "`code`" + ` <https://example.com|a link> :tada:\n` + "```go test ./...```" + `"}},
	{"type":"divider"},{"type":"context","elements":[{"type":"mrkdwn","text":"small print"}]},
	{"type":"markdown","text":"## A heading\n\n- one\n- two **bold**\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n` + "```\\nfence\\n```" + `"},
	{"type":"rich_text","elements":[{"type":"rich_text_section","elements":[{"type":"text","text":"rich","style":{"bold":true}}]},
		{"type":"rich_text_list","style":"ordered","indent":3,"offset":2,"elements":[{"type":"rich_text_section","elements":[{"type":"text","text":"third"}]}]}]},
	{"type":"image","image_url":"/page/icon.svg","alt_text":"a picture"},
	{"type":"task_card","task_id":"t","title":"A task","status":"complete","output":{"type":"rich_text","elements":[{"type":"rich_text_section","elements":[{"type":"text","text":"all of it"}]}]}},
	{"type":"plan","title":"A plan","tasks":[{"type":"task_card","task_id":"p","title":"Step","status":"error"}]},
	{"type":"table","rows":[[{"type":"raw_text","text":"File"},{"type":"raw_text","text":"Lines"}],[{"type":"raw_text","text":"greet.go"},{"type":"raw_text","text":"+3"}]]},
	{"type":"container","title":{"type":"plain_text","text":"Log"},"is_collapsible":true,"default_collapsed":true,"child_blocks":[{"type":"section","text":{"type":"mrkdwn","text":"inside"}}]},
	{"type":"context_actions","elements":[{"type":"feedback_buttons","action_id":"fb","positive_button":{"text":{"type":"plain_text","text":"Good"},"value":"good"},"negative_button":{"text":{"type":"plain_text","text":"Bad"},"value":"bad"}}]},
	{"type":"actions","elements":[{"type":"button","action_id":"x","text":{"type":"plain_text","text":"Go"},"style":"primary"},{"type":"checkboxes","action_id":"c","options":[{"text":{"type":"plain_text","text":"Yes"},"value":"y"}]}]}]`
	if code := b.callError(t, "chat.postMessage", b.seed.BotToken, args{"channel": general, "blocks": gallery}); code != "" {
		t.Fatalf("posting the gallery: %s", code)
	}
	ctx := browser(t, b.url+"/?channel="+general)
	shoot(t, ctx, "gallery")
	for _, part := range []string{
		"h3.header", ".text b", "ol.indent-3[start='3']", ".text pre", ".context", ".markdown table", ".markdown ul li b", "img.picture", ".task-icon.complete",
		".plan .task-icon.error", ".block.table td", "details.container", "[data-action-id=fb][data-value=bad]", ".button.primary", "input[type=checkbox]",
	} {
		count, err := chromedp.Run(ctx, chromedp.Evaluate[int](fmt.Sprintf("document.querySelectorAll(%q).length", part)))
		if err != nil || count == 0 {
			t.Errorf("nothing is drawn as %s (%v)", part, err)
		}
	}
	if text := textOf(t, ctx, "body"); strings.Contains(text, "[unknown") || strings.Contains(text, "undefined") {
		t.Errorf("the page shows %q", text)
	}
}

func TestCardThatIsEditedAllTheTimeCanBeClicked(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{RateScale: -1})
	a := connect(t, b, ackAll)
	general, api := b.seed.Channels[0].ID, b.client()
	card := func(n int) slackgo.MsgOption {
		return slackgo.MsgOptionBlocks(slackgo.NewSectionBlock(slackgo.NewTextBlockObject("mrkdwn", fmt.Sprintf("step %d", n), false, false), nil, nil),
			slackgo.NewActionBlock("row", slackgo.NewButtonBlockElement("halt", "", slackgo.NewTextBlockObject("plain_text", "Stop", false, false))))
	}
	_, ts, err := api.PostMessage(general, card(0))
	if err != nil {
		t.Fatal(err)
	}
	ctx := browser(t, b.url+"/?channel="+general)
	stop := make(chan struct{})
	edited := make(chan error, 1)
	go func() { // edits twenty times a second until the clicks were heard
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-stop:
				edited <- nil
				return
			case <-tick.C:
				if _, _, _, err := api.UpdateMessage(general, ts, card(n)); err != nil {
					edited <- err
					return
				}
			}
		}
	}()
	for n := range 3 {
		run(t, ctx, pressWhereItIs(t, ctx, "[data-action-id=halt]"))
		a.wait(t, n+1, ofType("block_actions"))
	}
	close(stop)
	if err := <-edited; err != nil {
		t.Fatal(err)
	}
}

// pressWhereItIs clicks at the place where an element is, as a person does: not
// at a node, which an edit may replace.
func pressWhereItIs(t *testing.T, ctx context.Context, selector string) chromedp.Action[chromedp.Void] {
	t.Helper()
	run(t, ctx, see(selector))
	at, err := chromedp.Run(ctx, chromedp.Evaluate[[]float64](fmt.Sprintf(
		"(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector(%q).getBoundingClientRect())", selector)))
	if err != nil {
		t.Fatalf("finding %s: %v", selector, err)
	}
	return chromedp.MouseClickXY(at[0], at[1])
}

func TestPersonSignsInFromAnotherPage(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	p, bob := newRelyingParty(t, b), b.seed.Users[1].ID
	p.config.RedirectURL = b.url + "/page/picker" // an address that shows itself: nothing is there
	ctx := browser(t, b.url+"/?channel="+b.seed.Channels[0].ID+"&as="+bob)
	if err := chromedp.Do(ctx, chromedp.Navigate(p.config.AuthCodeURL("s1"))); err != nil {
		t.Fatal(err)
	}
	if at, err := chromedp.Run(ctx, chromedp.Location()); err != nil || !strings.Contains(at, "state=s1") || !strings.Contains(at, "code=") {
		t.Errorf("Bob, who is at work in the page, ended at %q (%v)", at, err)
	}
	run(t, ctx, chromedp.Navigate(p.config.AuthCodeURL("s2")+"&prompt=select_account"), see(testid("pick-"+bob)))
	shoot(t, ctx, "picker")
	run(t, ctx, click(testid("pick-"+bob)))
	eventually(t, "the return to the application", func() bool {
		at, err := chromedp.Run(ctx, chromedp.Location())
		return err == nil && strings.Contains(at, "state=s2") && strings.Contains(at, "code=")
	})
}

func TestPersonEditsReactsAndOpensTheAppsHome(t *testing.T) {
	t.Parallel()
	b := serve(t, t.TempDir(), Options{})
	a := connect(t, b, ackAll)
	general, alice := b.seed.Channels[0].ID, b.seed.Users[0].ID
	ts, err := b.PostAs(alice, general, "", "a typo")
	if err != nil {
		t.Fatal(err)
	}
	ctx := browser(t, b.url+"/?channel="+general+"&as="+alice)
	at := "[data-ts='" + ts + "'] "
	hover := chromedp.Evaluate[chromedp.Void](`document.styleSheets[0].insertRule(".tools{opacity:1!important;pointer-events:auto!important}")`)
	run(t, ctx, hover, click(at+testid("react")), click("[data-reaction=tada]"), see(at+".reaction.mine"),
		click(at+testid("more")), click(testid("option")+"[data-value=edit]"), see(testid("edit-text")),
		typeInto(testid("edit-text"), " fixed"), click(testid("edit-save")), see(at+".edited"))
	m := b.Messages(general, "")[0]
	if m.Text != "a typo fixed" || !m.Edited || len(m.Reactions["tada"]) != 1 {
		t.Errorf("the message is %+v", m)
	}
	if _, err := b.client().PublishView(alice, slackgo.HomeTabViewRequest{
		Type: "home", Blocks: slackgo.Blocks{BlockSet: cardBlocks()}}, ""); err != nil {
		t.Fatal(err)
	}
	run(t, ctx, click(testid("home")), click(testid("tab-home")), see(testid("home-view")+" [data-action-id=stop]"))
	a.wait(t, 1, ofType("app_home_opened"))
	shoot(t, ctx, "home")
	run(t, ctx, click(testid("tab-messages")), typeInto(testid("composer"), "hello there"+kb.Enter), see("[data-user="+alice+"]"))
	dm := b.seed.Users[0].DM
	if _, err := b.WaitMessage(within(t), dm, "", func(m Message) bool { return m.Text == "hello there" }); err != nil {
		t.Error(err)
	}
}
