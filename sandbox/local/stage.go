package local

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// plan is what the stage does, given to it as its only argument.
//
// The stage exists for three reasons. When the control plane runs as root, the
// box must not: bubblewrap is started under an unprivileged user id, which then
// cannot reach directories below, say, a mode 0700 home of root; so the stage
// first binds them to places that can be reached, in a mount namespace of its
// own. A box must not be a child that the control plane has to wait for; so the
// stage starts it and ends. And a box must not get the signals of the control
// plane's terminal.
type plan struct {
	Staged []string `json:"staged,omitempty"` // Staged[i] is bound to stagedPath(i); only as root
	Args   []string `json:"args"`             // bubblewrap and its arguments
	UID    int      `json:"uid,omitempty"`    // 0: as the stage itself
	Detach bool     `json:"detach,omitempty"` // start it with the keeper's descriptors and end
}

// The keeper's descriptors, as the provider gives them to the stage and the
// stage passes on. Bubblewrap leaves descriptors it does not know alone.
const (
	fdOrders     = 3 + iota // pipe: orders, read once; its end before them ends the box
	fdReport                // pipe: report
	fdListen                // keeper.sock, listening
	fdStatus                // fdReport once more, for bubblewrap's --json-status-fd
	fdLog                   // the log; bubblewrap's standard output and error
	fdReportRead            // our end of fdReport, see detach
)

// stageRoot is where staged things appear. Bubblewrap mounts its own root over
// the same directory and looks the sources up below it.
const stageRoot = "/tmp"

func stagedPath(i int) string { return stageRoot + "/" + strconv.Itoa(i) }

func runStage() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("the stage takes one argument")
	}
	var pl plan
	if err := json.Unmarshal([]byte(os.Args[2]), &pl); err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	if err := closeOnExec(); err != nil {
		return err
	}
	if len(pl.Staged) > 0 {
		if err := stageMounts(pl.Staged); err != nil {
			return err
		}
	}
	if pl.Detach {
		return pl.detach()
	}
	if pl.UID != 0 {
		if err := dropTo(pl.UID); err != nil {
			return err
		}
	}
	if err := syscall.Exec(pl.Args[0], pl.Args, nil); err != nil {
		return fmt.Errorf("starting %s: %w", pl.Args[0], err)
	}
	return nil
}

// closeOnExec keeps descriptors from programs that are started and not given
// them: those of this package, and whatever the control plane itself inherited.
func closeOnExec() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("listing descriptors: %w", err)
	}
	for _, d := range open {
		if fd, err := strconv.Atoi(d.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func (pl plan) detach() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	attr := &syscall.ProcAttr{
		// With fdReportRead bubblewrap holds both ends of the pipe to which it
		// reports. If the control plane were the only reader and died, bubblewrap
		// would die of the report, and leave a child that waits for it for ever.
		Files: []uintptr{null.Fd(), fdLog, fdLog, fdOrders, fdReport, fdListen, fdStatus, fdReportRead},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if pl.UID != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(pl.UID), Gid: uint32(pl.UID)}
	}
	if _, err := syscall.ForkExec(pl.Args[0], pl.Args, attr); err != nil {
		return fmt.Errorf("starting %s: %w", pl.Args[0], err)
	}
	return nil
}

func dropTo(uid int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("dropping groups: %w", err)
	}
	if err := syscall.Setgid(uid); err != nil {
		return fmt.Errorf("changing to group %d: %w", uid, err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("changing to user %d: %w", uid, err)
	}
	return nil
}

// stageMounts binds each source below stageRoot, in the mount namespace that
// the provider gave the stage. Mounts of the host still come and go in it, so
// that a box keeps no host filesystem from being unmounted, but none go out.
func stageMounts(sources []string) error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("separating mounts: %w", err)
	}
	open := make([]int, len(sources)) // opened before stageRoot is covered: they may lie in it
	for i, source := range sources {
		fd, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening %s: %w", source, err)
		}
		open[i] = fd
	}
	if err := unix.Mount("tmpfs", stageRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("mounting the stage: %w", err)
	}
	for i, fd := range open {
		if err := bindTo(fd, stagedPath(i)); err != nil {
			return fmt.Errorf("binding %s: %w", sources[i], err)
		}
	}
	return nil
}

func bindTo(fd int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
	} else if err := os.WriteFile(target, nil, 0o644); err != nil {
		return err
	}
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND, "")
}
