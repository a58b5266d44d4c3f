package modal

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc"
)

// clientEnv guards the process's environment while a client reads it.
var clientEnv sync.Mutex

// newClient makes a client that depends on nothing but Options. The SDK takes
// the server's URL from the environment only, and fills what is not given from
// there and from a file in the home directory: so these are set to what they
// shall be until it has read them.
func newClient(o Options) (*sdk.Client, error) {
	clientEnv.Lock()
	defer clientEnv.Unlock()
	for name, value := range map[string]string{
		"MODAL_SERVER_URL": o.ServerURL, "MODAL_ENVIRONMENT": o.Environment, "MODAL_CONFIG_PATH": os.DevNull,
		"MODAL_PROFILE": "", "MODAL_SANDBOX_V2": "1",
	} {
		restore, err := setenv(name, value)
		if err != nil {
			return nil, fmt.Errorf("configuring Modal's client: %w", err)
		}
		defer restore()
	}
	throttle := throttleTime
	client, err := sdk.NewClientWithOptions(&sdk.ClientParams{
		TokenID: o.TokenID, TokenSecret: o.TokenSecret, Environment: o.Environment,
		Logger: slog.New(quieter{o.Log.Handler()}), MaxThrottleWait: &throttle,
		GRPCStreamInterceptors: []grpc.StreamClientInterceptor{watchBuild},
	})
	if err != nil {
		return nil, fmt.Errorf("making Modal's client: %w", err)
	}
	return client, nil
}

func setenv(name, value string) (restore func(), err error) {
	old, was := os.LookupEnv(name)
	if err := os.Setenv(name, value); err != nil {
		return nil, err
	}
	return func() {
		if was {
			os.Setenv(name, old)
		} else {
			os.Unsetenv(name)
		}
	}, nil
}

// quieter lowers the SDK's log by one level: it warns of what is meant (a server
// on the loopback has no TLS), and of errors that its caller is told as well.
type quieter struct{ slog.Handler }

const oneLevel = slog.LevelWarn - slog.LevelInfo

func (q quieter) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, l-oneLevel)
}

func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level -= oneLevel
	return q.Handler.Handle(ctx, r)
}

func (q quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quieter{q.Handler.WithAttrs(attrs)}
}

func (q quieter) WithGroup(name string) slog.Handler { return quieter{q.Handler.WithGroup(name)} }

// wholeSeconds rounds up, because Modal counts in seconds.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}
