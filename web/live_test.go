package web

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"openinspect/sandbox"
	"openinspect/sessions"
)

// socket is a live connection of a person.
type socket struct {
	*websocket.Conn
	t testing.TB
}

// ticket asks for a ticket of a session.
func (b *browser) ticket(session string) string {
	b.t.Helper()
	var got struct{ Ticket string }
	if status := b.call("POST", "/api/sessions/"+session+"/ticket", "", &got); status != http.StatusOK || got.Ticket == "" {
		b.t.Fatalf("asking for a ticket answers %d", status)
	}
	return got.Ticket
}

// dial opens a live connection with a ticket, from an origin.
func (b *browser) dial(session, ticket string, after int64, origin string) (*socket, error) {
	b.t.Helper()
	header := http.Header{"Origin": {origin}, "Cookie": {b.rig.server.cookieName("login") + "=" + b.login()}}
	ws, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(b.rig.url, "http")+"/sessions/"+session+"/live", header)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	b.t.Cleanup(func() { ws.Close() })
	if err := ws.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	return &socket{ws, b.t}, ws.WriteJSON(map[string]any{"ticket": ticket, "after": after})
}

// watch opens a live connection as the page does.
func (b *browser) watch(session string, after int64) *socket {
	b.t.Helper()
	ws, err := b.dial(session, b.ticket(session), after, b.rig.url)
	if err != nil {
		b.t.Fatal(err)
	}
	return ws
}

// next reads frames until one of a type comes.
func (s *socket) next(kind string) frame {
	s.t.Helper()
	for {
		var f frame
		_, data, err := s.ReadMessage()
		if err != nil {
			s.t.Fatalf("waiting for %s: %v", kind, err)
		}
		if err := json.Unmarshal(data, &f); err != nil {
			s.t.Fatal(err)
		}
		if f.Type == kind {
			return f
		}
	}
}

// closed reads to the end and returns the close code.
func (s *socket) closed() int {
	s.t.Helper()
	for {
		if _, _, err := s.ReadMessage(); err != nil {
			if e, ok := err.(*websocket.CloseError); ok {
				return e.Code
			}
			s.t.Fatalf("the connection ended with %v, not a close frame", err)
		}
	}
}

func TestAWatcherGetsWhatItMissedAndThenWhatHappens(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.run()
	s.fill(40)
	ws := alice.watch(s.session, 10)
	want := int64(10)
	for want < s.last() {
		want++
		if f := ws.next(frameRow); f.Seq != want {
			t.Fatalf("got entry %d, want %d", f.Seq, want)
		}
	}
	if f := ws.next(frameLive); f.Seq != want {
		t.Errorf("live from %d, want %d", f.Seq, want)
	}
	for range 20 {
		s.text("x", "more")
		want++
		if f := ws.next(frameRow); f.Seq != want || !strings.Contains(f.HTML, "more") {
			t.Fatalf("got entry %d, want %d", f.Seq, want)
		}
	}
	// A browser that lost some asks again.
	if err := ws.WriteJSON(map[string]any{"after": want - 3}); err != nil {
		t.Fatal(err)
	}
	var again []int64
	for len(again) < 3 {
		again = append(again, ws.next(frameRow).Seq)
	}
	if diff := cmp.Diff([]int64{want - 2, want - 1, want}, again); diff != "" {
		t.Error(diff)
	}
}

func TestATicketOpensOneSessionOnceForOnePerson(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice, bob := r.signIn(t, "alice"), r.signIn(t, "bob")
	one, other := alice.scribe("one"), alice.scribe("other")
	for name, try := range map[string]struct {
		who             *browser
		session, ticket string
	}{
		"another session": {alice, other.session, alice.ticket(one.session)},
		"another person":  {bob, one.session, alice.ticket(one.session)},
		"an invented one": {alice, one.session, "1.2.3"},
	} {
		ws, err := try.who.dial(try.session, try.ticket, 0, r.url)
		if err != nil {
			t.Fatal(err)
		}
		if code := ws.closed(); code != websocket.ClosePolicyViolation {
			t.Errorf("%s: closed with %d", name, code)
		}
	}
	ticket := alice.ticket(one.session)
	first, err := alice.dial(one.session, ticket, 0, r.url)
	if err != nil {
		t.Fatal(err)
	}
	first.next(frameLive)
	second, err := alice.dial(one.session, ticket, 0, r.url)
	if err != nil {
		t.Fatal(err)
	}
	if code := second.closed(); code != websocket.ClosePolicyViolation {
		t.Errorf("a used ticket: closed with %d", code)
	}
	if _, err := alice.dial(one.session, alice.ticket(one.session), 0, "https://evil.test"); err == nil {
		t.Error("a page of another site may connect")
	}
	r.server.timing.ticket = -time.Second
	late, err := alice.dial(one.session, alice.ticket(one.session), 0, r.url)
	if err != nil {
		t.Fatal(err)
	}
	if code := late.closed(); code != websocket.ClosePolicyViolation {
		t.Errorf("an old ticket: closed with %d", code)
	}
}

func TestSigningOutEndsLiveConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.timing.authorise = 20 * time.Millisecond
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	ws := alice.watch(s.session, 0)
	ws.next(frameLive)
	resp, err := alice.Post(r.url+"/signout", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if code := ws.closed(); code != websocket.ClosePolicyViolation {
		t.Errorf("closed with %d", code)
	}
}

func TestPeopleSeeWhoWatches(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice, bob := r.signIn(t, "alice"), r.signIn(t, "bob")
	s := alice.scribe("Fix it")
	names := func(f frame) string {
		var all []string
		for _, p := range f.People {
			all = append(all, strings.Fields(p.Name)[0])
		}
		return strings.Join(all, ",")
	}
	mine := alice.watch(s.session, 0)
	if got := names(mine.next(framePeople)); got != "Alice" {
		t.Errorf("alone, Alice sees %q", got)
	}
	second := alice.watch(s.session, 0)
	second.next(frameLive)
	if got := names(mine.next(framePeople)); got != "Alice" {
		t.Errorf("with two tabs, Alice sees %q", got)
	}
	his := bob.watch(s.session, 0)
	his.next(frameLive)
	if got := names(mine.next(framePeople)); got != "Alice,Bob" {
		t.Errorf("with Bob, Alice sees %q", got)
	}
	his.Close()
	if got := names(mine.next(framePeople)); got != "Alice" {
		t.Errorf("after Bob left, Alice sees %q", got)
	}
}

func TestABrowserThatReadsNothingDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.timing.write = 300 * time.Millisecond
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	stuck := alice.watch(s.session, 0)
	stuck.next(frameLive)
	good := alice.watch(s.session, s.last())
	good.next(frameLive)
	big := strings.Repeat("words and ", 20_000)
	want := s.last()
	for range 60 {
		s.write(sandbox.KindTool, sandbox.BodyTool{Part: "p", Tool: "bash", State: "completed", Output: big})
		want++
		if f := good.next(frameRow); f.Seq != want {
			t.Fatalf("got entry %d, want %d", f.Seq, want)
		}
	}
	for n := 0; ; n++ {
		if _, _, err := stuck.ReadMessage(); err != nil {
			break
		}
		if n > 200 {
			t.Fatal("the browser that read nothing was not cut")
		}
	}
}

func TestAnOpenRowGivesWayToTheNextOfItsKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.run()
	s.write(sandbox.KindTool, sandbox.BodyTool{Part: "t1", Tool: "bash", State: "running", Input: map[string]any{"command": "sleep 1"}})
	s.fill(150) // the end is in another section than the beginning
	s.write(sandbox.KindTool, sandbox.BodyTool{Part: "t1", Tool: "bash", State: "completed", Input: map[string]any{"command": "sleep 1"}})
	s.write(sandbox.KindTool, sandbox.BodyTool{Part: "t2", Tool: "bash", State: "running", Input: map[string]any{"command": "sleep 2"}})
	s.end(sessions.BodyEnded{State: sessions.Failed, Reason: "The sandbox was lost."})
	old := alice.page(sessionPath(s) + "/section?from=1")
	if strings.Contains(old, "sleep 1") {
		t.Error("the running tool is still shown where it began")
	}
	if strings.Contains(old, "prompt-queued") || !strings.Contains(old, "prompt-running") {
		t.Error("the request is shown as queued after it began")
	}
	page := alice.page(sessionPath(s))
	for _, want := range []string{"tool-completed", "sleep 2", "The sandbox was lost."} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
}

func TestTheQuestionForARepositoryIsGoneOnceItIsAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.write(sessions.KindWaiting, sessions.BodyWaiting{For: "repository", Text: "Which repository is this about?", Menu: []string{"acme/greeter"}})
	if page := alice.page(sessionPath(s)); !strings.Contains(page, "Which repository") {
		t.Error("the page does not ask")
	}
	s.write(sessions.KindRepository, sessions.BodyRepository{Repository: "acme/greeter", Why: "chosen by Alice"})
	if page := alice.page(sessionPath(s)); strings.Contains(page, "Which repository") || !strings.Contains(page, "chosen by Alice") {
		t.Error("the page still asks after the answer")
	}
}

func TestPeopleSeeWhoWatchesAtAnotherReplica(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	carol := r.Person(r.Engine(), "Carol")
	ws := alice.watch(s.session, 0)
	ws.next(frameLive)
	if err := r.Engine().Watching(t.Context(), s.session, carol.ID, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	for want := 2; want > 0; want-- { // Carol comes, and after a while without a sign of her, goes
		for len(ws.next(framePeople).People) != want {
		}
	}
}
