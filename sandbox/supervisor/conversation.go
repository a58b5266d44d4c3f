package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"openinspect/sandbox"
)

// The conversation with OpenCode lives in its database and outlives boots: its
// id and a consistent copy of the database lie in the supervisor's folder.

// subscription receives a running OpenCode's events until cancel.
type subscription struct {
	events chan event
	opened chan struct{} // the stream was opened again; something may be missing
	done   chan struct{}
	agent  *opencode
}

// subscribe replaces the subscriber before.
func (o *opencode) subscribe() *subscription {
	sub := &subscription{events: make(chan event, 256), opened: make(chan struct{}, 1), done: make(chan struct{}), agent: o}
	o.mu.Lock()
	o.sub = sub
	o.mu.Unlock()
	return sub
}

func (sub *subscription) cancel() {
	close(sub.done)
	sub.agent.mu.Lock()
	defer sub.agent.mu.Unlock()
	if sub.agent.sub == sub {
		sub.agent.sub = nil
	}
}

func (o *opencode) subscriber() *subscription {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sub
}

// listen keeps OpenCode's event stream open until OpenCode ends. first is
// closed when events flow for the first time.
func (o *opencode) listen(first chan<- struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.family.tasks.Go(func() { <-o.exited; cancel() })
	opened := func() {
		if first != nil {
			close(first)
			first = nil
		}
		if sub := o.subscriber(); sub != nil {
			select {
			case sub.opened <- struct{}{}:
			default:
			}
		}
	}
	each := func(e event) {
		if sub := o.subscriber(); sub != nil {
			select {
			case sub.events <- e:
			case <-sub.done:
			case <-o.exited:
			}
		}
	}
	for o.alive() {
		_ = o.client.stream(ctx, opened, each) // whatever the reason, it is opened again
		select {
		case <-o.exited:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// openFirstSession opens the session that the first prompt finds, of another
// OpenCode if the one that was started has died: a spare's may have waited for
// long.
func (s *supervisor) openFirstSession(ctx context.Context) error {
	err := s.openSession(ctx)
	if err == nil || ctx.Err() != nil || !s.currentAgent().ends(time.Second) {
		return err
	}
	s.cfg.Log.Warn("OpenCode is started again", "err", err)
	if err := s.startAgent(ctx); err != nil {
		return err
	}
	return s.openSession(ctx)
}

// openSession opens the event stream and the session, so that the first prompt
// finds both.
func (s *supervisor) openSession(ctx context.Context) error {
	agent := s.currentAgent()
	first := make(chan struct{})
	s.family.tasks.Go(func() { agent.listen(first) })
	select {
	case <-first:
	case <-agent.exited:
		return fmt.Errorf("OpenCode ended: %w", agent.ending)
	case <-time.After(agentStart):
		return errors.New("OpenCode's event stream did not open")
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := s.session(ctx, agent)
	return err
}

// session returns the id of OpenCode's session, the one of an earlier boot if
// OpenCode still has it.
func (s *supervisor) session(ctx context.Context, agent *opencode) (string, error) {
	if agent.session != "" {
		return agent.session, nil
	}
	file := filepath.Join(s.state, "session")
	if data, err := os.ReadFile(file); err == nil {
		if id := strings.TrimSpace(string(data)); agent.client.exists(ctx, id) {
			agent.session = id
			return id, nil
		}
	}
	id, err := agent.client.create(ctx, "Session "+s.welcome.Session)
	if err != nil {
		return "", err
	}
	agent.session = id
	return id, writeFile(file, []byte(id+"\n"))
}

// database is OpenCode's, as opencode keeps it below the home directory.
const database = ".local/share/opencode/opencode.db"

// databaseFiles are the parts that make a consistent copy when nobody writes.
// The third, -shm, is an index that SQLite makes anew.
var databaseFiles = []string{"", "-wal"}

// cleanMark says that OpenCode has ended and its own files are the newest.
const cleanMark = "conversation-clean"

func (s *supervisor) copyDir() string { return filepath.Join(s.state, "conversation") }

// saveConversation copies OpenCode's database aside. It is called while nothing
// of OpenCode runs; a box may be saved at any moment, also in the middle of a
// write to the live files, and is then continued from the copy.
func (s *supervisor) saveConversation() bool {
	next := s.copyDir() + ".new"
	err := os.RemoveAll(next)
	if err == nil {
		err = os.MkdirAll(next, 0o700)
	}
	for _, suffix := range databaseFiles {
		if err == nil {
			err = copyFile(filepath.Join(next, "db"+suffix), filepath.Join(s.cfg.Home, database+suffix))
		}
	}
	if err == nil {
		err = os.RemoveAll(s.copyDir())
	}
	if err == nil {
		err = os.Rename(next, s.copyDir())
	}
	if err != nil {
		s.cfg.Log.Warn("the conversation cannot be copied aside", "err", err)
	}
	return err == nil
}

// restoreConversation puts the copy in the live files' place, unless the boot
// before ended in order.
func (s *supervisor) restoreConversation() error {
	mark := filepath.Join(s.state, cleanMark)
	if _, err := os.Stat(mark); err == nil {
		return os.Remove(mark)
	}
	if _, err := os.Stat(filepath.Join(s.copyDir(), "db")); err != nil {
		return nil
	}
	live := filepath.Join(s.cfg.Home, database)
	for _, suffix := range []string{"-shm", "-wal", ""} {
		if err := os.Remove(live + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("restoring the conversation: %w", err)
		}
	}
	for _, suffix := range databaseFiles {
		if err := copyFile(live+suffix, filepath.Join(s.copyDir(), "db"+suffix)); err != nil {
			return fmt.Errorf("restoring the conversation: %w", err)
		}
	}
	return nil
}

// copyFile copies one file; one that is not there is none.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	return err
}

// parkWait bounds how long a parking box waits to be told that its last events are
// stored, which is when it is saved: at some providers nothing is left of a box that
// ends before. A control plane that is away ends the wait earlier (Config.Patience).
const parkWait = 30 * time.Minute

// park ends the boot in order. The prompt that ran, if any, has failed and been
// kept by now.
func (s *supervisor) park(ctx context.Context) error {
	s.next()              // fails what waits
	s.gate.syncing.Wait() // it was given up
	if agent := s.currentAgent(); agent.alive() {
		agent.becomeIdle(ctx)
		agent.kill()
	}
	s.bridge.Event(sandbox.KindKept, "", s.lookForSecrets(ctx, nil))
	if err := writeFile(filepath.Join(s.state, cleanMark), nil); err != nil {
		s.cfg.Log.Warn("the orderly end cannot be marked", "err", err)
	}
	s.bridge.Event(sandbox.KindNote, "", sandbox.BodyNote{Text: "The sandbox is parked."})
	ctx, cancel := context.WithTimeout(ctx, parkWait)
	defer cancel()
	if err := s.bridge.Flush(ctx); err != nil {
		s.cfg.Log.Warn("parking with events that nobody stored", "err", err)
	}
	return errParked
}
