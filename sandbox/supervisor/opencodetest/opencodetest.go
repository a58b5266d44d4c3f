// Package opencodetest gives tests the real OpenCode.
package opencodetest

import (
	"context"
	"os"
	"testing"
	"time"

	"openinspect/sandbox/image"
)

// Binary returns the path of the pinned OpenCode, fetching it once per machine.
// A test that cannot have it fails.
func Binary(t testing.TB) string {
	t.Helper()
	dir, err := image.CacheDir(os.Getenv("OPENINSPECT_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	path, err := image.EnsureOpenCode(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
