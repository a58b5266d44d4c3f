package sessions_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// png is the beginning of a picture; what comes after it is anything.
var png = append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), bytes.Repeat([]byte{7}, 500)...)

// upload sends a file and claims it, and returns what the log says of it.
func (h *hand) upload(name, title string, data []byte) sessions.BodyArtifact {
	h.t.Helper()
	id := uuid.NewString()
	if err := h.box.Upload(h.ctx, id, name, data); err != nil {
		h.t.Fatal(err)
	}
	text := h.must("upload_artifact", `{"upload":"`+id+`","title":"`+title+`"}`, "is shown")
	m := regexp.MustCompile(`/artifacts/([0-9a-f-]{36})/`).FindStringSubmatch(text)
	if m == nil {
		h.t.Fatalf("the agent reads %q", text)
	}
	return sessions.BodyArtifact{ID: m[1], Title: title}
}

func TestAPictureIsShownToPeopleAsWhatItsBytesSay(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	h.upload("../../after.svg", "After", png)
	page := []byte("<html><script>alert(1)</script></html>")
	h.upload("chart.png", "", page)
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	made := bodies[sessions.BodyArtifact](t, e, acc.Session.ID, sessions.KindArtifact)
	if len(made) != 2 || made[0].Kind != "image" || made[0].Name != "after.svg" || made[0].MIME != "image/png" || made[0].Size != int64(len(png)) {
		t.Fatalf("the log says %+v", made)
	}
	if made[1].Kind != "file" || made[1].Title != "chart.png" || made[1].MIME != "text/html" {
		t.Errorf("a page that says it is a picture is %+v", made[1])
	}
	f, err := e.ArtifactFile(bg, uuid.MustParse(made[0].ID))
	if err != nil || !bytes.Equal(f.Data, png) || !f.Picture() || f.Title != "After" {
		t.Errorf("the file is %+v (%v)", f.MIME, err)
	}
	if f, err := e.ArtifactFile(bg, uuid.MustParse(made[1].ID)); err != nil || f.Picture() {
		t.Errorf("the page counts as a picture (%v)", err)
	}
	if due := dueIn(t, e, sessions.DeliverFile); len(due) != 2 {
		t.Errorf("the thread gets %+v", due)
	}
	list, err := e.Artifacts(bg, acc.Session.ID)
	if err != nil || len(list) != 2 || !strings.HasPrefix(list[0].URL, "https://inspect.test/artifacts/"+made[0].ID+"/") {
		t.Errorf("artifacts: %+v (%v)", list, err)
	}
}

func TestFilesThatCannotBeTakenAreRefusedWithASentence(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.Scrub = []string{"hunter2hunter2"} })
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	id := uuid.NewString
	token := h.box.Spec().Env[sandbox.EnvToken]
	for _, c := range []struct {
		id, says string
		data     []byte
	}{
		{"no-uuid", "no proper id", png},
		{id(), "is empty", nil},
		{id(), "larger than the 20 MB", make([]byte, sandbox.MaxUpload+1)},
		{id(), "contains the value of a secret", append(bytes.Clone(png), "hunter2hunter2"...)},
		{id(), "contains the value of a secret", append(bytes.Clone(png), token...)},
	} {
		err := h.box.Upload(h.ctx, c.id, "x.png", c.data)
		if no := (*sandbox.RefusedUpload)(nil); !errors.As(err, &no) || !strings.Contains(no.Text, c.says) {
			t.Errorf("%s: %v, want %q", c.id, err, c.says)
		}
	}
	text := h.upload("log.txt", "Log", []byte("the password is hunter2hunter2."))
	f, err := e.ArtifactFile(bg, uuid.MustParse(text.ID))
	if err != nil || string(f.Data) != "the password is [redacted]." {
		t.Errorf("the log file says %q (%v)", f.Data, err)
	}
	h.refused("upload_artifact", `{"upload":"`+id()+`"}`, "did not arrive")
	h.refused("upload_artifact", `{"upload":"x"}`, "cannot be read")
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	if err := e.TakeUpload(bg, "wrong-token", sandbox.Upload{ID: id(), Name: "x", Data: png}); err == nil {
		t.Error("a file with a wrong token is taken")
	}
}

func TestOneSessionsFileIsNotAnothers(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	first := <-begun
	w.Ask(e, alice.ID, "2.0", "acme/greeter: greet")
	second := <-begun
	id := uuid.NewString()
	for range 2 { // the same file again changes nothing
		if err := first.box.Upload(bg, id, "a.png", png); err != nil {
			t.Fatal(err)
		}
	}
	second.refused("upload_artifact", `{"upload":"`+id+`"}`, "did not arrive")
	first.must("upload_artifact", `{"upload":"`+id+`"}`, "is shown")
	first.refused("upload_artifact", `{"upload":"`+id+`"}`, "did not arrive") // it is claimed
	a := first.upload("b.png", "Mine", png)
	second.must("create_pull_request", `{"title":"x","body":"![Stolen](artifact:`+a.ID+`)"}`, "is open")
	first.done <- "done"
	second.done <- "done"
	if body := w.Forge.Body(w.Forge.PullRequests()[0].URL); body != "(Stolen: no such picture)" {
		t.Errorf("the other session's pull request says %q", body)
	}
}

