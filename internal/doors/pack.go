package doors

import (
	"bufio"
	"cmp"
	"compress/zlib"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// Git's packs, as gitformat-pack(5) describes them: "PACK", version, number of
// objects; then each object as a number of its kind and size, for a delta what it is
// made from, and compressed bytes. A pack here comes from a sandbox, so that nothing
// in it is believed, and everything it makes us do is bounded.

// Bounds of what is looked into.
const (
	maxObject   = 100 << 20 // bytes of one object; GitHub takes no larger file
	maxObjects  = 500_000
	maxInflated = 4 << 30  // bytes of all objects and deltas, with those that are read twice
	stepCost    = 1 << 10  // bytes, as which it counts to look for what a delta is made from
	packCache   = 64 << 20 // bytes of objects that are kept, because deltas are made from what came shortly before
)

// Kinds of objects in a pack.
const (
	kindCommit   = 1
	kindTree     = 2
	kindOfsDelta = 6
	kindRefDelta = 7
)

var (
	errPackTooLarge = errors.New("the pack has more in it than can be looked through")
	errThinPack     = errors.New("the pack is made from objects that are not in it")
	errWaits        = errors.New("what a delta is made from did not come yet")
)

// pack is one on the disk. Objects are known by where they begin in it.
type pack struct {
	file io.ReaderAt
	end  int64
	hash func() hash.Hash // of the names of objects

	entries  map[int64]packEntry
	offsets  map[string]int64 // by name, in bytes
	inflated int64

	cache  map[int64]packed // without names
	order  []int64          // of what is in cache, oldest first
	cached int64
	z      io.ReadCloser
}

// packEntry is an object as the pack has it.
type packEntry struct {
	kind    byte
	size    int64  // of what is compressed
	data    int64  // where that begins
	base    int64  // of a delta: what it is made from, once that is known
	waiting string // of a delta: the name of that, until it is
}

// openPack takes the pack that begins at start of a file. idLength is that of
// names of objects in hexadecimal digits.
func openPack(file *os.File, start int64, idLength int) (*pack, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the pack of a push: %w", err)
	}
	p := &pack{file: io.NewSectionReader(file, start, info.Size()-start), end: info.Size() - start, hash: sha1.New,
		entries: map[int64]packEntry{}, offsets: map[string]int64{}, cache: map[int64]packed{}}
	if idLength == 2*sha256.Size {
		p.hash = sha256.New
	}
	return p, nil
}

// packed is an object as git has it.
type packed struct {
	kind byte
	id   string // in bytes
	data []byte // good until the next one
}

// each gives every object to f.
func (p *pack) each(f func(packed) error) error {
	in := &packStream{r: bufio.NewReaderSize(io.NewSectionReader(p.file, 0, p.end), 64<<10)}
	var head [12]byte
	if _, err := io.ReadFull(in, head[:]); err != nil || string(head[:4]) != "PACK" {
		return errors.New("a push without a pack")
	}
	count := binary.BigEndian.Uint32(head[8:])
	if count > maxObjects {
		return errPackTooLarge
	}
	var waiting []int64
	for range count {
		at, err := p.next(in)
		if err == nil {
			err = p.tell(at, f)
		}
		if errors.Is(err, errWaits) {
			waiting, err = append(waiting, at), nil
		}
		if err != nil {
			return err
		}
	}
	for len(waiting) > 0 {
		var still []int64
		for _, at := range waiting {
			err := p.tell(at, f)
			if errors.Is(err, errWaits) {
				still, err = append(still, at), nil
			}
			if err != nil {
				return err
			}
		}
		if len(still) == len(waiting) {
			return errThinPack
		}
		waiting = still
	}
	return nil
}

// tell gives one object to f.
func (p *pack) tell(at int64, f func(packed) error) error {
	kind, data, err := p.object(at)
	if err != nil {
		return err
	}
	name, known := kindNames[kind]
	if !known {
		return fmt.Errorf("an object of the pack has the kind %d", kind)
	}
	h := p.hash()
	fmt.Fprintf(h, "%s %d\x00", name, len(data))
	h.Write(data)
	o := packed{kind: kind, id: string(h.Sum(nil)), data: data}
	p.offsets[o.id] = at
	return f(o)
}

var kindNames = map[byte]string{kindCommit: "commit", kindTree: "tree", 3: "blob", 4: "tag"}

// next reads the entry that the stream is at, and keeps its content if it is whole.
func (p *pack) next(in *packStream) (at int64, err error) {
	at = in.n
	e, err := p.header(in, at)
	if err != nil {
		return at, fmt.Errorf("reading the pack of a push: %w", err)
	}
	e.data = in.n
	p.entries[at] = e
	data, err := p.inflate(in, e.size)
	if err != nil {
		return at, err
	}
	if !e.delta() {
		p.remember(at, e.kind, data)
	}
	return at, nil
}

func (e packEntry) delta() bool { return e.kind == kindOfsDelta || e.kind == kindRefDelta }

// header reads what stands before the compressed bytes.
func (p *pack) header(in *packStream, at int64) (e packEntry, err error) {
	b, err := in.ReadByte()
	if err != nil {
		return e, err
	}
	e.kind, e.size = b>>4&7, int64(b&15)
	for shift := 4; b&0x80 != 0; shift += 7 {
		if b, err = in.ReadByte(); err != nil || shift > 40 {
			return e, errors.Join(err, errPackTooLarge)
		}
		e.size |= int64(b&0x7f) << shift
	}
	switch e.kind {
	case kindOfsDelta:
		back, err := in.offset()
		if err != nil {
			return e, err
		}
		e.base = at - back
		if _, known := p.entries[e.base]; !known {
			return e, errors.New("a delta is made from nothing")
		}
	case kindRefDelta:
		id := make([]byte, p.hash().Size())
		_, err = io.ReadFull(in, id)
		e.waiting = string(id)
	}
	return e, err
}

