package web

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions"
)

// unfinished sends a request whose body does not come, beyond what is given of
// it, and returns the answer once the server has closed the connection.
func (r *rig) unfinished(t *testing.T, method, path, cookie, body string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: inspect\r\nCookie: %s\r\nContent-Length: 1000\r\n\r\n%s", method, path, cookie, body); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("%s %s: no answer: %v", method, path, err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatalf("%s %s: half an answer: %v", method, path, err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("%s %s: the connection is not closed: %v", method, path, err)
	}
	return resp
}

func TestABodyThatNeverComesIsGivenUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Fix it")
	r.server.timing.body = 50 * time.Millisecond
	live := alice.watch(s.session, 0)
	live.next(frameLive)
	signedIn := r.server.cookieName("login") + "=" + alice.login()
	for _, tc := range []struct {
		name, method, path, cookie, body string
		status                           int
	}{
		{"a prompt", "POST", "/api/sessions/" + s.session + "/prompts", signedIn, `{"text": "fi`, http.StatusRequestTimeout},
		{"a body that nobody reads", "POST", "/signout", "", "", http.StatusSeeOther},
		{"a body of nobody", "POST", "/api/sessions", "", `{`, http.StatusUnauthorized},
		{"a body of a page", "GET", "/signin", "", "", http.StatusOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := r.unfinished(t, tc.method, tc.path, tc.cookie, tc.body); got.StatusCode != tc.status {
				t.Errorf("answers %s, want %d", got.Status, tc.status)
			}
		})
	}
	// The live connection is older than all these deadlines, and goes on.
	s.run()
	s.write(sandbox.KindText, sandbox.BodyText{Part: "p1", Text: "Still here."})
	for {
		if f := live.next(frameRow); strings.Contains(f.HTML, "Still here.") {
			break
		}
	}
	if p, err := s.engine.Prompts(t.Context(), s.session); err != nil || len(p) != 1 || p[0].State != sessions.Running {
		t.Errorf("half a prompt was taken: %+v, %v", p, err)
	}
}
