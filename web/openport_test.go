package web

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"

	"openinspect/sessions/sessionstest"
)

// program is what serves on port 3000 of the sandboxes: it shows what it gets.
type program struct {
	*httptest.Server
	requests chan *http.Request
}

func serveProgram(t *testing.T) *program {
	t.Helper()
	p := &program{requests: make(chan *http.Request, 100)}
	upgrader := websocket.Upgrader{} // which compares Origin with Host, as programs do
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests <- r.Clone(context.Background())
		switch r.URL.Path {
		case "/echo":
			c, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer c.Close()
			for {
				kind, data, err := c.ReadMessage()
				if err != nil || c.WriteMessage(kind, append([]byte("echo of "), data...)) != nil {
					return
				}
			}
		case "/moved":
			http.Redirect(w, r, "http://"+r.Host+"/page?from=moved", http.StatusFound)
		case "/unreached": // as a provider's gateway answers in the program's place
			http.Error(w, "gateway: nothing listens", http.StatusBadGateway)
		case "/drip":
			_, _ = io.WriteString(w, "first\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			w.Header().Add("Set-Cookie", "flavour=oat; Domain=localhost; Path=/")
			w.Header().Add("Set-Cookie", "openinspect-port=stolen; Path=/")
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, `<title>Shop</title><h1>The shop</h1><p id="cookie"></p><script>
				const ws = new WebSocket(location.origin.replace('http', 'ws') + '/echo')
				ws.onopen = () => ws.send('hello')
				ws.onmessage = (m) => { document.body.dataset.heard = m.data }
				document.getElementById('cookie').textContent = document.cookie</script>`)
		}
	}))
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

// awake is a session of acme/greeter whose sandbox runs, with port 3000 declared.
func awake(t *testing.T, changes ...func(*Config)) (*rig, *browser, *program, string) {
	t.Helper()
	r := newRig(t, changes...)
	p := serveProgram(t)
	r.Provider.Served = map[int]string{3000: p.URL}
	alice := r.signIn(t, "alice").appoint()
	if status := alice.call("PUT", "/api/repositories/acme/greeter", `{"version":0,"settings":{"ports":[{"port":3000,"label":"Shop"}]}}`, nil); status != http.StatusOK {
		t.Fatalf("declaring a port answers %d", status)
	}
	r.Run(r.engine)
	session, _ := alice.begin("Open the shop")
	sessionstest.Eventually(t, "the sandbox runs", func() bool {
		_, err := r.engine.LiveBox(t.Context(), session)
		return err == nil
	})
	return r, alice, p, session
}

// origin is where port 3000 of a session is, as an address and for Go's client,
// which does not find names below localhost everywhere.
func (r *rig) origin(session string) string { return r.server.ports.origin(session, 3000) }

// dialLocal has a client find every name at the pages' address.
func (b *browser) dialLocal() {
	at := strings.TrimPrefix(b.rig.url, "http://")
	b.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, at)
	}
}

func TestAPersonOpensWhatASandboxServes(t *testing.T) {
	r, alice, program, session := awake(t)
	page := alice.open("/sessions/" + session)
	page.until(`document.querySelector('#side a[href$="/ports/3000"]')?.textContent.startsWith('Shop')`)
	page.do(chromedp.Navigate(r.url + "/sessions/" + session + "/ports/3000?to=/page"))
	page.until(`document.body.dataset.heard === 'echo of hello'`)
	if at := page.eval(`location.href`); at != r.origin(session)+"/page" {
		t.Errorf("the page is at %s", at)
	}
	if cookie := page.eval(`document.getElementById('cookie').textContent`); strings.Contains(cookie, "openinspect") {
		t.Errorf("the program's script reads %q", cookie)
	}
	page.do(chromedp.Navigate(r.origin(session) + "/moved"))
	page.until(`location.search === '?from=moved' && document.body.dataset.heard`)
	if cookie := page.eval(`document.cookie`); cookie != "flavour=oat" {
		t.Errorf("the program's own cookie is %q", cookie)
	}
	for range len(program.requests) {
		got := <-program.requests
		if got.Host != "localhost:3000" || got.Header.Get("Box-Key") == "" {
			t.Errorf("%s came for %s with %v", got.URL, got.Host, got.Header)
		}
		for name, values := range got.Header {
			text := name + ": " + strings.Join(values, ", ")
			for _, ours := range []string{"openinspect", alice.login(), strings.TrimPrefix(r.url, "http://"), "X-Forwarded"} {
				if strings.Contains(text, ours) {
					t.Errorf("the program gets %s", text)
				}
			}
		}
	}
	if said := page.said(); len(said) > 0 {
		t.Errorf("the console says %q", said)
	}
}

