package bot

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	practice "openinspect/internal/practice/slack"
	"openinspect/sandbox"
	"openinspect/sessions/sessionstest"
)

// photographer is an agent that shows a picture and says nothing.
func photographer(t testing.TB) option {
	return agent(func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		id := uuid.NewString()
		picture := append([]byte("\x89PNG\r\n\x1a\n"), bytes.Repeat([]byte{7}, 100)...)
		if err := b.Upload(ctx, id, "after.png", picture); err != nil {
			t.Error(err)
		}
		r, err := b.Bridge().Call(ctx, sandbox.Call{ID: "call-" + p.ID, Prompt: p.ID, Tool: "upload_artifact",
			Args: json.RawMessage(`{"upload":"` + id + `","title":"After <!here>"}`)})
		if err != nil || r.Error {
			t.Errorf("uploading: %+v (%v)", r, err)
		}
		b.Settle(p, sandbox.OutcomeCompleted, "", "That is how it looks.")
	})
}

// pictures are the bot's messages of a thread that carry a file.
func (tw *town) pictures(thread string) (n int) {
	for _, m := range tw.slack.Messages(tw.channel, thread) {
		if len(m.Files) > 0 {
			n++
		}
	}
	return n
}

func TestAPictureIsSharedInTheThreadOnceWhateverSlackAnswers(t *testing.T) { // I6
	t.Parallel()
	for name, break_ := range map[string]func(tw *town){
		"all is well":                       func(*town) {},
		"the address is not given":          func(tw *town) { tw.slack.FailNext(methodUpload, 1, practice.Fault{Status: 503}) },
		"the outcome of sharing is unknown": func(tw *town) { tw.slack.FailNext(methodComplete, 1, practice.Fault{AfterEffect: true, Drop: true}) },
		"sharing fails":                     func(tw *town) { tw.slack.FailNext(methodComplete, 1, practice.Fault{Status: 503}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tw := newTown(t, photographer(t))
			break_(tw)
			ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
			tw.see(ts, "That is how it looks.")
			sessionstest.Eventually(t, "the picture is shared and the outbox empty", func() bool {
				var due int
				err := tw.DB.Get(&due, `select count(*) from outbox where kind = 'file' and state = 'pending'`)
				return err == nil && due == 0 && tw.pictures(ts) > 0
			})
			if n := tw.pictures(ts); n != 1 {
				t.Errorf("the picture is there %d times", n)
			}
		})
	}
}

func TestAFileThatSlackRefusesAgainAndAgainIsGivenUp(t *testing.T) {
	t.Parallel()
	tw := newTown(t, photographer(t))
	tw.slack.FailNext(methodUpload, 1000, practice.Fault{Error: "ekm_access_denied"})
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	tw.see(ts, "That is how it looks.")
	state := func(want string) func() bool {
		return func() bool {
			var is bool
			return tw.DB.Get(&is, `select `+want+` from outbox where kind = 'file'`) == nil && is
		}
	}
	sessionstest.Eventually(t, "its tries are counted", state(`attempts >= 2`))
	// As after the whole time.
	if _, err := tw.DB.Exec(`update outbox set attempts = $1, next_at = now() where kind = 'file'`, giveUpAfter); err != nil {
		t.Fatal(err)
	}
	sessionstest.Eventually(t, "it is given up", state(`state = 'dead'`))
}

func TestWithoutTheScopeForFilesALinkIsPosted(t *testing.T) {
	t.Parallel()
	noFiles := option{workspace: func(o *practice.Options) {
		o.Scopes = slices.DeleteFunc(practice.DefaultScopes(), func(s string) bool { return s == "files:write" })
	}}
	tw := newTown(t, photographer(t), noFiles)
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	m := tw.see(ts, "📎")
	tw.see(ts, "That is how it looks.") // the agent has its result
	if !strings.Contains(shows(m), "https://inspect.test/artifacts/") || strings.Contains(shows(m), "<!here>") {
		t.Errorf("the link is %s", shows(m))
	}
}
