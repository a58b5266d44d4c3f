package slack

import (
	"encoding/json"
	"regexp"
	"strings"
)

var (
	// token is a special sequence of message text: <@U1>, <#C1|name>, <!here>,
	// <https://x|label>.
	token = regexp.MustCompile(`<([^<>\n]+)>`)
	// atName is a name as typed.
	atName = regexp.MustCompile(`(^|[\s(])@([a-z0-9._-]+)`)

	unescape = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&")
)

// linkNames turns @name into the special sequence of who that is, as Slack's
// clients do when a person types it.
func (s *Server) linkNames(text string) string {
	return atName.ReplaceAllStringFunc(text, func(hit string) string {
		part := atName.FindStringSubmatch(hit)
		name := strings.TrimRight(part[2], ".-_")
		tail := part[2][len(name):]
		if name == s.opts.BotName {
			return part[1] + "<@" + s.id.BotUserID + ">" + tail
		}
		for _, p := range s.id.People {
			if p.Name == name {
				return part[1] + "<@" + p.ID + ">" + tail
			}
		}
		return hit
	})
}

// richText is the block that Slack's clients send beside a typed text: its
// words, mentions and links. Styles stay in the text, unlike in Slack's.
func richText(text string) json.RawMessage {
	var elements []object
	plain := func(t string) {
		if t != "" {
			elements = append(elements, object{"type": "text", "text": unescape.Replace(t)})
		}
	}
	at := 0
	for _, hit := range token.FindAllStringSubmatchIndex(text, -1) {
		plain(text[at:hit[0]])
		elements = append(elements, richElement(text[hit[2]:hit[3]]))
		at = hit[1]
	}
	plain(text[at:])
	if len(elements) == 0 {
		return nil
	}
	raw, err := json.Marshal([]object{{
		"type": "rich_text", "block_id": secret(3)[:5],
		"elements": []object{{"type": "rich_text_section", "elements": elements}},
	}})
	if err != nil {
		return nil // strings always encode
	}
	return raw
}

func richElement(inner string) object {
	id, label, _ := strings.Cut(inner, "|")
	switch {
	case strings.HasPrefix(id, "@"):
		return object{"type": "user", "user_id": id[1:]}
	case strings.HasPrefix(id, "#"):
		return object{"type": "channel", "channel_id": id[1:]}
	case strings.HasPrefix(id, "!"):
		return object{"type": "broadcast", "range": id[1:]}
	case label != "":
		return object{"type": "link", "url": unescape.Replace(id), "text": unescape.Replace(label)}
	}
	return object{"type": "link", "url": unescape.Replace(id)}
}
