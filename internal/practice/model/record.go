package model

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// maxRecorded bounds the text of a record, in bytes.
const maxRecorded = 16 << 10

// Record is one request for a reply as this server saw it.
type Record struct {
	Time     time.Time
	Protocol string // openai or anthropic
	Path     string
	Model    string
	System   string // at most 16 kB, like Prompt
	Prompt   string
	Tools    []string
	Stream   bool
	Keyed    bool   // it carried the right key
	Script   string // the file that answered
	Replies  int    // replies with tool calls before this one, since the prompt
	Status   int    // of the answer; 0 when a fault answered nothing
	Usage    Usage
	// Headers are the names of the request's headers, sorted.
	Headers []string
}

func newRecord(c served, q *request, x *exchange, s *script, p *reply, f *Fault) Record {
	rec := Record{
		Protocol: c.protocol.name(), Path: c.r.URL.Path, Model: q.model, System: bounded(q.system),
		Prompt: bounded(x.Prompt), Tools: q.tools, Stream: q.stream, Keyed: true, Script: s.name,
		Replies: x.replies, Status: http.StatusOK, Usage: p.usage,
	}
	if f != nil {
		rec.Status = f.Kind.status()
	}
	for name := range c.r.Header {
		rec.Headers = append(rec.Headers, name)
	}
	slices.Sort(rec.Headers)
	return rec
}

func bounded(text string) string {
	if len(text) > maxRecorded {
		return text[:maxRecorded]
	}
	return text
}

func (s *Server) record(rec Record) {
	rec.Time = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.records) == s.keep {
		s.records = slices.Delete(s.records, 0, 1)
	}
	s.records = append(s.records, rec)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Requests returns the remembered requests, oldest first.
func (s *Server) Requests() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.records)
}

// Await returns the oldest remembered request that pred accepts, waiting for
// one to arrive until the context ends.
func (s *Server) Await(ctx context.Context, pred func(Record) bool) (Record, error) {
	for {
		s.mu.Lock()
		i, changed := slices.IndexFunc(s.records, pred), s.changed
		var found Record
		if i >= 0 {
			found = s.records[i]
		}
		s.mu.Unlock()
		if i >= 0 {
			return found, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, context.Cause(ctx)
		}
	}
}
