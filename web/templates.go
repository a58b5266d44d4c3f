package web

import (
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"openinspect/sessions"
)

// parseTemplates reads all templates into one set. There are no actions inside
// scripts: data reaches them through data attributes.
func parseTemplates(static *assets) (*template.Template, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"asset": static.url, "initials": initials, "hue": hue, "money": money, "millis": millis, "bytes": byteCount,
		"ago": ago, "clock": clock, "short": short, "safeURL": safeURL, "base": path.Base, "dir": dir, "plural": plural,
		"title": sentence, "join": joined, "headerLines": headerLines, "field": newField, "switch": newSwitch,
		"noPort": func() sessions.Port { return sessions.Port{} }, "noTool": func() sessions.MCPServer { return sessions.MCPServer{} },
		"noSkill": func() sessions.Skill { return sessions.Skill{} },
	}).ParseFS(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("parsing templates: %w", err)
	}
	return t, nil
}

// joined lists names as a form takes them.
func joined(names []string) string { return strings.Join(names, ", ") }

// headerLines shows headers as a form takes them, one a line.
func headerLines(headers map[string]string) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		lines = append(lines, name+": "+headers[name])
	}
	return strings.Join(lines, "\n")
}

// numberField is a number in a form of settings, empty where nothing is set.
type numberField struct {
	Name, Label, Unit, Own, All, Least, Most, Step string
}

func newField(name, label, unit string, own, all any, least, most, step string) numberField {
	f := numberField{Name: name, Label: label, Unit: unit, Own: fmt.Sprint(own), All: fmt.Sprint(all), Least: least, Most: most, Step: step}
	if f.Own == "0" {
		f.Own = ""
	}
	if f.All == "0" {
		f.All = "as usual"
	}
	return f
}

// switchField is a thing that is on unless it is switched off, in a form of settings.
type switchField struct {
	Name, Label, Own, All string
	Inherits              bool // what holds for all holds where nothing is set
}

func newSwitch(name, label, own, all string, repository *sessions.Repository) switchField {
	return switchField{Name: name, Label: label, Own: own, All: all, Inherits: repository != nil}
}

// initials are a person's in at most two letters.
func initials(name string) string {
	var out []rune
	for word := range strings.FieldsSeq(name) {
		r, _ := utf8.DecodeRuneInString(word)
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			out = append(out, unicode.ToUpper(r))
		}
	}
	switch {
	case len(out) == 0:
		return "?"
	case len(out) > 2:
		out = []rune{out[0], out[len(out)-1]}
	}
	return string(out)
}

// hue picks one of the eight colours of people, always the same for a name.
func hue(name string) int {
	sum := 0
	for _, r := range name {
		sum = (sum*31 + int(r)) & 0xffff
	}
	return sum % 8
}

// money shows US dollars.
func money(usd float64) string {
	if usd > 0 && usd < 0.01 {
		return "< $0.01"
	}
	return fmt.Sprintf("$%.2f", usd)
}

// millis shows a duration given in milliseconds.
func millis(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", ms)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

// byteCount shows a number of bytes.
func byteCount(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d kB", n>>10)
}

// ago says roughly how long ago something was. It is for lists; the exact time
// is in the element's title.
func ago(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	case d < 14*24*time.Hour:
		return plural(int(d.Hours()/24), "day") + " ago"
	}
	return t.Format("2 Jan 2006")
}

// clock is a time that scripts show in the reader's own time zone.
func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// short is the beginning of a commit's id.
func short(sha string) string { return sha[:min(len(sha), 8)] }

// dir is the folder of a path with a slash, or nothing.
func dir(p string) string {
	d, _ := path.Split(p)
	return d
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// sentence begins with a capital letter.
func sentence(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(r)) + s[n:]
}

// safeURL returns u if it leads to a web page, else nothing.
func safeURL(u string) string {
	p, err := url.Parse(u)
	if err != nil || p.Scheme != "https" && p.Scheme != "http" || p.Host == "" {
		return ""
	}
	return p.String()
}
