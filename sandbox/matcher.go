package sandbox

import (
	"bytes"
	"cmp"
	"io"
	"iter"
	"math"
	"slices"
)

// Matcher finds the forms of any of many secrets in bytes, most of which it does not
// look at. It is the algorithm of Wu and Manber ("A Fast Algorithm for Multi-Pattern
// Searching", 1994) with blocks of two bytes: for the two bytes at the end of a
// window, a table says how far the window may move before a word can end there.
// It is safe for concurrent use.
type Matcher struct {
	window  int // bytes of the shortest word
	longest int
	shift   []uint8             // by block
	words   map[uint16][]needle // by the block that ends their first window bytes
}

// needle is one form of a secret.
type needle struct {
	text string
	name string // of the secret
}

// NewMatcher makes a matcher for values of secrets by their names, each of which may have several. One without any finds nothing.
func NewMatcher(secrets iter.Seq2[string, string]) *Matcher {
	var all []needle
	for name, value := range secrets {
		for _, form := range SecretForms(value) {
			all = append(all, needle{form, name})
		}
	}
	// A secret that begins with another one is the one that is meant.
	slices.SortFunc(all, func(a, b needle) int {
		return cmp.Or(cmp.Compare(len(b.text), len(a.text)), cmp.Compare(a.text, b.text), cmp.Compare(a.name, b.name))
	})
	m := &Matcher{window: math.MaxUint8, words: make(map[uint16][]needle)}
	for _, n := range all {
		m.window = min(m.window, len(n.text))
		m.longest = max(m.longest, len(n.text))
	}
	m.shift = slices.Repeat([]uint8{uint8(m.window - 1)}, math.MaxUint16+1)
	for _, n := range all {
		for i := 1; i < m.window; i++ {
			b := block(n.text[i-1], n.text[i])
			m.shift[b] = min(m.shift[b], uint8(m.window-1-i))
		}
		last := block(n.text[m.window-2], n.text[m.window-1])
		m.words[last] = append(m.words[last], n)
	}
	return m
}

func block(a, b byte) uint16 { return uint16(a)<<8 | uint16(b) }

// Named returns the name of the first secret in data; empty if there is none.
func (m *Matcher) Named(data []byte) string {
	_, found := m.find(data)
	return found.name
}

// find returns where in data the first word is, and which; -1 if there is none.
func (m *Matcher) find(data []byte) (at int, found needle) {
	if m.longest == 0 {
		return -1, needle{}
	}
	for i := m.window - 1; i < len(data); {
		b := block(data[i-1], data[i])
		if skip := m.shift[b]; skip > 0 {
			i += int(skip)
			continue
		}
		from := i - m.window + 1
		for _, n := range m.words[b] {
			if len(data)-from >= len(n.text) && string(data[from:from+len(n.text)]) == n.text {
				return from, n
			}
		}
		i++
	}
	return -1, needle{}
}

// Replace returns data with Redacted in the place of each secret, and whether there
// was any.
func (m *Matcher) Replace(data []byte) ([]byte, bool) {
	at, n := m.find(data)
	if at < 0 {
		return data, false
	}
	var clean bytes.Buffer
	for ; at >= 0; at, n = m.find(data) {
		clean.Write(data[:at])
		clean.WriteString(Redacted)
		data = data[at+len(n.text):]
	}
	clean.Write(data)
	return clean.Bytes(), true
}

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// Buffer makes a buffer for Search.
func (m *Matcher) Buffer() []byte { return make([]byte, 256<<10+2*m.longest) }

// Search reads to the end, or to the first secret, and returns its name. buf is of
// Buffer, and nobody else's meanwhile.
func (m *Matcher) Search(r io.Reader, buf []byte) (secret string, err error) {
	kept := 0
	for {
		n, err := r.Read(buf[kept:])
		if at, found := m.find(buf[:kept+n]); at >= 0 {
			return found.name, nil
		}
		if err == io.EOF {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		// A word may go on in what is read next.
		tail := min(kept+n, m.longest-1)
		copy(buf, buf[kept+n-tail:kept+n])
		kept = tail
	}
}
