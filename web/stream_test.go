package web

import (
	"context"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"openinspect/sandbox"
	"openinspect/sessions/sessionstest"
)

// agent is a scripted agent in a real sandbox's place: it writes one text part
// from the words that the test gives it.
type agent struct {
	words   chan string   // each is a delta; closing it finishes the part
	stopped chan struct{} // closed when the agent was stopped
}

// attach makes it the agent of the rig's sandboxes and runs the engine.
func (r *rig) attach() *agent {
	a := &agent{words: make(chan string), stopped: make(chan struct{})}
	r.Provider.Agent = a.work
	r.Run(r.engine)
	return a
}

func (a *agent) work(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
	text, part := "", "part-"+p.ID
	for {
		select {
		case <-ctx.Done():
			close(a.stopped)
			return
		case word, more := <-a.words:
			if !more {
				b.Bridge().Event(sandbox.KindText, p.ID, sandbox.BodyText{Part: part, Text: text})
				b.Settle(p, sandbox.OutcomeCompleted, "", text)
				return
			}
			b.Bridge().Delta(sandbox.Delta{Prompt: p.ID, Part: part, Kind: sandbox.KindText, Offset: len(text), Text: word})
			text += word
		}
	}
}

func TestWordsAppearWhileTheyAreWrittenAndAReloadShowsTheSame(t *testing.T) {
	r := newRig(t)
	agent := r.attach()
	alice := r.signIn(t, "alice")
	s := alice.scribe("Explain it")
	page := alice.open(sessionPath(s)).live()
	const shown = `(document.querySelector('#parts .stream')?.textContent ?? '')`
	// Each look is after a character that no secret begins with: others may be held back.
	agent.words <- "It is **"
	page.until(shown + ` === 'It is **'`)
	agent.words <- "grö"
	agent.words <- "ßer** now,"
	page.until(shown + ` === 'It is **größer** now,'`)
	page.do(chromedp.Reload())
	page.live()
	page.until(shown + ` === 'It is **größer** now,'`)
	agent.words <- " you see "
	page.until(shown + ` === 'It is **größer** now, you see '`)
	close(agent.words)
	page.until(`document.querySelector('.ended-completed')`)
	if got := page.eval(`document.querySelectorAll('#parts .row').length`); got != "0" {
		t.Errorf("%s running parts are left", got)
	}
	if got := page.eval(`[...document.querySelectorAll('.row.text')].map(e => e.innerHTML.trim()).join()`); strings.Count(got, "<strong>größer</strong> now, you see") != 1 {
		t.Errorf("the finished text is %s", got)
	}
}

func TestTheStopButtonEndsWhatRuns(t *testing.T) {
	r := newRig(t)
	agent := r.attach()
	alice := r.signIn(t, "alice")
	s := alice.scribe("Count to a million")
	page := alice.open(sessionPath(s)).live()
	agent.words <- "1, 2, 3, "
	page.until(`document.querySelector('#parts .stream')?.textContent === '1, 2, 3, '`)
	page.do(chromedp.Click(chromedp.CSS(`[data-act="stop"]`)))
	page.until(`document.querySelector('.ended-stopped')`)
	<-agent.stopped
	page.until(`!document.querySelector('[data-act="stop"]') && document.querySelector('[data-act="retry"]')`)
}
