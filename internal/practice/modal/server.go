package modal

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"openinspect/sandbox/local"
)

// Options say how a Server behaves. All may be left out.
type Options struct {
	// Log is told what people may want to know. Nil: slog.Default.
	Log *slog.Logger
	// Address is where both services listen; it must be on the loopback, because
	// the SDK speaks without TLS to nobody else. Empty: 127.0.0.1 and any port.
	Address string
	// PageSize is how many sandboxes SandboxListV2 gives at once. 0: 100.
	PageSize int
	// Boxes configures the provider that runs the sandboxes. Dir, Lifetime and
	// Log are the server's to set.
	Boxes local.Options
}

// The one workspace's credentials and environment.
const (
	TokenID     = "ak-practice"
	TokenSecret = "as-practice"
	Environment = "main"
)

const defaultPageSize = 100

// lifetimeMost is the longest timeout of a sandbox, as at Modal; lifetimeGrace
// is how much longer its box lives, so that the server ends it and not the box
// itself.
const (
	lifetimeMost  = 24 * time.Hour
	lifetimeGrace = time.Minute
)

// Server is the stand-in. Make one with Open; its methods may be called from
// several goroutines.
type Server struct {
	log         *slog.Logger
	dir         string
	pageSize    int
	binary      string
	boxes       *local.Provider
	listener    *breakable      // both services
	front       net.Listener    // HTTP with connect tokens
	certificate tls.Certificate // of encrypted tunnels
	pool        *x509.CertPool
	routerIssue atomic.Int64 // of the routers' tokens that hold
	faults      faults
	recorder    recorder

	// ctx is the time of Run. Work that outlives a call runs in work under it.
	ctx  context.Context
	work sync.WaitGroup

	mu          sync.Mutex // guards everything below
	key         []byte     // signs tokens
	lastCreated time.Time
	apps        map[string]*App    // by id
	secrets     map[string]*secret // by id
	images      map[string]*image  // by id
	sandboxes   map[string]*box    // by id
	snapshots   map[string]*snapshotCall
}

// Open opens the stand-in that keeps its state in dir, makes sure that boxes
// can be run here, and listens. Run answers.
func Open(ctx context.Context, dir string, o Options) (*Server, error) {
	s := &Server{
		log: o.Log, dir: dir, pageSize: o.PageSize, binary: local.Program,
		faults: newFaults(), recorder: newRecorder(),
		apps: map[string]*App{}, secrets: map[string]*secret{}, images: map[string]*image{}, sandboxes: map[string]*box{},
		snapshots: map[string]*snapshotCall{},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.pageSize == 0 {
		s.pageSize = defaultPageSize
	}
	for _, kind := range []string{kindApps, kindSecrets, kindImages, kindSandboxes, "output", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, kind), 0o700); err != nil {
			return nil, fmt.Errorf("preparing the stand-in for Modal: %w", err)
		}
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("opening the stand-in for Modal: %w", err)
	}
	o.Boxes.Dir, o.Boxes.Lifetime, o.Boxes.Log = filepath.Join(dir, "boxes"), lifetimeMost+2*lifetimeGrace, s.log
	var err error
	if s.certificate, s.pool, err = newCertificate(); err != nil {
		return nil, fmt.Errorf("making a certificate for tunnels: %w", err)
	}
	if s.boxes, err = local.New(ctx, o.Boxes); err != nil {
		return nil, fmt.Errorf("running sandboxes for the stand-in for Modal: %w", err)
	}
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listening as Modal: %w", err)
	}
	s.listener = &breakable{Listener: listener, open: map[net.Conn]bool{}}
	if s.front, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		s.listener.Close()
		return nil, fmt.Errorf("listening for connections to sandboxes: %w", err)
	}
	return s, nil
}

// URL is what belongs into MODAL_SERVER_URL.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// routerURL is the same port as the SDK wants it written: it demands https and
// then speaks plaintext, because MODAL_SERVER_URL is on the loopback.
func (s *Server) routerURL() string { return "https://" + s.listener.Addr().String() }

// Run answers until ctx ends, then closes the listeners and returns when
// everything it started has ended. Sandboxes live on.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	s.ctx = ctx
	if err := s.resume(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	rpc := grpc.NewServer(
		// The SDK pings every 30 seconds, idle or not, and is cut off by default.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(100<<20), grpc.MaxSendMsgSize(100<<20), // the SDK's own
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.WaitForHandlers(true),
	)
	pb.RegisterModalClientServer(rpc, &control{s: s})
	pb.RegisterTaskCommandRouterServer(rpc, &router{s: s})
	front := &http.Server{Handler: s.frontHandler(), ReadHeaderTimeout: time.Minute}
	g.Go(func() error { return s.boxes.Run(ctx) })
	g.Go(func() error { return rpc.Serve(s.listener) })
	g.Go(func() error {
		if err := front.Serve(s.front); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error { return s.sweep(ctx) })
	<-ctx.Done()
	rpc.Stop()
	err := front.Close()
	s.work.Wait()
	return errors.Join(g.Wait(), err)
}

// Close closes the listeners of a server that was not run.
func (s *Server) Close() error {
	return errors.Join(ignoreClosed(s.listener.Close()), ignoreClosed(s.front.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// newID makes an id as Modal's: a prefix and 26 letters and digits. It must
// not have 22, which the SDK takes for the older kind of sandbox.
func newID(prefix string) string { return prefix + "-" + rand.Text() }
