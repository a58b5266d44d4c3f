package web

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"openinspect/sessions"
)

type refusal struct {
	Error struct{ Code, Text string }
}

func TestARequestSentTwiceIsOneRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	var first, second struct {
		Session, Prompt string
		Duplicate       bool
	}
	body := `{"prompt": "Fix it", "repository": "acme/greeter"}`
	if status := alice.call("POST", "/api/sessions", body, &first, "Idempotency-Key", "k1"); status != http.StatusCreated {
		t.Fatalf("the first answers %d", status)
	}
	if status := alice.call("POST", "/api/sessions", body, &second, "Idempotency-Key", "k1"); status != http.StatusOK || !second.Duplicate {
		t.Errorf("the second answers %d, %+v", status, second)
	}
	if first.Session != second.Session || first.Prompt != second.Prompt {
		t.Errorf("two requests: %+v and %+v", first, second)
	}
	// The same key of another person is another request.
	var other struct{ Session string }
	if r.signIn(t, "bob").call("POST", "/api/sessions", body, &other, "Idempotency-Key", "k1"); other.Session == first.Session {
		t.Error("another person's key was taken for Alice's")
	}
}

func TestRefusalsAreSentences(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"an empty prompt", "POST", "/api/sessions/" + s.session + "/prompts", `{"text": "  "}`, 400},
		{"a prompt of 200 kB", "POST", "/api/sessions/" + s.session + "/prompts", `{"text": "` + strings.Repeat("x", 200_000) + `"}`, 413},
		{"a body of 2 MB", "POST", "/api/sessions/" + s.session + "/prompts", `{"text": "` + strings.Repeat("x", 2_000_000) + `"}`, 413},
		{"half a body", "POST", "/api/sessions/" + s.session + "/prompts", `{"text": `, 400},
		{"no such session", "POST", "/api/sessions/nope/prompts", `{"text": "x"}`, 404},
		{"no such session to read", "GET", "/api/sessions/nope", "", 404},
		{"no such session's events", "GET", "/api/sessions/nope/events", "", 404},
		{"a ticket for no session", "POST", "/api/sessions/nope/ticket", "", 404},
		{"events after nonsense", "GET", "/api/sessions/" + s.session + "/events?after=x", "", 400},
		{"no such repository", "POST", "/api/sessions", `{"prompt": "x", "repository": "acme/nothing"}`, 422},
		{"no such prompt", "DELETE", "/api/prompts/nope", "", 404},
		{"no such call", "POST", "/api/nothing", "", 404},
	} {
		var got refusal
		status := alice.call(tc.method, tc.path, tc.body, &got)
		if status != tc.status || got.Error.Code == "" || !strings.Contains(got.Error.Text, " ") {
			t.Errorf("%s: %d %+v, want %d and a sentence", tc.name, status, got.Error, tc.status)
		}
	}
}

func TestAQueuedRequestIsWithdrawn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	if status := alice.call("DELETE", "/api/prompts/"+s.prompt, "", nil); status != http.StatusNoContent {
		t.Fatalf("withdrawing answers %d", status)
	}
	var got struct {
		Prompts []struct{ State sessions.PromptState }
	}
	alice.call("GET", "/api/sessions/"+s.session, "", &got)
	if len(got.Prompts) != 1 || got.Prompts[0].State != sessions.Cancelled {
		t.Errorf("the session has %+v", got.Prompts)
	}
	running := alice.scribe("Fix another")
	running.run()
	if status := alice.call("DELETE", "/api/prompts/"+running.prompt, "", &refusal{}); status != http.StatusConflict {
		t.Errorf("withdrawing what runs answers %d", status)
	}
}

func TestTheLogIsDownloadedWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	s.fill(1200)
	lines := bufio.NewScanner(strings.NewReader(alice.page(sessionPath(s) + "/log.jsonl")))
	var seq int64
	for lines.Scan() {
		var ev sessions.Event
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			t.Fatal(err)
		}
		if seq++; ev.Seq != seq {
			t.Fatalf("line %d has number %d", seq, ev.Seq)
		}
	}
	if seq != s.last() {
		t.Errorf("%d of %d entries were downloaded", seq, s.last())
	}
	var got struct{ Events []sessions.Event }
	alice.call("GET", "/api/sessions/"+s.session+"/events?after=1000", "", &got)
	if len(got.Events) != int(s.last())-1000 || got.Events[0].Seq != 1001 {
		t.Errorf("the API gives %d events after 1000 of %d", len(got.Events), s.last())
	}
}
