package sessions

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"openinspect/sandbox"
)

// ToolServer is where a server of tools is, with the headers that are set for it.
type ToolServer struct {
	URL     string
	Headers map[string]string
	Secrets []string // how values of secrets in Headers may look; longest first
}

// ToolServer returns the server of that name at a URL that is set for the session's
// repository, with the values of the secrets and variables that its headers name. A
// *Problem says that there is none, or what is missing.
func (e *Engine) ToolServer(ctx context.Context, session, name string) (ToolServer, error) {
	s, err := readSession(ctx, e.db, session)
	if err != nil {
		return ToolServer{}, err
	}
	set, err := e.SettingsFor(ctx, s.Repository)
	if err != nil {
		return ToolServer{}, err
	}
	i := slices.IndexFunc(set.Tools, func(m MCPServer) bool { return m.Name == name && m.URL != "" })
	if i < 0 {
		return ToolServer{}, &Problem{Code: "no_tools", Text: "There is no server of tools of that name (any more)."}
	}
	around, err := e.surroundings(ctx, s.Repository)
	if err = unlessProblem(err); err != nil {
		return ToolServer{}, err
	}
	return around.fill(set.Tools[i])
}

// fill puts values in the place of their names.
func (s surroundings) fill(m MCPServer) (ToolServer, error) {
	filled := ToolServer{URL: m.URL, Headers: map[string]string{}}
	var missing, unfit string
	for header, text := range m.Headers {
		filled.Headers[header] = reference.ReplaceAllStringFunc(text, func(found string) string {
			name := reference.FindStringSubmatch(found)[1]
			value, ok := s.outside[name]
			if !ok {
				value, ok = s.env[name]
			}
			if !ok {
				missing = name
			}
			if slices.Contains(s.values(), value) {
				filled.Secrets = append(filled.Secrets, sandbox.SecretForms(value)...)
			}
			value = strings.TrimSpace(value) // as pasted, a line's end may follow it
			if strings.ContainsFunc(value, unicode.IsControl) {
				unfit = name
			}
			return value
		})
	}
	slices.SortFunc(filled.Secrets, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	if missing != "" {
		return filled, &Problem{Code: "no_tools", Text: fmt.Sprintf("A header of the server of tools %s names %s, which is not set: an administrator has to set it as a secret.", m.Name, missing)}
	}
	if unfit != "" {
		return filled, &Problem{Code: "no_tools", Text: fmt.Sprintf("A header of the server of tools %s names %s, whose value has several lines, which no header can have: an administrator has to set another one.", m.Name, unfit)}
	}
	return filled, nil
}
