package local

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// What control plane and keeper say to each other: one request per connection
// to keeper.sock, answered by one reply (opCreate takes a second request).
// Descriptors travel with a message (unix(7), SCM_RIGHTS), so that bytes of
// commands, files and ports never pass through the keeper. A connection that
// ends before its reply cancels the request. A keeper lives as long as its box,
// through restarts of a newer control plane: fields are only ever added.
type request struct {
	Op string `json:"op"`

	// opExec; the descriptors are standard input, output and error.
	Args    []string          `json:"args,omitempty"`
	Dir     string            `json:"dir,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Timeout time.Duration     `json:"timeout,omitempty"`

	Path  string        `json:"path,omitempty"`  // opOpen, opCreate
	Port  int           `json:"port,omitempty"`  // opDial
	Grace time.Duration `json:"grace,omitempty"` // opStop
}

const (
	opExec    = "exec"    // run a command; reply Exit or TimedOut
	opOpen    = "open"    // reply with a regular file open for reading
	opCreate  = "create"  // reply with a new file; then opCommit puts it in place
	opCommit  = "commit"  // second request of opCreate
	opDial    = "dial"    // reply with a connection to a port on the box's loopback
	opMeasure = "measure" // reply Memory and Disk
	opStop    = "stop"    // end the main program, by force after Grace, and the box with it
)

type reply struct {
	Exit     int    `json:"exit,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
	Memory   int64  `json:"memory,omitempty"`
	Disk     int64  `json:"disk,omitempty"`
	Error    string `json:"error,omitempty"`
	// Missing and Invalid tell apart the errors that callers decide by.
	Missing bool `json:"missing,omitempty"`
	Invalid bool `json:"invalid,omitempty"`
}

// orders is what the keeper reads from its pipe before it starts anything.
type orders struct {
	Command  []string          `json:"command"`
	Env      map[string]string `json:"env"`
	Lifetime time.Duration     `json:"lifetime"`
	Memory   int64             `json:"memory"` // bytes; 0: not bounded
}

// report is the keeper's answer to its orders.
type report struct {
	Started bool   `json:"started,omitempty"`
	Error   string `json:"error,omitempty"`
	// ChildPID is bubblewrap's word, from --json-status-fd in the same pipe.
	ChildPID int `json:"child-pid,omitempty"`
}

// maxMessage bounds one message: arguments and environment of one program are
// bounded by the kernel to 2 MiB with the usual stack limit (execve(2)).
const maxMessage = 4 << 20

const maxDescriptors = 3

// send writes one message with descriptors.
func send(c *net.UnixConn, message any, files ...*os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	if len(body) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(body))
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, _, err := c.WriteMsgUnix(head, rights, nil); err != nil {
		return err
	}
	_, err = c.Write(body)
	return err
}

// receive reads one message into message and returns the descriptors that came with it.
func receive(c *net.UnixConn, message any) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	head := make([]byte, 4)
	rights := make([]byte, unix.CmsgSpace(4*maxDescriptors))
	n, oob, _, _, err := c.ReadMsgUnix(head, rights)
	if err != nil {
		return nil, err
	}
	if files, err = parseRights(rights[:oob]); err != nil {
		return files, err
	}
	if n == 0 {
		return files, io.EOF
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return files, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxMessage {
		return files, fmt.Errorf("a message of %d bytes is too long", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return files, err
	}
	return files, json.Unmarshal(body, message)
}

func parseRights(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if errors.Is(err, unix.EINVAL) {
			continue // some other control message
		}
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// keeperSocket is reached through an open directory, because a socket's address
// holds 107 bytes at most (unix(7)) and a state directory may be longer.
func keeperSocket(dir *os.File) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/keeper.sock"}
}