func TestTheFilesOfASessionAreBoundedTogether(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	if _, err := w.DB.Exec(`insert into artifact_files (id, session_id, name, mime, size, data) values (gen_random_uuid(), $1, 'x', 'x', $2, '')`, acc.Session.ID, 200<<20); err != nil {
		t.Fatal(err)
	}
	if err := h.box.Upload(bg, uuid.NewString(), "x.png", png); err == nil || !strings.Contains(err.Error(), "200 MB") {
		t.Errorf("one more file: %v", err)
	}
	h.done <- "done"
}

func TestPicturesInAPullRequestHaveALinkThatPeopleRevoke(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	a, text := h.upload("a.png", "After", png), h.upload("a.txt", "Text", []byte("words"))
	args, err := json.Marshal(map[string]string{"title": "Greet", "body": "![After](artifact:" + a.ID + ") and again ![x](artifact:" + a.ID + ")\n![t](artifact:" + text.ID + ")"})
	if err != nil {
		t.Fatal(err)
	}
	h.must("create_pull_request", string(args), "is open")
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	body := w.Forge.Body(w.Forge.PullRequests()[0].URL)
	links := regexp.MustCompile(`https://inspect\.test/pictures/([a-z0-9]{52})\)`).FindAllStringSubmatch(body, -1)
	if len(links) != 2 || links[0][1] != links[1][1] || !strings.Contains(body, "(t: no such picture)") {
		t.Fatalf("the pull request says %q", body)
	}
	token := links[0][1]
	if f, err := e.LinkedPicture(bg, token); err != nil || !bytes.Equal(f.Data, png) {
		t.Errorf("the link leads to %v", err)
	}
	id := uuid.MustParse(a.ID)
	if linked, err := e.LinkedPictures(bg, acc.Session.ID); err != nil || len(linked) != 1 || !linked[id] {
		t.Errorf("the page shows the links %v (%v)", linked, err)
	}
	for range 2 {
		if err := e.RevokePicture(bg, id, alice.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.LinkedPicture(bg, token); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("a revoked link leads to %v", err)
	}
	if got := bodies[sessions.BodyRevoked](t, e, acc.Session.ID, sessions.KindRevoked); len(got) != 1 || got[0].By != "Alice" || got[0].Title != "After" {
		t.Errorf("the log says %+v", got)
	}
}

func TestAnOperatorKeepsPicturesOutOfPullRequests(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t, func(c *sessions.Config) { c.PullRequestPictures = sessions.PicturesNone })
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: greet")
	h := <-begun
	a := h.upload("a.png", "After", png)
	h.must("create_pull_request", `{"title":"Greet","body":"See ![After](artifact:`+a.ID+`)"}`, "is open")
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	if body := w.Forge.Body(w.Forge.PullRequests()[0].URL); body != "See [After](https://inspect.test/sessions/"+acc.Session.ID+")" {
		t.Errorf("the pull request says %q", body)
	}
}

func TestASandboxThatWaitsForASessionSendsNoFiles(t *testing.T) {
	t.Parallel()
	w, e, _ := running(t, withSpares)
	interest(t, e)
	waiting(t, w)
	err := w.Provider.Boxes()[0].Upload(bg, uuid.NewString(), "x.png", png)
	if no := (*sandbox.RefusedUpload)(nil); !errors.As(err, &no) || !strings.Contains(no.Text, "works for no session") {
		t.Errorf("a file of a spare: %v", err)
	}
}

func TestASecretOfTheRepositoryIsInNoFileThatIsShown(t *testing.T) { // I10
	t.Parallel()
	w, e, ada := governed(t)
	begun := hands(t, w)
	w.Run(e)
	set(t, e, ada, "acme/greeter", "NPM_TOKEN", "npm-token-of-greeter", true)
	w.Ask(e, ada.ID, "1.0", "acme/greeter: greet")
	h := <-begun
	shown := h.upload("npm-token-of-greeter.log", "npm-token-of-greeter", []byte("token=npm-token-of-greeter"))
	f, err := e.ArtifactFile(bg, uuid.MustParse(shown.ID))
	if err != nil || string(f.Data) != "token=[redacted]" || f.Name != "[redacted].log" || f.Title != "[redacted]" {
		t.Errorf("the file is %q, %q, %q (%v)", f.Data, f.Name, f.Title, err)
	}
	if err := h.box.Upload(h.ctx, uuid.NewString(), "x.png", append(bytes.Clone(png), "npm-token-of-greeter"...)); err == nil || !strings.Contains(err.Error(), "value of a secret") {
		t.Errorf("a picture with it: %v", err)
	}
	h.done <- "done"
}

