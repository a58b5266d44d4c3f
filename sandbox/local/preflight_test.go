package local

import (
	"errors"
	"strings"
	"testing"
)

func TestNewSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := New(t.Context(), Options{Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "apt-get install bubblewrap") {
		t.Errorf("without bubblewrap: %v", err)
	}
}

// What bubblewrap 0.8.0 prints where it is not allowed to work.
func TestNewSaysWhatToSet(t *testing.T) {
	t.Parallel()
	failed := errors.New("exit status 1")
	for printed, want := range map[string]string{
		"bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces.": "sysctl",
		"bwrap: Creating new namespace failed: Operation not permitted":                                                           "sysctl",
		"bwrap: setting up uid map: Permission denied":                                                                            "apparmor_restrict_unprivileged_userns",
		"bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted":                                                            "apparmor_restrict_unprivileged_userns",
		"bwrap: Can't mount proc on /newroot/proc: Operation not permitted":                                                       "systempaths=unconfined",
		"bwrap: Can't find source path /nowhere: No such file or directory":                                                       "exit status 1",
	} {
		if got := explain(printed, failed); !strings.Contains(got.Error(), want) {
			t.Errorf("%s\ngot %q, want %q in it", printed, got, want)
		}
	}
}
