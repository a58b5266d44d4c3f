package modal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tunnel is a declared port of a sandbox, offered on the loopback.
type tunnel struct {
	Port
	listener net.Listener
}

// newCertificate makes the certificate of encrypted tunnels. It signs itself:
// clients need Server.Certificates.
func newCertificate() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool, nil
}

// Certificates are what clients of encrypted tunnels have to trust. They are
// made anew by each process.
func (s *Server) Certificates() *x509.CertPool { return s.pool }

// openTunnels listens for each declared port of a sandbox until it ends.
func (s *Server) openTunnels(b *box) error {
	var opened []tunnel
	for _, p := range b.snapshot().Ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("offering port %d: %w", p.Port, err)
		}
		opened = append(opened, tunnel{p, l})
		served := l
		if !p.Unencrypted {
			served = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{s.certificate}, MinVersion: tls.VersionTLS12})
		}
		s.work.Go(func() { s.serveTunnel(b, served, p.Port) })
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ports = opened
	return nil
}

func (s *Server) serveTunnel(b *box, l net.Listener, port int) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	defer context.AfterFunc(b.life, cancel)()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed: there is no other error of a loopback listener that waiting would heal
		}
		connections.Go(func() { s.carry(ctx, b, c, port) })
	}
}

// carry copies one connection both ways.
func (s *Server) carry(ctx context.Context, b *box, c net.Conn, port int) {
	defer b.work()()
	defer c.Close()
	address, err := s.portAddress(ctx, b.id, port)
	if err != nil {
		return
	}
	there, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.Host)
	if err != nil {
		return
	}
	defer there.Close()
	defer context.AfterFunc(ctx, func() {
		c.Close()
		there.Close()
	})()
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(there, c) })
	pumps.Go(func() { pump(c, there) })
	pumps.Wait()
}

// pump copies one direction and passes on its end.
func pump(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// tunnels tells the addresses of the declared ports; plain ones only if asked,
// as Modal does not know theirs when a sandbox is created.
func (b *box) tunnels(plain bool) []*pb.TunnelData {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*pb.TunnelData
	for _, t := range b.ports {
		address := t.listener.Addr().(*net.TCPAddr)
		host, port := address.IP.String(), uint32(address.Port)
		switch {
		case !t.Unencrypted:
			list = append(list, pb.TunnelData_builder{Host: host, Port: port, ContainerPort: uint32(t.Port.Port)}.Build())
		case plain:
			list = append(list, pb.TunnelData_builder{
				Host: host, Port: port, UnencryptedHost: &host, UnencryptedPort: &port, ContainerPort: uint32(t.Port.Port),
			}.Build())
		}
	}
	return list
}

// SandboxGetTunnelsV2 gives the addresses of the declared ports.
func (c *control) SandboxGetTunnelsV2(_ context.Context, r *pb.SandboxGetTunnelsRequest) (*pb.SandboxGetTunnelsResponse, error) {
	b, err := c.known(r.GetSandboxId())
	if err != nil {
		return nil, err
	}
	if b.live() == nil {
		return nil, status.Errorf(codes.NotFound, "Sandbox %s has already finished", r.GetSandboxId())
	}
	return pb.SandboxGetTunnelsResponse_builder{
		Result: Result{Status: pb.GenericResult_GENERIC_STATUS_SUCCESS}.proto(), Tunnels: b.tunnels(true),
	}.Build(), nil
}
