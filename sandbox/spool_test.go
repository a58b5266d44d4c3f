package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func mustAppend(t *testing.T, s *spool, kind string, body any) int64 {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.append(Event{Kind: kind, Body: data, At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustRead(t *testing.T, s *spool, n int64) Event {
	t.Helper()
	data, err := s.at(n)
	if err != nil {
		t.Fatal(err)
	}
	var e Event
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatalf("event %d: %v", n, err)
	}
	return e
}

func TestAFullSpoolDropsOutputsAndNeitherNumbersNorEnds(t *testing.T) {
	t.Parallel()
	s, err := openSpool(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for i := range 100 {
		mustAppend(t, s, KindTool, BodyTool{Part: fmt.Sprint(i), Tool: "bash", State: "completed", Output: strings.Repeat("x", 60_000)})
		mustAppend(t, s, KindSettled, BodySettled{Outcome: OutcomeCompleted, Answer: "short"})
	}
	info, err := s.file.Stat()
	if err != nil || s.held() > 1<<20 || info.Size() > 3<<20 {
		t.Errorf("the spool holds %d bytes in a file of %d (%v)", s.held(), info.Size(), err)
	}
	for n := int64(1); n <= 200; n++ {
		e := mustRead(t, s, n)
		if e.N != n {
			t.Errorf("event %d is at place %d", e.N, n)
		}
		var tool BodyTool
		if n == 1 && (json.Unmarshal(e.Body, &tool) != nil || tool.Part != "0" || !strings.Contains(tool.Output, "bytes were left out")) {
			t.Errorf("the oldest output is now %.200s", e.Body)
		}
		if n%2 == 0 && !strings.Contains(string(e.Body), "short") {
			t.Errorf("an end is now %s", e.Body)
		}
	}
}

func TestAnEventTooLargeForTheBridgeIsShortened(t *testing.T) {
	t.Parallel()
	s, err := openSpool(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	n := mustAppend(t, s, KindText, BodyText{Part: "p", Text: strings.Repeat("é", 3<<20)})
	data, err := s.at(n)
	if err != nil || len(data) > maxEvent {
		t.Errorf("it has %d bytes (%v)", len(data), err)
	}
	var b BodyText
	if e := mustRead(t, s, n); json.Unmarshal(e.Body, &b) != nil || b.Part != "p" || strings.Contains(b.Text, "\uFFFD") {
		t.Errorf("it became %.100s", b.Text)
	}
}

func TestEventsStayWhenTheDiskIsGone(t *testing.T) {
	t.Parallel()
	s, err := openSpool(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.file.Close()
	s.file = full // every write fails with "no space left on device"
	defer s.close()
	n := mustAppend(t, s, KindNote, BodyNote{Text: "kept"})
	if e := mustRead(t, s, n); !strings.Contains(string(e.Body), "kept") {
		t.Errorf("it became %s", e.Body)
	}
	s.ack(n)
	if _, count, _ := s.unacked(); count != 0 {
		t.Errorf("%d events are left after the acknowledgement", count)
	}
}
