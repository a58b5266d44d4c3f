package doors

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Usage is what one model request used, in tokens. Input excludes what was
// read from or written to the provider's prompt cache.
type Usage struct {
	Model      string // as the request names it
	Input      int64
	Output     int64
	CacheRead  int64
	CacheWrite int64
	// CostUSD is the tokens times the model's price, 0 when that is not known.
	CostUSD float64
	// Known says that the model's price is known.
	Known bool
	// Estimated says that the answer broke off before the provider's own
	// count, and the tokens are computed from its length.
	Estimated bool
}

// rawUsage unites the forms in which providers count. The pointers tell a
// count of zero from none.
type rawUsage struct {
	PromptTokens     *int64 `json:"prompt_tokens"`
	CompletionTokens *int64 `json:"completion_tokens"`
	PromptDetails    struct {
		CachedTokens int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	InputTokens  *int64 `json:"input_tokens"`
	OutputTokens *int64 `json:"output_tokens"`
	InputDetails struct {
		CachedTokens int64 `json:"cached_tokens"`
	} `json:"input_tokens_details"`
	CacheRead  *int64 `json:"cache_read_input_tokens"`
	CacheWrite *int64 `json:"cache_creation_input_tokens"`
}

// modelEvent is what a counter reads of an event of either protocol, or of a
// whole answer.
type modelEvent struct {
	Usage   *rawUsage `json:"usage"`
	Message struct {
		Usage *rawUsage `json:"usage"`
	} `json:"message"`
	Response struct {
		Usage *rawUsage `json:"usage"`
	} `json:"response"`
	Delta   json.RawMessage   `json:"delta"`
	Choices []json.RawMessage `json:"choices"`
}

// counter adds up one answer.
type counter struct {
	protocol Protocol
	usage    Usage
	input    bool // the provider counted the input
	final    bool // the provider gave its final count
	streamed int  // bytes of deltas, for an estimate
}

func (c *counter) event(data []byte) {
	var e modelEvent
	err := json.Unmarshal(data, &e)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !ok {
		return // not for us to judge: "[DONE]", or something new
	}
	c.streamed += len(e.Delta)
	for _, choice := range e.Choices {
		c.streamed += len(choice)
	}
	for _, u := range []*rawUsage{e.Message.Usage, e.Usage, e.Response.Usage} {
		if u != nil {
			c.add(u)
		}
	}
	// Anthropic counts what it read in its first event, nested in the message,
	// and what it said in its last.
	c.final = c.final || e.Usage != nil || e.Response.Usage != nil
}

// add takes a count, which replaces the fields it has.
func (c *counter) add(u *rawUsage) {
	set := func(to *int64, from *int64) {
		if from != nil {
			*to = *from
		}
	}
	set(&c.usage.Output, u.CompletionTokens)
	set(&c.usage.Output, u.OutputTokens)
	switch {
	case u.PromptTokens != nil:
		c.usage.CacheRead = u.PromptDetails.CachedTokens
		c.usage.Input = *u.PromptTokens - c.usage.CacheRead
	case u.InputTokens != nil && c.protocol == OpenAI:
		c.usage.CacheRead = u.InputDetails.CachedTokens
		c.usage.Input = *u.InputTokens - c.usage.CacheRead
	default:
		set(&c.usage.Input, u.InputTokens)
		set(&c.usage.CacheRead, u.CacheRead)
		set(&c.usage.CacheWrite, u.CacheWrite)
	}
	c.input = c.input || u.PromptTokens != nil || u.InputTokens != nil
}

// deltaOverhead is roughly how much of a delta's JSON is not the text, in
// bytes, and bytesPerToken how long a token is; both only serve estimates.
const (
	deltaOverhead = 0.5
	bytesPerToken = 4
)

// total returns the usage, estimated where the provider did not get to it.
func (c *counter) total(requestBytes int) Usage {
	u := c.usage
	if c.final {
		return u
	}
	u.Estimated = true
	if !c.input {
		u.Input = int64(requestBytes / bytesPerToken)
	}
	u.Output = max(u.Output, int64(float64(c.streamed)*deltaOverhead/bytesPerToken))
	return u
}

// usedTime is how long the meter may take to note a usage.
const usedTime = 10 * time.Second

// settle tells the meter. The client may be gone; the cost is not.
func (m *Model) settle(ctx context.Context, c *modelCall, count *counter) {
	if !c.endpoint.replies {
		return
	}
	u := count.total(len(c.body))
	u.Model = c.model
	u.CostUSD, u.Known = m.c.Prices.Cost(c.model, u)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), usedTime)
	defer cancel()
	if err := m.c.Meter.Used(ctx, c.access, u); err != nil {
		m.c.Log.Error("model usage not recorded", "session", c.access.Session, "usage", u, "err", err)
	}
}

