package sessions

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestABoxThatCannotBeSavedIsTriedLessAndLessOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		said, tries := 0, 0
		boxes := &tending{again: 2 * time.Second, report: func(error) { said++ }}
		broken := true
		look := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Second) {
				boxes.begin("s1", func() error {
					tries++
					if broken {
						return errors.New("the provider is busy")
					}
					return nil
				})
				boxes.wait()
			}
		}
		look(10 * time.Minute)
		if tries < 20 || tries > 45 || said != tries {
			t.Errorf("in ten minutes it is tried %d times, and said %d times", tries, said)
		}
		others := 0
		boxes.begin("s2", func() error { others++; return nil })
		boxes.wait()
		if others != 1 {
			t.Error("another box waits with it")
		}
		broken, tries = false, 0
		look(time.Minute)
		if tries < 20 {
			t.Errorf("once it works it is looked after %d times in a minute", tries)
		}
	})
}
