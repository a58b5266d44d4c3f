package modal

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	sdk "github.com/modal-labs/modal-client/go"
)

// network is the one place that boxes may connect to: a domain name or an
// address, or neither.
type network struct{ domain, cidr string }

// networkFor reads where the machine listener is.
func networkFor(control string) (network, error) {
	if path, ok := strings.CutPrefix(control, "unix:"); ok && path != "" {
		return network{}, nil
	}
	u, err := url.Parse(control)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return network{}, fmt.Errorf("sandboxes cannot reach the machine listener at %q: give a URL such as https://machines.inspect.example.org", control)
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		if a = a.Unmap(); !a.Is4() {
			return network{}, fmt.Errorf("sandboxes cannot reach the machine listener at %q: Modal's policy takes IPv4 addresses and names", control)
		}
		return network{cidr: netip.PrefixFrom(a, a.BitLen()).String()}, nil
	}
	if u.Scheme != "https" || u.Port() != "" && u.Port() != "443" {
		return network{}, fmt.Errorf("sandboxes cannot reach the machine listener at %q: Modal lets TLS on port 443 through to a name, and nothing else; give an https URL without a port", control)
	}
	return network{domain: u.Hostname()}, nil
}

// CheckControl says what is wrong with an address of the machine listener that
// boxes could not reach.
func CheckControl(control string) error {
	_, err := networkFor(control)
	return err
}

// allow sets the outbound policy. Both lists are given, because one that is
// missing would allow everything if the other were missing too.
func (n network) allow(params *sdk.SandboxCreateParams) {
	params.OutboundDomainAllowlist, params.OutboundCIDRAllowlist = &sdk.Allowlist{}, &sdk.Allowlist{}
	if n.domain != "" {
		params.OutboundDomainAllowlist.Entries = []string{n.domain}
	}
	if n.cidr != "" {
		params.OutboundCIDRAllowlist.Entries = []string{n.cidr}
	}
}

// String names the place for people.
func (n network) String() string {
	switch {
	case n.domain != "":
		return n.domain + " and nothing else"
	case n.cidr != "":
		return n.cidr + " and nothing else"
	}
	return "nothing but a socket in their image"
}
