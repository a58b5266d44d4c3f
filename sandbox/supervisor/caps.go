package supervisor

import (
	"fmt"
	"strings"
)

// Caps of what one event lists. An agent may change or plan any number of
// things; the bridge carries events of a bounded size, and nobody reads on
// after so many. What is counted stays the whole.
const (
	maxFiles = 1000 // of a diff
	maxTodos = 200
	maxLeft  = 100     // files that were not committed
	maxSaid  = 4 << 10 // bytes of what git or a hook said
	maxTitle = 1 << 10 // bytes of a commit's subject
)

// capped returns the first most of all and how many it leaves out.
func capped[T any](all []T, most int) ([]T, int) {
	if len(all) <= most {
		return all, 0
	}
	return all[:most:most], len(all) - most
}

// beginning returns the first most bytes of s.
func beginning(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " …"
}

// lastLines returns the last n lines of s that say something.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	text := strings.Join(lines[max(0, len(lines)-n):], "\n")
	if len(text) > maxSaid {
		text = "… " + strings.ToValidUTF8(text[len(text)-maxSaid:], "")
	}
	return text
}

// notCommitted tells of files over maxCommitted.
func notCommitted(left []string) string {
	return "Not committed, because larger than 5 MB: " + list(left)
}

// list names the first of files.
func list(files []string) string {
	named, more := capped(files, maxLeft)
	text := strings.Join(named, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
