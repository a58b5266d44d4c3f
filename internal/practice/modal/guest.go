package modal

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Roles in which a box runs this program. They are words that no person types
// as a subcommand.
const (
	roleGuest   = "modal-box-guest"    // main program: arguments are the directory and the entrypoint
	roleAsk     = "modal-box-ask"      // one request to the guest, on its standard input
	roleFSTools = "modal-box-fs-tools" // Modal's tool for files: one argument
)

// As in sandbox/local: a box must not depend on a main function that remembers
// to ask for its roles.
func init() {
	if len(os.Args) < 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case roleGuest:
		err = runGuest(os.Args[2:])
	case roleAsk:
		err = runAsk()
	case roleFSTools:
		syscall.Exit(runFSTools(os.Args[2:]))
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	}
	syscall.Exit(0) // not os.Exit: a program built with -race would linger for a second
}

// guestAddress is an abstract socket: it belongs to the box's own network
// namespace and is no file in it.
const guestAddress = "@modal-guest"

// guest runs a sandbox's entrypoint and keeps the end of what it printed, so
// that a stand-in that is restarted finds both. It outlives the entrypoint, so
// that the stand-in can fetch the rest and save the filesystem before it ends
// the box.
type guest struct {
	out    [2]*tail // standard output and error
	ended  chan struct{}
	status guestStatus

	mu      sync.Mutex // guards what follows
	stdin   io.WriteCloser
	written uint64
	closed  bool
}

// guestRequest is one line; for opStdin the bytes follow.
type guestRequest struct {
	Op     string `json:"op"`
	FD     int    `json:"fd,omitempty"` // 1 or 2
	Offset uint64 `json:"offset,omitempty"`
	EOF    bool   `json:"eof,omitempty"`
	Follow bool   `json:"follow,omitempty"`
	Port   int    `json:"port,omitempty"` // of opDial
}

const (
	opReady = "ready" // answers a guestStatus once the entrypoint was started
	opRead  = "read"  // answers frames: offset (8 bytes), length (4 bytes), bytes
	opStdin = "stdin" // answers a guestStatus
	opDial  = "dial"  // tries to connect to a port of the box; answers a guestStatus
	opWait  = "wait"  // answers a guestStatus when the entrypoint has ended
)

type guestStatus struct {
	Ended  bool   `json:"ended,omitempty"`
	Exit   int    `json:"exit,omitempty"`
	Signal int    `json:"signal,omitempty"`
	Error  string `json:"error,omitempty"` // of opStdin the wrong state of the input, of opDial why not
}

func runGuest(args []string) error {
	if len(args) < 1 {
		return errors.New("the guest needs a directory")
	}
	l, err := net.Listen("unix", guestAddress)
	if err != nil {
		return fmt.Errorf("listening in the sandbox: %w", err)
	}
	g := &guest{out: [2]*tail{newTail(), newTail()}, ended: make(chan struct{})}
	if err := g.start(args[0], args[1:]); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go g.serve(c)
	}
}

// start runs the entrypoint. One that cannot be run has ended with 127, as in a
// shell; a sandbox without one runs until it is ended.
func (g *guest) start(dir string, command []string) error {
	if len(command) == 0 {
		g.closed = true
		return nil
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = g.out[0], g.out[1]
	cmd.WaitDelay = time.Second // for the output of children that it leaves behind
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	g.stdin = stdin
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(g.out[1], err)
		g.finish(guestStatus{Ended: true, Exit: 127})
		return nil
	}
	go func() {
		cmd.Wait() // how it ended is in ProcessState
		end := guestStatus{Ended: true, Exit: cmd.ProcessState.ExitCode()}
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			end.Exit, end.Signal = 128+int(ws.Signal()), int(ws.Signal())
		}
		g.finish(end)
	}()
	return nil
}

func (g *guest) finish(end guestStatus) {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.out[0].close()
	g.out[1].close()
	g.status = end
	close(g.ended)
}

