package web

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"

	"openinspect/sandbox"
	"openinspect/sessions"
)

func TestTwoBrowsersSeeTheSameAndSoDoesAReload(t *testing.T) {
	r := newRig(t)
	alice, bob := r.signIn(t, "alice"), r.signIn(t, "bob")
	s := alice.scribe("Fix the failing test")
	hers, his := alice.open(sessionPath(s)).live(), bob.open(sessionPath(s)).live()
	s.write(sandbox.KindPhase, sandbox.BodyPhase{Phase: "sync", State: "running"})
	s.run()
	s.write(sandbox.KindPhase, sandbox.BodyPhase{Phase: "sync", State: "done", Millis: 12})
	s.write(sandbox.KindTool, sandbox.BodyTool{Part: "t1", Tool: "bash", State: "running", Input: map[string]any{"command": "go test"}})
	s.text("p1", "It **works** now.")
	s.write(sandbox.KindTool, sandbox.BodyTool{Part: "t1", Tool: "bash", State: "completed", Output: "ok", Input: map[string]any{"command": "go test"}})
	bob.call("POST", "/api/sessions/"+s.session+"/prompts", `{"text":"And then the README"}`, nil)
	s.write(sandbox.KindDiff, sandbox.BodyDiff{Files: []sandbox.FileDiff{{Path: "a.go", Status: "added", Additions: 1}}})
	s.write(sandbox.KindDiff, sandbox.BodyDiff{Files: []sandbox.FileDiff{{Path: "b.go", Status: "added", Additions: 2}}})
	s.end(sessions.BodyEnded{State: sessions.Completed, Millis: 1000})
	for _, page := range []*tab{hers, his} {
		page.until(`document.querySelector('.ended-completed')`)
	}
	want := hers.transcript()
	if got := his.transcript(); got != want {
		t.Errorf("Bob sees\n%s\nAlice sees\n%s", got, want)
	}
	hers.do(chromedp.Reload())
	hers.live()
	if got := hers.transcript(); got != want {
		t.Errorf("after a reload Alice sees\n%s\nbefore\n%s", got, want)
	}
	his.until(`document.querySelectorAll('#watching .face').length === 2`)
}

// faultyLink is a TCP proxy in front of the pages that can be cut.
type faultyLink struct {
	net.Listener
	target string

	mu    sync.Mutex
	open  []net.Conn
	block bool
}

// cut ends every connection and refuses new ones until mend.
func (f *faultyLink) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.block = true
	for _, c := range f.open {
		c.Close()
	}
	f.open = nil
}

func (f *faultyLink) mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.block = false
}

// serve carries connections until the listener is closed.
func (f *faultyLink) serve() {
	var carrying sync.WaitGroup
	defer carrying.Wait()
	defer f.cut()
	for {
		in, err := f.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", f.target)
		if err != nil {
			in.Close()
			continue
		}
		f.mu.Lock()
		f.open = append(f.open, in, out)
		blocked := f.block
		f.mu.Unlock()
		if blocked {
			in.Close()
			out.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			carrying.Go(func() {
				_, _ = io.Copy(way[0], way[1]) // ends when either is cut
				way[0].Close()
				way[1].Close()
			})
		}
	}
}

// throughALink lets pages of the rig be reached through a link that can be cut.
func (r *rig) throughALink(t *testing.T) *faultyLink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &faultyLink{Listener: l, target: strings.TrimPrefix(r.url, "http://")}
	var serving sync.WaitGroup
	serving.Go(f.serve)
	t.Cleanup(func() { l.Close(); serving.Wait() })
	r.url = "http://" + l.Addr().String()
	return f
}

