package bot

import (
	"fmt"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"openinspect/sandbox"
	"openinspect/sessions"
)

// cardView is everything a card shows.
type cardView struct {
	Session  sessions.Session
	Prompt   sessions.Prompt
	Author   string // Slack user id; empty if the author has none
	Sandbox  sessions.Sandbox
	Progress *progress
	Ahead    int      // open prompts before this one
	Switch   []string // other repositories, while the session may still change to one
	PageURL  string
	Now      time.Time
}

// message is one rendered Slack message.
type message struct {
	text   string // for notifications, and for clients that show no blocks; escaped
	full   string // all that it says, as plain text
	blocks []slack.Block
}

// renderCard draws a card: what was asked, by whom and where, how it goes, and
// what one can do about it.
func renderCard(v cardView) message {
	icon, state := v.headline()
	asked, _, _ := strings.Cut(v.Prompt.Text, earlierBegins)
	if files := v.Prompt.FileNames(); len(files) > 0 {
		asked = strings.TrimSpace(asked + " 📎 " + strings.Join(files, ", "))
	}
	title := escape(clip(oneLine(asked), 120))
	headline := section(fmt.Sprintf("%s *%s* — %s", icon, state, title))
	if v.Prompt.State.Settled() {
		headline.Accessory = slack.NewAccessory(archiveMenu(v.Session.ID))
	}
	blocks := []slack.Block{headline, contextLine(v.origin())}
	if lines := v.details(); len(lines) > 0 {
		blocks = append(blocks, section(strings.Join(lines, "\n")))
	}
	if footer := v.footer(); footer != "" {
		blocks = append(blocks, contextLine(footer))
	}
	blocks = append(blocks, v.actions()...)
	return message{text: fmt.Sprintf("%s %s — %s", icon, state, title), full: icon + " " + state, blocks: blocks}
}

// headline is the state as a picture and in words.
func (v cardView) headline() (icon, state string) {
	switch v.Prompt.State {
	case sessions.Queued:
		switch {
		case v.Progress.waiting != nil && v.Session.Repository == "":
			return "❓", "Waiting for a repository"
		case v.Ahead > 0:
			return "⏳", fmt.Sprintf("Queued, %d ahead", v.Ahead)
		case v.Sandbox.State == sessions.SandboxStarting || v.Sandbox.State == sessions.SandboxBooting:
			return "🚀", "Starting the sandbox"
		}
		return "⏳", "Queued"
	case sessions.Running:
		if v.Progress.stopBy != "" {
			return "⏹️", "Stopping"
		}
		return "⚙️", "Working"
	case sessions.Completed:
		if v.Progress.asked {
			return "❓", "Asked you something"
		}
		return "✅", "Done"
	case sessions.Stopped:
		return "⏹️", "Stopped"
	case sessions.Cancelled:
		return "🚫", "Cancelled"
	}
	return "❌", "Failed"
}

// origin says who asked, where it happens and why there.
func (v cardView) origin() string {
	who := escape(v.Prompt.AuthorName)
	if v.Author != "" {
		who = "<@" + v.Author + ">"
	}
	switch v.Prompt.Source {
	case sessions.FromSlack:
	case sessions.FromAgent:
		who += ", by a session that works for this one"
	default:
		who += " on the " + escape(string(v.Prompt.Source))
	}
	parts := []string{who}
	if v.Session.Repository != "" {
		where := "*" + escape(v.Session.Repository) + "*"
		if v.Session.RepositoryWhy != "" && v.Prompt.Position <= 1 { // later ones come to a session that is about it
			where += " (" + escape(v.Session.RepositoryWhy) + ")"
		}
		parts = append(parts, where)
	}
	return strings.Join(append(parts, link(v.PageURL, "Open the page")), " · ")
}

