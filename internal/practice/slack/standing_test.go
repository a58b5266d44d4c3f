package slack

import (
	"testing"

	slackgo "github.com/slack-go/slack"
)

func TestAnAdminMakesAGuestAndEndsAnAccount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Run("before", func(t *testing.T) {
		b := serve(t, dir, Options{})
		for user, to := range map[string]Standing{b.seed.Users[0].ID: Guest, b.seed.Users[1].ID: Deactivated, b.seed.Users[2].ID: Guest} {
			if err := b.SetStanding(user, to); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.SetStanding(b.seed.Users[2].ID, FullMember); err != nil {
			t.Fatal(err)
		}
		if err := b.SetStanding("U404", Guest); err == nil {
			t.Error("nobody was made a guest")
		}
	})
	b := serve(t, dir, Options{})
	guest, gone, member := b.seed.Users[0], b.seed.Users[1], b.seed.Users[2]
	for user, want := range map[string]slackgo.User{guest.ID: {IsRestricted: true}, gone.ID: {Deleted: true}, member.ID: {}} {
		got, err := b.client().GetUserInfo(user)
		if err != nil || got.IsRestricted != want.IsRestricted || got.Deleted != want.Deleted {
			t.Errorf("%s is shown as %+v, %v", user, got, err)
		}
	}
	if got := b.callError(t, "auth.test", gone.Token, nil); got != "account_inactive" {
		t.Errorf("a token of somebody who is gone answers %q", got)
	}
	general := b.seed.Channels[0].ID
	if _, err := b.PostAs(gone.ID, general, "", "hello"); err == nil {
		t.Error("somebody who is gone has posted")
	}
	if _, err := b.PostAs(guest.ID, general, "", "hello"); err != nil {
		t.Errorf("a guest cannot post: %v", err)
	}
}
