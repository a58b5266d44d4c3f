package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// client speaks the part of OpenCode's v1 HTTP API that the supervisor needs.
// The API describes itself at GET /doc of a running server.
type client struct {
	base, password string
	directory      string // the working tree; OpenCode has one instance per directory
	http           *http.Client
}

// apiTimeout bounds every call except the event stream.
const apiTimeout = 20 * time.Second

// messageInfo is the head of a message. An assistant's message has ended when
// Time.Completed is set.
type messageInfo struct {
	ID        string    `json:"id"`
	SessionID string    `json:"sessionID"`
	Role      string    `json:"role"`
	ParentID  string    `json:"parentID"`
	Summary   jsonBool  `json:"summary"`
	Finish    string    `json:"finish"`
	Error     *apiError `json:"error"`
	Time      struct {
		Created   float64 `json:"created"`
		Completed float64 `json:"completed"`
	} `json:"time"`
}

// jsonBool is true for JSON's true alone: a user's message has an object here.
type jsonBool bool

// UnmarshalJSON accepts any JSON value.
func (b *jsonBool) UnmarshalJSON(data []byte) error {
	*b = string(data) == "true"
	return nil
}

// apiError is how OpenCode reports what went wrong in a run.
type apiError struct {
	Name string `json:"name"`
	Data struct {
		Message      string `json:"message"`
		StatusCode   int    `json:"statusCode"`
		ResponseBody string `json:"responseBody"`
	} `json:"data"`
}

// part is one piece of a message.
type part struct {
	ID        string    `json:"id"`
	SessionID string    `json:"sessionID"`
	MessageID string    `json:"messageID"`
	Type      string    `json:"type"`
	Text      string    `json:"text"`
	Synthetic bool      `json:"synthetic"`
	Tool      string    `json:"tool"`
	State     toolState `json:"state"`
	Time      struct {
		End float64 `json:"end"`
	} `json:"time"`
}

// toolState is the state of a tool part.
type toolState struct {
	Status   string         `json:"status"` // pending, running, completed, error
	Input    map[string]any `json:"input"`
	Output   string         `json:"output"`
	Error    string         `json:"error"`
	Title    string         `json:"title"`
	Metadata struct {
		Output string `json:"output"`
		Diff   string `json:"diff"`
	} `json:"metadata"`
	Time struct {
		Start float64 `json:"start"`
		End   float64 `json:"end"`
	} `json:"time"`
}

// message is a message with its parts.
type message struct {
	Info  messageInfo `json:"info"`
	Parts []part      `json:"parts"`
}

// event is one entry of GET /event.
type event struct {
	Type       string          `json:"type"`
	Properties json.RawMessage `json:"properties"`
}

// sessionStatus is what a session does. Idle sessions are not listed at all.
type sessionStatus struct {
	Type    string  `json:"type"` // busy, retry, idle
	Attempt int     `json:"attempt"`
	Message string  `json:"message"`
	Next    float64 `json:"next"` // Unix milliseconds
}

func newClient(base, password, directory string) *client {
	return &client{base: base, password: password, directory: directory,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}}
}

// call makes one request with JSON in both directions; out may be nil.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding a request to OpenCode: %w", err)
		}
		body = bytes.NewReader(data)
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("OpenCode answered %s to %s %s: %s", resp.Status, method, path, bytes.TrimSpace(text))
	}
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("reading OpenCode's answer to %s %s: %w", method, path, err)
	}
	return nil
}

func (c *client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	u := c.base + path
	if !strings.HasPrefix(path, "/global/") {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		u += sep + "directory=" + url.QueryEscape(c.directory)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth("opencode", c.password)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.http.Do(req)
}

// healthy asks once, shortly: a request that meets the server between binding
// its port and being ready is never answered.
func (c *client) healthy(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
	defer cancel()
	var answer struct {
		Healthy bool `json:"healthy"`
	}
	return c.call(ctx, http.MethodGet, "/global/health", nil, &answer) == nil && answer.Healthy
}

// create makes a session. A title spares the model call that would find one.
func (c *client) create(ctx context.Context, title string) (string, error) {
	var answer struct {
		ID string `json:"id"`
	}
	err := c.call(ctx, http.MethodPost, "/session", map[string]any{"title": title}, &answer)
	return answer.ID, err
}

func (c *client) exists(ctx context.Context, session string) bool {
	return c.call(ctx, http.MethodGet, "/session/"+session, nil, nil) == nil
}

func (c *client) prompt(ctx context.Context, session string, body any) error {
	return c.call(ctx, http.MethodPost, "/session/"+session+"/prompt_async", body, nil)
}

func (c *client) abort(ctx context.Context, session string) error {
	return c.call(ctx, http.MethodPost, "/session/"+session+"/abort", nil, nil)
}

func (c *client) statuses(ctx context.Context) (map[string]sessionStatus, error) {
	var answer map[string]sessionStatus
	err := c.call(ctx, http.MethodGet, "/session/status", nil, &answer)
	return answer, err
}

// messages returns the session's newest messages, oldest first.
func (c *client) messages(ctx context.Context, session string, limit int) ([]message, error) {
	var answer []message
	err := c.call(ctx, http.MethodGet, fmt.Sprintf("/session/%s/message?limit=%d", session, limit), nil, &answer)
	return answer, err
}

// streamSilence is how long the event stream may be silent; the server sends a
// heartbeat every 10 s.
const streamSilence = 25 * time.Second

var errStreamSilent = errors.New("OpenCode's event stream is silent")

// stream calls each for every event until the stream breaks or ctx ends. It
// returns no nil error. opened is called when events flow.
func (c *client) stream(ctx context.Context, opened func(), each func(event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(streamSilence, func() { cancel(errStreamSilent) })
	defer watchdog.Stop()
	resp, err := c.do(ctx, http.MethodGet, "/event", nil)
	if err != nil {
		return fmt.Errorf("opening OpenCode's event stream: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("opening OpenCode's event stream: %s", resp.Status)
	}
	opened()
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return fmt.Errorf("reading OpenCode's event stream: %w", err)
		}
		watchdog.Reset(streamSilence)
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			continue
		}
		var e event
		if json.Unmarshal(data, &e) == nil {
			each(e)
		}
	}
}
