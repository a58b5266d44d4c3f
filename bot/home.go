package bot

import (
	"context"
	"fmt"
	"strings"

	"github.com/slack-go/slack"

	"openinspect/sessions"
)

// homeSessions is how many of a person's sessions App Home lists.
const homeSessions = 10

// onHomeOpened shows a person's App Home. It is drawn anew each time it is
// opened, so a failure is not worth a redelivery.
func (b *Bot) onHomeOpened(ctx context.Context, e *event) error {
	if e.Tab != "" && e.Tab != "home" {
		return nil
	}
	by, refusal, err := b.presser(ctx, e.User.ID, "")
	if err == nil {
		err = b.publishHome(ctx, e.User.ID, by, refusal)
	}
	if err != nil {
		b.log.Warn("app home was not shown", "user", e.User.ID, "err", err)
	}
	return nil
}

func (b *Bot) publishHome(ctx context.Context, user string, by sessions.Person, refusal string) error {
	view := homeView{Refusal: refusal, Name: b.self.name, Person: by, ConnectURL: b.cfg.PublicURL + connectPath, PageURL: b.pageURL,
		ImageURL: func(repository string) string { return b.cfg.PublicURL + "/repositories/" + repository + "/image" }}
	if refusal == "" {
		var err error
		if view.Sessions, err = b.engine.Sessions(ctx, by.ID, homeSessions, 0); err != nil {
			return err
		}
		if view.Failing, err = b.failingFor(ctx, by); err != nil {
			return err
		}
	}
	_, err := b.api.PublishViewContext(ctx, slack.PublishViewContextRequest{UserID: user,
		View: slack.HomeTabViewRequest{Type: slack.VTHomeTab, Blocks: slack.Blocks{BlockSet: renderHome(view)}}})
	return err
}

// failingFor reads what an administrator is told about images; others are told nothing.
func (b *Bot) failingFor(ctx context.Context, by sessions.Person) ([]sessions.Build, error) {
	if !by.Admin {
		return nil, nil
	}
	return b.engine.FailingBuilds(ctx)
}

// connectPath is the page on which a person connects GitHub.
const connectPath = "/link/github"

// homeView is what App Home shows.
type homeView struct {
	Refusal    string
	Name       string
	Person     sessions.Person
	Sessions   []sessions.Summary
	Failing    []sessions.Build // images that cannot be built, for administrators
	ConnectURL string
	PageURL    func(session string) string
	ImageURL   func(repository string) string
}

func renderHome(v homeView) []slack.Block {
	if v.Refusal != "" {
		return []slack.Block{section(escape(v.Refusal))}
	}
	blocks := []slack.Block{
		slack.NewHeaderBlock(plain("What I do")),
		section(fmt.Sprintf("Mention *@%s* in a channel, or write to me here, and say what to do and in which repository: "+
			"“fix the failing test in acme/greeter”. I work on it in a sandbox, show how it goes in the thread, and open a pull request in your name. "+
			"Everybody can steer me by replying in the thread; *stop* stops me.", escape(v.Name))),
		slack.NewDividerBlock(),
		githubSection(v),
		slack.NewDividerBlock(),
	}
	blocks = append(blocks, failingSections(v)...)
	blocks = append(blocks, slack.NewHeaderBlock(plain("Your sessions")))
	if len(v.Sessions) == 0 {
		return append(blocks, section("None yet."))
	}
	for _, s := range v.Sessions {
		blocks = append(blocks, section(sessionLine(v, s)))
	}
	return blocks
}

func githubSection(v homeView) slack.Block {
	text, label := "*GitHub* is not connected: I cannot open pull requests in your name.", "Connect GitHub"
	switch {
	case v.Person.Linked():
		text, label = fmt.Sprintf("*GitHub* is connected as %s. Pull requests are opened in your name.", code(v.Person.GitHubLogin)), ""
	case v.Person.GitHubID != 0:
		text, label = fmt.Sprintf("*GitHub* has to be connected again: %s", escape(v.Person.GitHubBroken)), "Connect again"
	}
	block := section(text)
	if label != "" {
		block.Accessory = slack.NewAccessory(linkButton(label, v.ConnectURL))
	}
	return block
}

// mostFailing is how many images that cannot be built App Home names.
const mostFailing = 10

// failingSections say whose images cannot be built, and where to see why.
func failingSections(v homeView) []slack.Block {
	var blocks []slack.Block
	for i, b := range v.Failing {
		if i == mostFailing {
			blocks = append(blocks, section(fmt.Sprintf("… and those of %d more repositories.", len(v.Failing)-i)))
			break
		}
		block := section(fmt.Sprintf("⚠️ The image of *%s* cannot be built: %s Sessions there go on with the last good one, or begin with a clone.",
			escape(b.Repository), escape(clip(b.Reason, 300))))
		block.Accessory = slack.NewAccessory(linkButton("See the log", v.ImageURL(b.Repository)))
		blocks = append(blocks, block)
	}
	if len(blocks) > 0 {
		blocks = append(blocks, slack.NewDividerBlock())
	}
	return blocks
}

func sessionLine(v homeView, s sessions.Summary) string {
	title := strings.ReplaceAll(clip(firstOf(s.Title, "Session "+s.ID), 100), "*", "∗") // a star would end the bold
	parts := []string{fmt.Sprintf("%s *%s*", statusIcon(s.Status), link(v.PageURL(s.ID), title)), escape(s.Status)}
	if s.Repository != "" {
		parts = append(parts, escape(s.Repository))
	}
	if s.PR != "" {
		parts = append(parts, link(s.PR, "pull request"))
	}
	return strings.Join(parts, " · ")
}

// statusIcon pictures sessions.Summary's derived status.
func statusIcon(status string) string {
	switch status {
	case "queued", "starting":
		return "⏳"
	case "working":
		return "⚙️"
	case "waiting":
		return "❓"
	case "failed":
		return "❌"
	case "archived":
		return "🗄️"
	}
	return "💬"
}

// onJoined greets a channel that the bot was invited to, once.
func (b *Bot) onJoined(ctx context.Context, e *event) error {
	if e.User.ID != b.self.user {
		return nil
	}
	key := fmt.Sprintf("slack-greeting:%s:%s", b.self.team, e.Channel)
	return b.tell(ctx, key, b.thread(e.Channel, ""), "",
		"Hello! Mention @"+b.self.name+" with what to do and in which repository, and I work on it in a thread. Everybody can steer me by replying there; “stop” stops me.")
}
