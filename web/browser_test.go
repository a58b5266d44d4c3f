package web

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// chromium is the browser of the tests that need one now. It is started by the
// first of them and ends with the last.
var chromium struct {
	mu    sync.Mutex
	users int
	ctx   context.Context
	end   context.CancelFunc
}

// useChromium returns the browser, which lives until the test has ended.
func useChromium(t testing.TB) context.Context {
	t.Helper()
	chromium.mu.Lock()
	defer chromium.mu.Unlock()
	if chromium.users == 0 {
		allocated, release := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
			chromedp.NoSandbox, chromedp.WindowSize(1280, 900))...)
		ctx, quit := chromedp.NewContext(allocated)
		chromium.ctx, chromium.end = ctx, func() {
			_ = chromedp.Cancel(ctx) // waits for the browser to be gone
			quit()
			release()
		}
		if err := chromedp.Do(ctx); err != nil {
			chromium.end()
			t.Fatalf("starting Chromium: %v", err)
		}
	}
	chromium.users++
	t.Cleanup(func() {
		chromium.mu.Lock()
		defer chromium.mu.Unlock()
		if chromium.users--; chromium.users == 0 {
			chromium.end()
		}
	})
	return chromium.ctx
}

// tab is one page of a person in a browser of its own, with its own cookies.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu      sync.Mutex
	console []string
}

// open opens a page as the person who is signed in with b.
func (b *browser) open(path string) *tab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(useChromium(b.t), chromedp.WithNewBrowserContext())
	b.t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, 60*time.Second)
	b.t.Cleanup(stop)
	t := &tab{t: b.t, ctx: ctx}
	t.do(chromedp.EmulateViewport(1280, 900))
	messages := chromedp.Console(ctx)
	var reading sync.WaitGroup
	b.t.Cleanup(reading.Wait)
	b.t.Cleanup(cancel)
	reading.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			t.mu.Lock()
			t.console = append(t.console, fmt.Sprintf("%s: %s", m.Type, m.Text))
			t.mu.Unlock()
		}
	})
	t.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, network.SetCookie, network.SetCookieParams{
			Name: b.rig.server.cookieName("login"), Value: b.login(), URL: b.rig.url})
		return err
	}), chromedp.Navigate(b.rig.url+path))
	return t
}

func (t *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	t.t.Helper()
	if err := chromedp.Do(t.ctx, steps...); err != nil {
		t.t.Fatalf("%v\nconsole:\n%s", err, strings.Join(t.said(), "\n"))
	}
}

// said is what the page wrote to the console.
func (t *tab) said() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.console...)
}

// eval evaluates an expression to a string.
func (t *tab) eval(expr string) string {
	t.t.Helper()
	v, err := chromedp.Run(t.ctx, chromedp.Evaluate[string]("String("+expr+")"))
	if err != nil {
		t.t.Fatalf("%s: %v", expr, err)
	}
	return v
}

// until waits until an expression is true in the page.
func (t *tab) until(expr string) {
	t.t.Helper()
	if _, err := chromedp.Run(t.ctx, chromedp.Poll[bool]("!!("+expr+")", chromedp.WithPollingTimeout(20*time.Second))); err != nil {
		t.t.Fatalf("waiting for %s: %v\npage: %.600s\nconsole:\n%s", expr, err, t.eval("document.body.innerText"), strings.Join(t.said(), "\n"))
	}
}

// live waits until the page is connected.
func (t *tab) live() *tab {
	t.t.Helper()
	t.until(`document.getElementById('connection').dataset.state === 'live'`)
	return t
}

// transcript is the page's rows as "sequence number: text".
func (t *tab) transcript() string {
	t.t.Helper()
	return t.eval(`[...document.querySelectorAll('#log [data-seq]')].map(r => r.dataset.seq + ': ' + r.textContent.replace(/\s+/g, ' ').trim()).join('\n')`)
}