// maxAnswer bounds an answer that is not streamed, and one line of a stream,
// in bytes.
const maxAnswer = 32 << 20

// relay passes a good answer on and counts it. The usage is settled before
// the client sees the end of the answer.
func (m *Model) relay(w http.ResponseWriter, r *http.Request, c *modelCall, res *http.Response) {
	copyHeaders(w.Header(), res.Header, []string{"Content-Type", "Cache-Control", "Request-Id", "X-Request-Id"})
	count := &counter{protocol: c.provider.Protocol}
	body := newIdleReader(res.Body, m.c.Idle)
	defer body.Close()
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		m.relayWhole(w, r, c, body, count)
		return
	}
	out := &patientWriter{w: w, rc: http.NewResponseController(w), idle: m.c.Idle}
	defer out.finish()
	err := relayStream(out, body, count)
	m.settle(r.Context(), c, count)
	if err == nil || r.Context().Err() != nil {
		return
	}
	m.c.Log.Warn("model stream broke off", "session", c.access.Session, "model", c.model, "err", err)
	_, _ = out.Write(streamError(c.provider.Protocol, brokeOff)) // nobody is left to tell
}

// brokeOff is what the agent reads when an answer ends too early.
const brokeOff = "the model provider's answer broke off"

func (m *Model) relayWhole(w http.ResponseWriter, r *http.Request, c *modelCall, body io.Reader, count *counter) {
	answer, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err == nil && len(answer) > maxAnswer {
		err = errors.New("longer than 32 MB")
	}
	if err == nil {
		count.event(answer)
	}
	m.settle(r.Context(), c, count)
	if err != nil {
		m.c.Log.Warn("model answer broke off", "session", c.access.Session, "model", c.model, "err", err)
		m.refuse(w, r, http.StatusBadGateway, brokeOff)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // nobody is left to tell
}

// relayStream passes whole lines of an event stream on, flushed whenever
// nothing more has arrived yet, and counts them.
func relayStream(out io.Writer, body io.Reader, count *counter) error {
	lines := bufio.NewReaderSize(body, 64<<10)
	var pending []byte
	for {
		line, readErr := readLine(lines)
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			count.event(bytes.TrimSpace(data))
		}
		pending = append(pending, line...)
		if len(pending) > 0 && (readErr != nil || lines.Buffered() == 0 || len(pending) > 32<<10) {
			if _, err := out.Write(pending); err != nil {
				return fmt.Errorf("writing to the sandbox: %w", err)
			}
			pending = pending[:0]
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

// readLine returns one whole line with its end. Of a stream that breaks within
// a line nothing is returned: half an event must not be passed on. At the
// stream's proper end the line may lack its newline, and comes with io.EOF.
func readLine(r *bufio.Reader) ([]byte, error) {
	var whole []byte
	for {
		part, err := r.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case err == nil || errors.Is(err, io.EOF):
			return whole, err
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(whole) > maxAnswer:
			return nil, errors.New("an event of the stream is longer than 32 MB")
		}
	}
}

// streamError is the event with which each protocol ends a stream in error. It
// begins with an empty line, in case an event stands open.
func streamError(p Protocol, sentence string) []byte {
	data := errorJSON(p, http.StatusBadGateway, sentence)
	if p == Anthropic {
		return fmt.Appendf(nil, "\n\nevent: error\ndata: %s\n\n", data)
	}
	return fmt.Appendf(nil, "\n\ndata: %s\n\n", data)
}
