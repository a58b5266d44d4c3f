package modal

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Step is one instruction of an image's recipe.
type Step struct {
	Line        int    // of the commands as they were sent, from 1
	Instruction string // in capitals
	Args        string // the rest, with continued lines joined
}

// instructions are those of Dockerfiles. The stand-in gives effect to FROM,
// ARG, ENV, WORKDIR and RUN; the others are recorded.
var instructions = []string{"FROM", "RUN", "ENV", "WORKDIR", "COPY", "ADD", "ARG", "CMD", "ENTRYPOINT", "USER", "SHELL", "LABEL",
	"EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ONBUILD", "MAINTAINER"}

// errLocalContext is a COPY of files that nobody sent.
var errLocalContext = errors.New("COPY and ADD of local files need a build context, and there is none: use COPY --from= or RUN")

var heredoc = regexp.MustCompile(`<<-?['"]?([A-Za-z_][A-Za-z0-9_]*)['"]?`)

// parseDockerfile takes commands apart: instructions with continued lines,
// comments and here-documents.
func parseDockerfile(commands []string) ([]Step, error) {
	lines := strings.Split(strings.Join(commands, "\n"), "\n")
	var steps []Step
	for i := 0; i < len(lines); i++ {
		if skip(lines[i]) {
			continue
		}
		first := i + 1
		text := strings.TrimSpace(lines[i])
		for strings.HasSuffix(text, `\`) {
			text = strings.TrimSuffix(text, `\`)
			for i++; i < len(lines) && skip(lines[i]); i++ { // comments and empty lines may stand between
			}
			if i == len(lines) {
				break
			}
			text += strings.TrimRight(lines[i], " \t\r")
		}
		step, err := parseStep(first, text)
		if err != nil {
			return nil, err
		}
		if m := heredoc.FindStringSubmatch(step.Args); m != nil && slices.Contains([]string{"RUN", "COPY", "ADD"}, step.Instruction) {
			end := slices.IndexFunc(lines[i+1:], func(l string) bool { return strings.TrimSpace(l) == m[1] })
			if end < 0 {
				return nil, fmt.Errorf("dockerfile parse error on line %d: unterminated heredoc", first)
			}
			step.Args += "\n" + strings.Join(lines[i+1:i+2+end], "\n")
			i += 1 + end
		}
		steps = append(steps, step)
	}
	if len(steps) == 0 || steps[0].Instruction != "FROM" && steps[0].Instruction != "ARG" {
		return nil, errors.New("dockerfile parse error: no build stage in current context: the first instruction must be FROM")
	}
	return steps, nil
}

func skip(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || strings.HasPrefix(line, "#")
}

func parseStep(line int, text string) (Step, error) {
	word, args, _ := strings.Cut(strings.ReplaceAll(text, "\t", " "), " ")
	s := Step{Line: line, Instruction: strings.ToUpper(word), Args: strings.TrimSpace(args)}
	switch {
	case !slices.Contains(instructions, s.Instruction):
		return s, fmt.Errorf("dockerfile parse error on line %d: unknown instruction: %s", line, word)
	case s.Args == "":
		return s, fmt.Errorf("dockerfile parse error on line %d: %s requires at least one argument", line, s.Instruction)
	case s.Instruction == "WORKDIR" && len(fields(s.Args)) != 1:
		return s, fmt.Errorf("dockerfile parse error on line %d: WORKDIR requires exactly one argument", line)
	case (s.Instruction == "COPY" || s.Instruction == "ADD") && !strings.Contains(s.Args, "--from=") && !strings.Contains(s.Args, "<<") && !remote(s.Args):
		return s, fmt.Errorf("line %d: %w", line, errLocalContext)
	}
	if s.Instruction == "ENV" {
		if _, err := parseEnv(s.Args); err != nil {
			return s, fmt.Errorf("dockerfile parse error on line %d: %w", line, err)
		}
	}
	return s, nil
}

// remote reports whether ADD fetches what it adds.
func remote(args string) bool {
	return strings.Contains(args, "https://") || strings.Contains(args, "http://") || strings.Contains(args, "git@")
}

// parseEnv takes the arguments of ENV apart: NAME=VALUE …, or NAME VALUE.
func parseEnv(args string) ([][2]string, error) {
	words := fields(args)
	if !strings.Contains(words[0], "=") {
		name, value, ok := strings.Cut(args, " ")
		if !ok {
			return nil, errors.New("ENV must have two arguments")
		}
		return [][2]string{{name, strings.TrimSpace(value)}}, nil
	}
	var list [][2]string
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("syntax error - can't find = in %q. Must be of the form: name=value", w)
		}
		list = append(list, [2]string{name, value})
	}
	return list, nil
}

// fields splits at spaces outside of quotes and leaves quotes and escapes as they are.
func fields(s string) []string {
	var words []string
	var word strings.Builder
	quote, escaped := rune(0), false
	for _, c := range s {
		switch {
		case escaped:
			escaped = false
		case c == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && (c == ' ' || c == '\t'):
			if word.Len() > 0 {
				words = append(words, word.String())
				word.Reset()
			}
			continue
		}
		word.WriteRune(c)
	}
	if word.Len() > 0 {
		words = append(words, word.String())
	}
	return words
}

var reference = regexp.MustCompile(`^\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+])([^}]*))?\})`)

// expand takes quotes and escapes out of a word and puts variables in, as
// Dockerfiles do: $NAME, ${NAME}, ${NAME:-otherwise}, ${NAME:+instead}.
func expand(s string, env map[string]string) string {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			out.WriteByte(s[i])
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		case c == '$' && quote != '\'':
			m := reference.FindStringSubmatch(s[i:])
			if m == nil {
				out.WriteByte(c)
				continue
			}
			out.WriteString(substitute(m, env))
			i += len(m[0]) - 1
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}

func substitute(m []string, env map[string]string) string {
	value := env[m[1]+m[2]]
	switch {
	case m[3] == "-" && value == "":
		return expand(m[4], env)
	case m[3] == "+" && value != "":
		return expand(m[4], env)
	case m[3] == "+":
		return ""
	}
	return value
}

// argsOf is the program that RUN runs: a shell with the text, or a JSON list.
func argsOf(run string) []string {
	for strings.HasPrefix(run, "--") { // --mount=… and the like: there is nothing to mount
		_, run, _ = strings.Cut(run, " ")
		run = strings.TrimSpace(run)
	}
	var list []string
	if strings.HasPrefix(run, "[") && json.Unmarshal([]byte(run), &list) == nil && len(list) > 0 {
		return list
	}
	return []string{"/bin/sh", "-c", heredocBody(run)}
}

// heredocBody is the script of a RUN that is nothing but a here-document;
// others are the shell's to understand.
func heredocBody(run string) string {
	first, rest, ok := strings.Cut(run, "\n")
	m := heredoc.FindString(first)
	if !ok || strings.TrimSpace(first) != m {
		return run
	}
	end := strings.LastIndex(rest, "\n")
	if end < 0 {
		return ""
	}
	return rest[:end]
}

// hostPath is what $PATH is in an image that has not set it: what boxes have
// then.
const hostPath = "/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// apply gives effect to the instructions that change an image's settings.
func (i *Image) apply(step Step, args map[string]string) {
	all := map[string]string{"PATH": hostPath}
	for _, m := range []map[string]string{args, i.Env} {
		for name, value := range m {
			all[name] = value
		}
	}
	switch step.Instruction {
	case "ARG":
		for _, word := range fields(step.Args) {
			name, value, _ := strings.Cut(word, "=")
			if _, given := args[name]; !given {
				args[name] = expand(value, all)
			}
		}
	case "ENV":
		pairs, _ := parseEnv(step.Args) // parsed before
		for _, pair := range pairs {
			i.Env[pair[0]] = expand(pair[1], all)
		}
	case "WORKDIR":
		dir := expand(step.Args, all)
		if !path.IsAbs(dir) {
			dir = path.Join("/", i.Workdir, dir)
		}
		i.Workdir = path.Clean(dir)
	}
}
