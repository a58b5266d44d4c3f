package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// bridgeCutter stands between sandboxes and the machine listener, and loses and
// cuts the bridges that go through it, and nothing else.
type bridgeCutter struct {
	listener net.Listener
	upstream string
	work     sync.WaitGroup

	mu      sync.Mutex
	bridges map[net.Conn]*bridgeEnd
	dialled int
}

// bridgeEnd is where a bridge's frames go up. A lost one takes them and passes
// nothing on, like a network that is gone and has not said so.
type bridgeEnd struct {
	net.Conn
	lost atomic.Bool
}

func (e *bridgeEnd) Write(p []byte) (int, error) {
	if e.lost.Load() {
		return len(p), nil
	}
	return e.Conn.Write(p)
}

// cutBridges puts itself in the machine listener's place. Sandboxes that are
// started later connect through it.
func (r *rig) cutBridges() *bridgeCutter {
	r.Helper()
	socket := filepath.Join(r.practice.dir, "machine", "machine.sock")
	c := &bridgeCutter{upstream: socket + ".behind", bridges: map[net.Conn]*bridgeEnd{}}
	if err := os.Rename(socket, c.upstream); err != nil {
		r.Fatal(err)
	}
	var err error
	if c.listener, err = net.Listen("unix", socket); err != nil {
		r.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil { // sandboxes run as other users
		r.Fatal(err)
	}
	c.work.Go(c.serve)
	r.Cleanup(func() {
		r.stop() // parks the sandboxes, for which it needs their bridges
		c.listener.Close()
		c.work.Wait()
	})
	return c
}

func (c *bridgeCutter) serve() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.work.Go(func() { c.pass(conn) })
	}
}

// pass carries one connection. A bridge is known by its first bytes.
func (c *bridgeCutter) pass(down net.Conn) {
	defer down.Close()
	conn, err := net.Dial("unix", c.upstream)
	if err != nil {
		return
	}
	up := &bridgeEnd{Conn: conn}
	defer up.Close()
	first := make([]byte, 4096)
	n, err := down.Read(first)
	if err != nil {
		return
	}
	if bytes.HasPrefix(first, []byte("GET /bridge")) {
		c.opened(down, up)
		defer c.closed(down)
	}
	if _, err := up.Write(first[:n]); err != nil {
		return
	}
	c.work.Go(func() {
		_, _ = io.Copy(up, down) // how it ends is the ends' affair
		up.Close()
	})
	_, _ = io.Copy(down, up)
}

func (c *bridgeCutter) opened(down net.Conn, up *bridgeEnd) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bridges[down] = up
	c.dialled++
}

func (c *bridgeCutter) closed(down net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.bridges, down)
}

// lose lets nothing more of the open bridges reach the control plane.
func (c *bridgeCutter) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, up := range c.bridges {
		up.lost.Store(true)
	}
}

// cut ends the bridges that are open and says how many they were.
func (c *bridgeCutter) cut() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for down := range c.bridges {
		down.Close()
	}
	return len(c.bridges)
}

// dials is how many bridges were opened so far.
func (c *bridgeCutter) dials() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dialled
}

func TestABridgeThatIsCutAgainAndAgainIsNotNoticed(t *testing.T) {
	const steps = 12
	var script strings.Builder
	script.WriteString("match count slowly\n")
	for i := range steps {
		fmt.Fprintf(&script, "step\nsay\n\tI count to %d.\ncall bash\n\tdescription: Count\n\tcommand: sleep 0.5; echo counted %d\n", i, i)
	}
	script.WriteString("step\nsay\n\tI have counted.\n")
	r := startRig(t, func(p *practice) { p.scripts = scriptFS{"count.txt": script.String()}.write(t) })
	cutter := r.cutBridges()
	channel := r.channel("greeter")
	thread := r.say("alice", channel, "", "@inspect count slowly in acme/greeter")
	for cuts := 1; cuts <= 5; cuts++ {
		r.eventually("the next step", time.Minute, func() error {
			var n int
			err := r.db.Get(&n, `select count(*) from events e join sessions s on s.id = e.session_id
				where s.thread = $1 and e.kind = 'text'`, thread)
			if err == nil && n < 2*cuts {
				err = fmt.Errorf("%d texts", n)
			}
			return err
		})
		cutter.lose()
		before := len(r.practice.model.Requests())
		r.eventually("the agent works on", time.Minute, func() error {
			if len(r.practice.model.Requests()) <= before {
				return errors.New("it has not asked the model again")
			}
			return nil
		})
		if cutter.cut() == 0 {
			t.Error("there is no bridge to cut")
		}
		r.eventually("the bridge is opened again", 30*time.Second, func() error {
			if n := cutter.dials(); n <= cuts {
				return fmt.Errorf("it was opened %d times", n)
			}
			return nil
		})
	}
	if p := r.promptsOf(thread); p[0].State != "running" {
		t.Errorf("the prompt is %s already: the last cuts did not disturb it", p[0].State)
	}
	prompts := r.waitSettled(thread, 1, time.Minute)
	r.waitMessage(channel, thread, 30*time.Second, "I have counted.")
	r.checkThread(channel, thread, prompts)
	r.checkLog(prompts[0].Session)
	r.checkCounted(prompts[0].Session, steps)
}

// checkCounted checks that each step is in the log once and in its place.
func (r *rig) checkCounted(session string, steps int) {
	r.Helper()
	var said, want []string
	err := r.db.Select(&said, `select body->>'text' from events where session_id = $1 and kind = 'text'
		and body->>'text' like 'I count%' order by seq`, session)
	if err != nil {
		r.Fatal(err)
	}
	for i := range steps {
		want = append(want, fmt.Sprintf("I count to %d.", i))
	}
	if strings.Join(said, " ") != strings.Join(want, " ") {
		r.Errorf("the log says %q", said)
	}
	var ended int
	err = r.db.Get(&ended, `select count(*) from events where session_id = $1 and kind = 'tool' and body->>'state' = 'completed'`, session)
	if err != nil {
		r.Fatal(err)
	}
	if ended != steps {
		r.Errorf("%d commands ended in the log, want %d", ended, steps)
	}
}
