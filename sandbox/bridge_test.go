package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick are deadlines for tests. A fault shows within half a second.
var quick = timing{
	ping: 50 * time.Millisecond, silence: 400 * time.Millisecond,
	write: 2 * time.Second, greet: 500 * time.Millisecond,
}

// receiver is the control plane's part of I5, as small as it can be: it stores
// events before it acknowledges them, gives each prompt to the boot until that
// knows it, and answers calls.
type receiver struct {
	t *testing.T

	mu      sync.Mutex
	stored  []Event
	prompts []Prompt
	parts   map[string]string // text of running parts
	answers map[string]int    // how often each call was seen
	changed chan struct{}
}

func newReceiver(t *testing.T) *receiver {
	return &receiver{t: t, parts: map[string]string{}, answers: map[string]int{}, changed: make(chan struct{})}
}

func (r *receiver) serve(ctx context.Context, token string, l *Link) {
	if token != "secret" {
		r.t.Errorf("token is %q", token)
		return
	}
	r.mu.Lock()
	w := Welcome{Session: "s", AckedThrough: int64(len(r.stored))}
	known := map[string]bool{}
	for _, k := range l.Hello().Prompts {
		known[k.ID] = true
	}
	out := []Message{{Welcome: &w}}
	for i := range r.prompts {
		if !known[r.prompts[i].ID] {
			out = append(out, Message{Prompt: &r.prompts[i]})
		}
	}
	r.mu.Unlock()
	for _, m := range out {
		if l.Send(ctx, m) != nil {
			return
		}
	}
	for {
		m, err := l.Recv(ctx)
		if err != nil {
			return
		}
		if answer, ok := r.take(m); ok && l.Send(ctx, answer) != nil {
			return
		}
	}
}

func (r *receiver) take(m Message) (answer Message, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { close(r.changed); r.changed = make(chan struct{}) }()
	switch {
	case m.Event != nil:
		next := int64(len(r.stored)) + 1
		if m.Event.N > next {
			r.t.Errorf("event %d came when %d was due", m.Event.N, next)
		}
		if m.Event.N == next {
			r.stored = append(r.stored, *m.Event)
		}
		return Message{Ack: &Ack{N: m.Event.N}}, true
	case m.Delta != nil:
		have := r.parts[m.Delta.Part]
		if m.Delta.Offset > len(have) {
			r.t.Errorf("a delta of %s begins at %d of %d", m.Delta.Part, m.Delta.Offset, len(have))
			return Message{}, false
		}
		r.parts[m.Delta.Part] = have[:m.Delta.Offset] + m.Delta.Text
	case m.Call != nil:
		r.answers[m.Call.ID]++
		return Message{Result: &Result{ID: m.Call.ID, Text: "done " + m.Call.Tool}}, true
	}
	return Message{}, false
}

func (r *receiver) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(time.Minute)
	for {
		r.mu.Lock()
		good, changed := ok(), r.changed
		r.mu.Unlock()
		if good {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			r.t.Fatalf("waited too long for %s", what)
		}
	}
}

// worker is a supervisor that answers each prompt with an event.
type worker struct {
	bridge *Bridge
	mu     sync.Mutex
	got    []string
}

func (w *worker) Welcome(Welcome) {}
func (w *worker) Stop(Stop)       {}
func (w *worker) Park(Park)       {}
func (w *worker) Vet(Vet)         {}
func (w *worker) Prompt(p Prompt) {
	w.mu.Lock()
	w.got = append(w.got, p.ID)
	w.mu.Unlock()
	w.bridge.Event(KindText, p.ID, BodyText{Part: "answer-" + p.ID, Text: "ok"})
	w.bridge.Event(KindSettled, p.ID, BodySettled{Outcome: OutcomeCompleted})
}

// serveBridge serves the control plane's end with short deadlines.
func serveBridge(t *testing.T, serve func(context.Context, string, *Link)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	handler := &bridgeServer{serve: serve, timing: quick}
	server := &http.Server{
		BaseContext: func(net.Listener) context.Context { return ctx },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serving.Add(1)
			defer serving.Done()
			handler.ServeHTTP(w, r)
		}),
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { cancel(); server.Close(); <-done; serving.Wait() })
	return l.Addr().String()
}

// runBridge runs the supervisor's end until the test ends.
func runBridge(t *testing.T, cfg BridgeConfig) (*Bridge, *worker) {
	t.Helper()
	cfg.Token, cfg.Boot, cfg.SpoolDir = "secret", "boot-1", t.TempDir()
	b, err := NewBridge(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.timing = quick
	w := &worker{bridge: b}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, w) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the bridge ended with %v", err)
		}
		b.Close()
	})
	return b, w
}