func TestALostConnectionLeavesNoGapAndNoRepeat(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.run()
	direct := r.url
	link := r.throughALink(t)
	there, _ := url.Parse(direct)
	here, _ := url.Parse(r.url)
	alice.Jar.SetCookies(here, alice.Jar.Cookies(there))
	page := alice.open(sessionPath(s)).live()
	for round := range 4 {
		for i := range 5 {
			s.text(fmt.Sprint(round, i), fmt.Sprintf("live %d.%d", round, i))
		}
		link.cut()
		page.until(`document.getElementById('connection').dataset.state === 'lost'`)
		for i := range 5 {
			s.text(fmt.Sprint("x", round, i), fmt.Sprintf("while away %d.%d", round, i))
		}
		link.mend()
		page.do(chromedp.Evaluate[chromedp.Void](`dispatchEvent(new Event('online'))`))
		page.live()
	}
	page.until(fmt.Sprintf(`[...document.querySelectorAll('#log [data-seq]')].pop().dataset.seq === '%d'`, s.last()))
	seen := make(map[string]int)
	for line := range strings.Lines(page.transcript()) {
		_, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
		seen[text]++
	}
	for round := range 4 {
		for i := range 5 {
			for _, text := range []string{fmt.Sprintf("live %d.%d", round, i), fmt.Sprintf("while away %d.%d", round, i)} {
				if seen[text] != 1 {
					t.Errorf("%q is shown %d times", text, seen[text])
				}
			}
		}
	}
}

// attacks are texts that try to run a script in the reader's browser.
var attacks = []string{
	`<script>window.hacked=1;alert(1)</script>`, `<img src=x onerror="window.hacked=1;alert(1)">`,
	`[x](javascript:window.hacked=1)`, `<a href="javascript:alert(1)">x</a>`, `</textarea><svg onload=alert(1)>`,
	"```html\n</code></pre><script>window.hacked=1</script>\n```", `![x](x" onerror="window.hacked=1)`,
	`<iframe srcdoc="<script>parent.hacked=1</script>">`, `"><script>window.hacked=1</script>`,
	`<style>@import 'https://evil.test/x.css'</style>`, "feed:javascript:alert(1)", `<base href="https://evil.test/">`,
	"```\"><script>window.hacked=1</script>\nx\n```", `<form action="https://evil.test"><button>Stop</button></form>`,
}

func TestTextOfAttackersIsOnlyText(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice")
	all := strings.Join(attacks, "\n\n")
	s := alice.scribe(all)
	r.DB.MustExec(`update sessions set title = $2 where id = $1`, s.session, all)
	s.run()
	page := alice.open(sessionPath(s)).live()
	for i, a := range attacks {
		s.text(fmt.Sprint("t", i), a)
	}
	s.write(sandbox.KindReasoning, sandbox.BodyText{Part: "r", Text: all})
	s.write(sandbox.KindTool, sandbox.BodyTool{Part: all, Tool: all, State: "error", Title: all, Input: map[string]any{"command": all, "x": all},
		Output: all, Error: all, Diff: "--- a/" + attacks[0] + "\n+++ b/" + attacks[1] + "\n@@ -1 +1 @@\n-" + attacks[0] + "\n+" + attacks[1] + "\n"})
	s.write(sandbox.KindDiff, sandbox.BodyDiff{Files: []sandbox.FileDiff{{Path: attacks[1], Status: attacks[0], Patch: "+" + all}}})
	s.write(sandbox.KindTodo, sandbox.BodyTodo{Items: []sandbox.TodoItem{{Text: all, State: `x" onclick="alert(1)`}}})
	s.write(sessions.KindArtifact, sessions.BodyArtifact{Kind: "pull_request", URL: "javascript:window.hacked=1", Title: all})
	s.write(sessions.KindWaiting, sessions.BodyWaiting{For: "github", Text: all, URL: "javascript:window.hacked=1", ByHand: "javascript:window.hacked=1", Menu: []string{attacks[1]}})
	s.write(sandbox.KindCommit, sandbox.BodyCommit{SHA: attacks[0], Subject: all, Author: all, Left: attacks})
	s.end(sessions.BodyEnded{State: sessions.Failed, Reason: all})
	for range 2 { // as it arrives live, and as it is read again
		page.until(`document.querySelector('.ended-failed')`)
		page.do(chromedp.Evaluate[chromedp.Void](`document.querySelectorAll('details').forEach(d => d.open = true)`))
		if got := page.eval(`window.hacked`); got != "undefined" {
			t.Error("a script of the text ran")
		}
		if got := page.eval(`[...document.querySelectorAll('#log script, #log iframe, #log img, #log style, #log form, #log base, #log svg, #side script, #head script, #log [onerror], #log [onclick], #side [onclick]')].map(e => e.outerHTML).join()`); got != "" {
			t.Errorf("the page holds %s", got)
		}
		if got := page.eval(`[...document.querySelectorAll('a')].map(a => a.protocol).filter(p => !/^https?:$/.test(p)).join()`); got != "" {
			t.Errorf("the page links to %s", got)
		}
		page.do(chromedp.Reload())
		page.live()
	}
	for _, line := range page.said() {
		t.Errorf("the console says %s", line)
	}
}

