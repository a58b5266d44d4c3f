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

// The main program's environment travels under other names, so that commands can
// be kept from it: envVariable lists the names, and each value is in a variable
// whose name begins with envPrefix.
const (
	envVariable = "OPENINSPECT_BOX_ENV"
	envPrefix   = "OPENINSPECT_BOX_ENV_"
)

// commandVariable holds the id by which a command is found to be ended.
const commandVariable = "OPENINSPECT_EXEC"

// user is the environment of every process of the user agent.
func user() map[string]string {
	return map[string]string{"HOME": sandbox.Home, "USER": "agent", "LOGNAME": "agent"}
}

// packed is an environment on its way to the main program.
func packed(env map[string]string) map[string]string {
	all := user()
	maps.Copy(all, env)
	out := map[string]string{envVariable: strings.Join(slices.Sorted(maps.Keys(all)), " ")}
	for name, value := range all {
		out[envPrefix+name] = value
	}
	return out
}
