package model

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// replyID names a reply; the same request gets the same one.
func replyID(prefix string, q *request) string {
	h := sha256.New()
	for _, t := range q.turns {
		fmt.Fprintf(h, "%s\x00%s\x00", t.role, t.text)
	}
	return prefix + hex.EncodeToString(h.Sum(nil)[:12])
}

// pieceSize is about how many bytes a streamed chunk carries.
const pieceSize = 16

// pieces cuts a text into chunks, at spaces where there are some and never
// within a character.
func pieces(text string) []string {
	var out []string
	for len(text) > pieceSize {
		n := pieceSize
		if space := strings.IndexAny(text[n:min(len(text), 2*n)], " \n"); space >= 0 {
			n += space + 1
		}
		for n < len(text) && !utf8.RuneStart(text[n]) {
			n++
		}
		out, text = append(out, text[:n]), text[n:]
	}
	if text != "" {
		out = append(out, text)
	}
	return out
}

const maxTitle = 50

// Title makes a title for the conversation out of its first user prompt.
func (x *exchange) Title() string {
	for _, t := range x.request.turns {
		if t.role != "user" {
			continue
		}
		for line := range strings.Lines(reminders.ReplaceAllString(t.text, "")) {
			line = strings.Trim(strings.TrimSpace(line), `"`)
			if line != "" && !strings.HasPrefix(strings.ToLower(line), "generate a title") {
				return shorten(line)
			}
		}
	}
	return "New session"
}

// capital makes a text begin with a capital letter.
func capital(text string) string {
	if text == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:]
}

func shorten(line string) string {
	line = capital(line)
	if len(line) <= maxTitle {
		return line
	}
	cut := maxTitle
	if space := strings.LastIndexByte(line[:maxTitle], ' '); space > 0 {
		cut = space
	}
	for !utf8.RuneStart(line[cut]) {
		cut--
	}
	return line[:cut] + "…"
}

var (
	listing    = regexp.MustCompile(`^\s*(?:[-*\[{"]|\d+[.)])`)
	nameFirst  = regexp.MustCompile(`^\s*[\w.-]+/[\w.-]+(?:\s|:|$)`)
	repository = regexp.MustCompile(`[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*`)
	word       = regexp.MustCompile(`[\pL\pN]{3,}`)
)

// candidate is a repository that the question lists.
type candidate struct {
	name   string
	words  []string // of its listing lines
	shared []string // of them, those the question uses as well
}

// Choice answers "which of these repositories?" as a JSON object; see the
// package comment for what it looks at and what it answers.
func (x *exchange) Choice() (string, error) {
	candidates, question := x.candidates()
	asked := words(question)
	for _, c := range candidates {
		for _, w := range c.words {
			if slices.Contains(asked, w) {
				c.shared = append(c.shared, w)
			}
		}
	}
	slices.SortStableFunc(candidates, func(a, b *candidate) int { return cmp.Compare(len(b.shared), len(a.shared)) })
	answer := map[string]any{"repository": "", "repo": "", "confidence": 0.0, "alternatives": []string{}, "addressed": true,
		"reason": "no listed repository shares a word with the request"}
	if len(candidates) > 0 && len(candidates[0].shared) > 0 {
		best := candidates[0]
		answer["repository"], answer["repo"], answer["confidence"] = best.name, best.name, 0.9
		answer["reason"] = "the request shares with it: " + strings.Join(best.shared, ", ")
		if len(candidates) > 1 && len(candidates[1].shared) == len(best.shared) {
			answer["confidence"], answer["alternatives"] = 0.4, []string{candidates[1].name}
		}
	}
	return x.request.shaped(answer)
}

// candidates collects the listed repositories and returns them with the last
// message's other lines.
func (x *exchange) candidates() ([]*candidate, string) {
	byName := map[string]*candidate{}
	var found []*candidate
	var question strings.Builder
	texts := []string{x.request.system}
	for _, t := range x.request.turns {
		texts = append(texts, t.text)
	}
	for i, text := range texts {
		for line := range strings.Lines(text) {
			names := repository.FindAllString(line, -1)
			last := i == len(texts)-1
			listed := listing.MatchString(line) || (!last && nameFirst.MatchString(line))
			if !listed || len(names) == 0 {
				if last {
					question.WriteString(line)
				}
				continue
			}
			for _, name := range names {
				if byName[name] == nil {
					byName[name] = &candidate{name: name}
					found = append(found, byName[name])
				}
				byName[name].words = append(byName[name].words, words(name)...)
			}
			if len(names) == 1 { // the rest of the line describes it
				byName[names[0]].words = append(byName[names[0]].words, words(line)...)
			}
		}
	}
	for _, c := range found {
		slices.Sort(c.words)
		c.words = slices.Compact(c.words)
	}
	return found, question.String()
}

func words(text string) []string { return word.FindAllString(strings.ToLower(text), -1) }

// shaped keeps the properties that the request's JSON schema names.
func (q *request) shaped(answer map[string]any) (string, error) {
	var schema struct {
		Properties map[string]any `json:"properties"`
	}
	if len(q.schema) > 0 {
		if err := json.Unmarshal(q.schema, &schema); err != nil {
			return "", fmt.Errorf("reading the JSON schema asked for: %w", err)
		}
	}
	if len(schema.Properties) > 0 {
		for name := range answer {
			if _, ok := schema.Properties[name]; !ok {
				delete(answer, name)
			}
		}
	}
	text, err := json.Marshal(answer)
	return string(text), err
}
