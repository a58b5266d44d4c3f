package sessions_test

import (
	"testing"

	"openinspect/internal/devpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
