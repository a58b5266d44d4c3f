package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"openinspect/internal/doors"
	"openinspect/sandbox"
)

// oneToken knows one sandbox.
type oneToken string

func (o oneToken) Authenticate(_ context.Context, token string) (doors.Access, error) {
	switch token {
	case string(o):
		return doors.Access{}, nil
	case "database down":
		return doors.Access{}, errors.New("no connection")
	}
	return doors.Access{}, doors.ErrUnknownToken
}

func TestASandboxFetchesTheProgramThatRunsHere(t *testing.T) {
	t.Parallel()
	p, err := openExecutable()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+sandbox.SupervisorPath+"{sha256}", p.handler(oneToken("good"), slog.New(slog.DiscardHandler)))
	s := httptest.NewServer(mux)
	defer s.Close()
	get := func(token, hash, encoding string) (int, string, string) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+sandbox.SupervisorPath+hash, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set(sandbox.TokenHeader, token)
		if encoding != "" { // the client asks for gzip by itself otherwise, and unpacks it
			q.Header.Set("Accept-Encoding", encoding)
		}
		resp, err := s.Client().Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body), resp.Header.Get("Content-Encoding")
	}
	for _, encoding := range []string{"", "identity"} {
		status, body, _ := get("good", p.sha256, encoding)
		if status != http.StatusOK || body != string(want) {
			t.Errorf("with %q it answers %d and %d bytes, which are not the program's %d", encoding, status, len(body), len(want))
		}
		sum := sha256.Sum256([]byte(body))
		if hex.EncodeToString(sum[:]) != p.sha256 {
			t.Errorf("the program's sum is not %s", p.sha256)
		}
	}
	if _, body, how := get("good", p.sha256, "br, gzip"); how != "gzip" || len(body) > len(want)*2/3 {
		t.Errorf("compressed by %q it has %d of %d bytes", how, len(body), len(want))
	}
	for name, tc := range map[string]struct {
		token, hash string
		status      int
	}{
		"nobody":                         {"", p.sha256, http.StatusUnauthorized},
		"a stranger":                     {"bad", p.sha256, http.StatusUnauthorized},
		"somebody of another time":       {"good", strings.Repeat("0", 64), http.StatusNotFound},
		"while Postgres does not answer": {"database down", p.sha256, http.StatusServiceUnavailable},
	} {
		if status, body, _ := get(tc.token, tc.hash, ""); status != tc.status || len(body) > 200 {
			t.Errorf("%s gets %d and %d bytes, want %d", name, status, len(body), tc.status)
		}
	}
}