// details are the lines of the card's middle.
func (v cardView) details() (lines []string) {
	switch v.Prompt.State {
	case sessions.Queued:
		if v.Ahead == 0 && v.Session.Repository != "" {
			lines = v.boot()
		}
		if v.Progress.note != "" {
			lines = append(lines, "_"+escape(clip(oneLine(v.Progress.note), 200))+"_")
		}
	case sessions.Running:
		if v.Prompt.Carried {
			return append([]string{"▸ moving to a fresh sandbox: the old one had to end"}, v.boot()...)
		}
		lines = todoLines(v.Progress.todo)
		lines = append(lines, "▸ "+v.Progress.doing())
		if v.Progress.note != "" {
			lines = append(lines, "_"+escape(clip(oneLine(v.Progress.note), 200))+"_")
		}
	case sessions.Failed, sessions.Stopped, sessions.Cancelled:
		if reason, _ := cutReason(v.Prompt.Reason); reason != "" {
			lines = append(lines, escape(clip(reason, 600)))
		}
	}
	return append(lines, childLines(v.Progress.children)...)
}

// bootSteps are the phases in order, as people may call them.
var bootSteps = []struct{ phase, label string }{
	{sandbox.PhaseSync, "Repository"},
	{sandbox.PhaseSetup, "Setup"},
	{sandbox.PhaseStart, "Start"},
	{sandbox.PhaseAgent, "Agent"},
}

// boot shows how far the sandbox is. Phases come in order, so those before the
// one that runs are done.
func (v cardView) boot() []string {
	switch v.Sandbox.State {
	case sessions.SandboxStarting, sessions.SandboxBooting:
	default:
		if v.Sandbox.Reason != "" {
			return []string{"_" + escape(clip(oneLine(v.Sandbox.Reason), 200)) + "_"}
		}
		return nil
	}
	at := -1
	for i, s := range bootSteps {
		if s.phase == v.Sandbox.Phase {
			at = i
		}
	}
	if v.Sandbox.Phase == sandbox.PhaseReady {
		at = len(bootSteps)
	}
	var parts []string
	for i, s := range bootSteps {
		switch {
		case i < at:
			parts = append(parts, "✓ "+s.label)
		case i == at:
			parts = append(parts, "▸ *"+s.label+"*")
		default:
			parts = append(parts, "· "+s.label)
		}
	}
	return []string{strings.Join(parts, "   ")}
}

// maxTodo is how many to-do items a card shows; more would push the thread away.
const maxTodo = 8

// todoLines shows the agent's to-do list, around what it is working on if it is long.
func todoLines(items []sandbox.TodoItem) (lines []string) {
	from := 0
	if len(items) > maxTodo {
		for i, item := range items {
			if item.State == "in_progress" {
				from = max(0, min(i-maxTodo/2, len(items)-maxTodo))
				break
			}
		}
	}
	if from > 0 {
		lines = append(lines, fmt.Sprintf("_%d before_", from))
	}
	for i := from; i < len(items) && i < from+maxTodo; i++ {
		text := escape(clip(oneLine(items[i].Text), 100))
		switch items[i].State {
		case "completed":
			lines = append(lines, "☑ "+text)
		case "in_progress":
			lines = append(lines, "▣ *"+strings.ReplaceAll(text, "*", "∗")+"*")
		case "cancelled":
			lines = append(lines, "☒ "+text)
		default:
			lines = append(lines, "☐ "+text)
		}
	}
	if rest := len(items) - from - maxTodo; rest > 0 {
		lines = append(lines, fmt.Sprintf("_%d more_", rest))
	}
	return lines
}

// footer has the figures: time, files, cost.
func (v cardView) footer() string {
	var parts []string
	if took := v.took(); took > 0 {
		parts = append(parts, duration(took))
	}
	files, additions, deletions := v.Prompt.Files, v.Prompt.Additions, v.Prompt.Deletions
	if !v.Prompt.State.Settled() {
		files, additions, deletions = v.Progress.changed()
	}
	if files > 0 {
		parts = append(parts, changes(files, additions, deletions))
	}
	if v.Prompt.State == sessions.Running && len(v.Progress.files) > 0 {
		parts = append(parts, fileNames(v.Progress.files))
	}
	if cost := costs(v.Prompt); cost != "" {
		parts = append(parts, cost)
	}
	return strings.Join(parts, " · ")
}

