package supervisor

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// spoken are replies of the protocols: what is said, a call, the end.
var spoken = map[string][3]string{
	"chat completions": {
		`data: {"choices":[{"delta":{"content":"say \"tool_calls\":[{ and","tool_calls":[]}}]}` + "\n\n",
		`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"bash","arguments":"{}"}}]}}]}` + "\n\n",
		`data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}` + "\n\ndata: [DONE]\n\n",
	},
	"responses": {
		`data: {"type":"response.output_text.delta","delta":"said"}` + "\n\n",
		`data: {"type":"response.output_item.done","item":{"type":"function_call","name":"bash","arguments":"{}"}}` + "\n\n",
		`data: {"type":"response.completed"}` + "\n\n",
	},
	"messages": {
		"event: content_block_delta\n" + `data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"said"}}` + "\n\n",
		`data: {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "bash"}}` + "\n\n" +
			`data: {"type":"content_block_stop","index":1}` + "\n\n",
		"event: message_stop\n" + `data: {"type":"message_stop"}` + "\n\n",
	},
}

func TestAReplyThatBreaksOffHasCalledNoTool(t *testing.T) {
	t.Parallel()
	const (
		failed   = "event: error\n" + `data: {"error":{"message":"it broke off"}}` + "\n\n"
		byRouter = `data: {"id":"1","choices":[{"delta":{"content":""},"finish_reason":"error"}],"error":{"message":"it broke off"}}` + "\n\n"
		byServer = `data: {"object":"error","message":"it broke off"}` + "\n\n"
		garbled  = "data: upstream connect error\n\n"
		alive    = ": nothing yet\n\n"
	)
	for protocol, part := range spoken {
		for _, c := range []struct {
			how, sent, read string
			breaks          bool
		}{
			{"whole", part[1] + part[2], part[1] + part[2], false},
			{"cut off in the end", part[1] + part[2], "", true},
			{"cut off within the call", part[1][:len(part[1])-9], "", true},
			{"without calls", part[2], part[2], false},
			{"in its last line", strings.TrimSpace(part[1]), strings.TrimSpace(part[1]), false},
			{"with signs of life", part[1] + alive + part[2], part[1] + alive + part[2], false},
			{"failing", part[1] + failed, failed, false},
			{"failing as a router says", part[1] + byRouter, byRouter, false},
			{"failing as another server says", part[1] + byServer, byServer, false},
			{"failing with what is no event", part[1] + garbled, garbled, false},
		} {
			t.Run(protocol+" "+c.how, func(t *testing.T) {
				t.Parallel()
				heard := make(chan struct{})
				control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, part[0])
					_ = http.NewResponseController(w).Flush()
					<-heard
					_, _ = io.WriteString(w, c.sent)
					_ = http.NewResponseController(w).Flush()
					if c.breaks {
						panic(http.ErrAbortHandler)
					}
				}))
				t.Cleanup(control.Close)
				res, err := http.Post(startGateway(t, control.URL).url()+"/model/it", "application/json", strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				said := make([]byte, len(part[0]))
				in := bufio.NewReader(res.Body)
				if _, err := io.ReadFull(in, said); err != nil || string(said) != part[0] {
					t.Fatalf("%v: at first it says %q", err, said)
				}
				close(heard)
				rest, err := io.ReadAll(in)
				var events string
				goesOn := false
				for line := range strings.Lines(string(rest)) {
					if line == comment {
						goesOn = true
						continue
					}
					events += line
				}
				if goesOn != (c.sent != part[2]) {
					t.Errorf("it shows that it goes on: %v", goesOn)
				}
				if events != c.read || (err != nil) != c.breaks {
					t.Errorf("it says %q then (%v), want %q", rest, err, c.read)
				}
			})
		}
	}
}

func TestAReplyOfAStatedLengthArrivesWithItsCalls(t *testing.T) {
	t.Parallel()
	for protocol, part := range spoken {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			whole := strings.ReplaceAll(strings.Join(part[:], ""), "\n", "\r\n")
			control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
				_, _ = io.WriteString(w, whole)
			}))
			t.Cleanup(control.Close)
			res, err := http.Post(startGateway(t, control.URL).url()+"/model/it", "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			if events := strings.ReplaceAll(string(got), comment, ""); err != nil || events != whole {
				t.Errorf("it says %q (%v), want %q", got, err, whole)
			}
		})
	}
}
