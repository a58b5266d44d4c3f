package web

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// portHosts names the origins at which ports of sandboxes are: one for each port of
// each session, <session>--<port> below a domain that serves nothing else.
type portHosts struct {
	scheme string
	domain string // what follows the first label, with its dot
	port   string // of the address, with its colon; empty if it is the scheme's own
}

// CheckPortsURL says what is wrong with a URL for ports, e.g. https://*.ports.example.com,
// where public is that of the pages.
func CheckPortsURL(ports, public string) error {
	_, err := newPortHosts(ports, public)
	return err
}

// newPortHosts reads such a URL. Without one, names below localhost are taken if the
// pages are on this machine too; otherwise there are none.
func newPortHosts(ports, public string) (*portHosts, error) {
	pages, err := url.Parse(public)
	if err != nil {
		return nil, err
	}
	if ports == "" {
		if ip := net.ParseIP(pages.Hostname()); pages.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, nil
		}
		ports = pages.Scheme + "://*.localhost"
		if pages.Port() != "" {
			ports += ":" + pages.Port()
		}
	}
	u, err := url.Parse(ports)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("has to begin with https:// or http://, e.g. https://*.ports.example.com")
	}
	domain, ok := strings.CutPrefix(strings.ToLower(u.Hostname()), "*.")
	switch {
	case !ok || domain == "" || strings.Contains(domain, "*"):
		return nil, errors.New("needs a host that begins with *., e.g. https://*.ports.example.com")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
		return nil, errors.New("may have nothing after its host")
	case pages.Scheme == "https" && u.Scheme != "https":
		return nil, errors.New("has to begin with https:// as PUBLIC_URL does")
	case strings.HasSuffix("."+strings.ToLower(pages.Hostname()), "."+domain) && domain != "localhost":
		return nil, fmt.Errorf("has to be a domain that PUBLIC_URL is not in: %s is", pages.Hostname())
	}
	h := &portHosts{scheme: u.Scheme, domain: "." + domain}
	if u.Port() != "" {
		h.port = ":" + u.Port()
	}
	return h, nil
}

// origin is where a port of a session is.
func (h *portHosts) origin(session string, port int) string {
	return fmt.Sprintf("%s://%s--%d%s%s", h.scheme, session, port, h.domain, h.port)
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(host)
}

// covers says whether a host is of ports, and not of the pages.
func (h *portHosts) covers(host string) bool {
	return h != nil && strings.HasSuffix(hostname(host), h.domain)
}

var portLabel = regexp.MustCompile(`^([a-z0-9]{1,32})--([0-9]{1,5})$`)

// parse returns which port of which session a host means.
func (h *portHosts) parse(host string) (session string, port int, ok bool) {
	label := portLabel.FindStringSubmatch(strings.TrimSuffix(hostname(host), h.domain))
	if label == nil {
		return "", 0, false
	}
	port, err := strconv.Atoi(label[2])
	return label[1], port, err == nil && port > 0 && port < 1<<16
}
