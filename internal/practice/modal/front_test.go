package modal

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// serveInside makes a sandbox whose server on a port tells about its requests;
// it answers an upgrade and then echoes.
func serveInside(s *stand, port int) *sdk.Sandbox {
	s.t.Helper()
	return serveInsideWith(s, &sdk.SandboxCreateParams{}, port)
}

func serveInsideWith(s *stand, p *sdk.SandboxCreateParams, port int) *sdk.Sandbox {
	s.t.Helper()
	p.Command = []string{"perl", "-MIO::Socket::INET", "-MDigest::SHA=sha1_base64", "-e", fmt.Sprintf(`
		$| = 1;
		my $l = IO::Socket::INET->new(Listen => 9, LocalAddr => "127.0.0.1", LocalPort => %d, ReuseAddr => 1) or die;
		print "listening\n";
		while (my $c = $l->accept) {
			next if fork;
			my $q = ""; while (my $line = <$c>) { $q .= $line; last if $line eq "\r\n" }
			if ($q =~ /^Sec-WebSocket-Key: (\S+)/im) {
				my $a = sha1_base64($1 . "258EAFA5-E914-47DA-95CA-C5AB0DC85B11") . "=";
				print $c "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: $a\r\n\r\n";
				print $c "\x81\x05hello"; <$c>; exit;
			}
			print $c "HTTP/1.0 200 OK\r\nContent-Length: " . length($q) . "\r\n\r\n$q"; close $c; exit;
		}`, port)}
	b := s.create(p)
	got := make([]byte, len("listening\n"))
	if _, err := io.ReadFull(b.Stdout, got); err != nil {
		s.t.Fatal(err)
	}
	return b
}

// visitor makes requests to sandboxes, each with a header that it must not set.
type visitor struct {
	s      *stand
	client http.Client
}

func (v *visitor) get(url string, change func(*http.Request)) (int, string) {
	v.s.t.Helper()
	r, err := http.NewRequestWithContext(v.s.ctx, http.MethodGet, url, nil)
	if err != nil {
		v.s.t.Fatal(err)
	}
	r.Header.Set(userHeader, "forged")
	change(r)
	answer, err := v.client.Do(r)
	if err != nil {
		v.s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		v.s.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestAConnectTokenLeadsToOnePort(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := serveInside(s, 8080)
	c, err := b.CreateConnectToken(s.ctx, &sdk.SandboxCreateConnectTokenParams{UserMetadata: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	v := &visitor{s: s, client: http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	bearer := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+c.Token) }
	if code, _ := v.get(c.URL, func(*http.Request) {}); code != http.StatusUnauthorized {
		t.Errorf("without a token: %d", code)
	}
	if code, _ := v.get(c.URL, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+c.Token+"x") }); code != http.StatusUnauthorized {
		t.Errorf("with a wrong token: %d", code)
	}
	for name, change := range map[string]func(*http.Request){
		"header": bearer,
		"query":  func(r *http.Request) { r.URL.RawQuery = "a=b&" + tokenName + "=" + c.Token },
		"cookie": func(r *http.Request) { r.Header.Set("Cookie", "own=1; "+tokenName+"="+c.Token) },
	} {
		code, body := v.get(c.URL+"/path", change)
		if code != http.StatusOK || !strings.HasPrefix(body, "GET /path") || !strings.Contains(body, userHeader+": alice\r\n") {
			t.Errorf("by %s: %d %q", name, code, body)
		}
		if strings.Contains(body, c.Token) || strings.Contains(body, "forged") {
			t.Errorf("by %s the sandbox sees %q", name, body)
		}
	}
	v.client.Jar, _ = cookiejar.New(nil) // never fails
	v.get(c.URL+"/?"+tokenName+"="+c.Token, func(*http.Request) {})
	if code, _ := v.get(c.URL+"/next", func(*http.Request) {}); code != http.StatusOK {
		t.Errorf("the cookie that a query leaves: %d", code)
	}
	v.client.Jar = nil
	plain, err := b.CreateConnectToken(s.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, body := v.get(c.URL, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+plain.Token) })
	if strings.Contains(body, userHeader) {
		t.Errorf("a token without data lets a forged header pass: %q", body)
	}
	other, err := b.CreateConnectToken(s.ctx, &sdk.SandboxCreateConnectTokenParams{Port: 9999})
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := v.get(c.URL, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+other.Token) }); code != http.StatusBadGateway {
		t.Errorf("a port on which nobody listens: %d", code)
	}
	if err := s.KillBox(s.ctx, b.SandboxID); err != nil {
		t.Fatal(err)
	}
	if code, _ := v.get(c.URL, bearer); code != http.StatusNotFound {
		t.Errorf("a sandbox that ended: %d", code)
	}
	if _, err := b.CreateConnectToken(s.ctx, nil); status.Code(err) != codes.NotFound {
		t.Errorf("a token for a sandbox that ended: %v", err)
	}
}

func TestWebSocketsPassTheFront(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	b := serveInside(s, 7000)
	c, err := b.CreateConnectToken(s.ctx, &sdk.SandboxCreateConnectTokenParams{Port: 7000})
	if err != nil {
		t.Fatal(err)
	}
	ws, _, err := websocket.DefaultDialer.DialContext(s.ctx, strings.Replace(c.URL, "http", "ws", 1)+"/", http.Header{"Authorization": {"Bearer " + c.Token}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if _, m, err := ws.ReadMessage(); err != nil || string(m) != "hello" {
		t.Errorf("got %q, %v", m, err)
	}
}

func TestATunnelLeadsToItsPort(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	for _, encrypted := range []bool{false, true} {
		p := &sdk.SandboxCreateParams{UnencryptedPorts: []int{8000}}
		if encrypted {
			p = &sdk.SandboxCreateParams{EncryptedPorts: []int{8000}}
		}
		b := serveInsideWith(s, p, 8000)
		tunnels, err := b.Tunnels(s.ctx, time.Minute, nil)
		if err != nil || tunnels[8000] == nil {
			t.Fatalf("tunnels: %v, %v", tunnels, err)
		}
		url := tunnels[8000].URL()
		if !encrypted {
			host, port, err := tunnels[8000].TCPSocket()
			if err != nil {
				t.Fatal(err)
			}
			url = "http://" + net.JoinHostPort(host, fmt.Sprint(port))
		}
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: s.Certificates()},
		}}
		answer, err := client.Get(url + "/tunnel")
		if err != nil {
			t.Fatalf("encrypted %v: %v", encrypted, err)
		}
		defer answer.Body.Close()
		if body, err := io.ReadAll(answer.Body); err != nil || !strings.Contains(string(body), "GET /tunnel") {
			t.Errorf("encrypted %v: got %q, %v", encrypted, body, err)
		}
		if err := s.KillBox(s.ctx, b.SandboxID); err != nil {
			t.Fatal(err)
		}
		host, port := tunnels[8000].TLSSocket()
		s.until("the tunnel is closed", func() bool {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(host, fmt.Sprint(port)), 10*time.Second)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
	}
}
