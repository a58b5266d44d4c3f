package sessions_test

import (
	"flag"
	"testing"

	"openinspect/internal/devpg/pgtest"
)

// rapidChecks is how many random cases a property gets unless -rapid.checks says
// otherwise: one of them works with real sandboxes' bridges.
const rapidChecks = "30"

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", rapidChecks); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}
