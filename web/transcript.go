package web

import (
	"context"
	"html/template"
)

// sectionSize is how many sequence numbers a section covers: few enough to be
// rendered in milliseconds, many enough that the browser lays out few of them.
const sectionSize = 100

// pageSections is how many sections a page brings along; the others are stubs.
const pageSections = 2

// section is a range of the transcript.
type section struct {
	From, To int64
	Filled   bool
	Rows     []template.HTML
}

// sectionStart returns the first sequence number of the section of seq.
func sectionStart(seq int64) int64 {
	if seq < 1 {
		return 1
	}
	return (seq-1)/sectionSize*sectionSize + 1
}

// fold applies the rule of open rows to rows in sequence: an open row gives way
// to the next of its key. The browser does the same with what arrives live.
func fold(rows []row) []row {
	open := make(map[string]int) // key to the index in kept
	kept := make([]row, 0, len(rows))
	for _, r := range rows {
		if r.HTML == "" {
			continue
		}
		r.place = r.Seq
		at, superseded := open[r.Key]
		superseded = superseded && r.Key != ""
		switch {
		case superseded && r.InPlace:
			r.place = kept[at].place
			kept[at] = r
		case superseded:
			kept[at].HTML = ""
			at = len(kept)
			kept = append(kept, r)
		default:
			at = len(kept)
			kept = append(kept, r)
		}
		delete(open, r.Key)
		if r.Open && r.Key != "" {
			open[r.Key] = at
		}
	}
	shown := kept[:0]
	for _, r := range kept {
		if r.HTML != "" {
			shown = append(shown, r)
		}
	}
	return shown
}

// readRows renders the events after a sequence number up to another.
func (s *Server) readRows(ctx context.Context, id string, after, through int64) ([]row, error) {
	var rows []row
	for after < through {
		events, err := s.engine.Events(ctx, id, after, int(min(through-after, 500)))
		if err != nil || len(events) == 0 {
			return rows, err
		}
		for _, ev := range events {
			if ev.Seq > through {
				return rows, nil
			}
			r, err := s.rows.row(ctx, ev)
			if err != nil {
				// One event that cannot be shown must not hide the others.
				s.log.Error("an event cannot be shown", "session", id, "seq", ev.Seq, "err", err)
				r = row{Seq: ev.Seq, Kind: ev.Kind}
			}
			rows = append(rows, r)
			after = ev.Seq
		}
	}
	return rows, nil
}

// transcript returns a page's sections: stubs, then the newest ones. all asks
// for everything.
func (s *Server) transcript(ctx context.Context, id string, last int64, all bool) ([]section, error) {
	first := max(1, sectionStart(last)-(pageSections-1)*sectionSize)
	if all {
		first = 1
	}
	var sections []section
	for from := int64(1); from < first; from += sectionSize {
		sections = append(sections, section{From: from, To: from + sectionSize - 1})
	}
	rows, err := s.readRows(ctx, id, first-1, last)
	if err != nil {
		return nil, err
	}
	return append(sections, split(fold(rows), first, last)...), nil
}

// split puts rows into the sections of the numbers from first to last.
func split(rows []row, first, last int64) []section {
	var sections []section
	for from := first; from <= last; from += sectionSize {
		sec := section{From: from, To: from + sectionSize - 1, Filled: true}
		for len(rows) > 0 && rows[0].place <= sec.To {
			sec.Rows = append(sec.Rows, rows[0].HTML)
			rows = rows[1:]
		}
		sections = append(sections, sec)
	}
	return sections
}

// section returns one old section. Open rows that a newer section supersedes
// are left out.
func (s *Server) section(ctx context.Context, id string, from int64) (section, error) {
	sec := section{From: from, To: from + sectionSize - 1, Filled: true}
	rows, err := s.readRows(ctx, id, from-1, sec.To)
	if err != nil {
		return sec, err
	}
	rows = fold(rows)
	gone, err := s.outline.superseded(ctx, id, rows, sec.To)
	if err != nil {
		return sec, err
	}
	for _, r := range rows {
		if !r.Open || !gone[r.Key] {
			sec.Rows = append(sec.Rows, r.HTML)
		}
	}
	return sec, nil
}