// costs shows what a prompt cost: the models, and the sandbox while it ran.
func costs(p sessions.Prompt) string {
	switch {
	case p.SandboxUSD <= 0 && p.CostUSD <= 0:
		return ""
	case p.SandboxUSD <= 0:
		return dollars(p.CostUSD)
	case p.CostUSD <= 0:
		return dollars(p.SandboxUSD) + " for the sandbox"
	}
	return dollars(p.CostUSD) + " + " + dollars(p.SandboxUSD) + " for the sandbox"
}

// took is how long the prompt ran, so far. The database's clock and ours may
// differ a little: never show less than nothing.
func (v cardView) took() time.Duration {
	switch {
	case v.Prompt.StartedAt == nil:
		return 0
	case v.Prompt.EndedAt != nil:
		return max(0, v.Prompt.EndedAt.Sub(*v.Prompt.StartedAt))
	}
	return max(0, v.Now.Sub(*v.Prompt.StartedAt))
}

// actions are the card's buttons.
func (v cardView) actions() []slack.Block {
	var blocks []slack.Block
	switch {
	case v.Prompt.State == sessions.Running && v.Progress.stopBy == "":
		stop := button(actionStop, v.Prompt.ID, "Stop").WithStyle(slack.StyleDanger)
		blocks = append(blocks, slack.NewActionBlock("", stop))
	case v.Prompt.State == sessions.Queued:
		blocks = append(blocks, slack.NewActionBlock("", button(actionCancel, v.Prompt.ID, "Cancel")))
		if len(v.Switch) > 0 {
			menu := repositoryMenu("Another repository", v.Switch)
			if len(v.Switch) > maxOptions {
				menu = repositorySearch("Another repository")
			}
			blocks = append(blocks, slack.NewActionBlock(switchPrefix+v.Session.ID, menu))
		}
	}
	return blocks
}

// duration shows a time as people say it.
func duration(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm %02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh %02dm", int(d.Hours()), int(d.Minutes())%60)
}

// dollars shows a cost; small ones are the rule.
func dollars(usd float64) string {
	switch {
	case usd < 0.01:
		return "under $0.01"
	case usd < 10:
		return fmt.Sprintf("$%.2f", usd)
	}
	return fmt.Sprintf("$%.0f", usd)
}

// changes shows how much differs.
func changes(files, additions, deletions int) string {
	word := "files"
	if files == 1 {
		word = "file"
	}
	return fmt.Sprintf("%d %s, +%d −%d", files, word, additions, deletions)
}

// fileNames shows the first files that differ.
func fileNames(files []sandbox.FileDiff) string {
	const show = 3
	var names []string
	for i, f := range files {
		if i == show {
			names = append(names, "…")
			break
		}
		names = append(names, code(shortPath(f.Path)))
	}
	return strings.Join(names, " ")
}

// menuView is a question for the repository.
type menuView struct {
	Session string
	Author  string // Slack user id
	Text    string // what is asked; empty: the usual
	Names   []string
	Search  bool // there are more than a menu holds: people type a part of the name
}

// renderMenu asks which repository is meant.
func renderMenu(v menuView) message {
	text := escape(firstOf(v.Text, "Which repository shall I work on?"))
	if v.Author != "" {
		text = "<@" + v.Author + "> " + text
	}
	menu := repositoryMenu("Choose a repository", v.Names)
	if v.Search {
		menu = repositorySearch("Type a part of the name")
	}
	return message{text: text, full: v.Text, blocks: []slack.Block{section(text), slack.NewActionBlock(choosePrefix+v.Session, menu)}}
}
