package model

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

const hello = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hello there"}]}`

func TestAFaultFailsAsManyRequestsAsItSays(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	s.Inject(Fault{Kind: RateLimited, Times: 2, RetryAfter: 90 * time.Second})
	for i, want := range []int{429, 429, 200} {
		res := post(t, url+"/v1/chat/completions", hello)
		body := read(t, res)
		if res.StatusCode != want {
			t.Errorf("request %d: %d %s", i, res.StatusCode, body)
		}
		if want == 429 && res.Header.Get("Retry-After") != "90" {
			t.Errorf("request %d: Retry-After %q", i, res.Header.Get("Retry-After"))
		}
	}
}

func TestAFaultCanBeForOnePromptAndForEver(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	s.Inject(Fault{Kind: Unavailable, Match: "hello"})
	for range 3 {
		if res := post(t, url+"/v1/messages", hello); res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("got %d", res.StatusCode)
		}
	}
	if res := post(t, url+"/v1/messages", strings.Replace(hello, "hello", "good day", 1)); res.StatusCode != http.StatusOK {
		t.Errorf("another prompt: %d", res.StatusCode)
	}
	s.Clear()
	if res := post(t, url+"/v1/messages", hello); res.StatusCode != http.StatusOK {
		t.Errorf("after Clear: %d", res.StatusCode)
	}
}

func TestRefusalsLookLikeTheProviders(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	for _, c := range []struct {
		kind       FaultKind
		path, want string
		status     int
	}{
		{Unauthorized, "/v1/chat/completions", "invalid_api_key", 401},
		{Unauthorized, "/v1/messages", "authentication_error", 401},
		{ContextLength, "/v1/chat/completions", "context_length_exceeded", 400},
		{ContextLength, "/v1/messages", "prompt is too long", 400},
	} {
		s.Inject(Fault{Kind: c.kind, Times: 1})
		res := post(t, url+c.path, hello)
		if body := read(t, res); res.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s", c.kind, c.path, res.StatusCode, body)
		}
	}
}

func TestAHangingModelSendsNothingUntilTheClientGivesUp(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	s.Inject(Fault{Kind: Hang})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/messages", strings.NewReader(hello))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("x-api-key", testKey)
	done := make(chan error, 1)
	go func() {
		res, err := client.Do(r)
		if err == nil {
			res.Body.Close()
		}
		done <- err
	}()
	rec, err := s.Await(t.Context(), func(r Record) bool { return r.Path == "/v1/messages" })
	if err != nil || rec.Status != 0 {
		t.Fatalf("record %+v, %v", rec, err)
	}
	cancel(errors.New("patience is over"))
	if err := <-done; err == nil {
		t.Error("the hanging request was answered")
	}
}

func TestAStalledStreamStaysOpenAndACutOneBreaks(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	s.Inject(Fault{Kind: Stall, After: 3, Times: 1})
	stalled := bufio.NewReader(post(t, url+"/v1/chat/completions", hello).Body)
	for range 3 {
		if line, err := stalled.ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: ") {
			t.Fatalf("%q, %v", line, err)
		}
		if _, err := stalled.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	rest := make(chan error, 1)
	go func() {
		_, err := stalled.ReadString('\n')
		rest <- err
	}()
	select {
	case err := <-rest:
		t.Fatalf("the stalled stream went on: %v", err)
	default:
	}
	s.Clear()
	if err := <-rest; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after Clear the stalled stream ended with %v", err)
	}
	s.Inject(Fault{Kind: Cut, After: 2, Times: 1})
	body, err := io.ReadAll(post(t, url+"/v1/messages", hello).Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || strings.Count(string(body), "event: ") != 2 {
		t.Errorf("cut after %q with %v", body, err)
	}
}

func TestAnErrorWithinTheStreamEndsIt(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	for path, want := range map[string]string{
		"/v1/chat/completions": `data: {"error":{"code":null,"message":"Overloaded"`,
		"/v1/messages":         "event: error\ndata: {\"error\":{\"message\":\"Overloaded\"",
	} {
		s.Inject(Fault{Kind: StreamError, After: 2, Times: 1})
		if body := read(t, post(t, url+path, hello)); !strings.Contains(body, want) || strings.Contains(body, "[DONE]") {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestAScriptCanFailOnPurpose(t *testing.T) {
	t.Parallel()
	_, url := start(t, map[string]string{"x.txt": "match refuse me\nstep\nfault unauthorized\n"})
	if res := post(t, url+"/v1/messages", strings.Replace(hello, "hello there", "refuse me", 1)); res.StatusCode != 401 {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestTheRecordOfRequestsIsBounded(t *testing.T) {
	t.Parallel()
	s, url := start(t, nil)
	s.keep = 2
	for _, prompt := range []string{"one", "two", "three"} {
		post(t, url+"/v1/messages", strings.Replace(hello, "hello there", prompt, 1))
	}
	got := s.Requests()
	if len(got) != 2 || got[0].Prompt != "two" || got[1].Prompt != "three" {
		t.Errorf("records: %+v", got)
	}
	for _, rec := range got {
		for _, name := range rec.Headers {
			if strings.Contains(name, testKey) {
				t.Errorf("the key is in the record: %v", rec.Headers)
			}
		}
	}
}
