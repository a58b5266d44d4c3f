package modal

import (
	_ "embed" // the scripts
	"maps"
	"slices"
	"strings"

	"openinspect/sandbox"
)

// What runs in boxes; each file says what it does. They are arguments of sh, so
// that an image has to hold nothing of ours.
var (
	//go:embed entry.sh
	entryScript string
	//go:embed exec.sh
	execScript string
	//go:embed end.sh
	endScript string
	//go:embed park.sh
	parkScript string
	//go:embed bootstrap.sh
	bootstrapScript string
)

// shell runs a script with arguments.
func shell(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "openinspect"}, args...)
}

// envVariable holds the main program's environment.
const envVariable = "OPENINSPECT_BOX_ENV"

// commandVariable holds the id by which a command is found to be ended.
const commandVariable = "OPENINSPECT_EXEC"

// user is the environment of every process of the user agent.
func user() map[string]string {
	return map[string]string{"HOME": sandbox.Home, "USER": "agent", "LOGNAME": "agent"}
}

// exports writes an environment as commands of the shell.
func exports(env map[string]string) string {
	all := user()
	maps.Copy(all, env)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b.WriteString("export " + name + "='" + strings.ReplaceAll(all[name], "'", `'\''`) + "'\n")
	}
	return b.String()
}
