package bot

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/slack-go/slack"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	east "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
)

// Agents answer in GitHub's Markdown. It becomes rich_text, whose text Slack
// shows as it is: a "<!channel>" in it notifies nobody (I10), and formatting
// needs no delimiters that could clash with the text.

// piece is one part of an answer that is not divided any further.
type piece struct {
	rich  slack.RichTextElement // of a rich_text block; or
	block slack.Block           // a block of its own
	size  int                   // characters
	plain string                // what it says, for notifications
	own   bool                  // begins a rich_text block, for the space before it
}

// style is how inline text is shown.
type style = slack.RichTextSectionTextStyle

// bareURL also takes hosts without a domain: a company's own, and this machine.
var bareURL = regexp.MustCompile(`^https?://[-a-zA-Z0-9._~%]+(?::\d+)?(?:[/#?][-a-zA-Z0-9@:%_+.~#$!?&/=\(\);,'">\^{}\[\]` + "`" + `]*)?`)

var markdownParser = goldmark.New(goldmark.WithExtensions(extension.Table, extension.Strikethrough, extension.TaskList,
	extension.NewLinkify(extension.WithLinkifyURLRegexp(bareURL)))).Parser()

// renderMarkdown turns Markdown into pieces no larger than room characters.
func renderMarkdown(source string, room int) []piece {
	r := &markdownRenderer{source: []byte(source), room: room}
	doc := markdownParser.Parse(text.NewReader(r.source))
	for n := doc.FirstChild(); n != nil; n = n.NextSibling() {
		r.blockNode(n)
	}
	return r.pieces
}

type markdownRenderer struct {
	source []byte
	room   int
	pieces []piece
}

func (r *markdownRenderer) blockNode(n ast.Node) {
	switch n := n.(type) {
	case *ast.Heading:
		r.heading(n)
	case *ast.FencedCodeBlock:
		r.pre(r.lines(n), string(n.Language(r.source)))
	case *ast.CodeBlock:
		r.pre(r.lines(n), "")
	case *ast.HTMLBlock:
		r.section(plainElements(strings.TrimRight(r.lines(n), "\n"), style{}), true)
	case *ast.Blockquote:
		r.quote(n)
	case *ast.List:
		r.list(n, 0)
	case *ast.ThematicBreak:
		r.pieces = append(r.pieces, piece{block: slack.NewDividerBlock(), size: 1})
	case *east.Table:
		r.table(n)
	default:
		r.section(r.inline(n, style{}), true)
	}
}

// lines is the literal text of a code or HTML block.
func (r *markdownRenderer) lines(n ast.Node) string {
	var b strings.Builder
	for i := range n.Lines().Len() {
		line := n.Lines().At(i)
		b.Write(line.Value(r.source))
	}
	if h, is := n.(*ast.HTMLBlock); is && h.HasClosure() {
		b.Write(h.ClosureLine.Value(r.source))
	}
	return b.String()
}

// heading becomes a header block if it is a large one that fits, else a bold line.
func (r *markdownRenderer) heading(n *ast.Heading) {
	elements := r.inline(n, style{})
	title := plainOf(elements)
	const headerRoom = 150 // characters of a header block
	if n.Level <= 2 && title != "" && utf8.RuneCountInString(title) <= headerRoom {
		r.pieces = append(r.pieces, piece{block: slack.NewHeaderBlock(plain(title)), size: len(title), plain: title})
		return
	}
	r.section(r.inline(n, style{Bold: true}), true)
}

// section adds a paragraph, in several pieces if it is too long for one.
func (r *markdownRenderer) section(elements []slack.RichTextSectionElement, own bool) {
	for _, part := range divide(elements, r.room) {
		says := plainOf(part)
		if strings.TrimSpace(says) == "" {
			continue
		}
		r.pieces = append(r.pieces, piece{rich: slack.NewRichTextSection(part...), size: sizeOf(part), plain: says, own: own})
	}
}

// pre adds preformatted text. Divided text begins and ends its own box, so that
// no message leaves one open.
func (r *markdownRenderer) pre(code, language string) {
	for _, part := range divideText(strings.TrimRight(code, "\n"), r.room) {
		if part = strings.Trim(part, "\n"); part == "" {
			continue
		}
		r.pieces = append(r.pieces, preformatted(part, language))
	}
}

// quote adds a block quotation. Slack's quotes hold text only: what is nested in
// one is shown as its text.
func (r *markdownRenderer) quote(n ast.Node) {
	var elements []slack.RichTextSectionElement
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		if len(elements) > 0 {
			elements = append(elements, slack.NewRichTextSectionTextElement("\n", nil))
		}
		elements = append(elements, r.flat(c)...)
	}
	for _, part := range divide(elements, r.room) {
		if says := plainOf(part); strings.TrimSpace(says) != "" {
			r.pieces = append(r.pieces, piece{rich: &slack.RichTextQuote{Type: slack.RTEQuote, Elements: part}, size: sizeOf(part), plain: says})
		}
	}
}

