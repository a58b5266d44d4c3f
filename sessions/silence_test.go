package sessions

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestASilenceCountsFromWhenItIsSeenNotFromTheLastHeartbeat(t *testing.T) { // I9
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var since silences
		// The machine slept: by Postgres's clock the box was last heard an hour ago.
		heard := time.Now().Add(-time.Hour)
		if d := since.of("s1", heard); d != 0 {
			t.Errorf("at the first look it has been silent for %s", d)
		}
		time.Sleep(3 * time.Minute) // in the bubble's own time
		if d := since.of("s1", heard); d != 3*time.Minute {
			t.Errorf("after three minutes of silence it has been silent for %s", d)
		}
		if d := since.of("s1", heard.Add(time.Second)); d != 0 {
			t.Errorf("after a heartbeat it has been silent for %s", d)
		}
		if d := since.of("s2", heard); d != 0 {
			t.Errorf("another session's box has been silent for %s", d)
		}
	})
}
