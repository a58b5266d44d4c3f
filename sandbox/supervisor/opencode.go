package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// opencode is one running OpenCode server.
type opencode struct {
	cmd    *exec.Cmd
	family *family
	client *client
	models []string
	exited chan struct{} // closed when it ended
	ending error         // why; written before exited is closed

	// Used by the goroutine that runs prompts.
	session string // id of the conversation
	sound   bool   // has begun an answer, and nothing says that it is broken; see quieten

	mu  sync.Mutex
	sub *subscription
}

// agentStart is the longest OpenCode may take to listen. It needs 1.3 s on a
// quiet machine.
const agentStart = 60 * time.Second

// pid is OpenCode's process, 0 if there is none.
func (o *opencode) pid() int {
	if o == nil {
		return 0
	}
	return o.cmd.Process.Pid
}

func (o *opencode) alive() bool {
	if o == nil {
		return false
	}
	select {
	case <-o.exited:
		return false
	default:
		return true
	}
}

// ends says whether OpenCode has ended, or does so soon: its connections break
// before its end is known.
func (o *opencode) ends(soon time.Duration) bool {
	timer := time.NewTimer(soon)
	defer timer.Stop()
	select {
	case <-o.exited:
		return true
	case <-timer.C:
		return false
	}
}

// launch starts OpenCode and returns when it answers. What it needs of the
// working tree comes later, with the first request that names the directory.
func launch(ctx context.Context, f *family, s agentSettings, log *slog.Logger) (*opencode, error) {
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	password := newID("")
	cmd := exec.Command(s.binary, "serve", "--hostname", "127.0.0.1", "--port", "0")
	cmd.Dir = s.home // exists before the working tree does
	cmd.Env = s.environ(config, password)
	listening := &addressWriter{found: make(chan string, 1)}
	var tail tailWriter
	cmd.Stdout, cmd.Stderr = listening, &tail
	if err := f.start(cmd); err != nil {
		return nil, fmt.Errorf("starting OpenCode: %w", err)
	}
	o := &opencode{cmd: cmd, family: f, models: slices.Clone(s.models), exited: make(chan struct{})}
	f.tasks.Go(o.watch) // ends with the process
	timeout := time.NewTimer(agentStart)
	defer timeout.Stop()
	select {
	case base := <-listening.found:
		o.client = newClient(base, password, s.directory)
	case <-o.exited:
		return nil, fmt.Errorf("OpenCode ended at once: %w: %s", o.ending, lastLines(tail.String(), 5))
	case <-timeout.C:
		err = fmt.Errorf("OpenCode did not listen within %s", agentStart)
	case <-ctx.Done():
		err = ctx.Err()
	}
	for err == nil && !o.client.healthy(ctx) {
		if !o.alive() {
			return nil, fmt.Errorf("OpenCode ended at once: %w", o.ending)
		}
		err = ctx.Err()
	}
	if err != nil {
		o.kill()
		return nil, err
	}
	log.Info("OpenCode answers", "address", o.client.base)
	return o, nil
}

// watch waits for OpenCode's end.
func (o *opencode) watch() {
	err := o.family.end(o.cmd)
	if err == nil {
		err = errors.New("exit status 0")
	}
	o.ending = err
	close(o.exited)
}

// addressWriter finds in OpenCode's output where it listens.
type addressWriter struct {
	found chan string
	line  []byte
}

// Write implements io.Writer.
func (w *addressWriter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			w.line = append(w.line, b)
			continue
		}
		if _, base, ok := strings.Cut(string(w.line), "server listening on "); ok {
			select {
			case w.found <- strings.TrimSpace(base):
			default:
			}
		}
		w.line = w.line[:0]
	}
	return len(p), nil
}

// kill ends OpenCode and waits for it.
func (o *opencode) kill() {
	if !o.alive() {
		return
	}
	_ = syscall.Kill(o.pid(), syscall.SIGKILL)
	<-o.exited
	if o.client != nil {
		o.client.http.CloseIdleConnections()
	}
}

// tailWriter keeps the last bytes that were written to it.
type tailWriter struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailSize = 16 << 10

// Write implements io.Writer.
func (w *tailWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if extra := w.buf.Len() - tailSize; extra > tailSize {
		w.buf.Next(extra)
	}
	return len(p), nil
}

// String returns the last tailSize bytes.
func (w *tailWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.buf.Bytes()
	return strings.ToValidUTF8(string(b[max(0, len(b)-tailSize):]), "")
}
