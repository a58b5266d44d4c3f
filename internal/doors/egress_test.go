package doors

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const publicAddr = "93.184.215.14"

// internet resolves names from a table, each lookup the next answer, and
// dials every public address to one local server.
type internet struct {
	names map[string][][]string
	local string

	mu      sync.Mutex
	lookups map[string]int
	dialled []string
}

func (n *internet) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	answers, ok := n.names[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if n.lookups == nil {
		n.lookups = map[string]int{}
	}
	answer := answers[min(n.lookups[host], len(answers)-1)]
	n.lookups[host]++
	var addrs []netip.Addr
	for _, a := range answer {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, nil
}

func (n *internet) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialled = append(n.dialled, address)
	n.mu.Unlock()
	if strings.HasPrefix(address, "[2606:") {
		return nil, errors.New("no route to host")
	}
	return (&net.Dialer{}).DialContext(ctx, network, n.local)
}

func (n *internet) dials() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.dialled...)
}

// proxied returns a client that reaches everything through an egress proxy.
func proxied(t *testing.T, n *internet, change func(*EgressConfig)) (*http.Client, string) {
	t.Helper()
	allow := AllowList{"packages.example.com", ".mirror.example.com", "odd.example.com:8443", "evil.example.com", "rebinding.example.com",
		"two.example.com", "nowhere.example.com", "127.0.0.1", "10.0.0.7", "[::1]", publicAddr, "[::ffff:93.184.215.14]", "", "not a host"}
	c := EgressConfig{Allow: allow, Log: quiet, Resolver: n, Dial: n.dial}
	if change != nil {
		change(&c)
	}
	door := serveDoors(t, Config{Egress: NewEgress(c)})
	proxy, err := url.Parse(door)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true,
		ProxyConnectHeader: http.Header{TokenHeader: {sandboxToken}}, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	return &http.Client{Transport: withToken{sandboxToken, transport}}, door
}

func TestTheSandboxReachesListedHostsOnly(t *testing.T) {
	t.Parallel()
	var seen http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s%s %s", r.Method, r.Host, r.URL.Path, body)
	}))
	defer server.Close()
	n := &internet{local: server.Listener.Addr().String(), names: map[string][][]string{
		"packages.example.com": {{"2606:2800:21f:cb07::1", publicAddr}}, "a.mirror.example.com": {{publicAddr}}, "odd.example.com": {{publicAddr}}}}
	client, _ := proxied(t, n, nil)
	for _, c := range []struct {
		url, want string
		status    int
	}{
		{"http://packages.example.com/package", "POST packages.example.com/package x=1", 200},
		{"http://PACKAGES.example.com./package", "/package x=1", 200},
		{"http://a.mirror.example.com/p", "POST a.mirror.example.com/p x=1", 200},
		{"http://odd.example.com:8443/p", "POST odd.example.com:8443/p x=1", 200},
		{"http://" + publicAddr + "/p", "/p x=1", 200},
		{"http://odd.example.com/p", "odd.example.com:80 is not on the allow list of this deployment; the operator can add it to EGRESS_ALLOW", 403},
		{"http://mirror.example.com/", "mirror.example.com:80 is not on the allow list", 403},
		{"http://notmirror.example.com/", "is not on the allow list", 403},
		{"http://packages.example.com:22/", "packages.example.com:22 is not on the allow list", 403},
		{"http://packages.example.com.attacker.example/", "is not on the allow list", 403},
		{"http://nowhere.example.com/", "cannot be reached at the moment", 502},
	} {
		res, body := send(t, client, http.MethodPost, c.url, "x=1")
		if res.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", c.url, res.StatusCode, body)
		}
	}
	for _, name := range []string{TokenHeader, "Proxy-Connection", "Proxy-Authorization", "Cookie"} {
		if seen.Get(name) != "" {
			t.Errorf("the host was sent %s", name)
		}
	}
}

