package web

import (
	"bytes"
	"image"
	imagepng "image/png"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"openinspect/sessions"
)

var png = append([]byte("\x89PNG\r\n\x1a\n"), bytes.Repeat([]byte{7}, 100)...)

// file makes an artifact as the agent's tool does.
func (s *scribe) file(name, mime string, data []byte) string {
	s.t.Helper()
	id := uuid.NewString()
	kind := "file"
	if strings.HasPrefix(mime, "image/") {
		kind = "image"
	}
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{`insert into artifacts (id, session_id, kind, key, url, title) values ($1, $2, $3, $4, $5, $6)`,
			[]any{id, s.session, kind, "file:" + id, s.url + "/artifacts/" + id + "/" + name, name}},
		{`insert into artifact_files (id, session_id, artifact, name, mime, size, data) values ($1, $2, $1, $3, $4, $5, $6)`,
			[]any{id, s.session, name, mime, len(data), data}},
	} {
		if _, err := s.DB.Exec(q.sql, q.args...); err != nil {
			s.t.Fatal(err)
		}
	}
	s.write(sessions.KindArtifact, sessions.BodyArtifact{Kind: kind, ID: id, Title: name, Name: name, MIME: mime, Size: int64(len(data)),
		URL: s.url + "/artifacts/" + id + "/" + name})
	return id
}

// get reads an address and returns its status and headers.
func get(t *testing.T, c *http.Client, url string) *http.Response {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func TestWhatTheAgentUploadedCannotDoAnythingInABrowser(t *testing.T) { // I10
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Greet")
	for _, c := range []struct{ name, mime, kind, shown string }{
		{"a.png", "image/png", "image/png", "inline"},
		{"a.txt", "text/plain", "text/plain; charset=utf-8", "inline"},
		{"a.html", "text/html", "application/octet-stream", "attachment"},
		{"a.svg", "image/svg+xml", "application/octet-stream", "attachment"},
		{"a.pdf", "application/pdf", "application/octet-stream", "attachment"},
		{"ü \"quoted\".js", "text/javascript", "application/octet-stream", "attachment"},
	} {
		resp := get(t, alice.Client, r.url+"/artifacts/"+s.file(c.name, c.mime, []byte("x"))+"/x")
		h := resp.Header
		if resp.StatusCode != http.StatusOK || h.Get("Content-Type") != c.kind || !strings.HasPrefix(h.Get("Content-Disposition"), c.shown) ||
			h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Content-Security-Policy"), "sandbox") {
			t.Errorf("%s: %d %v", c.name, resp.StatusCode, h)
		}
	}
	page := alice.page(sessionPath(s))
	if !strings.Contains(page, `<img src="/artifacts/`) || strings.Contains(page, `alt="a.html"`) {
		t.Error("the page does not show the picture, or shows what is none")
	}
	if got := get(t, alice.Client, r.url+"/artifacts/"+uuid.NewString()+"/x").StatusCode; got != http.StatusNotFound {
		t.Errorf("a file that is not there is %d", got)
	}
	stranger := r.fresh(t)
	stranger.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if got := get(t, stranger, r.url+"/artifacts/"+s.file("b.png", "image/png", png)+"/b.png").StatusCode; got == http.StatusOK {
		t.Error("a stranger sees an artifact")
	}
}

func TestALinkedPictureIsSeenByWhoHasTheLinkUntilItIsRevoked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Greet")
	picture, page := s.file("a.png", "image/png", png), s.file("a.html", "text/html", []byte("<script>"))
	for token, artifact := range map[string]string{"goodtoken": picture, "pagetoken": page} {
		if _, err := r.DB.Exec(`insert into pictures (token, artifact) values ($1, $2)`, token, artifact); err != nil {
			t.Fatal(err)
		}
	}
	stranger := r.fresh(t)
	resp := get(t, stranger, r.url+"/pictures/goodtoken")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "image/png" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the picture is %d %v", resp.StatusCode, resp.Header)
	}
	for _, path := range []string{"/pictures/pagetoken", "/pictures/badtoken", "/pictures/" + picture} {
		if got := get(t, stranger, r.url+path).StatusCode; got != http.StatusNotFound {
			t.Errorf("%s is %d", path, got)
		}
	}
	if !strings.Contains(alice.page(sessionPath(s)), `data-act="revoke" data-artifact="`+picture) {
		t.Error("the page does not offer to revoke the link")
	}
	resp2, err := stranger.Do(must(http.NewRequest("DELETE", r.url+"/api/artifacts/"+picture+"/link", nil)))
	if err != nil {
		t.Fatal(err)
	}
	resp2.Body.Close()
	if got := get(t, stranger, r.url+"/pictures/goodtoken").StatusCode; got != http.StatusOK {
		t.Errorf("a stranger has revoked the link (%d), and it is %d", resp2.StatusCode, got)
	}
	if got := alice.call("DELETE", "/api/artifacts/"+picture+"/link", "", nil); got != http.StatusNoContent {
		t.Errorf("revoking answers %d", got)
	}
	if got := get(t, stranger, r.url+"/pictures/goodtoken").StatusCode; got != http.StatusNotFound {
		t.Errorf("afterwards the picture is %d", got)
	}
	if shown := alice.page(sessionPath(s)); strings.Contains(shown, `data-act="revoke"`) && strings.Contains(shown, picture+`" title`) || !strings.Contains(shown, "revoked the link to the picture") {
		t.Error("the page does not show that the link is revoked")
	}
}

func TestTheSessionsPageSaysWhichFilesAreDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	alice := r.signIn(t, "alice")
	s := alice.scribe("Greet")
	var dot bytes.Buffer
	if err := imagepng.Encode(&dot, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		t.Fatal(err)
	}
	gone, kept := s.file("gone.png", "image/png", png), s.file("kept.png", "image/png", dot.Bytes())
	if _, err := r.DB.Exec(`update artifact_files set data = '', gone_at = now() where artifact = $1`, gone); err != nil {
		t.Fatal(err)
	}
	resp, err := alice.Get(r.url + "/artifacts/" + gone + "/gone.png")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusGone || !strings.Contains(string(said), "is deleted") {
		t.Errorf("the file is answered %d: %s (%v)", resp.StatusCode, said, err)
	}
	if status := get(t, alice.Client, r.url+"/artifacts/"+kept+"/kept.png").StatusCode; status != http.StatusOK {
		t.Errorf("the other one is answered %d", status)
	}
	if page := alice.page(sessionPath(s)); !strings.Contains(page, `gone.png</a> <span class="dim">(deleted)`) || strings.Contains(page, `kept.png</a> <span class="dim">(deleted)`) {
		t.Error("the page does not say which file is deleted")
	}
	page := alice.open(sessionPath(s))
	page.until(`Array.from(document.querySelectorAll('#log .picture'), (p) => p.textContent || p.querySelector('img').naturalWidth).join() === 'This picture cannot be shown.,1'`)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
