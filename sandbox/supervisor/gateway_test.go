package supervisor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"openinspect/sandbox"
)

// startGateway serves one for a control plane until the test ends.
func startGateway(t *testing.T, control string) *gateway {
	t.Helper()
	c, err := sandbox.ParseControl(control)
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGateway(c, testToken, "key", "127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	g.tools = http.NotFoundHandler()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g
}

// echoProxy is an egress proxy whose every tunnel leads to an echo.
func echoProxy(t *testing.T, seen func(*http.Request)) string {
	t.Helper()
	var tunnels sync.WaitGroup
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen(r)
		if r.Host == "refused.example:443" {
			http.Error(w, "this host is not on the allow list", http.StatusForbidden)
			return
		}
		if r.Method != http.MethodConnect {
			fmt.Fprintf(w, "%s %s", r.Method, r.URL)
			return
		}
		tunnels.Add(1)
		defer tunnels.Done()
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(conn, buf)
	}))
	t.Cleanup(func() { s.Close(); tunnels.Wait() })
	return s.URL
}

func TestTunnelsThroughTheGatewayCarryTheBoxsTokenAndBothDirections(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var hosts []string
	g := startGateway(t, echoProxy(t, func(r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		hosts = append(hosts, r.Host+" "+r.Header.Get(sandbox.TokenHeader))
	}))
	conn, err := net.Dial("tcp", g.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	// What comes right behind the request belongs to the tunnel.
	_, _ = io.WriteString(conn, "CONNECT packages.example:443 HTTP/1.1\r\nHost: packages.example:443\r\n\r\nhello ")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", resp, err)
	}
	_, _ = io.WriteString(conn, "world")
	_ = conn.(*net.TCPConn).CloseWrite()
	if echo, err := io.ReadAll(r); err != nil || string(echo) != "hello world" {
		t.Errorf("the tunnel echoed %q, %v", echo, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(hosts) != 1 || hosts[0] != "packages.example:443 "+testToken {
		t.Errorf("the proxy saw %q", hosts)
	}
}

func TestTheProxysRefusalReachesTheProgramThatAsked(t *testing.T) {
	t.Parallel()
	g := startGateway(t, echoProxy(t, func(*http.Request) {}))
	proxy, err := url.Parse(g.url())
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
	if _, err := client.Get("https://refused.example/"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("the tunnel answered %v", err)
	}
	resp, err := client.Get("http://plain.example/x?y=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); string(text) != "GET http://plain.example/x?y=1" {
		t.Errorf("the proxy was asked for %s", text)
	}
}

func TestTheGatewayServesTheAgentsToolsToTheAgentAlone(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "http://127.0.0.1:1")
	for path, want := range map[string]int{"/mcp": 401, "/": 404, "/git/a/b.git/info/refs": 502} {
		resp, err := http.Get(g.url() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s answered %s", path, resp.Status)
		}
	}
}

func TestARequestToTheToolsIsBounded(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "http://127.0.0.1:1")
	g.tools = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		}
	})
	for size, want := range map[int]int{mostToolRequest: 200, mostToolRequest + 1: 413} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url()+"/mcp", strings.NewReader(strings.Repeat("x", size)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer key")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d bytes were answered %s", size, resp.Status)
		}
	}
}