func TestATunnelCarriesTLSAndIsCounted(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "over TLS: "+r.Host)
	}))
	defer server.Close()
	n := &internet{local: server.Listener.Addr().String(), names: map[string][][]string{"packages.example.com": {{publicAddr}}}}
	counts := make(chan [2]int64, 1)
	client, _ := proxied(t, n, func(c *EgressConfig) {
		c.Transferred = func(_ context.Context, a Access, host string, sent, received int64) {
			if a != access || host != "packages.example.com" {
				t.Errorf("counted for %+v at %s", a, host)
			}
			counts <- [2]int64{sent, received}
		}
	})
	if _, body := send(t, client, http.MethodGet, "https://packages.example.com/x", ""); body != "over TLS: packages.example.com" {
		t.Errorf("%s", body)
	}
	if got := <-counts; got[0] < 100 || got[1] < 500 {
		t.Errorf("counted %v bytes", got)
	}
	if diff := cmp.Diff([]string{publicAddr + ":443"}, n.dials()); diff != "" {
		t.Errorf("dialled (-want +got):\n%s", diff)
	}
	if _, err := client.Get("https://other.example.com/"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("a host that is not listed: %v", err)
	}
}

// connect opens a tunnel by hand and returns the answer's status line and body
// until the connection ends or, for a tunnel, the connection itself.
func connect(t *testing.T, door, target string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(door, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n\r\n", target, target, TokenHeader, sandboxToken)
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", target, err)
	}
	return conn, r, res
}

func TestAddressesOfTheInsideAreNeverDialled(t *testing.T) {
	t.Parallel()
	n := &internet{names: map[string][][]string{
		"evil.example.com": {{"169.254.169.254"}},
		"two.example.com":  {{publicAddr, "127.0.0.1"}},
	}}
	_, door := proxied(t, n, nil)
	for _, target := range []string{"127.0.0.1:80", "10.0.0.7:443", "[::1]:443", "[::ffff:93.184.215.14]:443", "evil.example.com:443", "two.example.com:443",
		"2130706433:80", "0x7f000001:80", "127.1:80", "localhost:80", "packages.example.com", "packages.example.com:0", ":443"} {
		_, r, res := connect(t, door, target)
		body, err := io.ReadAll(io.LimitReader(r, res.ContentLength))
		if err != nil || res.StatusCode == http.StatusOK {
			t.Errorf("%s: %d %v", target, res.StatusCode, err)
		}
		if res.StatusCode == http.StatusForbidden && !strings.Contains(string(body), "egress refused") {
			t.Errorf("%s: %s", target, body)
		}
	}
	if dialled := n.dials(); len(dialled) != 0 {
		t.Errorf("dialled %v", dialled)
	}
}

func TestANameThatChangesItsAddressIsDialledWhereItWasChecked(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	defer server.Close()
	n := &internet{local: server.Listener.Addr().String(),
		names: map[string][][]string{"rebinding.example.com": {{publicAddr}, {"127.0.0.1"}}}}
	client, _ := proxied(t, n, nil)
	if _, body := send(t, client, http.MethodGet, "http://rebinding.example.com/", ""); body != "ok" {
		t.Errorf("the first answer: %s", body)
	}
	if res, body := send(t, client, http.MethodGet, "http://rebinding.example.com/", ""); res.StatusCode != 403 || !strings.Contains(body, "(127.0.0.1) that is not of the public internet") {
		t.Errorf("the second answer: %d %s", res.StatusCode, body)
	}
	if diff := cmp.Diff([]string{publicAddr + ":80"}, n.dials()); diff != "" || n.lookups["rebinding.example.com"] != 2 {
		t.Errorf("dialled (-want +got) after %d lookups:\n%s", n.lookups["rebinding.example.com"], diff)
	}
}

func TestWhatIsPublic(t *testing.T) {
	t.Parallel()
	for _, public := range []string{publicAddr, "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1", "169.253.0.1"} {
		if !isPublic(netip.MustParseAddr(public)) {
			t.Errorf("%s is refused", public)
		}
	}
	for _, inside := range []string{"127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
		"100.127.255.255", "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "255.255.255.255", "240.0.0.1", "192.0.0.170", "192.0.2.1", "198.18.0.1",
		"198.51.100.1", "203.0.113.9", "192.88.99.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "fec0::1", "::ffff:8.8.8.8",
		"::ffff:127.0.0.1", "::7f00:1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:db8::1", "100::1", "3fff::1", "5f00::1", "fd00:ec2::254"} {
		if isPublic(netip.MustParseAddr(inside)) {
			t.Errorf("%s passes", inside)
		}
	}
	if isPublic(netip.Addr{}) {
		t.Error("no address passes")
	}
}

