package slack

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// compactAfter is how many bytes may be appended before the journal is
// rewritten: it bounds both the disk used and the time to start.
const compactAfter = 32 << 20

// An entry is one line of the journal: the newest line of a kind and key is
// the thing's value, a line without a value its end.
type entry struct {
	Kind  string          `json:"k"`
	Key   string          `json:"i"`
	Value json.RawMessage `json:"v,omitempty"`
}

// journal is an append-only file of entries. Each is written by one write call
// before the change is answered, so that a killed process loses nothing (a
// machine that loses power may lose the last moments: nothing is synced).
type journal struct {
	path    string
	f       *os.File
	written int64 // bytes since the last rewriting
	err     error // the first failure to write; the workspace is read-only from then on
}

// openJournal replays the file at path into apply, drops a torn last line,
// and opens it for appending.
func openJournal(path string, apply func(entry) error) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	whole, err := replay(f, apply)
	if err == nil {
		err = f.Truncate(whole)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &journal{path: path, f: f, written: whole}, nil
}

// replay returns how many bytes of whole lines it read.
func replay(r io.Reader, apply func(entry) error) (int64, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	var whole int64
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return whole, nil
		}
		if err != nil {
			return whole, err
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return whole, fmt.Errorf("journal at byte %d: %w", whole, err)
		}
		if err := apply(e); err != nil {
			return whole, fmt.Errorf("journal at byte %d: %s %s: %w", whole, e.Kind, e.Key, err)
		}
		whole += int64(len(line))
	}
}

// put records a thing's new value; remove records its end.
func (j *journal) put(kind, key string, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		j.fail(err)
		return
	}
	j.append(entry{kind, key, raw})
}

func (j *journal) remove(kind, key string) { j.append(entry{Kind: kind, Key: key}) }

func (j *journal) append(e entry) {
	if j.err != nil {
		return
	}
	line, err := json.Marshal(e)
	if err != nil {
		j.fail(err)
		return
	}
	n, err := j.f.Write(append(line, '\n'))
	j.written += int64(n)
	j.fail(err)
}

func (j *journal) fail(err error) {
	if err != nil && j.err == nil {
		j.err = fmt.Errorf("writing the journal: %w", err)
	}
}

// rewrite replaces the file, atomically, by the entries that dump puts.
func (j *journal) rewrite(dump func(put func(kind, key string, v any))) error {
	var buf bytes.Buffer
	var failed error
	dump(func(kind, key string, v any) {
		raw, err := json.Marshal(v)
		if err == nil {
			err = json.NewEncoder(&buf).Encode(entry{kind, key, raw})
		}
		failed = errors.Join(failed, err)
	})
	if failed != nil {
		return failed
	}
	tmp := j.path + ".new"
	if err := os.WriteFile(tmp, buf.Bytes(), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, j.path); err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	old := j.f
	j.f, j.written = f, 0
	return old.Close()
}

func (j *journal) close() error { return j.f.Close() }

// lockDir takes the directory for this process. The lock ends with the
// process, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("the workspace in %s is in use by another process: %w", dir, err), f.Close())
	}
	return f, nil
}
