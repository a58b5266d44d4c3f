package modal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// output is one stream of a command on its way to its writer.
//
// A stream is over when nobody holds it any more, and a child that a command
// left behind holds it for as long as it likes. So exec.sh says at the end of a
// command that it has ended, and what comes after that is not waited for. Silence
// is no sign: what the command wrote may be on its way.
type output struct {
	from   io.ReadCloser
	done   chan error
	end    []byte        // what comes after all that the command wrote; nil: nothing does
	ended  chan struct{} // closed when it came
	reads  atomic.Int64  // since when it waits for more, in nanoseconds of Unix time; 0: it does not
	closed atomic.Bool   // by us: its end is no error
}

// receive copies an output; failed is told why to takes no more, which the command
// would never notice.
func receive(from io.ReadCloser, to io.Writer, end []byte, failed context.CancelCauseFunc) *output {
	o := &output{from: from, done: make(chan error, 1), ended: make(chan struct{}), end: end}
	if to == nil {
		close(o.ended) // Modal throws it away
		o.done <- nil
		from.Close()
		return o
	}
	go func() {
		o.done <- o.copy(refusing{to, failed})
		from.Close()
	}()
	return o
}

// refusing is a writer that tells of its error.
type refusing struct {
	io.Writer
	failed context.CancelCauseFunc
}

func (r refusing) Write(p []byte) (int, error) {
	n, err := r.Writer.Write(p)
	if err != nil {
		err = fmt.Errorf("passing on a command's output: %w", err)
		r.failed(err)
	}
	return n, err
}

func (o *output) copy(to io.Writer) error {
	buf := make([]byte, 64<<10)
	var held []byte // what may be the beginning of the end
	for {
		o.reads.Store(time.Now().UnixNano())
		n, err := o.from.Read(buf)
		o.reads.Store(0)
		text := append(held, buf[:n]...)
		if at := bytes.Index(text, o.end); o.end != nil && at >= 0 {
			if _, err := to.Write(text[:at]); err != nil {
				return err
			}
			close(o.ended)
			return nil
		}
		keep := 0
		if err == nil {
			keep = beginning(text, o.end)
		}
		if len(text) > keep {
			if _, err := to.Write(text[:len(text)-keep]); err != nil {
				return err
			}
		}
		held = bytes.Clone(text[len(text)-keep:])
		switch {
		case err == io.EOF, err != nil && o.closed.Load():
			return nil
		case err != nil:
			return fmt.Errorf("reading a command's output: %w", err)
		}
	}
}

// beginning is how many bytes at the end of text end may begin with.
func beginning(text, end []byte) int {
	for n := min(len(end)-1, len(text)); n > 0; n-- {
		if bytes.HasSuffix(text, end[:n]) {
			return n
		}
	}
	return 0
}

// close ends the copying and waits for it.
func (o *output) close() {
	o.closed.Store(true)
	o.from.Close()
	<-o.done
}

// errCutOff is an output whose end did not come although its command ended by itself.
var errCutOff = errors.New("the end of a command's output did not come")

// finish waits for the end of an ended command's output. That of one that was
// killed (SIGKILL), perhaps exec.sh with it, and of one without an end, is over when
// it has been silent for quietTime.
func (o *output) finish(ctx context.Context, exit int) error {
	silent := o.end == nil || exit == exitKilled
	most := time.Now().Add(outputTime)
	tick := time.NewTicker(quietTime / 10)
	defer tick.Stop()
	for {
		select {
		case err := <-o.done:
			select {
			case <-o.ended:
			default:
				if err == nil && !silent {
					err = errCutOff
				}
			}
			return err
		case <-ctx.Done():
			o.close()
			return ctx.Err()
		case now := <-tick.C:
			if now.After(most) {
				o.close()
				return fmt.Errorf("the output of an ended command went on for %s", outputTime)
			}
			if since := o.reads.Load(); silent && since != 0 && now.Sub(time.Unix(0, since)) > quietTime {
				o.close()
				return nil
			}
		}
	}
}