// TestABridgeThatFailsAtAnyMessageLosesAndRepeatsNothing is I5: events,
// prompts and calls cross a connection that fails in every way at every message.
func TestABridgeThatFailsAtAnyMessageLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"cut", "half", "stall"} {
		for _, up := range []bool{true, false} {
			for frame := 1; frame <= 12; frame++ {
				f := fault{kind, up, frame}
				t.Run(fmt.Sprintf("%s/up=%v/%d", kind, up, frame), func(t *testing.T) {
					t.Parallel()
					crossFault(t, f)
				})
			}
		}
	}
}

func crossFault(t *testing.T, f fault) {
	r := newReceiver(t)
	r.prompts = []Prompt{{ID: "p1", Text: "a"}, {ID: "p2", Text: "b"}, {ID: "p3", Text: "c"}}
	proxy := newFaultyProxy(t, serveBridge(t, r.serve), f)
	b, w := runBridge(t, BridgeConfig{Control: "http://" + proxy.listener.Addr().String()})
	for i := range 6 {
		b.Event(KindNote, "", BodyNote{Text: fmt.Sprint(i)})
	}
	b.Delta(Delta{Prompt: "p1", Part: "running", Kind: KindText, Text: "begun"})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range 3 {
		result, err := b.Call(ctx, Call{ID: fmt.Sprintf("c%d", i), Tool: "look"})
		if err != nil || result.Text != "done look" {
			t.Fatalf("call %d: %+v, %v", i, result, err)
		}
	}
	b.Delta(Delta{Prompt: "p9", Part: "late", Kind: KindText, Text: "one "})
	b.Delta(Delta{Prompt: "p9", Part: "late", Kind: KindText, Offset: 4, Text: "two"})
	r.until("all events", func() bool { return len(r.stored) >= 12 && r.parts["late"] == "one two" })
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	checkCrossed(t, r, w)
	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	// Fewer messages than that go down before the end.
	if !proxy.hit && f.frame <= 6 {
		t.Error("the fault never happened")
	}
}

// checkCrossed expects each event and each prompt once, in order.
func checkCrossed(t *testing.T, r *receiver, w *worker) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff([]string{"p1", "p2", "p3"}, w.got); diff != "" {
		t.Errorf("prompts (-want +got):\n%s", diff)
	}
	notes, settled := 0, 0
	for i, e := range r.stored {
		if e.N != int64(i)+1 {
			t.Errorf("event %d is at place %d", e.N, i+1)
		}
		switch e.Kind {
		case KindNote:
			var n BodyNote
			if json.Unmarshal(e.Body, &n) != nil || n.Text != fmt.Sprint(notes) {
				t.Errorf("note %d is %s", notes, e.Body)
			}
			notes++
		case KindSettled:
			settled++
		}
	}
	if notes != 6 || settled != 3 || len(r.stored) != 12 {
		t.Errorf("%d notes, %d ends, %d events", notes, settled, len(r.stored))
	}
}

// TestAnEventThatIsTooLargeHoldsUpNothing is I3 and I5 for a prompt that changes
// or says more than the bridge carries.
func TestAnEventThatIsTooLargeHoldsUpNothing(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	b, _ := runBridge(t, BridgeConfig{Control: "http://" + serveBridge(t, r.serve)})
	var files []FileDiff
	var names []any
	for i := range 40_000 {
		name := fmt.Sprintf("some/folder/of/generated/code/with/many/files/in/it/and/a/long/name/%d.go", i)
		files = append(files, FileDiff{Path: name, Status: "added", Additions: i})
		names = append(names, name)
	}
	b.Event(KindDiff, "p", BodyDiff{Files: files})
	b.Event(KindTool, "p", BodyTool{Part: "t", Tool: "look", State: "completed", Input: map[string]any{"names": names}, Output: "seen"})
	smuggle(t, b, Event{N: 3, Prompt: "p", Kind: KindTodo, Body: json.RawMessage(`"` + strings.Repeat("x", MaxUp) + `"`)})
	b.Event(KindSettled, "p", BodySettled{Outcome: OutcomeCompleted, Answer: strings.Repeat("\x01", 2*MaxUp), Files: 40_000})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stored) != 4 {
		t.Fatalf("%d events arrived", len(r.stored))
	}
	for i, kind := range map[int]string{0: KindDiff, 2: KindTodo} {
		var note BodyNote
		if e := r.stored[i]; e.Kind != KindNote || json.Unmarshal(e.Body, &note) != nil || !strings.Contains(note.Text, `"`+kind+`" was left out: it was larger`) {
			t.Errorf("the %s became %s %.300s", kind, e.Kind, e.Body)
		}
	}
	var tool BodyTool
	if e := r.stored[1]; e.Kind != KindTool || json.Unmarshal(e.Body, &tool) != nil || tool.Part != "t" || tool.State != "completed" || tool.Output != "seen" {
		t.Errorf("the tool's end became %s %.300s", e.Kind, e.Body)
	}
	var end BodySettled
	if e := r.stored[3]; e.Kind != KindSettled || json.Unmarshal(e.Body, &end) != nil || end.Outcome != OutcomeCompleted || end.Files != 40_000 {
		t.Errorf("the prompt's end became %s %.300s", e.Kind, e.Body)
	}
}

