package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/template"
)

// section is a directive with the lines indented below it.
type section struct {
	line      int
	directive string
	rest      string
	body      []string
}

// parseScript reads one script; errors name its file and line.
func parseScript(name, text string) (*script, error) {
	sections, err := splitSections(name, text)
	if err != nil {
		return nil, err
	}
	s := &script{name: name}
	for _, sec := range sections {
		if err := s.add(sec); err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", name, sec.line, sec.directive, err)
		}
	}
	if len(s.steps) == 0 {
		return nil, fmt.Errorf("%s: a script needs at least one step", name)
	}
	if last := s.steps[len(s.steps)-1]; len(last.calls) > 0 {
		return nil, fmt.Errorf("%s: the last step must not call a tool, or the agent would never end", name)
	}
	return s, nil
}

func splitSections(name, text string) ([]*section, error) {
	var sections []*section
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, " \r")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "" || line[0] == '\t':
			if len(sections) > 0 {
				last := sections[len(sections)-1]
				last.body = append(last.body, strings.TrimPrefix(line, "\t"))
			} else if line != "" {
				return nil, fmt.Errorf("%s:%d: an indented line needs a directive above it", name, i+1)
			}
		default:
			directive, rest, _ := strings.Cut(line, " ")
			sections = append(sections, &section{line: i + 1, directive: directive, rest: strings.TrimSpace(rest)})
		}
	}
	return sections, nil
}

func (s *script) add(sec *section) error {
	switch sec.directive {
	case "match":
		return appendPattern(&s.match, sec.rest)
	case "system":
		return appendPattern(&s.system, sec.rest)
	case "json":
		s.json = true
		return nil
	case "step":
		s.steps = append(s.steps, &step{})
		return nil
	}
	if len(s.steps) == 0 {
		return fmt.Errorf("unknown, or it belongs below a step")
	}
	return s.steps[len(s.steps)-1].add(sec)
}

func appendPattern(to *[]*regexp.Regexp, pattern string) error {
	re, err := regexp.Compile("(?is)" + pattern)
	if err != nil {
		return err
	}
	*to = append(*to, re)
	return nil
}

func (st *step) add(sec *section) (err error) {
	switch sec.directive {
	case "think":
		st.think, err = parseTemplate(strings.Join(sec.body, "\n"))
	case "say":
		st.say, err = parseTemplate(strings.Join(sec.body, "\n"))
	case "call":
		var c *callTemplate
		if c, err = parseCall(sec); err == nil {
			st.calls = append(st.calls, c)
		}
	case "fault":
		st.fault = FaultKind(sec.rest)
		if !st.fault.known() {
			err = fmt.Errorf("no such fault: %q", sec.rest)
		}
	default:
		err = fmt.Errorf("unknown directive")
	}
	return err
}

// parseTemplate also tries the template, since a wrong call of a function
// shows only then.
func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(functions).Parse(text)
	if err != nil {
		return nil, err
	}
	return t, t.Execute(io.Discard, newExchange(&request{}))
}

var argument = regexp.MustCompile(`^(\w+)(:| =) ?(.*)$`)

func parseCall(sec *section) (*callTemplate, error) {
	if sec.rest == "" {
		return nil, fmt.Errorf("a call needs the name of a tool")
	}
	c := &callTemplate{names: strings.Split(sec.rest, "|"), args: map[string]any{}}
	for i := 0; i < len(sec.body); {
		if sec.body[i] == "" {
			i++
			continue
		}
		m := argument.FindStringSubmatch(sec.body[i])
		if m == nil {
			return nil, fmt.Errorf("not an argument: %q", sec.body[i])
		}
		first := i + 1
		for i++; i < len(sec.body) && (sec.body[i] == "" || sec.body[i][0] == '\t'); i++ {
		}
		value, err := parseArgument(m[2] == " =", m[3], sec.body[first:i])
		if err != nil {
			return nil, fmt.Errorf("argument %s: %w", m[1], err)
		}
		c.args[m[1]] = value
	}
	return c, nil
}

// parseArgument reads one value: JSON, one line of text, or after "|" the
// lines that follow it.
func parseArgument(isJSON bool, first string, more []string) (any, error) {
	for i, line := range more {
		more[i] = strings.TrimPrefix(line, "\t")
	}
	rest := strings.TrimRight(strings.Join(more, "\n"), "\n")
	switch {
	case isJSON:
		decoder := json.NewDecoder(bytes.NewBufferString(first + "\n" + rest))
		decoder.UseNumber()
		var v any
		if err := decoder.Decode(&v); err != nil {
			return nil, err
		}
		return templates(v)
	case first == "|":
		return parseTemplate(rest)
	case rest != "":
		return nil, fmt.Errorf("text of several lines begins with \"|\"")
	}
	return parseTemplate(first)
}

// templates replaces every string in a JSON value by its template.
func templates(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case string:
		return parseTemplate(v)
	case map[string]any:
		for k, e := range v {
			if v[k], err = templates(e); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, e := range v {
			if v[i], err = templates(e); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}
