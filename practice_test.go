package main

import (
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"
)

func TestThePageHasAnAddressThatBrowsersCanGoTo(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080", "[::1]:8080": "http://[::1]:8080", "192.0.2.7:80": "http://192.0.2.7:80",
		"0.0.0.0:8080": "http://127.0.0.1:8080", "[::]:8080": "http://127.0.0.1:8080", "[::ffff:0.0.0.0]:8080": "http://127.0.0.1:8080",
	} {
		p := &practice{listen: listen}
		if got := p.pageURL(); got != want || p.listen != listen {
			t.Errorf("listening on %s, the page is at %s, want %s", listen, got, want)
		}
	}
}

func TestThePageIsReachedWhenAllAddressesAreListenedOn(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{":0", "0.0.0.0:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		p := &practice{listen: l.Addr().String()} // as run finds it out
		if want := "http://127.0.0.1:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port); p.pageURL() != want {
			t.Errorf("%s: the page is at %s, want %s", listen, p.pageURL(), want)
		}
		client := &http.Client{Timeout: 5 * time.Second}
		if resp, err := client.Get(p.pageURL()); err != nil {
			t.Errorf("%s: the page is not reached: %v", listen, err)
		} else {
			resp.Body.Close()
		}
		client.CloseIdleConnections()
		srv.Close()
		<-ended
	}
}