// smuggle puts an event into the spool as it is.
func smuggle(t *testing.T, b *Bridge, e Event) {
	t.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	b.spool.mu.Lock()
	defer b.spool.mu.Unlock()
	if e.N != b.spool.first+int64(len(b.spool.entries)) {
		t.Fatalf("event %d is not the next one", e.N)
	}
	b.spool.entries = append(b.spool.entries, b.spool.put(data))
}

func TestASupervisorOfAnotherVersionIsToldWhy(t *testing.T) {
	t.Parallel()
	addr := serveBridge(t, func(context.Context, string, *Link) { t.Error("it was served") })
	b, err := NewBridge(BridgeConfig{Control: "http://" + addr, Token: "secret", Boot: "b", SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := b.dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(s.read)
	if err := s.send(context.Background(), Message{Hello: &Hello{Version: 99, Boot: "b"}}); err != nil {
		t.Fatal(err)
	}
	_, err = s.recv(context.Background())
	if err == nil || !strings.Contains(err.Error(), "start a new sandbox") {
		t.Errorf("the answer is %v", err)
	}
	s.close(1000, "")
	reading.Wait()
}

func TestARequestWithoutATokenIsRefused(t *testing.T) {
	t.Parallel()
	addr := serveBridge(t, func(context.Context, string, *Link) { t.Error("it was served") })
	resp, err := http.Get("http://" + addr + BridgePath)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("answered %s", resp.Status)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestABridgeWithoutAControlPlaneGivesUpAfterItsPatience(t *testing.T) {
	t.Parallel()
	b, err := NewBridge(BridgeConfig{Control: "unix:" + t.TempDir() + "/none", Token: "x", Boot: "b",
		SpoolDir: t.TempDir(), Patience: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Run(context.Background(), &worker{bridge: b}); err != ErrAbandoned {
		t.Errorf("ended with %v", err)
	}
}

func TestDeltasKeepTheirPlaceAmongEventsAndAreCollected(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var order []string
	seen := make(chan struct{}, 100)
	addr := serveBridge(t, func(ctx context.Context, _ string, l *Link) {
		if l.Send(ctx, Message{Welcome: &Welcome{}}) != nil {
			return
		}
		for {
			m, err := l.Recv(ctx)
			if err != nil {
				return
			}
			mu.Lock()
			if m.Delta != nil {
				order = append(order, "delta "+m.Delta.Text)
			} else if m.Event != nil {
				order = append(order, "event "+m.Event.Kind)
			}
			mu.Unlock()
			seen <- struct{}{}
		}
	})
	b, _ := runBridge(t, BridgeConfig{Control: "http://" + addr})
	<-seen // the first heartbeat: the connection stands
	b.Event(KindTool, "p", BodyTool{Part: "t", State: "running"})
	text := ""
	for _, piece := range []string{"a", "b", "c"} {
		b.Delta(Delta{Prompt: "p", Part: "t", Kind: KindTool, Offset: len(text), Text: piece})
		text += piece
	}
	b.Event(KindTool, "p", BodyTool{Part: "t", State: "completed"})
	deadline := time.After(time.Minute)
	want := []string{"event tool", "delta abc", "event tool"}
	for {
		mu.Lock()
		got := append([]string(nil), order...)
		mu.Unlock()
		if len(got) >= len(want) {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			return
		}
		select {
		case <-seen:
		case <-deadline:
			t.Fatalf("only %v arrived", got)
		}
	}
}
