package bot

import (
	"context"
	"strings"
	"testing"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

func TestASessionIsArchivedFromItsCardAndAReplyOpensItAgain(t *testing.T) {
	t.Parallel()
	finish := make(chan struct{})
	tw := newTown(t, agent(func(ctx context.Context, b *sessionstest.Box, p sandbox.Prompt) {
		if strings.Contains(p.Text, "slowly") {
			select {
			case <-ctx.Done():
				return
			case <-finish:
			}
		}
		saying("Done so.")(ctx, b, p)
	}))
	ts := tw.say(tw.alice, "", tw.mention("look at acme/greeter"))
	card := tw.see(ts, actionArchive)
	session := tw.session(ts).ID
	archive := func(who string) {
		t.Helper()
		if err := tw.slack.ClickAs(who, tw.channel, card.TS, actionArchive, session); err != nil {
			t.Fatal(err)
		}
	}
	state := func(want string) {
		t.Helper()
		if got := tw.session(ts).State; got != want {
			t.Errorf("the session is %s, not %s", got, want)
		}
	}

	tw.say(tw.alice, ts, "and now slowly")
	working := tw.see(ts, "and now slowly")
	if strings.Contains(shows(working), actionArchive) {
		t.Errorf("the card of an open request offers to archive:\n%s", shows(working))
	}
	archive(tw.bob)
	tw.whispered(tw.bob, "Something is still to be done in that session: stop or cancel it first.")
	state("open")
	close(finish)
	sessionstest.Eventually(t, "the second request ends", func() bool { return tw.prompts(ts)[1].State == sessions.Completed })

	archive(tw.bob)
	tw.see(ts, "Bob Brandt archived this session. A reply opens it again.")
	state("archived")
	archive(tw.alice)
	tw.whispered(tw.alice, "This session is archived already. A reply in the thread opens it again.")

	tw.say(tw.alice, ts, "one more thing")
	sessionstest.Eventually(t, "the reply is answered", func() bool {
		p := tw.prompts(ts)
		return len(p) == 3 && p[2].State == sessions.Completed
	})
	state("open")
}
