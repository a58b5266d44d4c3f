package bot

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/slack-go/slack"

	"openinspect/sandbox"
	"openinspect/sessions/sessionstest"
)

func TestFilesComeWithTheRequestAndWhatCannotIsNamed(t *testing.T) {
	t.Parallel()
	got := make(chan sandbox.Prompt, 1)
	tw := newTown(t, agent(func(_ context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		got <- p
		b.Settle(p, sandbox.OutcomeCompleted, "", "Seen.")
	}))
	picture := append([]byte("\x89PNG\r\n\x1a\n"), bytes.Repeat([]byte{7}, 100)...)
	tw.upload(tw.seed.Users[0].Token, tw.mention("look at acme/greeter"), map[string]string{
		"shot.png": string(picture), "log.txt": "it says\nboom", "code.zip": "PK\x03\x04",
	})
	p := <-got
	names := map[string]string{}
	for _, a := range p.Attachments {
		names[a.Name] = string(a.Data)
	}
	if len(names) != 2 || names["shot.png"] != string(picture) || names["log.txt"] != "it says\nboom" {
		t.Errorf("the attachments are %q", names)
	}
	if !strings.HasPrefix(p.Text, "look at acme/greeter\n\n") || !strings.Contains(p.Text, "not passed on: code.zip") {
		t.Errorf("the text is %q", p.Text)
	}
}

// upload posts a message with files as a person.
func (tw *town) upload(token, text string, files map[string]string) {
	tw.T.Helper()
	api := slack.New(token, slack.OptionAPIURL(tw.cfg.APIURL))
	var done []slack.FileSummary
	for name, content := range files {
		link, err := api.GetUploadURLExternalContext(context.Background(), slack.GetUploadURLExternalParameters{FileName: name, FileSize: len(content)})
		if err != nil {
			tw.T.Fatal(err)
		}
		err = api.UploadToURL(context.Background(), slack.UploadToURLParameters{UploadURL: link.UploadURL, Reader: strings.NewReader(content), Filename: name})
		if err != nil {
			tw.T.Fatal(err)
		}
		done = append(done, slack.FileSummary{ID: link.FileID, Title: name})
	}
	_, err := api.CompleteUploadExternalContext(context.Background(), slack.CompleteUploadExternalParameters{
		Files: done, Channel: tw.channel, InitialComment: text})
	if err != nil {
		tw.T.Fatal(err)
	}
}

func TestAFileLargerThanSlackSaidIsNotRead(t *testing.T) {
	t.Parallel()
	w := &limitedBuffer{limit: 4}
	if _, err := w.Write([]byte("four")); err != nil {
		t.Errorf("what fits is refused: %v", err)
	}
	if _, err := w.Write([]byte("!")); err == nil {
		t.Error("more than the limit is taken")
	}
}

func TestFilesThatDoNotArriveHoldUpNoRequest(t *testing.T) {
	t.Parallel()
	e := newEar(t)
	real, err := url.Parse(e.cfg.APIURL)
	if err != nil {
		t.Fatal(err)
	}
	api := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: real.Scheme, Host: real.Host})
	var asked atomic.Int64
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/files/") {
			api.ServeHTTP(w, r)
			return
		}
		asked.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(release) })
	e.cfg.APIURL = slow.URL + "/api/"
	e.bot = e.newBot()

	ts := e.say(e.alice, "", e.mention("look at acme/greeter"))
	in := inbound{event: &event{Type: "message", User: userField{e.alice}, Text: e.mention("look at acme/greeter"), TS: ts, Channel: e.channel}}
	for i := range 6 {
		in.event.Files = append(in.event.Files, file{Name: fmt.Sprintf("shot%d.png", i), Mimetype: "image/png", Size: 100, URL: slow.URL + "/files/shot.png"})
	}
	ctx, cancel := context.WithTimeout(t.Context(), jobTimeout)
	defer cancel()
	if _, err := e.bot.dispatch(ctx, in); err != nil {
		t.Fatal(err)
	}
	got := e.texts(ts)
	if len(got) != 1 || !strings.Contains(got[0], "look at acme/greeter") || strings.Count(got[0], "the download failed") != 6 {
		t.Errorf("the session was asked %q", got)
	}
	if asked.Load() == 0 {
		t.Error("no file was asked for: the test shows nothing")
	}
}
