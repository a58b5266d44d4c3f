package modal

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	sdk "github.com/modal-labs/modal-client/go"
)

// envServe makes this program a stand-in over the directory that it names,
// which can be killed.
const envServe = "MODAL_TEST_SERVE"

// serveAlone runs a stand-in until it is killed, and prints its URL.
func serveAlone(dir string) {
	s, err := Open(context.Background(), dir, Options{Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		fmt.Println(s.URL())
		err = s.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// startAlone starts a stand-in in a process of its own.
func startAlone(t *testing.T, dir string) (cmd *exec.Cmd, url string) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envServe+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the stand-in did not start: %v", err)
	}
	return cmd, strings.TrimSpace(line)
}

func TestAKilledStandInLosesAndLeaksNothing(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	s.end()
	const together = 3
	var answered []string
	for round := range together + 1 { // killed when so many of the creates were answered
		cmd, url := startAlone(t, s.dir)
		client := connect(t, url, TokenSecret)
		image, err := client.Images.FromRegistry("debian:12", nil).Build(s.ctx, s.app, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(s.ctx)
		ids := make(chan string, together)
		for n := range together {
			go func() {
				name := fmt.Sprintf("round-%d-%d", round, n)
				b, err := client.Sandboxes.Create(ctx, s.app, image, &sdk.SandboxCreateParams{Name: name, Command: []string{"sleep", "600"}})
				if err != nil {
					ids <- ""
					return
				}
				ids <- b.SandboxID
			}()
		}
		for range round {
			answered = append(answered, <-ids)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait() // it was killed
		cancel()
		for range together - round {
			if id := <-ids; id != "" { // answered in the last moment
				answered = append(answered, id)
			}
		}
		client.Close()
	}
	s.start(Options{})
	s.recordsAndBoxesMatch()
	for _, id := range answered {
		b, err := s.client.Sandboxes.FromID(s.ctx, id, nil)
		if err != nil {
			t.Fatal(err)
		}
		if exit, err := b.Poll(s.ctx, nil); err != nil || exit != nil {
			t.Errorf("sandbox %s was answered and is lost: %v, %v", id, exit, err)
		}
	}
}

// recordsAndBoxesMatch fails if a sandbox lives without its box or a box without
// its sandbox.
func (s *stand) recordsAndBoxesMatch() {
	s.t.Helper()
	boxes := map[string]bool{}
	for info, err := range s.boxes.List(s.ctx, nil) {
		if err != nil {
			s.t.Fatal(err)
		}
		boxes[info.ID] = true
	}
	for _, r := range s.Sandboxes() {
		if live := r.Ended.IsZero(); live != boxes[r.Box] {
			s.t.Errorf("sandbox %s lives: %v, its box: %v", r.Name, live, boxes[r.Box])
		}
		delete(boxes, r.Box)
	}
	if len(boxes) > 0 {
		s.t.Errorf("boxes without a sandbox: %v", boxes)
	}
}
