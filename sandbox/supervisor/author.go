package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Git identity (I11). OpenCode lives longer than a prompt, so its environment
// cannot name the prompt's author. It carries settings that outrank those of
// the repository (GIT_CONFIG_*) and that include one file, which is rewritten
// before each prompt, and that set core.hooksPath to hooks of ours: they add
// the trailers and hand on to the repository's own hooks. What slips past all
// that (--author, --no-verify) is put right before pushing, by rewriting: see
// authorship.go.

// person is an author or a committer.
type person struct {
	name, email string
}

// clean makes a name that git takes: no line breaks, no angle brackets.
func (p person) clean() person {
	strip := strings.NewReplacer("<", "", ">", "", "\n", " ", "\r", " ", "\x00", "")
	p = person{strings.TrimSpace(strip.Replace(p.name)), strings.TrimSpace(strip.Replace(p.email))}
	if p.name == "" {
		p.name = p.email
	}
	return p
}

func (p person) env(role string) []string {
	return []string{"GIT_" + role + "_NAME=" + p.name, "GIT_" + role + "_EMAIL=" + p.email}
}

// identity is the folder with the included file and the hooks.
type identity struct {
	dir      string
	bot      person
	trailers []string // whole lines
}

// hookKinds are the hooks of githooks(5) that a repository's own checkout can
// have, except post-index-change and reference-transaction: git calls those
// many times per command, and starting a shell each time would slow every
// command of the agent.
var hookKinds = []string{
	"applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "pre-merge-commit",
	"prepare-commit-msg", "commit-msg", "post-commit", "pre-rebase", "post-checkout",
	"post-merge", "pre-push", "post-rewrite", "pre-auto-gc", "sendemail-validate",
}

// chainScript hands on to the repository's own hook of the same name: in the
// folder its local configuration names (husky and others do that), else .git/hooks.
const chainScript = `#!/bin/sh
%sown=$(git config --local --type=path --get core.hooksPath) || own=$(git rev-parse --git-common-dir)/hooks
hook=$own/${0##*/}
[ -x "$hook" ] || exit 0
exec "$hook" "$@"
`

// trailerScript is the part of commit-msg that is ours. The message of a merge
// comes without a last line break, and trailers would continue its only line.
const trailerScript = `[ -z "$(tail -c 1 "$1")" ] || echo >> "$1"
git interpret-trailers --in-place --if-exists addIfDifferent%s "$1" || exit 1
`

// install writes the hooks.
func (id *identity) install() error {
	hooks := filepath.Join(id.dir, "hooks")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		return err
	}
	for _, kind := range hookKinds {
		own := ""
		if kind == "commit-msg" {
			var options strings.Builder
			for _, t := range id.trailers {
				options.WriteString(" --trailer " + shellQuote(t))
			}
			own = fmt.Sprintf(trailerScript, options.String())
		}
		if err := os.WriteFile(filepath.Join(hooks, kind), fmt.Appendf(nil, chainScript, own), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// setAuthor rewrites the included file.
func (id *identity) setAuthor(p person) error {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	text := fmt.Sprintf("[user]\n\tname = \"%s\"\n\temail = \"%s\"\n", quote.Replace(p.name), quote.Replace(p.email))
	return writeFile(filepath.Join(id.dir, "author"), []byte(text))
}

// env is what every git below OpenCode gets.
func (id *identity) env(gateway, remoteURL, repositoryName string) []string {
	settings := [][2]string{
		{"include.path", filepath.Join(id.dir, "author")},
		{"core.hooksPath", filepath.Join(id.dir, "hooks")},
		{"safe.directory", "*"},
		{"advice.detachedHead", "false"},
		{"credential.helper", ""},
		{"gc.auto", "0"}, {"maintenance.auto", "false"}, // what a session adds stays apart, where secrets are looked for
	}
	if host, ok := strings.CutSuffix(strings.TrimSuffix(remoteURL, ".git"), repositoryName); ok {
		settings = append(settings, [2]string{"url." + gateway + "/git/.insteadOf", host})
	}
	env := []string{fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(settings)), "GIT_TERMINAL_PROMPT=0", "GIT_EDITOR=true"}
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s[1]))
	}
	return append(env, id.bot.env("COMMITTER")...)
}

// message returns a commit message that carries the trailers.
func (r *repository) message(ctx context.Context, text string, trailers []string) (string, error) {
	args := []string{"interpret-trailers", "--if-exists", "addIfDifferent"}
	for _, t := range trailers {
		args = append(args, "--trailer", t)
	}
	return r.gitWith(ctx, nil, text, args...)
}

// writeFile replaces a file as one step.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
