package bot

import (
	"html"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Slack's message text escapes &, < and > and puts everything it resolved into
// angle brackets (https://docs.slack.dev/messaging/formatting-message-text).

var bracketed = regexp.MustCompile(`<([@#!][^<>]+|[a-z][a-z0-9+.-]*:[^<>]+)>`)

// decodeText turns message text into plain text with Markdown links. name gives
// the display name of a user id.
func decodeText(text string, name func(user string) string) string {
	plain := bracketed.ReplaceAllStringFunc(text, func(s string) string {
		return decodeBracket(s[1:len(s)-1], name)
	})
	return html.UnescapeString(plain)
}

func decodeBracket(inner string, name func(user string) string) string {
	target, label, labelled := strings.Cut(inner, "|")
	switch {
	case strings.HasPrefix(target, "@"):
		if known := name(target[1:]); known != target[1:] {
			return "@" + known
		}
		return "@" + firstOf(label, target[1:])
	case strings.HasPrefix(target, "#"):
		return "#" + firstOf(label, target[1:])
	case strings.HasPrefix(target, "!subteam^"):
		return "@" + strings.TrimPrefix(firstOf(label, target[len("!subteam^"):]), "@")
	case strings.HasPrefix(target, "!date^"):
		return label
	case strings.HasPrefix(target, "!"):
		return "@" + target[1:]
	case strings.HasPrefix(target, "mailto:"):
		return firstOf(label, strings.TrimPrefix(target, "mailto:"))
	}
	if !labelled || label == "" || sameLink(target, label) {
		return target
	}
	return "[" + label + "](" + target + ")"
}

// sameLink says whether Slack made the label itself from an address that was typed.
func sameLink(target, label string) bool {
	_, bare, _ := strings.Cut(target, "://")
	return label == target || strings.TrimSuffix(label, "/") == strings.TrimSuffix(bare, "/")
}

var userMention = regexp.MustCompile(`<@([UW][A-Z0-9]+)(?:\|[^>]*)?>`)

// mentioned lists the users that a text mentions.
func mentioned(text string) (users []string) {
	for _, m := range userMention.FindAllStringSubmatch(text, -1) {
		users = append(users, m[1])
	}
	return users
}

// mentions says whether a text mentions the user.
func mentions(text, user string) bool {
	for _, u := range mentioned(text) {
		if u == user {
			return true
		}
	}
	return false
}

// withoutMention removes the user's mentions from the beginning and the end of a
// text, where they only address it.
func withoutMention(text, user string) string {
	for {
		text = strings.TrimSpace(text)
		loc := userMention.FindAllStringSubmatchIndex(text, -1)
		if len(loc) == 0 {
			return text
		}
		first, last := loc[0], loc[len(loc)-1]
		switch {
		case first[0] == 0 && text[first[2]:first[3]] == user:
			text = strings.TrimLeft(text[first[1]:], " ,:;–—-\n\t")
		case last[1] == len(text) && text[last[2]:last[3]] == user:
			text = text[:last[0]]
		default:
			return text
		}
	}
}

// addressesOthers says whether a text begins by speaking to somebody.
func addressesOthers(text string) bool {
	loc := userMention.FindStringIndex(strings.TrimSpace(text))
	return loc != nil && loc[0] == 0
}

// isStop says whether a whole message, without mentions, asks to stop.
func isStop(text string) bool {
	word := strings.ToLower(strings.Trim(text, " \t\n.!/*_`~"))
	return word == "stop" || word == "stop it" || word == "please stop" || word == "stop please"
}

var mrkdwnEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// escape makes any text literal in Slack's mrkdwn: nothing in it can mention,
// broadcast or link (I10).
func escape(s string) string { return mrkdwnEscaper.Replace(s) }

var addresses = regexp.MustCompile(`https?://[^\s<>|]+`)

// escapeLinked escapes a text of our own and makes its addresses links, which are
// shown without their query: that of a prefilled pull request is longer than the text.
func escapeLinked(s string) string {
	var b strings.Builder
	at := 0
	for _, m := range addresses.FindAllStringIndex(s, -1) {
		url := strings.TrimRight(s[m[0]:m[1]], ".,;:!?)")
		_, label, _ := strings.Cut(url, "://")
		if cut := strings.IndexByte(label, '?'); cut >= 0 {
			label = label[:cut] + "?…"
		}
		b.WriteString(escape(s[at:m[0]]) + link(url, clip(label, 80)))
		at = m[0] + len(url)
	}
	return b.String() + escape(s[at:])
}

// code shows a text as inline code in mrkdwn.
func code(s string) string {
	s = strings.ReplaceAll(oneLine(s), "`", "'")
	if s == "" {
		return ""
	}
	return "`" + escape(s) + "`"
}

// link is an mrkdwn link to an address of our own making or checked by safeURL.
func link(url, label string) string {
	label = strings.ReplaceAll(escape(oneLine(label)), "|", "¦")
	if !safeURL(url) {
		return label
	}
	return "<" + escape(strings.ReplaceAll(url, "|", "%7C")) + "|" + label + ">"
}

// safeURL says whether a link may be shown: web and mail only.
func safeURL(url string) bool {
	if strings.ContainsAny(url, " <>\n\r\t\"") {
		return false
	}
	lower := strings.ToLower(url)
	for _, scheme := range []string{"https://", "http://", "mailto:"} {
		if strings.HasPrefix(lower, scheme) && len(url) > len(scheme) {
			return true
		}
	}
	return false
}

// oneLine folds all white space into single spaces.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// clip shortens a text to at most n characters, the last of which says so.
func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	runes := []rune(s)
	return strings.TrimRight(string(runes[:n-1]), " \n") + "…"
}

var halfEntity = regexp.MustCompile(`&[a-z]*$`)

// clipMarkup shortens mrkdwn that was escaped already: at the end of a line if
// there is one, and never within an entity.
func clipMarkup(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	s = string([]rune(s)[:n-1])
	if at := strings.LastIndexByte(s, '\n'); at > 0 {
		return s[:at] + "\n…"
	}
	return halfEntity.ReplaceAllString(s, "") + "…"
}
