package bot

import (
	"strings"
	"unicode/utf8"

	"github.com/slack-go/slack"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/util"
)

// unescapeText is a text node as it is meant: backslash escapes and entities
// resolved.
func unescapeText(n *ast.Text, source []byte) string {
	value := n.Segment.Value(source)
	if n.IsRaw() {
		return string(value)
	}
	value = util.UnescapePunctuations(value)
	return string(util.ResolveEntityNames(util.ResolveNumericReferences(value)))
}

// plainElements shows literal text.
func plainElements(value string, s style) []slack.RichTextSectionElement {
	if value == "" {
		return nil
	}
	return []slack.RichTextSectionElement{slack.NewRichTextSectionTextElement(value, styled(s))}
}

// preformatted shows text in a box, as it is.
func preformatted(text, language string) piece {
	return piece{
		rich: &slack.RichTextPreformatted{Type: slack.RTEPreformatted, Language: language,
			Elements: []slack.RichTextSectionElement{slack.NewRichTextSectionTextElement(text, nil)}},
		size: utf8.RuneCountInString(text), plain: text,
	}
}

// linkElements shows a link, or its text if the address may not be linked to.
func linkElements(target, label string, s style) []slack.RichTextSectionElement {
	label = strings.TrimSpace(label)
	if !safeURL(target) {
		if label == "" || label == target {
			return plainElements(target, s)
		}
		return plainElements(label+" ("+target+")", s)
	}
	return []slack.RichTextSectionElement{slack.NewRichTextSectionLinkElement(target, firstOf(label, target), styled(s))}
}

// styled gives no style at all for plain text, as Slack itself does.
func styled(s style) *style {
	if s == (style{}) {
		return nil
	}
	return &s
}

// merge joins neighbouring texts of one style; the parser divides at every
// character that might have meant something.
func merge(elements []slack.RichTextSectionElement) (out []slack.RichTextSectionElement) {
	for _, e := range elements {
		t, is := e.(*slack.RichTextSectionTextElement)
		if is && len(out) > 0 {
			if before, was := out[len(out)-1].(*slack.RichTextSectionTextElement); was && sameStyle(before.Style, t.Style) {
				before.Text += t.Text
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

func sameStyle(a, b *style) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// plainOf is what elements say.
func plainOf(elements []slack.RichTextSectionElement) string {
	var b strings.Builder
	for _, e := range elements {
		b.WriteString(textOf(e))
	}
	return b.String()
}

func textOf(e slack.RichTextSectionElement) string {
	switch e := e.(type) {
	case *slack.RichTextSectionTextElement:
		return e.Text
	case *slack.RichTextSectionLinkElement:
		return e.Text
	}
	return ""
}

// sizeOf counts what Slack counts of elements: their text and their addresses.
func sizeOf(elements []slack.RichTextSectionElement) (n int) {
	for _, e := range elements {
		n += utf8.RuneCountInString(textOf(e))
		if l, is := e.(*slack.RichTextSectionLinkElement); is {
			n += len(l.URL)
		}
	}
	return n
}

// divide cuts elements into parts of at most room characters, within a text only
// where there is no other way, and then at a line or word if it can.
func divide(elements []slack.RichTextSectionElement, room int) (parts [][]slack.RichTextSectionElement) {
	var part []slack.RichTextSectionElement
	size := 0
	add := func(e slack.RichTextSectionElement) {
		n := sizeOf([]slack.RichTextSectionElement{e})
		if size+n > room && len(part) > 0 {
			parts = append(parts, part)
			part, size = nil, 0
		}
		part = append(part, e)
		size += n
	}
	for _, e := range elements {
		t, is := e.(*slack.RichTextSectionTextElement)
		if !is {
			add(e)
			continue
		}
		for _, bit := range divideText(t.Text, room) {
			add(slack.NewRichTextSectionTextElement(bit, t.Style))
		}
	}
	return append(parts, part)
}

// divideText cuts a text into bits of at most room characters: at line ends,
// else at spaces, else anywhere. The bits joined are the text.
func divideText(s string, room int) (bits []string) {
	for utf8.RuneCountInString(s) > room {
		end := 0 // of the first room characters, in bytes
		for range room {
			_, width := utf8.DecodeRuneInString(s[end:])
			end += width
		}
		if at := strings.LastIndexByte(s[:end], '\n'); at > 0 {
			end = at + 1
		} else if at := strings.LastIndexByte(s[:end], ' '); at > end/2 {
			end = at + 1
		}
		bits = append(bits, s[:end])
		s = s[end:]
	}
	return append(bits, s)
}
