package sandbox

import "strings"

// EnvSecrets names the variables of Spec.Env that are secrets of the repository,
// separated by commas: the supervisor looks for their values in what is about to
// be saved. It is one of those that the agent does not inherit.
const EnvSecrets = "OPENINSPECT_SECRETS"

// reservedNames are variables that decide how the supervisor, OpenCode or every
// program of the box runs: the loader's, Go's runtime and its trust in
// certificates, the way to the network.
var reservedNames = map[string]bool{
	"HOME": true, "PATH": true, "PWD": true, "OLDPWD": true, "SHELL": true, "USER": true, "LOGNAME": true, "TMPDIR": true,
	"LANG": true, "TERM": true, "IFS": true, "ENV": true, "BASH_ENV": true,
	"HTTP_PROXY": true, "HTTPS_PROXY": true, "ALL_PROXY": true, "NO_PROXY": true, "NODE_USE_ENV_PROXY": true,
	"GODEBUG": true, "GOTRACEBACK": true, "GOGC": true, "GOMEMLIMIT": true, "GOMAXPROCS": true,
	"SSL_CERT_FILE": true, "SSL_CERT_DIR": true,
}

// reservedPrefixes are the same for whole families of names. MALLOC_ and BUN_ are
// OpenCode's allocator and JavaScript engine.
var reservedPrefixes = []string{"OPENINSPECT_", "OPENCODE_", "GIT_", "LD_", "XDG_", "BUN_", "MALLOC_"}

// Reserved says whether the box or the supervisor needs the environment variable
// for itself, so that a repository cannot set it.
func Reserved(name string) bool {
	for _, prefix := range reservedPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return reservedNames[name]
}