// flat is any block node as inline text.
func (r *markdownRenderer) flat(n ast.Node) []slack.RichTextSectionElement {
	switch n.(type) {
	case *ast.FencedCodeBlock, *ast.CodeBlock, *ast.HTMLBlock:
		return plainElements(strings.TrimRight(r.lines(n), "\n"), style{Code: n.Kind() != ast.KindHTMLBlock})
	}
	if n.Type() == ast.TypeInline || n.FirstChild() == nil || n.FirstChild().Type() == ast.TypeInline {
		return r.inline(n, style{})
	}
	var out []slack.RichTextSectionElement
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		if len(out) > 0 {
			out = append(out, slack.NewRichTextSectionTextElement("\n", nil))
		}
		if c.Kind() == ast.KindListItem {
			out = append(out, slack.NewRichTextSectionTextElement("• ", nil))
		}
		out = append(out, r.flat(c)...)
	}
	return out
}

const maxIndent = 8 // of a rich_text_list

// list adds a list item by item, so that it can be divided between any two. What
// an item holds besides its first paragraph follows it.
func (r *markdownRenderer) list(n *ast.List, indent int) {
	number := n.Start
	for item := n.FirstChild(); item != nil; item = item.NextSibling() {
		first := true
		for c := item.FirstChild(); c != nil; c = c.NextSibling() {
			switch c := c.(type) {
			case *ast.List:
				r.list(c, min(indent+1, maxIndent))
			case *ast.TextBlock, *ast.Paragraph:
				r.item(n, r.inline(c, style{}), indent, number, first)
			default:
				if first {
					r.item(n, nil, indent, number, true)
				}
				r.blockNode(c)
			}
			first = false
		}
		number++
	}
}

// item adds one entry of a list; a continued one is indented without a mark.
func (r *markdownRenderer) item(n *ast.List, elements []slack.RichTextSectionElement, indent, number int, first bool) {
	for i, part := range divide(elements, r.room) {
		if !first || i > 0 {
			r.pieces = append(r.pieces, piece{rich: slack.NewRichTextSection(part...), size: sizeOf(part), plain: plainOf(part)})
			continue
		}
		kind, mark := slack.RTEListBullet, "• "
		list := slack.NewRichTextList(kind, indent, slack.NewRichTextSection(part...))
		if n.IsOrdered() {
			list.Style, list.Offset, mark = slack.RTEListOrdered, max(0, number-1), "– "
		}
		r.pieces = append(r.pieces, piece{rich: list, size: sizeOf(part) + 2, plain: mark + plainOf(part)})
	}
}

// inline renders the inline children of a node.
func (r *markdownRenderer) inline(n ast.Node, s style) (out []slack.RichTextSectionElement) {
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		out = append(out, r.inlineNode(c, s)...)
	}
	return merge(out)
}

func (r *markdownRenderer) inlineNode(n ast.Node, s style) []slack.RichTextSectionElement {
	switch n := n.(type) {
	case *ast.Text:
		value := unescapeText(n, r.source)
		if n.HardLineBreak() || n.SoftLineBreak() {
			value += "\n"
		}
		return plainElements(value, s)
	case *ast.String:
		return plainElements(string(n.Value), s)
	case *ast.CodeSpan:
		s.Code = true
		return plainElements(r.codeSpan(n), s)
	case *ast.Emphasis:
		if n.Level >= 2 {
			s.Bold = true
		} else {
			s.Italic = true
		}
		return r.inline(n, s)
	case *east.Strikethrough:
		s.Strike = true
		return r.inline(n, s)
	case *east.TaskCheckBox:
		if n.IsChecked {
			return plainElements("☑ ", s)
		}
		return plainElements("☐ ", s)
	case *ast.Link:
		return linkElements(string(n.Destination), plainOf(r.inline(n, s)), s)
	case *ast.Image:
		return linkElements(string(n.Destination), "🖼 "+firstOf(plainOf(r.inline(n, s)), "image"), s)
	case *ast.AutoLink:
		label := string(n.Label(r.source))
		target := string(n.URL(r.source))
		if n.AutoLinkType == ast.AutoLinkEmail && !strings.HasPrefix(target, "mailto:") {
			target = "mailto:" + target
		}
		return linkElements(target, label, s)
	case *ast.RawHTML:
		var b strings.Builder
		for i := range n.Segments.Len() {
			segment := n.Segments.At(i)
			b.Write(segment.Value(r.source))
		}
		return plainElements(b.String(), s)
	}
	return r.inline(n, s)
}

func (r *markdownRenderer) codeSpan(n *ast.CodeSpan) string {
	var b strings.Builder
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		if t, is := c.(*ast.Text); is {
			b.WriteString(strings.ReplaceAll(string(t.Segment.Value(r.source)), "\n", " "))
		}
	}
	return b.String()
}
