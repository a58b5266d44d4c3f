package doors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// maxReport bounds the upstream's report of a push, in bytes.
	maxReport = 1 << 20
	// recordTime is how long recording a push may take.
	recordTime = 10 * time.Second
)

// push reads what a push asks for, refuses what the session may not do (I8),
// passes the rest on and records what the upstream accepted.
func (g *Git) push(w http.ResponseWriter, r *http.Request, a Access) {
	if r.Header.Get("Content-Encoding") != "" {
		http.Error(w, "a compressed push cannot be checked: send it without Content-Encoding", http.StatusUnsupportedMediaType)
		return
	}
	body := g.body(w, r)
	p, err := readPush(body)
	if err != nil {
		g.c.Log.Warn("push not understood", "session", a.Session, "err", err)
		p.answer(w, body, http.StatusBadRequest, err.Error())
		return
	}
	if reasons := p.forbidden(a); len(reasons) > 0 {
		g.c.Log.Info("push refused", "session", a.Session, "commands", p.commands)
		p.answerEach(w, body, reasons)
		return
	}
	if sentence := p.unacceptable(r.ContentLength, g.c.MaxPush); sentence != "" {
		p.answer(w, body, http.StatusForbidden, sentence)
		return
	}
	var rest io.Reader = body
	if g.c.Secrets != nil {
		looked := g.withoutSecrets(w, r, a, p, body)
		if looked == nil {
			return
		}
		defer looked.Close()
		rest = looked
	}
	g.forward(w, r, a, p, rest, body)
}

// forward sends an allowed push; rest is what follows its commands, from body. Once the upstream may have acted, a client
// that leaves must not keep its report from being read, hence the context.
func (g *Git) forward(w http.ResponseWriter, r *http.Request, a Access, p *pushRequest, rest io.Reader, body *patientBody) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), g.c.Total)
	defer cancel()
	sent := &lentBody{Reader: io.MultiReader(bytes.NewReader(p.raw), rest), returned: make(chan struct{})}
	res, err := g.ask(r.WithContext(ctx), a, "/"+receivePack, true, sent)
	sentence := g.failed(res, err, a)
	sent.wait() // the server of a sandbox cannot read and answer at once
	if sentence != "" {
		body.limit = g.c.MaxPush // what is still to come is only thrown away
		p.answer(w, body, http.StatusBadGateway, sentence)
		return
	}
	defer res.Body.Close()
	copyHeaders(w.Header(), res.Header, []string{"Content-Type", "Cache-Control", "Expires", "Pragma"})
	out := &patientWriter{w: w, rc: http.NewResponseController(w), idle: g.c.Idle}
	defer out.finish()
	relay := reportRelay{out: out, push: p, record: func(c pushCommand) error { return g.recorded(ctx, a, c) }}
	if err := relay.run(newIdleReader(res.Body, g.c.Total)); err != nil {
		g.c.Log.Warn("report of a push broke off", "session", a.Session, "err", err)
		panic(http.ErrAbortHandler)
	}
}

// failed says why the upstream did not take a push, or "".
func (g *Git) failed(res *http.Response, err error, a Access) string {
	switch {
	case errors.Is(err, errTooLarge):
		return g.tooLarge()
	case err != nil:
		g.c.Log.Warn("push not passed on", "session", a.Session, "err", err)
		return unreachable(err)
	case res.StatusCode != http.StatusOK:
		defer res.Body.Close()
		return upstreamSentence(res, a.Repository, true)
	}
	return ""
}

// lentBody is a request body that a transport may still read after it has
// returned an error; wait returns when it does not any more.
type lentBody struct {
	io.Reader
	once     sync.Once
	returned chan struct{}
}

// Close is called by the transport when it has done with the body.
func (b *lentBody) Close() error {
	b.once.Do(func() { close(b.returned) })
	return nil
}

func (b *lentBody) wait() { <-b.returned }

// recorded keeps the pushed head; it is tried again, since git will not push
// the same head twice.
func (g *Git) recorded(ctx context.Context, a Access, c pushCommand) error {
	ctx, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	var err error
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		if err = g.c.Pushed(ctx, a.Session, c.ref, c.old, c.new); err == nil {
			g.c.Log.Info("pushed", "session", a.Session, "ref", c.ref, "old", c.old, "new", c.new)
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			g.c.Log.Error("pushed head not recorded", "session", a.Session, "ref", c.ref, "new", c.new, "err", err)
			return err
		}
	}
}

