package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// tab is one tab of a Chromium of its own.
type tab struct {
	testing.TB
	ctx context.Context
}

// openTab starts a browser and opens an address in it.
func openTab(t testing.TB, width, height int, address string) tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.WindowSize(width, height))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	ctx, stop := chromedp.NewExecAllocator(ctx, options...)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		closeTab()
		stop()
		cancel()
	})
	b := tab{t, ctx}
	b.do(chromedp.Navigate(address))
	return b
}

func (b tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.Fatalf("in the browser: %v", err)
	}
}

// sees waits until the page's text contains something.
func (b tab) sees(text string, within time.Duration) {
	b.Helper()
	deadline := time.Now().Add(within)
	var last string
	for time.Now().Before(deadline) {
		body, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
		if err != nil {
			b.Fatalf("in the browser: %v", err)
		}
		if last = body; strings.Contains(last, text) {
			return
		}
		time.Sleep(50 * time.Millisecond) // the pause between two looks, not the wait itself
	}
	b.Fatalf("the page does not show %q within %v; it shows:\n%s", text, within, last)
}

// picture takes a screenshot, and keeps it for the README when told to.
func (b tab) picture(name string) {
	b.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.Fatalf("taking a picture: %v", err)
	}
	if len(png) < 20_000 {
		b.Errorf("the picture %s has only %d bytes: the page is empty", name, len(png))
	}
	dir := os.Getenv("SCREENSHOTS")
	if *update {
		dir = filepath.Join("docs", "pictures")
	}
	if dir == "" {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.Fatal(err)
	}
}

// testid selects an element that the stand-in's page names for programs.
func testid(name string) chromedp.CSS {
	return chromedp.CSS(`[data-testid="` + name + `"]`)
}

func TestAPersonDoesTheMainJobInABrowser(t *testing.T) {
	r := startRig(t, func(p *practice) { p.pace = 5 * time.Millisecond })
	channel, alice, bob := r.channel("greeter"), r.user("alice"), r.user("bob")
	slack := openTab(t, 1360, 1180, r.info.Slack.WorkspaceURL+"?channel="+channel+"&as="+alice.ID)
	slack.do(chromedp.WaitVisible(chromedp.CSS("body[data-ready=true]")),
		chromedp.SendKeys(testid("composer"), "@inspect fix the failing test in acme/greeter\n"))
	var thread string
	r.eventually("the request is taken", 30*time.Second, func() error {
		return r.db.Get(&thread, "select thread from sessions")
	})
	var session string
	if err := r.db.Get(&session, "select id from sessions where thread = $1", thread); err != nil {
		t.Fatal(err)
	}
	slack.do(chromedp.Navigate(r.info.Slack.WorkspaceURL + "?channel=" + channel + "&thread=" + thread + "&as=" + bob.ID))
	slack.do(chromedp.WaitVisible(testid("thread-composer")),
		chromedp.SendKeys(testid("thread-composer"), "and add a usage section to the README\n"))
	slack.sees("Queued", time.Minute)

	// The same browser is Bob in Slack, so signing in to the page needs no more than a click.
	page := r.info.URL + "/sessions/" + session
	slack.do(chromedp.Navigate(r.info.URL + "/signin/slack?return=/sessions/" + session))
	slack.sees("acme/greeter", time.Minute)
	slack.sees("go test", time.Minute)
	slack.picture("page")

	prompts := r.waitSettled(thread, 2, 3*time.Minute)
	r.checkThread(channel, thread, prompts)
	slack.do(chromedp.Navigate(page))
	slack.sees("Done", time.Minute)
	slack.sees("Pull request", time.Minute)
	slack.do(chromedp.Navigate(r.info.Slack.WorkspaceURL + "?channel=" + channel + "&thread=" + thread + "&as=" + alice.ID))
	slack.sees("Done", time.Minute)
	slack.picture("thread")
}
