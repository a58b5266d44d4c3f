package modal

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// sweepEvery is how often it is looked for what has to go. Expired images are
// gone for callers at once.
const sweepEvery = time.Minute

// How long things are remembered of which nobody tells that they can go.
const (
	endedTime     = 7 * 24 * time.Hour // sandboxes that have ended
	ephemeralTime = 24 * time.Hour     // secrets without a name
)

func (s *Server) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := errors.Join(s.dropExpired(ctx), s.dropOld(time.Now())); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "tidying the stand-in for Modal", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// dropExpired removes the images whose time is over.
func (s *Server) dropExpired(ctx context.Context) error {
	var errs []error
	for _, record := range s.Images() {
		if record.Expires.IsZero() || time.Now().Before(record.Expires) {
			continue
		}
		s.mu.Lock()
		i := s.images[record.ID]
		s.mu.Unlock()
		if i != nil {
			errs = append(errs, s.dropImage(ctx, i))
		}
	}
	return errors.Join(errs...)
}

// dropOld forgets the sandboxes that ended long ago, and ephemeral secrets.
func (s *Server) dropOld(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for id, b := range s.sandboxes {
		record := b.snapshot()
		if record.Ended.IsZero() || now.Sub(record.Ended) < endedTime {
			continue
		}
		delete(s.sandboxes, id)
		errs = append(errs, s.forget(kindSandboxes, id))
		for fd := 1; fd <= 2; fd++ {
			if err := os.Remove(s.outputPath(id, fd)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	for id, k := range s.secrets {
		if k.Name == "" && now.Sub(k.Created) > ephemeralTime {
			delete(s.secrets, id)
			errs = append(errs, s.forget(kindSecrets, id))
		}
	}
	return errors.Join(errs...)
}
