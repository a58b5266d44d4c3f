package bot

import (
	"strings"
	"time"

	"github.com/slack-go/slack"

	"openinspect/sessions"
)

const (
	// messageRoom is how many characters of blocks a message gets. Slack refuses
	// more than about 13,200 in all its blocks (msg_blocks_too_long), which is not
	// documented; what frames an answer needs some of it.
	messageRoom = 10000
	// pieceRoom is the largest piece, so that messages fill well.
	pieceRoom = 3000
	// messageBlocks is how many of Slack's 50 blocks the text gets.
	messageBlocks = 42
	// answerRoom is how much of an answer is shown in the thread; the page has the rest.
	answerRoom = 30000
	// answerMessages is how many messages an answer is shown in: one of nothing but
	// short paragraphs takes a block for each.
	answerMessages = 12
	// notificationRoom is how much text a message carries for notifications.
	notificationRoom = 2900
	// editRoom bounds it once more when it is escaped: chat.update takes 4000 characters.
	editRoom = 3900
)

// answerView is everything an answer shows.
type answerView struct {
	Prompt     sessions.Prompt
	Author     string // Slack user id; empty if the author has none
	Pulls      []sessions.Artifact
	Waiting    *sessions.BodyWaiting // something a person has to do, e.g. connect GitHub
	Retry      bool
	Took       time.Duration
	PageURL    string
	Repository string
}

// renderAnswer draws a settled prompt's answer as one message or several, in order.
func renderAnswer(v answerView) []message {
	source, cut := cutAnswer(v.Prompt.Answer)
	pieces := renderMarkdown(source, pieceRoom)
	pieces = v.lead(pieces)
	parts := pack(pieces)
	if len(parts) > answerMessages {
		parts, cut = parts[:answerMessages], true
	}
	last := &parts[len(parts)-1]
	if cut {
		note := plainElements("The answer is longer. ", style{})
		note = append(note, linkElements(v.PageURL, "Read all of it on the page", style{})...)
		last.blocks = append(last.blocks, slack.NewRichTextBlock("", slack.NewRichTextSection(note...)))
		last.full += "\n" + plainOf(note)
	}
	last.blocks = append(last.blocks, v.tail()...)
	return parts
}

// cutAnswer bounds what is shown in a thread, at the end of a paragraph or line.
func cutAnswer(answer string) (shown string, cut bool) {
	bits := divideText(answer, answerRoom)
	if len(bits) == 1 {
		return answer, false
	}
	shown = bits[0]
	if at := strings.LastIndex(shown, "\n\n"); at > len(shown)/2 {
		shown = shown[:at]
	}
	return shown, true
}

// lead begins the answer with whom it is for and, if there is no success, with
// what happened and why.
func (v answerView) lead(pieces []piece) []piece {
	var first []slack.RichTextSectionElement
	if v.Author != "" {
		first = append(first, slack.NewRichTextSectionUserElement(v.Author, nil), slack.NewRichTextSectionTextElement(" ", nil))
	}
	reason, log := cutReason(v.Prompt.Reason)
	switch v.Prompt.State {
	case sessions.Completed:
		if len(pieces) == 0 {
			first = append(first, slack.NewRichTextSectionTextElement("Done, without a word.", nil))
			break
		}
		if s, is := pieces[0].rich.(*slack.RichTextSection); is && len(first) > 0 {
			s.Elements = append(first, s.Elements...)
			return pieces
		}
	case sessions.Stopped:
		first = append(first, outcome("⏹️ ", "Stopped.", reason)...)
	case sessions.Cancelled:
		first = append(first, outcome("🚫 ", "Cancelled.", reason)...)
	default:
		first = append(first, outcome("❌ ", "This failed.", firstOf(reason, "No reason is known; the page has the transcript."))...)
	}
	if len(first) == 0 {
		return pieces
	}
	opening := []piece{{rich: slack.NewRichTextSection(first...), size: sizeOf(first) + 12, plain: strings.TrimSpace(plainOf(first)), own: true}}
	if log != "" {
		opening = append(opening, preformatted(log, ""))
	}
	return append(opening, pieces...)
}

// cutReason divides why a prompt ended into its sentence and what was printed
// last, if that follows on lines of its own.
func cutReason(reason string) (sentence, log string) {
	const logRoom = 2000 // characters; the end of a log says most
	sentence, log, _ = strings.Cut(strings.TrimSpace(reason), "\n")
	if runes := []rune(strings.Trim(log, "\n")); len(runes) > logRoom {
		return sentence, "…" + string(runes[len(runes)-logRoom:])
	}
	return sentence, strings.Trim(log, "\n")
}

// outcome says in bold what became of a prompt, then why. A reason that says it
// itself ("Stopped by Bob.") is enough.
func outcome(icon, what, reason string) []slack.RichTextSectionElement {
	if strings.HasPrefix(reason, strings.TrimSuffix(what, ".")+" ") {
		what, reason = reason, ""
	}
	elements := plainElements(icon+what, style{Bold: true})
	if reason != "" {
		elements = append(elements, plainElements(" "+clip(reason, 1500), style{})...)
	}
	return elements
}

