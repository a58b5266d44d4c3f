package local

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openinspect/sandbox"
)

// measureTime bounds the walk that counts a box's files.
const measureTime = 2 * time.Second

func (k *keeper) measure() reply {
	var total int64
	if !k.unisolated { // there it sees the whole machine
		total, _, _ = usedMemory()
	}
	return reply{Memory: total, Disk: usedDisk(time.Now().Add(measureTime))}
}

// usedMemory sums what the processes of the box hold: the anonymous and shared
// pages of each (pages of program files are not counted: they are the page
// cache's) and the files in /tmp, /run and /dev/shm, which are memory too.
func usedMemory() (total int64, largest int, largestName string) {
	pids, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	var most int64
	for _, dir := range pids {
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue // ended meanwhile
		}
		held := statusBytes(status, "RssAnon:") + statusBytes(status, "RssShmem:")
		total += held
		if pid, _ := strconv.Atoi(filepath.Base(dir)); held > most && pid > 1 {
			most, largest, largestName = held, pid, statusField(status, "Name:")
		}
	}
	for _, dir := range []string{"/tmp", "/run", "/dev/shm"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.TMPFS_MAGIC {
			total += int64(st.Blocks-st.Bfree) * st.Bsize
		}
	}
	return total, largest, largestName
}

func statusField(status []byte, name string) string {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.TrimSpace(rest))
		}
	}
	return ""
}

func statusBytes(status []byte, name string) int64 {
	var kib int64
	fmt.Sscanf(statusField(status, name), "%d kB", &kib)
	return kib << 10
}

// usedDisk counts the blocks of the box's filesystem, each file once however
// many links it has. What it has not seen by the deadline is left out.
func usedDisk(deadline time.Time) int64 {
	var total int64
	seen := map[uint64]bool{}
	for _, root := range []string{sandbox.Home, sandbox.Workspace} {
		filepath.WalkDir(root+"/", func(_ string, d fs.DirEntry, err error) error {
			if time.Now().After(deadline) {
				return fs.SkipAll
			}
			if err != nil {
				return nil // removed meanwhile, or closed by its owner
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			st := info.Sys().(*syscall.Stat_t)
			if st.Nlink > 1 && !d.IsDir() {
				if seen[st.Ino] {
					return nil
				}
				seen[st.Ino] = true
			}
			total += st.Blocks * 512
			return nil
		})
	}
	return total
}

// boundMemory keeps the box below a limit by killing its largest process when
// two looks in a row find too much, as the kernel would with a control group,
// which an unprivileged program cannot make.
func (k *keeper) boundMemory(limit int64) {
	over := 0
	for range time.Tick(time.Second) {
		total, pid, name := usedMemory()
		if total <= limit {
			over = 0
			continue
		}
		if over++; over < 2 || pid == 0 {
			continue
		}
		k.log.note(fmt.Sprintf("memory: %d MiB of %d MiB in use; killing the largest process, %s (%d)",
			total>>20, limit>>20, name, pid))
		syscall.Kill(pid, syscall.SIGKILL)
		over = 0
	}
}
