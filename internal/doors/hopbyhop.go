package doors

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// maxEgressBody bounds what one plain HTTP request may send out, in bytes.
const maxEgressBody = 1 << 30

// hopByHop are the headers that concern one connection only (RFC 9110,
// section 7.6.1), and the older ones that clients still send to proxies.
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// dropHopByHop removes them, and those that Connection names.
func dropHopByHop(h http.Header) {
	for _, list := range h.Values("Connection") {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// countingReader counts what is read; another goroutine may look meanwhile.
type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
