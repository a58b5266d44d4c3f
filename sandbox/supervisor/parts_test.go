package supervisor

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openinspect/sandbox"
)

// recorded is a transcript that writes down what it reports.
func recorded() (*transcript, *[]string) {
	var log []string
	t := newTranscript("ses", "msg_0", "/w", func(kind string, body any) {
		log = append(log, fmt.Sprintf("%s %+v", kind, body))
	}, func(d sandbox.Delta) { log = append(log, fmt.Sprintf("delta %s %d %s", d.Part, d.Offset, d.Text)) })
	return t, &log
}

func assistant(id string, created float64) messageInfo {
	m := messageInfo{ID: id, SessionID: "ses", Role: "assistant"}
	m.Time.Created = created
	return m
}

func text(message, id, s string, end float64) part {
	p := part{ID: id, MessageID: message, SessionID: "ses", Type: "text", Text: s}
	p.Time.End = end
	return p
}

func TestPartsThatAreSeenTwiceAreReportedOnce(t *testing.T) {
	t.Parallel()
	script, log := recorded()
	for range 2 { // the stream, and then a reading of the whole session
		script.message(assistant("m1", 1))
		script.part(text("m1", "p1", "", 0))
		script.added("p1", "Hel")
		script.part(text("m1", "p1", "Hello", 0))
		script.part(text("m1", "p1", "Hello.", 5))
		script.part(text("m0", "p9", "of another message", 5))
	}
	want := []string{"delta p1 0 Hel", "delta p1 3 lo", "text {Part:p1 Text:Hello.}"}
	if diff := cmp.Diff(want, *log); diff != "" {
		t.Errorf("reported (-want +got):\n%s", diff)
	}
	if script.reply() != "Hello." {
		t.Errorf("the answer is %q", script.reply())
	}
}

func TestAToolsOutputIsReportedAsItGrowsAndCappedAtItsEnd(t *testing.T) {
	t.Parallel()
	script, log := recorded()
	script.message(assistant("m1", 1))
	p := part{ID: "p1", MessageID: "m1", SessionID: "ses", Type: "tool", Tool: "bash"}
	for _, output := range []string{"", "one", "one\ntwo", "replaced"} {
		p.State.Status, p.State.Metadata.Output = "running", output
		script.part(p)
	}
	p.State.Status, p.State.Output = "completed", strings.Repeat("x", 200_000)
	script.part(p)
	got := strings.Join((*log)[1:4], "|")
	if got != "delta p1 0 one|delta p1 3 \ntwo|delta p1 0 replaced" {
		t.Errorf("deltas: %s", got)
	}
	if last := (*log)[4]; len(*log) != 5 || len(last) > maxOutput+1000 || !strings.Contains(last, "bytes left out") {
		t.Errorf("the end has %d bytes of %d events", len(last), len(*log))
	}
	if script.busyTools != 0 {
		t.Errorf("%d tools are busy", script.busyTools)
	}
}

func TestFailuresOfTheModelAreSentences(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, message string
		status        int
		want          string
	}{
		{"APIError", "bad key", 401, "refused the key (401)"},
		{"APIError", "slow down", 429, "no capacity"},
		{"APIError", "down", 503, "did not work (503)"},
		{"APIError", "The budget of this session is used up.", 400, "The budget of this session is used up."},
		{"ContextOverflowError", "", 0, "start a new session"},
		{"Strange", "", 0, "Strange"},
	} {
		e := &apiError{Name: c.name}
		e.Data.Message, e.Data.StatusCode = c.message, c.status
		if got := failureSentence(e); !strings.Contains(got, c.want) {
			t.Errorf("%s %d: %q", c.name, c.status, got)
		}
	}
}

func TestATextStandsBeforeTheToolThatItAnnounces(t *testing.T) {
	t.Parallel()
	script, log := recorded()
	script.message(assistant("m1", 1))
	script.part(text("m1", "p1", "I look.", 0))
	call := part{ID: "p2", MessageID: "m1", SessionID: "s", Type: "tool", Tool: "bash"}
	call.State.Status = "running"
	script.part(call)
	script.part(text("m1", "p1", "I look.", 5)) // OpenCode ends it only now
	call.State.Status = "completed"
	script.part(call)
	script.part(text("m1", "p3", "First.", 0))
	other := part{ID: "p4", MessageID: "m1", SessionID: "s", Type: "tool", Tool: "bash"}
	other.State.Status = "running"
	script.part(other)
	script.part(text("m1", "p3", "First. And then more.", 9))
	var order []string
	for _, line := range *log {
		if !strings.HasPrefix(line, "delta") {
			order = append(order, line)
		}
	}
	got := strings.Join(order, "\n")
	for _, pair := range [][2]string{{"I look.", "State:running"}, {"State:completed", "First."}, {"First.", "And then more."}} {
		before, after := strings.Index(got, pair[0]), strings.Index(got, pair[1])
		if before < 0 || after < before {
			t.Errorf("%q does not stand before %q:\n%s", pair[0], pair[1], got)
		}
	}
	if n := strings.Count(got, "I look."); n != 1 {
		t.Errorf("the text is reported %d times:\n%s", n, got)
	}
	if reply := script.reply(); reply != "First. And then more." {
		t.Errorf("the answer is %q", reply)
	}
}

func TestALongToDoListSaysHowManyItemsItLeavesOut(t *testing.T) {
	t.Parallel()
	var p properties
	if err := json.Unmarshal([]byte(`{"todos": [`+strings.Repeat(`{"content": "look", "status": "pending"},`, maxTodos+6)+`{}]}`), &p); err != nil {
		t.Fatal(err)
	}
	if list := todoList(p); len(list.Items) != maxTodos || list.Omitted != 7 || list.Items[0].Text != "look" {
		t.Errorf("%d items, %d left out", len(list.Items), list.Omitted)
	}
}
