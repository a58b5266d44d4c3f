package model

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"text/template"
)

//go:embed scripts/*.txt
var embedded embed.FS

// script is one parsed file; see the package comment for its form.
type script struct {
	name   string
	match  []*regexp.Regexp
	system []*regexp.Regexp
	json   bool
	steps  []*step
}

type step struct {
	think, say *template.Template
	calls      []*callTemplate
	fault      FaultKind
}

type callTemplate struct {
	names []string
	args  map[string]any // strings are replaced by templates
}

// loadAll reads the scripts of extra, then the embedded ones.
func loadAll(extra fs.FS) ([]*script, error) {
	var all []*script
	for _, source := range []struct {
		files fs.FS
		dir   string
	}{{extra, "."}, {embedded, "scripts"}} {
		if source.files == nil {
			continue
		}
		names, err := fs.Glob(source.files, path.Join(source.dir, "*.txt"))
		if err != nil {
			return nil, fmt.Errorf("listing model scripts: %w", err)
		}
		for _, name := range names {
			text, err := fs.ReadFile(source.files, name)
			if err != nil {
				return nil, fmt.Errorf("reading model script: %w", err)
			}
			s, err := parseScript(path.Base(name), string(text))
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
	}
	return all, nil
}

func (s *script) matches(q *request, x *exchange) bool {
	return (!s.json || q.wantJSON) && anyMatch(s.match, x.Prompt) && anyMatch(s.system, q.system)
}

func anyMatch(patterns []*regexp.Regexp, text string) bool {
	for _, p := range patterns {
		if p.MatchString(text) {
			return true
		}
	}
	return len(patterns) == 0
}

// reply renders the step that is next, or names the fault that stands in its
// place. A script without servable steps says nothing, which both protocols
// allow.
func (s *script) reply(q *request, x *exchange) (*reply, *Fault, error) {
	steps := s.servable(q)
	if len(steps) == 0 {
		return &reply{}, nil, nil
	}
	next := steps[min(x.replies, len(steps)-1)]
	if next.fault != "" {
		return &reply{}, &Fault{Kind: next.fault}, nil
	}
	p, err := next.render(q, x)
	if err != nil {
		return nil, nil, fmt.Errorf("model script %s: %w", s.name, err)
	}
	return p, nil, nil
}

// servable leaves out the steps all of whose tools are not offered.
func (s *script) servable(q *request) []*step {
	var steps []*step
	for _, st := range s.steps {
		usable := len(st.calls) == 0
		for _, c := range st.calls {
			usable = usable || q.offered(c.names) != ""
		}
		if usable {
			steps = append(steps, st)
		}
	}
	return steps
}

func (st *step) render(q *request, x *exchange) (*reply, error) {
	p := &reply{}
	var err error
	if p.think, err = expand(st.think, x); err != nil {
		return nil, err
	}
	if p.say, err = expand(st.say, x); err != nil {
		return nil, err
	}
	for i, c := range st.calls {
		name := q.offered(c.names)
		if name == "" {
			continue
		}
		filled, err := fill(c.args, x)
		if err != nil {
			return nil, fmt.Errorf("arguments of %s: %w", name, err)
		}
		args, err := json.Marshal(filled)
		if err != nil {
			return nil, fmt.Errorf("arguments of %s: %w", name, err)
		}
		p.calls = append(p.calls, toolCall{id: callID(x, len(q.turns), i), name: name, args: args})
	}
	return p, nil
}

// callID is unique within a conversation and the same when it is asked again.
func callID(x *exchange, turns, index int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d", x.Prompt, turns, index))
	return "call_" + hex.EncodeToString(sum[:12])
}

func expand(t *template.Template, x *exchange) (string, error) {
	if t == nil {
		return "", nil
	}
	var b strings.Builder
	if err := t.Execute(&b, x); err != nil {
		return "", err
	}
	return strings.TrimSpace(b.String()), nil
}

// fill replaces the templates in an argument value by their text.
func fill(v any, x *exchange) (any, error) {
	switch v := v.(type) {
	case *template.Template:
		return expand(v, x)
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			f, err := fill(e, x)
			if err != nil {
				return nil, err
			}
			out[k] = f
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			f, err := fill(e, x)
			if err != nil {
				return nil, err
			}
			out[i] = f
		}
		return out, nil
	}
	return v, nil
}

// functions are available to the templates of scripts.
var functions = template.FuncMap{
	"contains": func(part, text string) bool { return strings.Contains(text, part) },
	"capital":  capital,
	"head":     func(n int, text string) string { return cutLines(n, text, true) },
	"line": func(text string) string {
		first, _, _ := strings.Cut(text, "\n")
		return strings.TrimSpace(first)
	},
	"tail": func(n int, text string) string { return cutLines(n, text, false) },
	"find": func(pattern, text string) (string, error) {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return "", err
		}
		m := re.FindStringSubmatch(text)
		if m == nil {
			return "", nil
		}
		return m[len(m)-1], nil
	},
}

func cutLines(n int, text string, fromStart bool) string {
	lines := strings.Split(text, "\n")
	if len(lines) <= n {
		return text
	}
	if fromStart {
		return strings.Join(lines[:n], "\n") + "\n…"
	}
	return "…\n" + strings.Join(lines[len(lines)-n:], "\n")
}
