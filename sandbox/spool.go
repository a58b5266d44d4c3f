package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// spool keeps a boot's events from the moment they happen until the control
// plane has stored them. It numbers them 1, 2, 3 … and never changes a number.
//
// The events lie in one file, so that hours without a control plane cost disk
// and not memory. The file belongs to one boot: a supervisor that starts anew
// discards what it finds, because the control plane settles the prompt of an
// ended boot itself (I5) and would not know what to do with more events of it.
// So nothing is fsynced either. When the file is full, the big outputs in it
// are dropped, oldest first; what was dropped says so. When the disk refuses a
// write, the event stays in memory. An event that is too large for the bridge is
// made smaller before it is kept: it would never be acknowledged, and hold up
// all that follow, the prompt's end among them (I3).
type spool struct {
	mu      sync.Mutex
	file    *os.File
	limit   int64 // bytes of unacknowledged events to hold before dropping outputs
	end     int64 // where the next event is written
	first   int64 // number of entries[0]
	entries []spooled
	emptied chan struct{} // closed and replaced whenever nothing is unacknowledged
}

// spooled is one unacknowledged event: a range of the file, or data.
type spooled struct {
	at   int64
	size int
	data []byte
}

// spoolName is the file in the spool's directory.
const spoolName = "events.jsonl"

func openSpool(dir string, limit int64) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the spool's directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, spoolName), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the spool: %w", err)
	}
	return &spool{file: f, limit: limit, first: 1, emptied: make(chan struct{})}, nil
}

func (s *spool) close() error { return s.file.Close() }

// append numbers the event, keeps it and returns its number.
func (s *spool) append(e Event) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.N = s.first + int64(len(s.entries))
	data, err := encodeEvent(e)
	if err != nil {
		return 0, err
	}
	s.entries = append(s.entries, s.put(data))
	if s.held() > s.limit {
		s.shrink()
	}
	return e.N, nil
}

// last is the number of the newest event; 0 before the first.
func (s *spool) last() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first + int64(len(s.entries)) - 1
}

// put writes one encoded event at the file's end, or keeps it in memory if the
// disk does not take it.
func (s *spool) put(data []byte) spooled {
	if _, err := s.file.WriteAt(append(data, '\n'), s.end); err != nil {
		return spooled{size: len(data), data: data}
	}
	e := spooled{at: s.end, size: len(data)}
	s.end += int64(len(data)) + 1
	return e
}

func (s *spool) get(e spooled) ([]byte, error) {
	if e.data != nil {
		return e.data, nil
	}
	buf := make([]byte, e.size)
	if _, err := s.file.ReadAt(buf, e.at); err != nil && err != io.EOF {
		return nil, fmt.Errorf("reading the spool: %w", err)
	}
	return buf, nil
}

// at returns event n as JSON, or nil if it is acknowledged or not there yet.
func (s *spool) at(n int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := n - s.first
	if i < 0 || i >= int64(len(s.entries)) {
		return nil, nil
	}
	return s.get(s.entries[i])
}

// ack forgets all events up to n.
func (s *spool) ack(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	drop := min(n-s.first+1, int64(len(s.entries)))
	if drop > 0 {
		clear(s.entries[:drop]) // they may hold memory
		s.entries = s.entries[drop:]
		s.first += drop
	}
	if len(s.entries) == 0 {
		s.end = 0 // the file is written from its beginning again
		close(s.emptied)
		s.emptied = make(chan struct{})
	}
}

// unacked returns the number of the oldest event that is not acknowledged, how
// many there are, and a channel that is closed when there are none any more.
func (s *spool) unacked() (first int64, count int, emptied <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, len(s.entries), s.emptied
}

// held is how many bytes the unacknowledged events and the acknowledged ones
// before them take.
func (s *spool) held() int64 { return s.end }

