package doors

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// AllowList says which hosts a sandbox may reach. Its entries have the form
// "host", "host:port", ".domain" or ".domain:port". A leading dot means every
// subdomain of the domain; without a port, 80 and 443 are meant. Blank entries
// are ignored.
type AllowList []string

// Check returns an error that names the first entry that has none of the forms.
func (l AllowList) Check() error {
	for _, text := range l {
		if _, err := parseAllowed(text); err != nil {
			return err
		}
	}
	return nil
}

type allowEntry struct {
	host   string // lower case, without a final dot; "" allows nothing
	suffix bool   // subdomains of host, not host itself
	port   uint16 // 0: 80 and 443
}

func parseAllowed(text string) (allowEntry, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return allowEntry{}, nil
	}
	wrong := fmt.Errorf("allow list: %q is neither host, host:port, .domain nor .domain:port", text)
	var e allowEntry
	host := text
	if h, port, err := net.SplitHostPort(text); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return e, wrong
		}
		host, e.port = h, uint16(n)
	}
	if rest, ok := strings.CutPrefix(host, "."); ok {
		host, e.suffix = rest, true
	}
	e.host = canonicalHost(host)
	if _, err := netip.ParseAddr(e.host); err == nil && !e.suffix {
		return e, nil
	}
	if !isHostName(e.host) {
		return e, wrong
	}
	return e, nil
}

// canonicalHost makes spellings of one host equal.
func canonicalHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return a.String()
	}
	return host
}

// isHostName accepts names as DNS writes them; anything else (a user before
// an "@", an address in a form that only some resolvers read) is refused.
func isHostName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}

// allows reports whether the entry lets a sandbox reach this port of the host.
func (e allowEntry) allows(host string, port uint16) bool {
	if e.port != port && (e.port != 0 || (port != 80 && port != 443)) {
		return false
	}
	if e.suffix {
		return strings.HasSuffix(host, "."+e.host)
	}
	return e.host != "" && host == e.host
}

// toolTime bounds how long the tools may take to print their configuration.
const toolTime = 5 * time.Second

// DefaultAllowList returns the hosts from which this machine's own tools fetch
// packages: the go command, npm, pip, cargo and apt, each asked or read in its
// own configuration. A tool that is missing or not set up adds nothing.
func DefaultAllowList(ctx context.Context) []string {
	asked := outputs(ctx, [][]string{{"go", "env", "GOPROXY"}, {"npm", "config", "get", "registry"}, {"pip", "config", "list"}, {"go", "env", "GOSUMDB"}})
	asked[3] = checksumHost(asked[3])
	var found []string
	add := func(text string) {
		for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n,|\"'", r) }) {
			if host := hostOf(word); host != "" {
				found = append(found, host)
			}
		}
	}
	for _, text := range asked {
		add(text)
	}
	home, err := os.UserHomeDir()
	if err == nil {
		add(configured(filepath.Join(home, ".cargo", "config.toml"), "registry", "index"))
	}
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			continue // the patterns are constant and good
		}
		for _, file := range files {
			add(configured(file, "deb", "deb-src", "URIs:"))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// outputs runs the commands at the same time and returns what each prints, or
// "" for one that cannot be run.
func outputs(ctx context.Context, commands [][]string) []string {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	texts := make([]string, len(commands))
	var all sync.WaitGroup
	for i, command := range commands {
		all.Go(func() {
			cmd := exec.CommandContext(ctx, command[0], command[1:]...)
			cmd.WaitDelay = time.Second
			if out, err := cmd.Output(); err == nil {
				texts[i] = string(out)
			}
		})
	}
	all.Wait()
	return texts
}

// checksumHost makes an address of GOSUMDB, which is "off", a host name with
// perhaps a key behind a "+", or either of them and an address.
func checksumHost(value string) string {
	fields := strings.Fields(value)
	switch {
	case len(fields) == 0 || fields[0] == "off":
		return ""
	case len(fields) > 1:
		return fields[1]
	}
	name, _, _ := strings.Cut(fields[0], "+")
	return "https://" + name
}

// configured returns the lines of a file that begin with one of the words.
func configured(file string, words ...string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	var b strings.Builder
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && slices.Contains(words, fields[0]) {
			b.WriteString(lines.Text() + "\n")
		}
	}
	return b.String()
}

// hostOf returns the host, and the port if it is not the scheme's own, of a
// word that is an HTTP address.
func hostOf(word string) string {
	word = strings.TrimPrefix(word, "sparse+")
	u, err := url.Parse(word)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return ""
	}
	if port := u.Port(); port != "" && port != "80" && port != "443" {
		return net.JoinHostPort(u.Hostname(), port)
	}
	return u.Hostname()
}
