package sessions

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"openinspect/sandbox"
)

// Limits of settings.
const (
	mostCPU          = 64.0
	leastCPU         = 0.125 // Modal's smallest request
	mostMemMiB       = 512 << 10
	leastMemMiB      = 512      // OpenCode needs some 400 MB
	leastLifetime    = 15       // minutes
	mostMinutes      = 24 * 60  // Modal's longest life of a sandbox
	mostSetupMinutes = 2 * 60   // people wait for it
	longestText      = 64 << 10 // bytes of instructions or of one skill
	mostEntries      = 20       // ports, tools, skills, regions; each
	longestLabel     = 60
)

// check says what is wrong with settings, as a *Problem.
func (s Settings) check() error {
	for _, check := range []func() error{s.checkResources, s.checkSwitches, s.checkText, s.checkPorts, s.checkTools, s.checkSkills} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func badSetting(format string, args ...any) error {
	return &Problem{Code: "bad_setting", Text: fmt.Sprintf(format, args...)}
}

func (s Settings) checkResources() error {
	within := func(what string, value, least, most float64, unit string) error {
		if value != 0 && !(value >= least && value <= most) {
			return badSetting("%s has to be between %g and %g %s, or empty.", what, least, most, unit)
		}
		return nil
	}
	for _, err := range []error{
		within("CPU", s.CPU, leastCPU, mostCPU, "cores"),
		within("Memory", float64(s.MemMiB), leastMemMiB, mostMemMiB, "MiB"),
		within("The lifetime", float64(s.LifetimeMinutes), leastLifetime, mostMinutes, "minutes"),
		within("The time of a request", float64(s.PromptMinutes), 1, mostMinutes, "minutes"),
		within("The time of scripts", float64(s.SetupMinutes), 1, mostSetupMinutes, "minutes"),
	} {
		if err != nil {
			return err
		}
	}
	if len(s.Regions) > mostEntries {
		return badSetting("There may be %d regions at most.", mostEntries)
	}
	if err := sandbox.CheckRegions(s.Regions); err != nil {
		return badSetting("%s", sentenceOf(err))
	}
	return nil
}

func (s Settings) checkSwitches() error {
	for _, one := range []struct{ whether, is string }{
		{"what the repository brings may run", s.Project},
		{"there are images", s.Images},
		{"there are warm sandboxes", s.Spares},
	} {
		if one.is != "" && one.is != Yes && one.is != No {
			return badSetting("Whether %s is %q: say yes, no or nothing.", one.whether, shorten(one.is, longestLabel))
		}
	}
	return nil
}

func (s Settings) checkText() error {
	return checkLong("The instructions", s.Instructions)
}

// checkLong says what is wrong with a long text.
func checkLong(what, text string) error {
	if len(text) > longestText {
		return badSetting("%s are too long: they have %d bytes, and %d are the most.", what, len(text), longestText)
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return badSetting("%s are not text.", what)
	}
	return nil
}

// checkLabel says what is wrong with one line that people see.
func checkLabel(what, text string) error {
	if utf8.RuneCountInString(text) > longestLabel || strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) {
		return badSetting("%s has to be one line of %d characters at most.", what, longestLabel)
	}
	return nil
}

func (s Settings) checkPorts() error {
	if len(s.Ports) > mostEntries {
		return badSetting("There may be %d ports at most.", mostEntries)
	}
	for i, p := range s.Ports {
		switch {
		case p.Port < 1 || p.Port > 65535:
			return badSetting("%d is no port: it has to be between 1 and 65535.", p.Port)
		case strings.HasSuffix(sandbox.Gateway, ":"+strconv.Itoa(p.Port)): // it adds the sandbox's credential
			return badSetting("Port %d is the sandbox's own: have the program listen on another one.", p.Port)
		case slices.ContainsFunc(s.Ports[:i], func(other Port) bool { return other.Port == p.Port }):
			return badSetting("Port %d is there twice.", p.Port)
		}
		if err := checkLabel(fmt.Sprintf("What port %d is called", p.Port), p.Label); err != nil {
			return err
		}
	}
	return nil
}