// archivedLongAgo puts a session away so long ago that what it kept is deleted.
func archivedLongAgo(t *testing.T, w *sessionstest.World, session string) {
	t.Helper()
	if _, err := w.DB.Exec(`update sessions set state = 'archived', archived_at = now() - interval '8 days' where id = $1`, session); err != nil {
		t.Fatal(err)
	}
}

func TestFilesOfAnArchivedSessionAreDeletedAndSaidToBe(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	alice := w.Linked(e, "Alice")
	acc := w.Ask(e, alice.ID, "", "acme/greeter: greet")
	h := <-begun
	lone, linked, report := h.upload("a.png", "Alone", png), h.upload("b.png", "Linked", png), h.upload("c.txt", "Report", []byte("all well"))
	h.must("create_pull_request", `{"title":"Greet","body":"![x](artifact:`+linked.ID+`)"}`, "is open")
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
	other := w.Ask(e, alice.ID, "", "acme/greeter: greet")
	h = <-begun
	kept := h.upload("d.txt", "Kept", []byte("all well"))
	h.done <- "done"
	ended(t, e, other.Prompt.ID)

	archivedLongAgo(t, w, acc.Session.ID)
	gone := func(id string) bool {
		_, err := e.ArtifactFile(bg, uuid.MustParse(id))
		p, is := errors.AsType[*sessions.Problem](err)
		return is && p.Code == "file_gone" && strings.Contains(p.Text, "is deleted")
	}
	sessionstest.Eventually(t, "the files are deleted", func() bool { return gone(lone.ID) && gone(report.ID) })
	for what, id := range map[string]string{"the picture of a pull request": linked.ID, "another session's file": kept.ID} {
		if _, err := e.ArtifactFile(bg, uuid.MustParse(id)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	var bytes int
	if err := w.DB.Get(&bytes, `select sum(length(data)) from artifact_files where session_id = $1`, acc.Session.ID); err != nil || bytes != len(png) {
		t.Errorf("%d bytes are kept (%v)", bytes, err)
	}
	var token string
	if err := w.DB.Get(&token, `select token from pictures where artifact = $1`, linked.ID); err != nil {
		t.Fatal(err)
	}
	if f, err := e.LinkedPicture(bg, token); err != nil || len(f.Data) != len(png) {
		t.Errorf("the pull request shows %d bytes (%v)", len(f.Data), err)
	}
	if err := e.RevokePicture(bg, uuid.MustParse(linked.ID), alice.ID); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "the picture is deleted once nobody has its link", func() bool { return gone(linked.ID) })
	list, err := e.Artifacts(bg, acc.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if is := a.Kind == "image" || a.Kind == "file"; is != a.Gone {
			t.Errorf("the page says of %s %q: gone %v", a.Kind, a.Title, a.Gone)
		}
	}
}

func TestASessionKeepsSoManyFilesAndNoMore(t *testing.T) {
	t.Parallel()
	w, e, begun := handWorld(t)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "", "acme/greeter: greet")
	h := <-begun
	put := func() string {
		t.Helper()
		id := uuid.NewString()
		if err := h.box.Upload(h.ctx, id, "x.txt", []byte("x")); err != nil {
			t.Fatal(err)
		}
		return `{"upload":"` + id + `"}`
	}
	h.upload("a.txt", "A", []byte("x"))
	if _, err := w.DB.Exec(`insert into artifacts (id, session_id, kind, key, url, title)
		select gen_random_uuid(), $1, 'file', 'file:' || n, '', '' from generate_series(1, 19) n`, acc.Session.ID); err != nil {
		t.Fatal(err)
	}
	h.refused("upload_artifact", put(), "20 files within 5m0s are enough")
	if _, err := w.DB.Exec(`update artifacts set created_at = now() - interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
	h.must("upload_artifact", put(), "is shown")
	if _, err := w.DB.Exec(`insert into artifacts (id, session_id, kind, key, url, title, created_at)
		select gen_random_uuid(), $1, 'file', 'file:more' || n, '', '', now() - interval '1 hour' from generate_series(1, 179) n`, acc.Session.ID); err != nil {
		t.Fatal(err)
	}
	h.refused("upload_artifact", put(), "has shown 200 files")
	if _, err := w.DB.Exec(`update artifact_files set size = 199 * 1024 * 1024 where artifact is not null and id = (select id from artifact_files where artifact is not null limit 1)`); err != nil {
		t.Fatal(err)
	}
	if err := h.box.Upload(h.ctx, uuid.NewString(), "big.bin", make([]byte, 2<<20)); err == nil || !strings.Contains(err.Error(), "may have 200 MB") {
		t.Errorf("a file over the bound: %v", err)
	}
	h.done <- "done"
	ended(t, e, acc.Prompt.ID)
}
