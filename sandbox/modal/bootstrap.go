package modal

import (
	"strconv"
	"time"
)

// Bootstrap is the Spec.Command of a box with a supervisor: a script that fetches
// the program with this SHA-256, in hexadecimal, from the machine listener
// (sandbox.SupervisorPath), checks it and becomes `supervise`. So a box of any age
// runs the supervisor that belongs to the control plane that started it. It needs
// curl in the image, and sandbox.EnvToken and sandbox.EnvControl in Spec.Env. It
// tries for two minutes, and says on standard error why it gave up. An argument of the
// supervisor may be appended.
func Bootstrap(sha256 string) []string { return bootstrap(sha256, 2*time.Minute) }

func bootstrap(sha256 string, patience time.Duration) []string {
	return shell(bootstrapScript, sha256, strconv.Itoa(int(patience.Seconds())))
}
