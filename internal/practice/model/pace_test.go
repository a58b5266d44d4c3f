package model

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestChunksComeInTheirPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		e := &emitter{w: w, rc: http.NewResponseController(w), pace: DefaultPace, protocol: openAI{}}
		began := time.Now()
		for range 6 {
			if err := e.send(t.Context(), []byte("data: {}\n\n")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 5*DefaultPace {
			t.Errorf("six chunks took %v, want five pauses of %v", took, DefaultPace)
		}
		e.pace = 0
		began = time.Now()
		if err := e.send(t.Context(), []byte("data: {}\n\n")); err != nil || time.Since(began) != 0 {
			t.Errorf("without a pace a chunk took %v, %v", time.Since(began), err)
		}
	})
}
