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