// shrink rewrites the file without acknowledged events and, if that is not
// enough, without the big outputs of the oldest ones.
func (s *spool) shrink() {
	var total int64
	all := make([][]byte, len(s.entries))
	for i, e := range s.entries {
		data, err := s.get(e)
		if err != nil {
			data = s.lost(i)
		}
		all[i] = data
		total += int64(len(data))
	}
	// Half of the limit makes room for a while: shrinking costs a whole rewrite.
	for _, enough := range []int{4 << 10, 256} {
		for i := 0; i < len(all) && total > s.limit/2; i++ {
			if len(all[i]) <= enough {
				continue
			}
			smaller := reduce(all[i], enough, "the sandbox had no connection for long")
			total -= int64(len(all[i]) - len(smaller))
			all[i] = smaller
		}
	}
	s.end = 0
	for i, data := range all {
		s.entries[i] = s.put(data)
	}
	// Events that are all small cannot be reduced. They are kept, and not
	// rewritten in vain at every further one.
	s.limit = max(s.limit, 2*s.end)
}

// lost stands for an event that the disk did not give back; its number stays.
func (s *spool) lost(i int) []byte {
	body, _ := json.Marshal(BodyNote{Text: "An event of the sandbox was lost: its disk could not be read."})
	data, _ := json.Marshal(Event{N: s.first + int64(i), Kind: KindNote, Body: body, At: time.Now()})
	return data
}

// maxEvent is the largest encoded event; bigger ones are reduced so that they
// always pass the bridge.
const maxEvent = MaxUp - 4<<10

// tooLarge is the reason that people read where something was left out.
const tooLarge = "it was larger than the sandbox can report"

// encodeEvent marshals an event, making it smaller if it could not pass the
// bridge: long strings are shortened, and if there are simply too many short
// ones, a stand-in takes its place.
func encodeEvent(e Event) ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encoding an event of kind %s: %w", e.Kind, err)
	}
	if len(data) > maxEvent {
		data = reduce(data, maxEvent/8, tooLarge)
	}
	if len(data) > maxEvent {
		data = standIn(data)
	}
	return data, nil
}

// standIn is the small event that takes the place and number of one that cannot
// be made small enough. The end of a tool call or of a prompt stays what it is,
// with names, states and numbers: others wait for it. Of these two, only a
// tool's input is more than strings and numbers, and it may be a sentence.
// Anything else becomes a note, because half a list would pass for the whole.
func standIn(data []byte) []byte {
	size := len(data)
	data = reduce(data, maxEvent/8, tooLarge)
	var e Event
	_ = json.Unmarshal(data, &e) // what it does not yield is left out too
	body := map[string]any{}
	if e.Kind == KindTool || e.Kind == KindSettled {
		_ = json.Unmarshal(e.Body, &body)
		for name, value := range body {
			switch value.(type) {
			case []any, map[string]any:
				body[name] = "[left out: " + tooLarge + "]"
			}
		}
	} else {
		body["text"] = fmt.Sprintf("An event of the kind %q was left out: %s (%d MB).", e.Kind, tooLarge, size>>20)
		e.Kind = KindNote
	}
	e.Body, _ = json.Marshal(body) // strings and numbers
	small, _ := json.Marshal(e)
	return small
}

// reduce shortens every long string in an event's body so that all of them are
// at most limit bytes, saying what was left out and why. Numbers, names and
// outcomes stay.
func reduce(data []byte, limit int, why string) []byte {
	var e Event
	var body any
	if json.Unmarshal(data, &e) != nil || json.Unmarshal(e.Body, &body) != nil {
		return data
	}
	budget := limit
	var err error
	if e.Body, err = json.Marshal(shorten(body, &budget, why)); err != nil {
		return data
	}
	smaller, err := json.Marshal(e)
	if err != nil {
		return data
	}
	return smaller
}

// shorten cuts strings once budget bytes of them were kept. Short strings are
// names and states and always stay.
func shorten(v any, budget *int, why string) any {
	const short = 200
	switch v := v.(type) {
	case string:
		if len(v) <= short {
			return v
		}
		keep := max(0, min(len(v), *budget))
		*budget -= keep
		if keep == len(v) {
			return v
		}
		return fmt.Sprintf("%s\n[%d bytes were left out: %s]", cutAt(v, keep), len(v)-keep, why)
	case []any:
		for i := range v {
			v[i] = shorten(v[i], budget, why)
		}
	case map[string]any:
		for k := range v {
			v[k] = shorten(v[k], budget, why)
		}
	}
	return v
}

// cutAt returns the first n bytes of s without half a character.
func cutAt(s string, n int) string {
	for n > 0 && n < len(s) && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
