package modal

import (
	"net/netip"
	"regexp"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
)

// Network is an outbound policy as it was asked for: it is recorded, and boxes
// have no network but loopback whatever it says.
type Network struct {
	Type           string // OPEN, BLOCKED or ALLOWLIST
	CIDRs, Domains []string
}

func networkOf(n *pb.NetworkAccess, blocked bool) Network {
	t := n.GetNetworkAccessType()
	if blocked {
		t = pb.NetworkAccess_BLOCKED
	} else if t == pb.NetworkAccess_UNSPECIFIED {
		t = pb.NetworkAccess_OPEN
	}
	return Network{Type: t.String(), CIDRs: n.GetAllowedCidrs(), Domains: n.GetAllowedDomains()}
}

// domainForm is a name, or one with a wildcard as its first label, or a
// wildcard alone. Addresses and ports are none.
var domainForm = regexp.MustCompile(`^(\*|(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?)$`)

// checkNetwork refuses entries of allow lists that mean nothing.
func checkNetwork(n *pb.NetworkAccess) error {
	for _, c := range n.GetAllowedCidrs() {
		if p, err := netip.ParsePrefix(c); err != nil || !p.Addr().Is4() {
			return invalid("Invalid CIDR (outbound IPv4): %s", c)
		}
	}
	for _, d := range n.GetAllowedDomains() {
		if !domainForm.MatchString(d) {
			return invalid("Invalid domain: %s", d)
		}
	}
	return nil
}
