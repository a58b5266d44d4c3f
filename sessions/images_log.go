package sessions

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
)

// mostLog is how much of a build's log is kept, in bytes: its end.
const mostLog = 256 << 10

// buildLog collects what a build prints. It is safe for concurrent use.
type buildLog struct {
	scrub *scrubber

	mu      sync.Mutex
	text    []byte // with its secrets, which may come in pieces
	cut     int64  // bytes that are missing at its beginning
	changed bool
}

func newBuildLog(scrub *scrubber) *buildLog { return &buildLog{scrub: scrub} }

// Write implements io.Writer.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	l.changed = true
	if len(l.text) > 2*mostLog {
		l.shorten()
	}
	return len(p), nil
}

// shorten leaves out the log's beginning, up to the end of a line if there is one,
// and never a part of a secret: what would be left of it could not be told from text.
func (l *buildLog) shorten() {
	drop := len(l.text) - mostLog
	if end := bytes.IndexByte(l.text[drop:], '\n'); end >= 0 {
		drop += end + 1
	}
	drop = l.scrub.undivided(string(l.text), drop)
	l.text = append([]byte(nil), l.text[drop:]...)
	l.cut += int64(drop)
}

// shown returns the log without secrets, and whether it is new. What may be the
// beginning of a secret is left out until it is known what follows; at the end
// nothing follows.
func (l *buildLog) shown(end bool) (text string, cut int64, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.changed && !end {
		return "", 0, false
	}
	l.changed = false
	text = string(l.text)
	if !end {
		text = text[:l.scrub.safe(text)]
	}
	return l.scrub.text(storable(text)), l.cut, true
}

// writeLog writes what a build has printed so far into its row.
func (e *Engine) writeLog(ctx context.Context, b build, log *buildLog, end bool) error {
	text, cut, fresh := log.shown(end)
	if !fresh {
		return nil
	}
	if err := e.onBuild(ctx, b, `log = $3, log_cut = $4`, text, cut); err != nil && !errors.Is(err, errBuildLost) {
		return err
	}
	return nil
}

// firstBytes keeps the first bytes that were written to it.
type firstBytes struct {
	strings.Builder
	most int
}

// Write implements io.Writer.
func (f *firstBytes) Write(p []byte) (int, error) {
	if room := f.most - f.Len(); room > 0 {
		f.Builder.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
