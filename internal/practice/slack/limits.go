package slack

import (
	"math"
	"time"
)

// peopleScale is how much more a person's token may do than the app's: people
// act through Slack's own client, which the tiers do not limit, but a runaway
// script is still told so.
const peopleScale = 20

// rate is a method's limit: so many calls a minute, with bursts of so many.
// Slack documents the former ("50+ per minute") and says of bursts only that
// they are tolerated; a quarter of a minute's worth is assumed.
type rate struct {
	perMinute, burst float64
	perChannel       bool // besides, one call a second into each channel
}

var (
	tier2   = rate{perMinute: 20, burst: 10}
	tier3   = rate{perMinute: 50, burst: 13}
	tier4   = rate{perMinute: 100, burst: 25}
	special = rate{perMinute: 600, burst: 100} // "several hundred per minute"
	// posting is limited per channel (a message a second, short bursts) and for
	// the whole workspace.
	posting = rate{perMinute: 300, burst: 60, perChannel: true}
)

var perChannel = rate{perMinute: 60, burst: 5}

// rateLimited is the answer 429.
type rateLimited struct{ wait time.Duration }

func (rateLimited) Error() string { return "ratelimited" }

func (l rateLimited) seconds() int { return int(math.Ceil(l.wait.Seconds())) }

// bucket is a token bucket; it starts full.
type bucket struct {
	tokens float64
	at     time.Time
}

// take counts a call and returns how long to wait if it is one too many.
func (s *Server) take(c *call, r rate, now time.Time) time.Duration {
	scale := s.opts.RateScale
	if scale < 0 || r.perMinute == 0 {
		return 0
	}
	who := "app"
	if !c.bot && !c.app && c.user != "" {
		who, scale = c.user, scale*peopleScale
	}
	key := who + " " + c.method
	wait := s.missingTokens(key, r, scale, now)
	inChannel := key + " " + c.args["channel"]
	if r.perChannel {
		wait = max(wait, s.missingTokens(inChannel, perChannel, scale, now))
	}
	if wait > 0 {
		return wait
	}
	s.buckets[key].tokens--
	if r.perChannel {
		s.buckets[inChannel].tokens--
	}
	return 0
}

// missingTokens refills a bucket and returns how long it needs to hold one.
func (s *Server) missingTokens(key string, r rate, scale float64, now time.Time) time.Duration {
	perSecond, burst := r.perMinute*scale/60, math.Max(1, r.burst*scale)
	b := s.buckets[key]
	if b == nil {
		b = &bucket{tokens: burst, at: now}
		s.buckets[key] = b
	}
	b.tokens = math.Min(burst, b.tokens+now.Sub(b.at).Seconds()*perSecond)
	b.at = now
	if b.tokens >= 1 {
		return 0
	}
	return time.Duration((1 - b.tokens) / perSecond * float64(time.Second))
}

// forgetFullBuckets bounds the table: a bucket that has had ten minutes to
// fill is as good as none.
func (s *Server) forgetFullBuckets(now time.Time) {
	if len(s.buckets) < 1000 {
		return
	}
	for key, b := range s.buckets {
		if now.Sub(b.at) > 10*time.Minute {
			delete(s.buckets, key)
		}
	}
}
