package web

import (
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"openinspect/sessions"
)

// question has the session's prompt ask something and end.
func (s *scribe) question(text string, options ...string) {
	s.t.Helper()
	s.run()
	if _, err := s.DB.Exec(`insert into questions (prompt_id, session_id, text, options) values ($1, $2, $3, string_to_array($4, '|'))`,
		s.prompt, s.session, text, strings.Join(options, "|")); err != nil {
		s.t.Fatal(err)
	}
	s.write(sessions.KindQuestion, sessions.BodyQuestion{Text: text, Options: options})
	s.end(sessions.BodyEnded{State: sessions.Completed})
}

func TestAQuestionIsAnsweredOnThePage(t *testing.T) {
	r := newRig(t)
	alice, bob := r.signIn(t, "alice"), r.signIn(t, "bob")
	s := alice.scribe("Greet")
	s.write(sessions.KindUpdate, sessions.BodyUpdate{Text: "It is **the zone** <script>alert(1)</script>"})
	s.question("Which <b>zone</b>?", "UTC", "Berlin's")
	if status := alice.call("POST", "/api/prompts/"+s.prompt+"/answer", `{}`, nil); status < 400 {
		t.Errorf("an answer that names no option is %d", status)
	}
	hers, his := alice.open(sessionPath(s)).live(), bob.open(sessionPath(s)).live()
	hers.until(`document.querySelector('.row.update strong')?.textContent === 'the zone' && !document.querySelector('.row.update script')`)
	hers.until(`document.querySelector('.status-waiting')?.textContent.includes('Waiting for an answer')`)
	his.until(`document.querySelectorAll('#question .choices button').length === 2`)
	his.do(chromedp.Click(chromedp.CSS(`#question button[data-option="1"]`)))
	for _, page := range []*tab{hers, his} {
		page.until(`document.querySelector('.question')?.textContent.includes("answered: Berlin's") && !document.querySelector('#question *')`)
	}
	var refused refusal
	if status := alice.call("POST", "/api/prompts/"+s.prompt+"/answer", `{"option":0}`, &refused); status != http.StatusConflict || !strings.Contains(refused.Error.Text, "has answered that already") {
		t.Errorf("the second answer is %d: %s", status, refused.Error.Text)
	}
	if status := alice.call("POST", "/api/prompts/nope/answer", `{"option":0}`, nil); status != http.StatusNotFound {
		t.Errorf("an answer to nothing is %d", status)
	}
	resp, err := r.fresh(t).Post(r.url+"/api/prompts/"+s.prompt+"/answer", "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger's answer is %d", resp.StatusCode)
	}
}

func TestParentAndChildLinkEachOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	parent, child := alice.scribe("Greet"), alice.scribe("Bill")
	if _, err := r.DB.Exec(`update sessions set parent = $1, root = $1, depth = 1, title = 'Bill <b>' where id = $2`, parent.session, child.session); err != nil {
		t.Fatal(err)
	}
	for _, state := range []sessions.PromptState{sessions.Queued, sessions.Completed} {
		parent.write(sessions.KindChild, sessions.BodyChild{Session: child.session, Repository: "acme/billing", Title: "Bill <b>", State: state})
	}
	page := alice.page(sessionPath(parent))
	link := `<a href="` + sessionPath(child) + `">Bill &lt;b&gt;</a>`
	if strings.Count(page, link) != 2 || strings.Count(page, `class="row line child"`) != 1 || !strings.Contains(page, `<span class="chip">Completed</span>`) {
		t.Errorf("the parent's page does not show the child once in the transcript and once beside it:\n%s", page)
	}
	if page := alice.page(sessionPath(child)); !strings.Contains(page, `href="`+sessionPath(parent)+`">Begun by another session`) {
		t.Error("the child's page does not lead to its parent")
	}
}