func TestTheComposerKeepsTheTextWhenSendingFails(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	page := alice.open(sessionPath(s)).live()
	long := strings.Repeat("long ", 40_000)
	page.do(chromedp.Evaluate[chromedp.Void](`{const t = document.getElementById('text'); t.value = 'long '.repeat(40000); t.dispatchEvent(new Event('input', {bubbles: true}))}`))
	page.do(chromedp.Click(chromedp.CSS("#send")))
	page.until(`!document.querySelector('#composer .form-error').hidden`)
	if got := page.eval(`document.getElementById('text').value`); got != long {
		t.Error("the text that was too long is gone")
	}
	if got := page.eval(`document.querySelector('#composer .form-error').textContent`); !strings.Contains(got, " ") {
		t.Errorf("the refusal is %q", got)
	}
	page.do(chromedp.Evaluate[chromedp.Void](`{const t = document.getElementById('text'); t.value = 'short'; t.dispatchEvent(new Event('input', {bubbles: true}))}`))
	page.do(chromedp.Reload())
	page.live()
	if got := page.eval(`document.getElementById('text').value`); got != "short" {
		t.Errorf("after a reload the draft is %q", got)
	}
	page.do(chromedp.Click(chromedp.CSS("#send")))
	page.until(`document.getElementById('text').value === '' && [...document.querySelectorAll('.prompt-text')].some(p => p.textContent === 'short')`)
}

func TestALongTranscriptOpensAtItsEndAndIsFoundWhole(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.run()
	s.fill(1000)
	page := alice.open(sessionPath(s)).live()
	if got := page.eval(`document.scrollingElement.scrollHeight - scrollY - innerHeight < 100`); got != "true" {
		t.Error("the page does not open at its end")
	}
	page.until(`!document.querySelector('.sec.stub')`)
	if got, want := page.eval(`document.querySelectorAll('#log [data-seq]').length`), fmt.Sprint(s.last()); got == "0" || !strings.Contains(page.transcript(), fmt.Sprintf("Paragraph %d", 1000)) || !strings.Contains(page.transcript(), "Paragraph 4 ") {
		t.Errorf("the page shows %s rows of %s entries", got, want)
	}
	page.do(chromedp.Evaluate[chromedp.Void](`location.hash = '#e40'`))
	page.until(`document.querySelector('.row.target')`)
}

func TestThePageCanBeReadWithoutScripts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.run()
	s.fill(400)
	page := alice.page(sessionPath(s) + "?all=1")
	for _, want := range []string{"Paragraph <strong>4</strong>", "Paragraph <strong>400</strong>", "Fix it"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not hold %q", want)
		}
	}
	resp, err := alice.Get(r.url + sessionPath(s))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("the policy is %q", csp)
	}
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the page answers %s", resp.Status)
	}
}

func TestAToolThatNeverEndedIsNotShownAsAtWork(t *testing.T) {
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	page := alice.open(sessionPath(s)).live()
	s.run()
	s.write(sandbox.KindTool, sandbox.BodyTool{Part: "t1", Tool: "bash", State: "running", Input: map[string]any{"command": "sleep 9"}})
	page.until(`document.querySelector('.tool-running.at-work')`)
	s.end(sessions.BodyEnded{State: sessions.Failed, Reason: "The sandbox was lost."})
	page.until(`document.querySelector('.tool-running:not(.at-work)')`)
	if got := page.eval(`getComputedStyle(document.querySelector('.tool-running summary'), '::after').content`); !strings.Contains(got, "did not finish") {
		t.Errorf("beside the tool stands %s", got)
	}
}
