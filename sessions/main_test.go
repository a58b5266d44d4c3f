package sessions_test

import (
	"flag"
	"os"
	"testing"

	"openinspect/internal/devpg/pgtest"
)

// rapidChecks is how many random cases a property gets unless -rapid.checks says
// otherwise: one of them works with real sandboxes' bridges.
const rapidChecks = "30"

func TestMain(m *testing.M) {
	if os.Getenv(peersVariable) != "" {
		servePeers(os.Stdin)
		return
	}
	if err := flag.Set("rapid.checks", rapidChecks); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}
