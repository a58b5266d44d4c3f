package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// wholeCalls passes a model's streamed reply on, and holds back what it says from
// the first call of a tool on until the reply has ended. OpenCode runs a tool as
// soon as it has been called, and has the model say it all again if the reply then
// breaks off, because the provider or the control plane fails: without this the tool
// would run twice, with all that it does. A comment stands for each line that is held
// back, so that OpenCode sees that the reply goes on.
type wholeCalls struct {
	body  io.ReadCloser
	says  func() // is told of each event of the model's own
	lines *bufio.Reader
	out   []byte // may be read
	held  []byte
	event int   // where in held the event begins that is not whole yet
	calls bool  // the reply calls tools
	end   error // of the reply; nil: not yet
}

// mostHeld bounds what is held back, in bytes. A reply that calls with more is passed
// on in parts of that size.
const mostHeld = 16 << 20

// callsTool finds the first call of a tool in events of the three protocols that
// OpenCode speaks: OpenAI's chat completions and responses, and Anthropic's messages.
// These are keys and values of the event itself: in what the model says quotes are
// escaped.
var callsTool = regexp.MustCompile(`"tool_calls"\s*:\s*\[\s*\{|"type"\s*:\s*"(?:tool_use|function_call)"`)

// breaksOff says whether an event breaks the reply off, so that OpenCode asks again:
// the error of a protocol, those of routers and servers of others' models ({"choices":
// […], "error": {…}}, {"object": "error", …}), and what is no JSON.
func breaksOff(event []byte) bool {
	var data []byte
	for line := range bytes.Lines(event) {
		if text, is := bytes.CutPrefix(line, []byte("data:")); is {
			data = append(data, text...)
		}
	}
	if data = bytes.TrimSpace(data); len(data) == 0 || string(data) == "[DONE]" {
		return false
	}
	var e struct{ Type, Object, Error any }
	if json.Unmarshal(data, &e) != nil {
		return true
	}
	return e.Type == "error" || e.Object == "error" || e.Error != nil
}

// aPing finds what Anthropic sends while its model says nothing.
var aPing = regexp.MustCompile(`^data:\s*\{\s*"type"\s*:\s*"ping"`)

// comment is a line that readers of event streams skip (the HTML standard, 9.2.6).
const comment = ":\n"

// holdCalls is for the proxy of model requests.
func (g *gateway) holdCalls(res *http.Response) error {
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		says := func() { g.modelSaid.Store(time.Now().UnixNano()) }
		res.Header.Del("Content-Length") // comments are added
		res.Body = &wholeCalls{body: res.Body, says: says, lines: bufio.NewReaderSize(res.Body, 64<<10)}
	}
	return nil
}

// Read implements io.Reader.
func (w *wholeCalls) Read(p []byte) (int, error) {
	for w.end == nil && (len(w.out) == 0 || w.arrived()) {
		w.take()
	}
	if len(w.out) == 0 {
		return 0, w.end
	}
	n := copy(p, w.out)
	w.out = w.out[n:]
	return n, nil
}

// arrived says whether the next line is there already.
func (w *wholeCalls) arrived() bool {
	there, _ := w.lines.Peek(w.lines.Buffered())
	return len(w.out) < 64<<10 && bytes.IndexByte(there, '\n') >= 0
}

// take takes the next line.
func (w *wholeCalls) take() {
	line, err := w.lines.ReadBytes('\n')
	w.calls = w.calls || callsTool.Match(line)
	if bytes.HasPrefix(line, []byte("data:")) && !aPing.Match(line) {
		w.says()
	}
	if w.calls {
		w.hold(line)
	} else {
		w.out = append(w.out, line...)
	}
	if errors.Is(err, io.EOF) || len(w.held) > mostHeld {
		w.out, w.held, w.event = append(w.out, w.held...), nil, 0
	}
	w.end = err
}

// hold keeps a line back.
func (w *wholeCalls) hold(line []byte) {
	w.held = append(w.held, line...)
	if len(bytes.TrimSpace(line)) > 0 {
		w.out = append(w.out, comment...)
		return
	}
	event := w.held[w.event:]
	w.event = len(w.held)
	if breaksOff(event) { // nobody acts on a part of what was meant
		w.out = append(w.out, event...)
		w.held, w.event, w.calls = nil, 0, false
	}
}

// Close implements io.Closer.
func (w *wholeCalls) Close() error { return w.body.Close() }