// object makes an object from its entry. errWaits says that what it is made from is
// not known (yet).
func (p *pack) object(at int64) (kind byte, data []byte, err error) {
	var deltas []packEntry
	here := at
	for {
		e := p.entries[here]
		if e.waiting != "" {
			base, known := p.offsets[e.waiting]
			if !known {
				return 0, nil, cmp.Or(p.spend(stepCost), errWaits)
			}
			e.base, e.waiting = base, ""
			p.entries[here] = e
		}
		if kept, has := p.cache[here]; has {
			kind, data = kept.kind, kept.data
			break
		}
		if !e.delta() {
			if data, err = p.inflateAt(e); err != nil {
				return 0, nil, err
			}
			kind = e.kind
			break
		}
		if err := p.spend(stepCost); err != nil {
			return 0, nil, err
		}
		deltas, here = append(deltas, e), e.base
	}
	for i := len(deltas) - 1; i >= 0; i-- {
		delta, err := p.inflateAt(deltas[i])
		if err != nil {
			return 0, nil, err
		}
		if data, err = p.apply(delta, data); err != nil {
			return 0, nil, err
		}
	}
	p.remember(at, kind, data)
	return kind, data, nil
}

func (p *pack) inflateAt(e packEntry) ([]byte, error) {
	return p.inflate(bufio.NewReader(io.NewSectionReader(p.file, e.data, p.end-e.data)), e.size)
}

// inflate reads compressed bytes that are size long, and not a byte more of in.
func (p *pack) inflate(in interface {
	io.Reader
	io.ByteReader
}, size int64) ([]byte, error) {
	if err := p.spend(size); err != nil {
		return nil, err
	}
	var err error
	if p.z == nil {
		p.z, err = zlib.NewReader(in)
	} else {
		err = p.z.(zlib.Resetter).Reset(in, nil)
	}
	data := make([]byte, size)
	if err == nil {
		_, err = io.ReadFull(p.z, data)
	}
	if err == nil {
		var more [1]byte
		if n, end := p.z.Read(more[:]); n > 0 || end != io.EOF {
			err = errors.Join(errors.New("an object is longer than it says"), end)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading an object of a pack: %w", err)
	}
	return data, nil
}

// spend counts bytes that are about to be made, or work that takes as long.
func (p *pack) spend(size int64) error {
	if p.inflated += size; size < 0 || size > maxObject || p.inflated > maxInflated {
		return errPackTooLarge
	}
	return nil
}

// apply makes an object from a delta and what it is made from.
func (p *pack) apply(delta, base []byte) ([]byte, error) {
	broken := errors.New("a delta of the pack is broken")
	from, n := binary.Uvarint(delta)
	if n <= 0 || from != uint64(len(base)) {
		return nil, broken
	}
	delta = delta[n:]
	size, n := binary.Uvarint(delta)
	if n <= 0 || size > maxObject {
		return nil, errors.Join(broken, errPackTooLarge)
	}
	delta = delta[n:]
	if err := p.spend(int64(size)); err != nil {
		return nil, err
	}
	made := make([]byte, 0, size)
	for len(delta) > 0 {
		op := delta[0]
		delta = delta[1:]
		var piece []byte
		if op&0x80 != 0 {
			var offset, length, used int
			for i := range 7 {
				if op&(1<<i) == 0 {
					continue
				}
				if used >= len(delta) {
					return nil, broken
				}
				if b := int(delta[used]); i < 4 {
					offset |= b << (8 * i)
				} else {
					length |= b << (8 * (i - 4))
				}
				used++
			}
			delta = delta[used:]
			if length == 0 {
				length = 0x10000
			}
			if offset > len(base) || length > len(base)-offset {
				return nil, broken
			}
			piece = base[offset : offset+length]
		} else {
			if op == 0 || int(op) > len(delta) {
				return nil, broken
			}
			piece, delta = delta[:op], delta[op:]
		}
		if len(piece) > cap(made)-len(made) {
			return nil, broken
		}
		made = append(made, piece...)
	}
	if len(made) != int(size) {
		return nil, broken
	}
	return made, nil
}

// remember keeps an object for the deltas that follow.
func (p *pack) remember(at int64, kind byte, data []byte) {
	if _, has := p.cache[at]; has || int64(len(data)) > packCache/2 {
		return
	}
	p.cache[at], p.order = packed{kind: kind, data: data}, append(p.order, at)
	for p.cached += int64(len(data)); p.cached > packCache; p.order = p.order[1:] {
		p.cached -= int64(len(p.cache[p.order[0]].data))
		delete(p.cache, p.order[0])
	}
}

// packStream counts what is read.
type packStream struct {
	r *bufio.Reader
	n int64
}

func (s *packStream) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.n += int64(n)
	return n, err
}

func (s *packStream) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.n++
	}
	return b, err
}

// offset reads how far back a delta's base is.
func (s *packStream) offset() (int64, error) {
	b, err := s.ReadByte()
	back := int64(b & 0x7f)
	for b&0x80 != 0 && err == nil {
		if back > 1<<40 {
			return 0, errPackTooLarge
		}
		b, err = s.ReadByte()
		back = (back+1)<<7 | int64(b&0x7f)
	}
	return back, err
}
