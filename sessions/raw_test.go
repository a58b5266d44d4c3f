package sessions_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"openinspect/sandbox"
	"openinspect/sessions"
	"openinspect/sessions/sessionstest"
)

// inert is a provider whose boxes do nothing: the test plays the supervisor.
type inert struct {
	sandbox.Provider
	specs chan sandbox.Spec
}

type inertBox struct{ sandbox.Box }

func (inertBox) ID() string { return "inert" }

func (p inert) Start(_ context.Context, s sandbox.Spec) (sandbox.Box, error) {
	p.specs <- s
	return inertBox{}, nil
}

func (p inert) Attach(context.Context, string) (sandbox.Box, error) { return inertBox{}, nil }

// raw is a supervisor's connection, frame by frame.
type raw struct {
	t  *testing.T
	ws *websocket.Conn
}

// rawWorld has one session whose sandbox is the test itself.
func rawWorld(t *testing.T) (*sessionstest.World, *sessions.Engine, sessions.Accepted, sandbox.Spec) {
	t.Helper()
	w := sessionstest.New(t)
	p := inert{w.Provider, make(chan sandbox.Spec, 10)}
	e := w.Engine(func(c *sessions.Config) { c.Provider = p })
	sessions.Hasten(e)
	w.Run(e)
	acc := w.Ask(e, w.Linked(e, "Alice").ID, "1.0", "acme/greeter: one")
	return w, e, acc, <-p.specs
}