func TestAllowListEntriesThatAreNoneAreRefused(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"https://example.com", "example.com/path", "user@example.com", "*.example.com", "example.com:0", "example.com:99999", "a b", ".", "exa..mple", "127.1", ":443", ".1.2.3.4"} {
		if err := (AllowList{"good.example.com", bad}).Check(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := (AllowList{"", " good.example.com ", ".good.example.com:8080", "1.2.3.4:80", "[2606::1]:80", "2606::1"}).Check(); err != nil {
		t.Error(err)
	}
}

// echoServer answers each line once the client has closed its side.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				text, err := io.ReadAll(conn)
				if err == nil {
					conn.Write([]byte("you said " + string(text)))
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return l.Addr().String()
}

func TestATunnelCanBeHalfClosed(t *testing.T) {
	t.Parallel()
	n := &internet{local: echoServer(t), names: map[string][][]string{"packages.example.com": {{publicAddr}}}}
	_, door := proxied(t, n, nil)
	conn, r, res := connect(t, door, "packages.example.com:443")
	if res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	io.WriteString(conn, "hello")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(r); err != nil || string(answer) != "you said hello" {
		t.Errorf("%q, %v", answer, err)
	}
}

func TestAnIdleTunnelAndOneOfAnEndedServerAreClosed(t *testing.T) {
	t.Parallel()
	n := &internet{local: echoServer(t), names: map[string][][]string{"packages.example.com": {{publicAddr}}}}
	ended := make(chan struct{}, 2)
	told := func(context.Context, Access, string, int64, int64) { ended <- struct{}{} }
	_, door := proxied(t, n, func(c *EgressConfig) { c.Idle, c.Transferred = 100*time.Millisecond, told })
	_, r, _ := connect(t, door, "packages.example.com:443")
	if rest, err := io.ReadAll(r); len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
	<-ended

	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewUnstartedServer(New(Config{Auth: tokens{sandboxToken: access}, Log: quiet,
		Egress: NewEgress(EgressConfig{Allow: AllowList{"packages.example.com"}, Log: quiet, Resolver: n, Dial: n.dial, Transferred: told})}))
	server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	server.Start()
	defer server.Close()
	_, r, _ = connect(t, server.URL, "packages.example.com:443")
	cancel()
	if rest, err := io.ReadAll(r); len(rest) != 0 {
		t.Errorf("%q, %v", rest, err)
	}
	<-ended
}

func TestAnAnswerThatBreaksOffIsNotPassedOnAsWhole(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, strings.Repeat("half of it", 10000))
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	n := &internet{local: server.Listener.Addr().String(), names: map[string][][]string{"packages.example.com": {{publicAddr}}}}
	client, _ := proxied(t, n, nil)
	res, err := client.Get("http://packages.example.com/")
	if err == nil {
		defer res.Body.Close()
		_, err = io.ReadAll(res.Body)
	}
	if err == nil {
		t.Error("half an answer ended cleanly")
	}
}

func TestTheDefaultAllowListComesFromTheToolsConfiguration(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOPROXY", "https://user:secret@modules.example.com/mod|http://other.example.com:8081,direct")
	t.Setenv("GOSUMDB", "sums.example.com+1234+key")
	t.Setenv("npm_config_registry", "https://npm.example.com:8443/r/")
	got := DefaultAllowList(t.Context())
	for _, want := range []string{"modules.example.com", "other.example.com:8081", "sums.example.com", "npm.example.com:8443"} {
		if !strings.Contains(" "+strings.Join(got, " ")+" ", " "+want+" ") {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
	if err := AllowList(got).Check(); err != nil || strings.Contains(strings.Join(got, " "), "secret") {
		t.Errorf("%v: %v", got, err)
	}
	t.Setenv("PATH", home)
	for _, host := range DefaultAllowList(t.Context()) {
		if strings.HasSuffix(host, ".example.com") || strings.Contains(host, ".example.com:") {
			t.Errorf("without tools: %s", host)
		}
	}
}

func TestConfigurationFilesAreReadForTheirAddresses(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{"off": "", "": "", "name+1+key": "https://name", "name https://mirror.example.com/x": "https://mirror.example.com/x"} {
		if got := checksumHost(value); got != want {
			t.Errorf("%q: %q", value, got)
		}
	}
	for word, want := range map[string]string{"sparse+https://crates.example.com/i/": "crates.example.com", "direct": "", "ftp://x.example.com": "",
		"https://a.example.com:443/": "a.example.com", "http://": "", "%zz": ""} {
		if got := hostOf(word); got != want {
			t.Errorf("%q: %q", word, got)
		}
	}
}
