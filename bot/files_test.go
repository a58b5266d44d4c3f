package bot

import (
	"bytes"
	"context"
	"strings"
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