var (
	toolName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	headerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,60}$`)

	// tellingHeader are names of headers that hold what is secret.
	tellingHeader = regexp.MustCompile(`(?i)auth|token|key|secret|password`)
	// reference is how a header names a secret or variable.
	reference = regexp.MustCompile(`\$\{([A-Z_][A-Z0-9_]*)\}`)
)

func (s Settings) checkTools() error {
	if len(s.Tools) > mostEntries {
		return badSetting("There may be %d servers of tools at most.", mostEntries)
	}
	for i, m := range s.Tools {
		switch {
		case !toolName.MatchString(m.Name):
			return badSetting("%q cannot be the name of a server of tools: use small letters, digits and -, 32 at most.", shorten(m.Name, longestLabel))
		case m.Name == sandbox.OwnTools:
			return badSetting("%s is the name of the agent's own tools: choose another one.", m.Name)
		case slices.ContainsFunc(s.Tools[:i], func(other MCPServer) bool { return other.Name == m.Name }):
			return badSetting("There are two servers of tools called %s.", m.Name)
		case (m.URL == "") == (m.Command == ""):
			return badSetting("%s needs either a URL or a command.", m.Name)
		case m.Command != "" && len(m.Headers) > 0:
			return badSetting("%s is a command: headers are for those at a URL.", m.Name)
		}
		if err := m.check(); err != nil {
			return err
		}
	}
	return nil
}

// check says what is wrong with where a server is.
func (m MCPServer) check() error {
	if m.Command != "" {
		return checkLong("The command and arguments of "+m.Name, m.Command)
	}
	u, err := url.Parse(m.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(m.URL) > 1000 {
		return badSetting("The URL of %s has to begin with https:// and may not hold a password: put that into a header.", m.Name)
	}
	if len(m.Headers) > mostEntries {
		return badSetting("%s may have %d headers at most.", m.Name, mostEntries)
	}
	for name, value := range m.Headers {
		if !headerName.MatchString(name) || len(value) > 4000 || strings.ContainsFunc(value, unicode.IsControl) {
			return badSetting("%s: %q with its value cannot be a header.", m.Name, shorten(name, longestLabel))
		}
		if hopHeaders[strings.ToLower(name)] {
			return badSetting("%s: the header %s belongs to the connection and cannot be set.", m.Name, name)
		}
		if tellingHeader.MatchString(name) && !reference.MatchString(value) {
			return badSetting("%s: everybody sees what is written here. Set what the header %s holds as a secret, and write ${ITS_NAME}.", m.Name, name)
		}
	}
	return nil
}

// hopHeaders are those that the HTTP client sets itself.
var hopHeaders = map[string]bool{"host": true, "connection": true, "content-length": true, "transfer-encoding": true,
	"upgrade": true, "te": true, "trailer": true, "cookie": true}

var skillName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

func (s Settings) checkSkills() error {
	if len(s.Skills) > mostEntries {
		return badSetting("There may be %d skills at most.", mostEntries)
	}
	for i, k := range s.Skills {
		switch {
		case !skillName.MatchString(k.Name) || len(k.Name) > 64:
			return badSetting("%q cannot be a skill's name: use small letters, digits and single -, 64 at most.", shorten(k.Name, longestLabel))
		case slices.ContainsFunc(s.Skills[:i], func(other Skill) bool { return other.Name == k.Name }):
			return badSetting("There are two skills called %s.", k.Name)
		case strings.TrimSpace(k.Description) == "":
			return badSetting("The skill %s needs a description: by it the agent knows when to read it.", k.Name)
		case len(k.Description) > 1000 || strings.ContainsFunc(k.Description, unicode.IsControl):
			return badSetting("The description of the skill %s has to be one line of 1000 bytes at most.", k.Name)
		case strings.TrimSpace(k.Text) == "":
			return badSetting("The skill %s is empty.", k.Name)
		}
		if err := checkLong("The lines of the skill "+k.Name, k.Text); err != nil {
			return err
		}
	}
	return nil
}