// dial connects with a hello and returns the welcome.
func dial(t *testing.T, spec sandbox.Spec, hello sandbox.Hello) (*raw, sandbox.Welcome) {
	t.Helper()
	url := "ws" + strings.TrimPrefix(spec.Env[sandbox.EnvControl], "http") + sandbox.BridgePath
	ws, _, err := websocket.DefaultDialer.Dial(url, http.Header{sandbox.TokenHeader: {spec.Env[sandbox.EnvToken]}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	r := &raw{t, ws}
	hello.Version = sandbox.ProtocolVersion
	r.send(sandbox.Message{Hello: &hello})
	m := r.recv(func(m sandbox.Message) bool { return m.Welcome != nil })
	return r, *m.Welcome
}

func (r *raw) send(m sandbox.Message) {
	r.t.Helper()
	if err := r.ws.WriteJSON(m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) event(n int64, prompt, kind string, body any) {
	r.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		r.t.Fatal(err)
	}
	r.send(sandbox.Message{Event: &sandbox.Event{N: n, Prompt: prompt, Kind: kind, Body: data}})
}

// recv skips to the first message that the test wants.
func (r *raw) recv(want func(sandbox.Message) bool) sandbox.Message {
	r.t.Helper()
	if err := r.ws.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	for {
		var m sandbox.Message
		if err := r.ws.ReadJSON(&m); err != nil {
			r.t.Fatal(err)
		}
		if want(m) {
			return m
		}
	}
}

// closed waits for the control plane to hang up and returns its sentence.
func (r *raw) closed() string {
	r.t.Helper()
	if err := r.ws.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	for {
		if _, _, err := r.ws.ReadMessage(); err != nil {
			return err.Error()
		}
	}
}

func (r *raw) acked(n int64) {
	r.t.Helper()
	r.recv(func(m sandbox.Message) bool { return m.Ack != nil && m.Ack.N >= n })
}

func ready(r *raw) {
	r.event(1, "", sandbox.KindPhase, sandbox.BodyPhase{Phase: sandbox.PhaseReady, State: "done"})
}

func isPrompt(m sandbox.Message) bool { return m.Prompt != nil }

func TestEventsSentTwiceAreStoredOnceAndAGapIsRefused(t *testing.T) { // I5
	t.Parallel()
	_, e, acc, spec := rawWorld(t)
	boot := uuid.NewString()
	r, _ := dial(t, spec, sandbox.Hello{Boot: boot})
	ready(r)
	for _, n := range []int64{2, 2, 1, 3, 2} {
		r.event(n, "", sandbox.KindNote, sandbox.BodyNote{Text: "note"})
	}
	r.acked(3)
	r.event(7, "", sandbox.KindNote, sandbox.BodyNote{Text: "after a gap"})
	r.closed()
	again, welcome := dial(t, spec, sandbox.Hello{Boot: boot})
	if welcome.AckedThrough != 3 {
		t.Errorf("after the reconnect events through %d are stored, want 3", welcome.AckedThrough)
	}
	again.event(4, "", sandbox.KindNote, json.RawMessage(`"not an object`+"\\u0000"+`"`))
	again.acked(4)
	notes := 0
	for _, ev := range log(t, e, acc.Session.ID) {
		if ev.Kind == sandbox.KindNote {
			notes++
		}
	}
	if notes != 3 {
		t.Errorf("the log has %d notes, want 3", notes)
	}
}

func TestAPromptLostOnTheWireIsSentAgainToTheSameBootOnly(t *testing.T) { // I5
	t.Parallel()
	_, e, acc, spec := rawWorld(t)
	boot := uuid.NewString()
	r, _ := dial(t, spec, sandbox.Hello{Boot: boot})
	ready(r)
	if m := r.recv(isPrompt); m.Prompt.ID != acc.Prompt.ID {
		t.Fatalf("got prompt %s", m.Prompt.ID)
	}
	r.ws.Close() // and it forgets what it read
	again, _ := dial(t, spec, sandbox.Hello{Boot: boot})
	if m := again.recv(isPrompt); m.Prompt.ID != acc.Prompt.ID {
		t.Errorf("after the reconnect got prompt %s", m.Prompt.ID)
	}
	again.ws.Close()
	other, _ := dial(t, spec, sandbox.Hello{Boot: uuid.NewString()})
	if p := ended(t, e, acc.Prompt.ID); p.State != sessions.Failed {
		t.Errorf("with another boot it ended as %s", p.State)
	}
	ready(other)
	other.acked(1)
	second := sessions.Request{Key: "second", Source: sessions.FromWeb, Author: acc.Prompt.Author, Session: acc.Session.ID, Text: "two"}
	next, err := e.Accept(bg, second)
	if err != nil {
		t.Fatal(err)
	}
	if m := other.recv(isPrompt); m.Prompt.ID != next.Prompt.ID {
		t.Errorf("the other boot got prompt %s, want the next one", m.Prompt.ID)
	}
}

func TestAStalledHolderCanWriteNothing(t *testing.T) { // I5
	t.Parallel()
	w, e, acc, spec := rawWorld(t)
	first := uuid.NewString()
	old, _ := dial(t, spec, sandbox.Hello{Boot: first})
	ready(old)
	old.recv(isPrompt)
	// The holder stalls: it does not see that somebody takes over.
	tx, err := w.DB.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`update sandboxes set epoch = epoch + 1, holder = 'somebody else' where session_id = $1`, acc.Session.ID); err != nil {
		t.Fatal(err)
	}
	old.event(2, acc.Prompt.ID, sandbox.KindSettled, sandbox.BodySettled{Outcome: sandbox.OutcomeCompleted, Answer: "too late"})
	sessionstest.Eventually(t, "the holder waits for the row", func() bool {
		var waiting bool
		err := w.DB.Get(&waiting, `select exists (select from pg_locks where not granted)`)
		return err == nil && waiting
	})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	old.closed()
	if p, err := e.Prompt(bg, acc.Prompt.ID); err != nil || p.State != sessions.Running {
		t.Errorf("what lost the lease settled the prompt: %s (%v)", p.State, err)
	}
	for _, ev := range log(t, e, acc.Session.ID) {
		if ev.Kind == sandbox.KindSettled {
			t.Error("what lost the lease appended to the log")
		}
	}
}

func TestAStopIsRepeatedUntilTheBoxConfirms(t *testing.T) { // I12
	t.Parallel()
	_, e, acc, spec := rawWorld(t)
	boot := uuid.NewString()
	r, _ := dial(t, spec, sandbox.Hello{Boot: boot})
	ready(r)
	r.recv(isPrompt)
	if _, err := e.Stop(bg, "k", acc.Session.ID, "", acc.Prompt.Author); err != nil {
		t.Fatal(err)
	}
	isStop := func(m sandbox.Message) bool { return m.Stop != nil && m.Stop.Prompt == acc.Prompt.ID }
	r.recv(isStop)
	r.recv(isStop) // nothing was confirmed
	r.ws.Close()
	r, _ = dial(t, spec, sandbox.Hello{Boot: boot, Prompts: []sandbox.KnownPrompt{{ID: acc.Prompt.ID}}})
	r.recv(isStop)
	next, err := e.Accept(bg, sessions.Request{Key: "next", Source: sessions.FromWeb, Author: acc.Prompt.Author, Session: acc.Session.ID, Text: "two"})
	if err != nil {
		t.Fatal(err)
	}
	r.event(2, acc.Prompt.ID, sandbox.KindSettled, sandbox.BodySettled{Outcome: sandbox.OutcomeStopped})
	if m := r.recv(isPrompt); m.Prompt.ID != next.Prompt.ID {
		t.Errorf("after the stop was confirmed got prompt %s", m.Prompt.ID)
	}
	log(t, e, acc.Session.ID)
}

func TestASandboxCannotSettleWhatItWasNotGiven(t *testing.T) {
	t.Parallel()
	w, e, acc, spec := rawWorld(t)
	r, _ := dial(t, spec, sandbox.Hello{Boot: uuid.NewString()})
	victim := w.Ask(e, acc.Prompt.Author, "2.0", "acme/billing: two")
	for n, id := range []string{acc.Prompt.ID, victim.Prompt.ID} { // queued, and another session's
		r.event(int64(n+1), id, sandbox.KindSettled, sandbox.BodySettled{Outcome: sandbox.OutcomeFailed, Reason: "mischief"})
	}
	r.acked(2)
	for _, id := range []string{acc.Prompt.ID, victim.Prompt.ID} {
		if p, err := e.Prompt(bg, id); err != nil || p.State != sessions.Queued {
			t.Errorf("a prompt that was not given to the sandbox is %s (%v)", p.State, err)
		}
	}
	r.send(sandbox.Message{Call: &sandbox.Call{ID: "c", Prompt: victim.Prompt.ID, Tool: "create_pull_request", Args: json.RawMessage(`{"title":"x"}`)}})
	got := r.recv(func(m sandbox.Message) bool { return m.Result != nil })
	if !got.Result.Error || len(w.Forge.PullRequests()) != 0 {
		t.Errorf("a call for another session's prompt was answered %+v", got.Result)
	}
}
