package bot

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Methods of the Web API that deliveries use.
const (
	methodPost      = "chat.postMessage"
	methodUpdate    = "chat.update"
	methodEphemeral = "chat.postEphemeral"
	methodReplies   = "conversations.replies"
	methodStatus    = "agents.sessions.setStatus"
	methodUpload    = "files.getUploadURLExternal"
	methodComplete  = "files.completeUploadExternal"
)

// limits are Slack's, per method, app and workspace, with some room left
// (https://docs.slack.dev/apis/web-api/rate-limits): chat.update and the
// reading methods are tier 3 (50 a minute), chat.postEphemeral tier 4 (100).
// chat.postMessage is limited to about one a second per channel, with short
// bursts, and by an unpublished cap for the workspace.
var limits = map[string]struct {
	every time.Duration
	burst int
}{
	methodPost:      {250 * time.Millisecond, 40},
	methodUpdate:    {1250 * time.Millisecond, 10},
	methodEphemeral: {650 * time.Millisecond, 10},
	methodReplies:   {1250 * time.Millisecond, 10},
	methodStatus:    {1300 * time.Millisecond, 10},
	methodUpload:    {650 * time.Millisecond, 10}, // tier 4, as its completion, which follows each
	methodComplete:  {650 * time.Millisecond, 10},
}

const (
	channelEvery = 1050 * time.Millisecond
	channelBurst = 5
)

// budget is the workspace's: what may be called now. Who finds nothing left asks
// again later, after those that are more urgent.
type budget struct {
	mu       sync.Mutex
	methods  map[string]*allowance
	channels map[string]*rate.Limiter // of methodPost
}

type allowance struct {
	*rate.Limiter
	closed time.Time // until then Slack has said 429
}

func newBudget() *budget {
	b := &budget{methods: make(map[string]*allowance), channels: make(map[string]*rate.Limiter)}
	for method, l := range limits {
		b.methods[method] = &allowance{Limiter: rate.NewLimiter(rate.Every(l.every), l.burst)}
	}
	return b
}

// take spends one call of the method, in the channel if it posts, or says how
// long there is none.
func (b *budget) take(method, channel string, now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.methods[method]
	if wait = m.closed.Sub(now); wait > 0 {
		return wait
	}
	limiters := []*rate.Limiter{m.Limiter}
	if method == methodPost {
		limiters = append(limiters, b.channel(channel))
	}
	var held []*rate.Reservation
	for _, l := range limiters {
		r := l.ReserveN(now, 1)
		held = append(held, r)
		wait = max(wait, r.DelayFrom(now))
	}
	if wait > 0 {
		for _, r := range held {
			r.CancelAt(now)
		}
	}
	return wait
}

func (b *budget) channel(id string) *rate.Limiter {
	l := b.channels[id]
	if l == nil {
		l = rate.NewLimiter(rate.Every(channelEvery), channelBurst)
		b.channels[id] = l
	}
	return l
}

// close obeys a Retry-After: the method is not called before it is over.
func (b *budget) close(method string, after time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.methods[method]
	if until := time.Now().Add(after); until.After(m.closed) {
		m.closed = until
	}
}

// scarce says whether the method's calls are nearly spent, so that what can wait should.
func (b *budget) scarce(method string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.methods[method].Tokens() < float64(limits[method].burst)/3
}
