package github

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// A journal is a file of changes to tables, one JSON line each. It is written
// before a change is visible outside and read back when the server is opened.
type journal struct {
	path   string
	file   *os.File
	tables map[string]rows
	err    error // the first failure; nothing is written after it
}

// rows is a table as the journal sees it.
type rows interface {
	load(key string, row json.RawMessage) error
	each(f func(key string, row any))
}

// line is one change: the row's new value, or null when it was deleted.
type line struct {
	Table string          `json:"t"`
	Key   string          `json:"k"`
	Row   json.RawMessage `json:"v"`
}

// open reads the changes of the file into the tables and rewrites it without
// those that were overtaken. A last line that a kill cut short is left out: its
// request was never answered.
func (j *journal) open() error {
	data, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := j.replay(data); err != nil {
		return fmt.Errorf("reading %s: %w", j.path, err)
	}
	if err := j.rewrite(); err != nil {
		return fmt.Errorf("rewriting %s: %w", j.path, err)
	}
	return nil
}

func (j *journal) replay(data []byte) error {
	for n := 1; len(data) > 0; n++ {
		text, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			return nil
		}
		data = rest
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		t := j.tables[l.Table]
		if t == nil {
			return fmt.Errorf("line %d: unknown table %q", n, l.Table)
		}
		if err := t.load(l.Key, l.Row); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return nil
}

// rewrite replaces the file by one line per row and leaves it open for more.
func (j *journal) rewrite() error {
	f, err := os.OpenFile(j.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	j.file = f
	w := bufio.NewWriter(f)
	for name, t := range j.tables {
		t.each(func(key string, row any) { j.write(w, name, key, row) })
	}
	if err := errors.Join(j.err, w.Flush(), f.Sync(), os.Rename(j.path+".new", j.path)); err != nil {
		f.Close()
		return err
	}
	return nil
}

func (j *journal) write(w io.Writer, name, key string, row any) {
	if j.err != nil {
		return
	}
	value, err := json.Marshal(row)
	if err == nil {
		var text []byte
		if text, err = json.Marshal(line{name, key, value}); err == nil {
			_, err = w.Write(append(text, '\n'))
		}
	}
	j.err = err
}

func (j *journal) close() error { return errors.Join(j.err, j.file.Close()) }

// A table is rows by key, every change of which goes to the journal.
type table[T any] struct {
	name    string
	journal *journal
	rows    map[string]*T
}

// newTable adds a table to a journal that is not open yet.
func newTable[T any](j *journal, name string) *table[T] {
	t := &table[T]{name: name, journal: j, rows: map[string]*T{}}
	j.tables[name] = t
	return t
}

// get returns the row, or nil. Who changes it calls put afterwards.
func (t *table[T]) get(key string) *T { return t.rows[key] }

func (t *table[T]) put(key string, row *T) {
	t.rows[key] = row
	t.journal.write(t.journal.file, t.name, key, row)
}

func (t *table[T]) remove(key string) {
	if _, ok := t.rows[key]; ok {
		delete(t.rows, key)
		t.journal.write(t.journal.file, t.name, key, nil)
	}
}

func (t *table[T]) load(key string, row json.RawMessage) error {
	if string(row) == "null" {
		delete(t.rows, key)
		return nil
	}
	v := new(T)
	t.rows[key] = v
	return json.Unmarshal(row, v)
}

func (t *table[T]) each(f func(key string, row any)) {
	for key, row := range t.rows {
		f(key, row)
	}
}
