package sessions_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openinspect/sandbox"
	"openinspect/sessions/sessionstest"
)

// The memory of live sessions is measured without that of their sandboxes: the
// other ends of the bridges run in a process of their own, which is this test
// binary again.

// peersVariable says to the binary that it is that process.
const peersVariable = "OPENINSPECT_TEST_PEERS"

// peerSpec is what the process needs for one sandbox: a line on its input.
type peerSpec struct {
	Control, Token, Dir string
}

// servePeers runs a bridge for each line until its input ends.
func servePeers(in io.Reader) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var s peerSpec
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			panic(err)
		}
		bridge, err := sandbox.NewBridge(sandbox.BridgeConfig{Control: s.Control, Token: s.Token, Boot: s.Dir, SpoolDir: s.Dir,
			Heartbeat: func() sandbox.Heartbeat { return sandbox.Heartbeat{Busy: true} }})
		if err != nil {
			panic(err)
		}
		all.Go(func() { _ = bridge.Run(ctx, &talkingPeer{bridge: bridge}) })
	}
	cancel()
	all.Wait()
}

// talkingPeer answers a prompt with 230 events and goes on working.
type talkingPeer struct {
	bridge *sandbox.Bridge
	ready  sync.Once
}

func (p *talkingPeer) Welcome(sandbox.Welcome) {
	p.ready.Do(func() {
		p.bridge.Event(sandbox.KindPhase, "", sandbox.BodyPhase{Phase: sandbox.PhaseReady, State: "done"})
	})
}

func (p *talkingPeer) Prompt(prompt sandbox.Prompt) {
	for i := range 230 {
		p.bridge.Event(sandbox.KindText, prompt.ID, sandbox.BodyText{Part: fmt.Sprint(i), Text: piece})
	}
}

func (*talkingPeer) Stop(sandbox.Stop) {}
func (*talkingPeer) Park(sandbox.Park) {}
func (*talkingPeer) Vet(sandbox.Vet)   {}

// distant is a provider whose boxes are bridges of the other process.
type distant struct {
	*sessionstest.Provider
	t     testing.TB
	lines io.Writer
	mu    sync.Mutex
	count atomic.Int64
}

func newDistant(t testing.TB, p *sessionstest.Provider) *distant {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), peersVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // its bridges end with their input
	})
	return &distant{Provider: p, t: t, lines: in}
}

// Start has the other process connect a bridge.
func (d *distant) Start(_ context.Context, s sandbox.Spec) (sandbox.Box, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := os.MkdirTemp(d.t.TempDir(), "peer-")
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(peerSpec{Control: s.Env[sandbox.EnvControl], Token: s.Env[sandbox.EnvToken], Dir: dir})
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(d.lines, "%s\n", data); err != nil {
		return nil, err
	}
	return distantBox{id: fmt.Sprint(d.count.Add(1))}, nil
}

// distantBox is known by its id alone; nothing else of it is used.
type distantBox struct {
	sandbox.Box
	id string
}

func (b distantBox) ID() string { return b.id }

func (b distantBox) Info(context.Context) (sandbox.Info, error) {
	return sandbox.Info{ID: b.id, Alive: true, Born: time.Now()}, nil
}

func (b distantBox) Kill(context.Context) error { return nil }
