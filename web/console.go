package web

import (
	"regexp"
	"strings"
)

// escapes are the control sequences that programs write to terminals: CSI, OSC
// (ended by BEL or ST) and the two-character ones.
var escapes = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|\x1b[@-Z\\\\^_]|\x1b[ -/][0-~]")

// plain returns what a terminal would show of a program's output: without
// colours, with lines that were overwritten by a carriage return replaced, and
// without other control characters.
func plain(out string) string {
	if strings.Contains(out, "\x1b") {
		out = escapes.ReplaceAllString(out, "")
	}
	out = strings.ReplaceAll(out, "\r\n", "\n")
	if strings.Contains(out, "\r") {
		lines := strings.Split(out, "\n")
		for i, line := range lines {
			line = strings.TrimRight(line, "\r")
			lines[i] = line[strings.LastIndexByte(line, '\r')+1:]
		}
		out = strings.Join(lines, "\n")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, out)
}