// forbidden returns a reason for each ref when the push asks for anything but
// creating or moving the session's branch.
func (p *pushRequest) forbidden(a Access) map[string]string {
	own := "refs/heads/" + a.Branch
	reasons := map[string]string{}
	for _, c := range p.commands {
		switch {
		case a.Branch == "":
			reasons[c.ref] = "this sandbox works for no session, so it may push nothing"
		case c.ref == "refs/heads/"+a.DefaultBranch:
			reasons[c.ref] = fmt.Sprintf("this session may not push %s; push %s and open a pull request", c.ref, own)
		case c.ref != own:
			reasons[c.ref] = "this session may only push " + own
		case c.deletes():
			reasons[c.ref] = "this session may not delete its branch"
		}
	}
	if len(reasons) == 0 && len(p.commands) < 2 {
		return nil
	}
	for _, c := range p.commands {
		if reasons[c.ref] == "" {
			reasons[c.ref] = "not pushed, because the same push asks for something else; push " + own + " alone"
		}
	}
	return reasons
}

// unacceptable says why a push to the right branch cannot be taken, or "".
func (p *pushRequest) unacceptable(length, most int64) string {
	switch {
	case p.signed:
		return "signed pushes (push certificates) are not accepted; push without --signed"
	case len(p.commands) > 0 && !p.reports():
		return "this git client does not read the report of a push (report-status); use the git program"
	case length > most:
		return fmt.Sprintf("a push may have at most %d MB, this one has %d", most>>20, length>>20)
	}
	return ""
}

// answer refuses the whole push with one sentence.
func (p *pushRequest) answer(w http.ResponseWriter, rest io.Reader, status int, sentence string) {
	if !p.reports() {
		http.Error(w, sentence, status)
		return
	}
	reasons := map[string]string{}
	for _, c := range p.commands {
		reasons[c.ref] = sentence
	}
	unpack := "ok" // what git prints for a ref is clearer than a failed unpack
	if len(p.commands) == 0 {
		unpack = sentence
	}
	p.write(w, rest, p.report(unpack, reasons))
}

// answerEach refuses each ref with its own reason.
func (p *pushRequest) answerEach(w http.ResponseWriter, rest io.Reader, reasons map[string]string) {
	if !p.reports() {
		http.Error(w, reasons[p.commands[0].ref], http.StatusForbidden)
		return
	}
	p.write(w, rest, p.report("ok", reasons))
}

// write sends a report once the client has sent everything: git reads no
// answer before.
func (p *pushRequest) write(w http.ResponseWriter, rest io.Reader, report []byte) {
	_, err := io.Copy(io.Discard, rest)
	if err != nil && !errors.Is(err, errTooLarge) {
		return // the client is gone
	}
	w.Header().Set("Content-Type", "application/x-"+receivePack+"-result")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(report) // nobody is left to tell
}

// reportRelay passes the upstream's answer to a push on. Progress goes through
// at once; the report is held until the moved refs are recorded.
type reportRelay struct {
	out    io.Writer
	push   *pushRequest
	record func(pushCommand) error

	held   bytes.Buffer // raw packets of the report
	report bytes.Buffer // the report itself, out of its band
	gone   bool         // the client cannot be written to any more
}

func (r *reportRelay) run(body io.ReadCloser) error {
	defer body.Close()
	if r.push.bandSize() == 0 {
		if err := r.hold(io.TeeReader(body, &r.report)); err != nil {
			return err
		}
	} else if err := r.demultiplex(body); err != nil {
		return err
	}
	refs, err := accepted(r.report.Bytes())
	if err != nil {
		return err
	}
	for _, c := range r.push.commands {
		if !refs[c.ref] {
			continue
		}
		if r.record(c) != nil && r.push.bandSize() > 0 {
			r.send([]byte(packet("\x02the push was accepted, but could not be recorded; push another commit later\n")))
		}
	}
	r.send(r.held.Bytes())
	return nil
}

// hold keeps what can only be passed on as a whole.
func (r *reportRelay) hold(body io.Reader) error {
	n, err := io.Copy(&r.held, io.LimitReader(body, maxReport+1))
	if n > maxReport {
		return errors.New("the report of a push is too long")
	}
	return err
}

// demultiplex takes the report out of band 1 and passes the other bands on.
func (r *reportRelay) demultiplex(body io.Reader) error {
	for {
		raw, data, err := readPacket(body)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errFlush):
			r.held.Write(raw)
			continue
		case err != nil:
			return err
		}
		if len(data) > 1 && data[0] == 1 {
			r.held.Write(raw)
			r.report.Write(data[1:])
		} else {
			r.send(raw) // progress, an error, or an empty packet against timeouts
		}
		if r.held.Len() > maxReport {
			return errors.New("the report of a push is too long")
		}
	}
}

func (r *reportRelay) send(data []byte) {
	if r.gone || len(data) == 0 {
		return
	}
	if _, err := r.out.Write(data); err != nil {
		r.gone = true // the report is still read to its end
	}
}