func (g *guest) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	line, err := in.ReadBytes('\n')
	var r guestRequest
	if err != nil || json.Unmarshal(line, &r) != nil {
		return
	}
	switch r.Op {
	case opRead:
		if r.FD == 1 || r.FD == 2 {
			g.out[r.FD-1].copyTo(c, r.Offset, r.Follow)
		}
	case opStdin:
		json.NewEncoder(c).Encode(g.write(in, r))
	case opDial:
		var answer guestStatus
		tried, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port)), time.Second)
		if err != nil {
			answer.Error = err.Error()
		} else {
			tried.Close()
		}
		json.NewEncoder(c).Encode(answer)
	case opReady: // requests are read only after that
		json.NewEncoder(c).Encode(guestStatus{})
	case opWait:
		<-g.ended
		json.NewEncoder(c).Encode(g.status)
	}
}

// write passes input on to the entrypoint, leaving out what it has already.
func (g *guest) write(in io.Reader, r guestRequest) guestStatus {
	data, err := io.ReadAll(in)
	if err != nil {
		return guestStatus{Error: err.Error()}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	end := r.Offset + uint64(len(data))
	switch {
	case r.Offset > g.written:
		return guestStatus{Error: fmt.Sprintf("input at %d, but %d bytes were written", r.Offset, g.written)}
	case g.closed && r.EOF && end <= g.written:
		return guestStatus{} // closed twice
	case g.closed:
		return guestStatus{Error: "the standard input is closed"}
	}
	if fresh := data[min(g.written-r.Offset, uint64(len(data))):]; len(fresh) > 0 {
		n, err := g.stdin.Write(fresh)
		g.written += uint64(n)
		if err != nil {
			return guestStatus{Error: err.Error()}
		}
	}
	if r.EOF {
		g.closed = true
		g.stdin.Close()
	}
	return guestStatus{}
}

// tail is the end of what was written to it.
type tail struct {
	mu      sync.Mutex
	buf     []byte
	start   uint64 // offset of buf[0]
	done    bool
	changed chan struct{}
}

// maxTail is how much output of an entrypoint is kept at least.
const maxTail = 1 << 20

func newTail() *tail { return &tail{changed: make(chan struct{})} }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*maxTail {
		drop := len(t.buf) - maxTail
		t.buf = slices.Clone(t.buf[drop:])
		t.start += uint64(drop)
	}
	t.signal()
	return len(p), nil
}

func (t *tail) signal() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *tail) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = true
	t.signal()
}

// maxFrame bounds one frame of opRead.
const maxFrame = 64 << 10

func (t *tail) from(offset uint64) (at uint64, data []byte, done bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at = min(max(offset, t.start), t.start+uint64(len(t.buf)))
	data = t.buf[at-t.start:]
	return at, slices.Clone(data[:min(len(data), maxFrame)]), t.done, t.changed
}

// followEvery is how often a silent output is checked for its listener.
const followEvery = 5 * time.Second

func (t *tail) copyTo(w io.Writer, offset uint64, follow bool) {
	for {
		at, data, done, changed := t.from(offset)
		if len(data) == 0 {
			if done || !follow {
				return
			}
			select {
			case <-changed:
				continue
			case <-time.After(followEvery): // an empty frame shows whether anybody still listens
			}
		}
		frame := binary.BigEndian.AppendUint64(nil, at)
		frame = binary.BigEndian.AppendUint32(frame, uint32(len(data)))
		if _, err := w.Write(append(frame, data...)); err != nil {
			return
		}
		offset = at + uint64(len(data))
	}
}

// askWait is how long a new guest may take to listen.
const askWait = 5 * time.Second

// runAsk connects its standard streams with the guest.
func runAsk() error {
	var c net.Conn
	var err error
	for deadline := time.Now().Add(askWait); ; time.Sleep(2 * time.Millisecond) {
		if c, err = net.Dial("unix", guestAddress); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	if _, err := io.Copy(c, os.Stdin); err != nil {
		return err
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}