// pack fills messages with pieces in order, within Slack's limits. Neighbouring
// rich pieces share a block.
func pack(pieces []piece) []message {
	var out []message
	var m packing
	for _, p := range pieces {
		_, isTable := p.block.(*slack.TableBlock)
		if isTable && m.table {
			p, isTable = aligned(p), false
		}
		if m.full(p) {
			out = append(out, m.message())
			m = packing{}
		}
		m.table = m.table || isTable
		m.add(p)
	}
	return append(out, m.message())
}

// packing is a message that is being filled.
type packing struct {
	blocks []slack.Block
	rich   *slack.RichTextBlock // the last block, if it can take more
	size   int
	table  bool
	says   []string
}

func (m *packing) full(p piece) bool {
	return len(m.blocks) > 0 && (m.size+p.size > messageRoom || len(m.blocks) >= messageBlocks)
}

func (m *packing) add(p piece) {
	m.size += p.size
	if p.plain != "" {
		m.says = append(m.says, p.plain)
	}
	if p.block != nil {
		m.blocks, m.rich = append(m.blocks, p.block), nil
		return
	}
	if m.rich == nil || p.own {
		m.rich = slack.NewRichTextBlock("")
		m.blocks = append(m.blocks, m.rich)
	}
	m.rich.Elements = appendRich(m.rich.Elements, p.rich)
}

// appendRich adds an element; an entry of the same list goes on with that list,
// so that its numbers do.
func appendRich(elements []slack.RichTextElement, e slack.RichTextElement) []slack.RichTextElement {
	if len(elements) > 0 {
		before, ok1 := elements[len(elements)-1].(*slack.RichTextList)
		list, ok2 := e.(*slack.RichTextList)
		if ok1 && ok2 && before.Style == list.Style && before.Indent == list.Indent &&
			(list.Style == slack.RTEListBullet || list.Offset == before.Offset+len(before.Elements)) {
			before.Elements = append(before.Elements, list.Elements...)
			return elements
		}
	}
	return append(elements, e)
}

func (m *packing) message() message {
	full := firstOf(strings.Join(m.says, "\n"), "The answer")
	return message{text: notification(full), full: full, blocks: m.blocks}
}

// notification is what a message carries for notifications.
func notification(full string) string {
	return clipMarkup(escape(clip(full, notificationRoom)), editRoom)
}

// single makes one message of pieces, for what is not divided. Pieces that need
// more blocks than one message has are shown as plain text.
func single(pieces []piece) message {
	parts := pack(pieces)
	if len(parts) == 1 {
		return parts[0]
	}
	var says []string
	for _, p := range parts {
		says = append(says, p.full)
	}
	full := strings.Join(says, "\n")
	return message{text: notification(full), full: full}.asPlain()
}

// tail ends an answer: what was made, the figures, what one can do.
func (v answerView) tail() []slack.Block {
	var blocks []slack.Block
	if v.Waiting != nil && v.Waiting.Text != "" {
		blocks = append(blocks, section("❗ "+escape(v.Waiting.Text)))
	}
	var parts []string
	for _, a := range v.Pulls {
		parts = append(parts, "🔀 "+link(a.URL, clip(firstOf(a.Title, "pull request"), 80)))
	}
	if v.Prompt.Files > 0 {
		parts = append(parts, changes(v.Prompt.Files, v.Prompt.Additions, v.Prompt.Deletions))
	}
	if v.Took > 0 {
		parts = append(parts, duration(v.Took))
	}
	if cost := costs(v.Prompt); cost != "" {
		parts = append(parts, cost)
	}
	parts = append(parts, link(v.PageURL, "Open the page"))
	blocks = append(blocks, contextLine(strings.Join(parts, " · ")))
	if buttons := v.buttons(); len(buttons) > 0 {
		blocks = append(blocks, slack.NewActionBlock("", buttons...))
	}
	return blocks
}

func (v answerView) buttons() (buttons []slack.BlockElement) {
	if v.Retry {
		buttons = append(buttons, button(actionRetry, v.Prompt.ID, "Try again"))
	}
	if n := len(v.Pulls); n > 0 && safeURL(v.Pulls[n-1].URL) {
		buttons = append(buttons, linkButton("View pull request", v.Pulls[n-1].URL).WithStyle(slack.StylePrimary))
	}
	if v.Waiting != nil {
		if v.Waiting.For == "github" && safeURL(v.Waiting.URL) {
			buttons = append(buttons, linkButton("Connect GitHub", v.Waiting.URL))
		}
		if safeURL(v.Waiting.ByHand) {
			buttons = append(buttons, linkButton("Open it by hand", v.Waiting.ByHand))
		}
	}
	return buttons
}

// asPlain redraws a message without rich blocks, for a Slack that refuses one of
// them: better a plain message than none.
func (m message) asPlain() message {
	out := message{text: m.text, full: m.full}
	for _, bit := range divideText(clip(m.full, messageRoom), 2000) {
		if strings.TrimSpace(bit) != "" {
			out.blocks = append(out.blocks, slack.NewSectionBlock(plain(bit), nil, nil))
		}
	}
	return out
}
