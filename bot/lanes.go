package bot

import (
	"context"
	"hash/maphash"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	laneCount = 16
	laneDepth = 64
	// jobTimeout is how long one envelope may take. Slack stops waiting after
	// 3 s and sends an event again, which then finds its work done; going on
	// for a while makes sure that it is.
	jobTimeout = 12 * time.Second
)

// lanes handle envelopes: those of one thread in order, those of different
// threads side by side, and never so many at once that a slow database is
// drowned.
type lanes struct {
	log  *slog.Logger
	seed maphash.Seed
	jobs [laneCount]chan func(context.Context)
}

func newLanes(log *slog.Logger) *lanes {
	l := &lanes{log: log, seed: maphash.MakeSeed()}
	for i := range l.jobs {
		l.jobs[i] = make(chan func(context.Context), laneDepth)
	}
	return l
}

// offer queues a job, or refuses it if the thread's lane is full. It never blocks,
// because the caller is what keeps the socket alive.
func (l *lanes) offer(thread string, job func(context.Context)) bool {
	select {
	case l.jobs[maphash.String(l.seed, thread)%laneCount] <- job:
		return true
	default:
		return false
	}
}

// run works until ctx ends. Jobs that are still queued then are dropped: they
// were not acknowledged, so Slack sends them again.
func (l *lanes) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, jobs := range l.jobs {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case job := <-jobs:
					l.work(ctx, job)
				}
			}
		})
	}
	return g.Wait()
}

func (l *lanes) work(ctx context.Context, job func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	job(ctx)
}
