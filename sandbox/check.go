package sandbox

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// Invalid makes an error that a person has to do something about.
func Invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Check finds what no provider could start, an ErrInvalid. longest is the
// provider's longest lifetime.
func (s Spec) Check(longest time.Duration) error {
	switch {
	case s.Name == "" || len(s.Name) > 200 || !printable(s.Name):
		return Invalid("the name %q is not 1 to 200 bytes of text", s.Name)
	case len(s.Command) == 0 || s.Command[0] == "":
		return Invalid("sandbox %s has no command", s.Name)
	case s.Lifetime < 0 || s.Lifetime > longest:
		return Invalid("a lifetime of %s is not within 0 and %s", s.Lifetime, longest)
	case s.CPU < 0 || s.MemMiB < 0:
		return Invalid("%g cores and %d MiB are not an amount", s.CPU, s.MemMiB)
	}
	for _, port := range s.Ports {
		if err := CheckPort(port); err != nil {
			return err
		}
	}
	return checkCommand(s.Command, s.Env)
}

// Check finds what no provider could run, an ErrInvalid.
func (c Cmd) Check() error {
	switch {
	case len(c.Args) == 0 || c.Args[0] == "":
		return Invalid("a command needs arguments")
	case c.Dir != "" && !path.IsAbs(c.Dir):
		return Invalid("%q is not an absolute path", c.Dir)
	case c.Timeout < 0:
		return Invalid("a timeout of %s is not a duration", c.Timeout)
	}
	return checkCommand(c.Args, c.Env)
}

// CheckPort finds what is no TCP port, an ErrInvalid.
func CheckPort(port int) error {
	if port < 1 || port > 65535 {
		return Invalid("%d is not a port", port)
	}
	return nil
}

// checkCommand refuses what execve(2) cannot pass on.
func checkCommand(args []string, env map[string]string) error {
	for _, arg := range args {
		if strings.ContainsRune(arg, 0) {
			return Invalid("an argument has a zero byte")
		}
	}
	for name, value := range env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return Invalid("%q cannot be an environment variable", name)
		}
	}
	return nil
}

// printable reports whether s is text that can be shown in a list.
func printable(s string) bool {
	return s == strings.ToValidUTF8(s, "") && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
