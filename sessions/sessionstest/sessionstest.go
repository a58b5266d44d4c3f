// Package sessionstest is what tests of the core and of its surfaces stand on: a
// world with a real database, a real Engine, a code host in memory and sandboxes
// whose supervisor is the real bridge with a scripted agent behind it.
package sessionstest

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"openinspect/internal/devpg/pgtest"
	"openinspect/internal/seal"
	"openinspect/sandbox"
	"openinspect/sessions"
)

// World is one database with everything around it. Engines over it are its replicas.
type World struct {
	T        testing.TB
	URL      string // of the database
	DB       *sqlx.DB
	Forge    *Forge
	Provider *Provider
	Log      *slog.Logger

	dir      string // of the boxes
	mu       sync.Mutex
	cuts     map[int]context.CancelFunc // of the bridges that are connected
	bridged  int
	people   atomic.Int64
	replicas atomic.Int64
	bridges  atomic.Pointer[http.Handler]
	server   *httptest.Server
}

// New makes a world with the repositories acme/greeter and acme/billing.
func New(t testing.TB) *World {
	t.Helper()
	dir := t.TempDir() // first, so that it is removed last
	w := &World{T: t, URL: pgtest.NewURL(t), dir: dir, cuts: map[int]context.CancelFunc{}, Forge: NewForge("acme/greeter", "acme/billing"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	w.DB = pgtest.Open(t, w.URL)
	w.server = httptest.NewServer(http.HandlerFunc(w.bridge))
	t.Cleanup(w.server.Close)
	w.Provider = newProvider(w)
	t.Cleanup(w.Provider.close)
	return w
}

// bridge hands a supervisor to the replica that answers now.
func (w *World) bridge(rw http.ResponseWriter, r *http.Request) {
	h := w.bridges.Load()
	if h == nil {
		http.Error(rw, "no replica answers", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(rw, r)
}

// Engine makes a replica that is not running, with the repositories known. Each
// change is made to its configuration first.
func (w *World) Engine(changes ...func(*sessions.Config)) *sessions.Engine {
	w.T.Helper()
	key, err := seal.Parse(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))))
	if err != nil {
		w.T.Fatal(err)
	}
	cfg := sessions.Config{
		Replica: fmt.Sprintf("replica-%d", w.replicas.Add(1)), Listen: w.URL,
		PublicURL: "https://inspect.test", Control: w.server.URL, Command: []string{"openinspect", "supervise"},
		Provider: w.Provider, Forge: w.Forge, Seal: key,
		Model: "test/model", Protocol: "openai", BotName: "inspect", BotEmail: "inspect@bot.test",
		ImageBuilds: -1, // tests of images change that
	}
	for _, change := range changes {
		change(&cfg)
	}
	e, err := sessions.New(w.Log, w.DB, cfg)
	if err != nil {
		w.T.Fatal(err)
	}
	if err := e.RefreshRepositories(context.Background()); err != nil {
		w.T.Fatal(err)
	}
	return e
}

// Run runs the replica and lets it answer the bridge. stop ends it as a crash
// would, without goodbyes, and waits for its goroutines.
func (w *World) Run(e *sessions.Engine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	handler := http.NewServeMux()
	handler.Handle(sandbox.BridgePath, sandbox.BridgeHandler(e.ServeBridge))
	handler.Handle(sandbox.UploadPath, sandbox.UploadHandler(e.AdmitUpload, e.TakeUpload))
	var bridges sync.WaitGroup
	var serving http.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		bridges.Add(1)
		defer bridges.Done()
		rctx, done := context.WithCancel(r.Context())
		defer done()
		defer context.AfterFunc(ctx, done)()
		defer w.cuttable(done)()
		handler.ServeHTTP(rw, r.WithContext(rctx))
	})
	w.bridges.Store(&serving)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	var stopped atomic.Bool
	stop = func() {
		if stopped.Swap(true) {
			return
		}
		w.bridges.CompareAndSwap(&serving, nil)
		cancel()
		bridges.Wait()
		if err := <-ended; err != nil {
			w.T.Errorf("the engine ended with %v", err)
		}
	}
	w.T.Cleanup(stop)
	return stop
}

// cuttable notes how to cut a bridge.
func (w *World) cuttable(cut context.CancelFunc) (forget func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bridged++
	n := w.bridged
	w.cuts[n] = cut
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.cuts, n)
	}
}

// Cut cuts all bridges; the supervisors will dial again.
func (w *World) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, cut := range w.cuts {
		cut()
	}
}

// Person makes somebody with a Slack identity.
func (w *World) Person(e *sessions.Engine, name string) sessions.Person {
	w.T.Helper()
	p, err := e.SlackPerson(context.Background(), "T1", fmt.Sprintf("U%d", w.people.Add(1)), name, "", "")
	if err != nil {
		w.T.Fatal(err)
	}
	return p
}

// Linked makes somebody whose GitHub account is connected.
func (w *World) Linked(e *sessions.Engine, name string) sessions.Person {
	w.T.Helper()
	p := w.Person(e, name)
	login := strings.ToLower(name)
	if err := e.LinkGitHub(context.Background(), p.ID, 1000+w.people.Load(), login, w.Forge.Grant(login, time.Time{})); err != nil {
		w.T.Fatal(err)
	}
	p, err := e.Person(context.Background(), p.ID)
	if err != nil {
		w.T.Fatal(err)
	}
	return p
}

// Ask accepts a request, as a mention in a thread of channel C1 if ts is not empty.
func (w *World) Ask(e *sessions.Engine, by uuid.UUID, ts, text string) sessions.Accepted {
	w.T.Helper()
	return w.AskAt(e, by, ts, "", text)
}

// AskAt is Ask for a message of its own ts in the thread.
func (w *World) AskAt(e *sessions.Engine, by uuid.UUID, ts, message, text string) sessions.Accepted {
	w.T.Helper()
	r := sessions.Request{Key: "key:" + uuid.NewString(), Source: sessions.FromWeb, Author: by, Text: text, MessageTS: message}
	if ts != "" {
		r.Source, r.Thread = sessions.FromSlack, &sessions.Thread{Team: "T1", Channel: "C1", TS: ts}
	}
	acc, err := e.Accept(context.Background(), r)
	if err != nil {
		w.T.Fatal(err)
	}
	return acc
}

// patience is how long something is waited for that comes about by itself. It costs
// nothing where it comes, and a busy machine is no failure.
const patience = time.Minute

// Eventually waits until ok, or fails the test after a time that is long enough
// for a busy machine.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
}
