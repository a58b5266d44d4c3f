package web

import (
	"net/http"
	"strings"
	"testing"

	"openinspect/sessions"
)

func TestASessionIsArchivedAndReopenedOnItsPage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.run()
	var refused refusal
	if status := alice.call("POST", "/api/sessions/"+s.session+"/archive", "", &refused); status != http.StatusConflict {
		t.Errorf("archiving what is at work answers %d %+v", status, refused)
	}
	s.end(sessions.BodyEnded{State: sessions.Completed})
	if page := alice.page(sessionPath(s)); !strings.Contains(page, `data-act="archive"`) {
		t.Error("the page of an idle session does not offer to archive it")
	}
	if status := alice.call("POST", "/api/sessions/"+s.session+"/archive", "", nil); status != http.StatusNoContent {
		t.Fatalf("archiving answers %d", status)
	}
	page := alice.page(sessionPath(s))
	for _, want := range []string{`data-act="unarchive"`, "archived this session", "Archived"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page of an archived session has no %q", want)
		}
	}
	if strings.Contains(page, "disabled") {
		t.Error("nothing can be asked for in an archived session, though that would reopen it")
	}
	if status := alice.call("POST", "/api/sessions/"+s.session+"/unarchive", "", nil); status != http.StatusNoContent {
		t.Fatalf("reopening answers %d", status)
	}
	if page := alice.page(sessionPath(s)); !strings.Contains(page, "took this session out of the archive") || !strings.Contains(page, `data-act="archive"`) {
		t.Error("the page does not show that the session was reopened")
	}
	if status := alice.call("POST", "/api/sessions/nope/archive", "", &refused); status != http.StatusNotFound {
		t.Errorf("archiving no session answers %d", status)
	}
}

func TestCostsAreShownBySessionPersonAndDay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.run()
	_, err := r.DB.Exec(`insert into sandbox_usage (session_id, generation, person, prompt_id, began_at, ended_at, cpu, mem_mib, cost_usd)
		select session_id, 1, author, id, now() - interval '90 seconds', now(), 2, 4096, 0.25 from prompts where id = $1`, s.prompt)
	if err != nil {
		t.Fatal(err)
	}
	var session struct {
		SandboxUSD     float64 `json:"sandbox_usd"`
		SandboxSeconds float64 `json:"sandbox_seconds"`
	}
	alice.call("GET", "/api/sessions/"+s.session, "", &session)
	if session.SandboxUSD != 0.25 || session.SandboxSeconds != 90 {
		t.Errorf("the session's sandboxes cost %+v", session)
	}
	if page := alice.page(sessionPath(s)); !strings.Contains(page, "$0.25 for sandboxes") || !strings.Contains(page, "1 min 30 s") {
		t.Error("the page does not say what the sandboxes cost")
	}
	var costs struct{ Days []sessions.DayCost }
	alice.call("GET", "/api/costs?days=2", "", &costs)
	if len(costs.Days) != 1 || costs.Days[0].SandboxUSD != 0.25 || costs.Days[0].SandboxSeconds != 90 || costs.Days[0].Name == "" {
		t.Errorf("the days cost %+v", costs.Days)
	}
	var refused refusal
	if status := alice.call("GET", "/api/costs?days=soon", "", &refused); status != http.StatusBadRequest {
		t.Errorf("days that are no number answer %d", status)
	}
}