func TestAPortOpensForNobodyElse(t *testing.T) {
	r, alice, program, session := awake(t)
	alice.dialLocal()
	other, _ := alice.begin("Open another one")
	ticket := func(b *browser, session string, port int) (status int, location string) {
		t.Helper()
		resp, err := b.noRedirect().Get(fmt.Sprintf("%s/sessions/%s/ports/%d", r.url, session, port))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Location")
	}
	get := func(c *http.Client, at string, headers ...string) (int, *http.Response) {
		t.Helper()
		req, err := http.NewRequest("GET", at, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp
	}
	if status, _ := ticket(alice, session, 5432); status != http.StatusNotFound {
		t.Errorf("a port that is not declared answers %d", status)
	}
	_, enter := ticket(alice, session, 3000)
	stranger := (&browser{Client: r.fresh(t), t: t, rig: r})
	stranger.dialLocal()
	if status, resp := get(stranger.noRedirect(), r.origin(session)+"/"); status != http.StatusSeeOther || !strings.HasPrefix(resp.Header.Get("Location"), r.url+"/sessions/"+session) {
		t.Errorf("without a sign-in the port answers %d, %s", status, resp.Header.Get("Location"))
	}
	if status, _ := get(stranger.noRedirect(), r.origin(session)+"/", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin"); status != http.StatusUnauthorized {
		t.Errorf("a script without a sign-in is answered %d", status)
	}
	if status, _ := get(alice.noRedirect(), strings.Replace(enter, session, other, 1)); status != http.StatusForbidden {
		t.Errorf("the ticket opens another session: %d", status)
	}
	if status, _ := get(alice.Client, enter); status != http.StatusOK {
		t.Fatalf("a fresh ticket is answered %d", status)
	}
	if status, _ := get(stranger.Client, enter); status != http.StatusForbidden {
		t.Errorf("a ticket opens twice: %d", status)
	}
	for name, headers := range map[string][]string{
		"another port's script":      {"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"},
		"another site's frame":       {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"},
		"another site's WebSocket":   {"Origin", "http://evil.localhost", "Connection", "Upgrade", "Upgrade", "websocket"},
		"another old browser's form": {"Origin", "http://evil.localhost"},
	} {
		if status, _ := get(alice.Client, r.origin(session)+"/", headers...); status != http.StatusForbidden {
			t.Errorf("%s is answered %d", name, status)
		}
	}
	before := len(program.requests)
	if status, _ := get(alice.Client, r.origin(session)+"/page"); status != http.StatusOK || len(program.requests) != before+1 {
		t.Errorf("Alice herself is answered %d", status)
	}
	if status, _ := get(alice.Client, strings.Replace(r.origin(session), session, "not-one", 1)); status != http.StatusNotFound {
		t.Errorf("a host that is no port's is answered %d", status)
	}
	if resp, err := alice.Post(r.url+"/signout", "", nil); err != nil {
		t.Fatal(err)
	} else {
		resp.Body.Close()
	}
	if status, _ := get(alice.noRedirect(), r.origin(session)+"/page"); status != http.StatusSeeOther {
		t.Errorf("after signing out the port answers %d", status)
	}
}

// noRedirect is the browser's client as it stops at redirections.
func (b *browser) noRedirect() *http.Client {
	c := *b.Client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

func TestAPortSaysWhenNothingIsThere(t *testing.T) {
	r, alice, _, session := awake(t)
	page := alice.open("/sessions/" + session + "/ports/3000")
	page.until(`document.title === 'Shop'`)
	r.Provider.Boxes()[0].Crash()
	if _, err := r.DB.Exec(`update sandboxes set state = 'parked', box = '' where session_id = $1`, session); err != nil {
		t.Fatal(err)
	}
	page.do(chromedp.Reload())
	page.until(`document.body.textContent.includes('is asleep') && document.querySelector('a[href*="/sessions/"]')`)
}

func TestAPortWhoseProgramDoesNotRunSaysSo(t *testing.T) {
	r, alice, program, session := awake(t)
	const says = `document.body.textContent.includes('Nothing answers on port 3000')`
	page := alice.open("/sessions/" + session + "/ports/3000?to=/unreached")
	page.until(says)
	program.CloseClientConnections()
	program.Close()
	page.do(chromedp.Navigate(r.url + "/sessions/" + session + "/ports/3000"))
	page.until(says)
}

func TestAStreamOfAPortComesAtOnceAndEndsWithTheSignIn(t *testing.T) {
	r, alice, _, session := awake(t)
	r.server.timing.authorise = 50 * time.Millisecond
	alice.dialLocal()
	resp, err := alice.Get(r.url + "/sessions/" + session + "/ports/3000?to=/drip")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 6)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first\n" {
		t.Fatalf("the stream begins with %q (%v)", first, err)
	}
	if err := r.engine.Logout(t.Context(), alice.login()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, resp.Body); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the stream goes on after the sign-in has ended")
	}
}

func TestWhatAPortsURLMayBe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ ports, public, origin, refusal string }{
		{"", "http://127.0.0.1:8080", "http://s--3000.localhost:8080", ""},
		{"", "https://inspect.example.com", "", ""},
		{"https://*.ports.example.net", "https://inspect.example.com", "https://s--3000.ports.example.net", ""},
		{"http://*.ports.example.net", "https://inspect.example.com", "", "https://"},
		{"https://ports.example.net", "https://inspect.example.com", "", "begins with *."},
		{"https://*.example.com", "https://inspect.example.com", "", "PUBLIC_URL is not in"},
		{"https://*.ports.example.net/x", "https://inspect.example.com", "", "nothing after"},
	} {
		h, err := newPortHosts(c.ports, c.public)
		switch {
		case c.refusal != "":
			if err == nil || !strings.Contains(err.Error(), c.refusal) {
				t.Errorf("%s beside %s: %v", c.ports, c.public, err)
			}
		case err != nil:
			t.Errorf("%s beside %s: %v", c.ports, c.public, err)
		case c.origin == "" && h != nil || c.origin != "" && h.origin("s", 3000) != c.origin:
			t.Errorf("%s beside %s: %+v", c.ports, c.public, h)
		case h != nil:
			u, err := url.Parse(c.origin)
			if err != nil {
				t.Fatal(err)
			}
			if session, port, ok := h.parse(u.Host); !ok || session != "s" || port != 3000 {
				t.Errorf("%s is read as %s, %d", u.Host, session, port)
			}
		}
	}
}
