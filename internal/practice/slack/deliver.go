package slack

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Kinds of envelopes.
const (
	kindEvents      = "events_api"
	kindInteractive = "interactive"
	kindCommand     = "slash_commands"
)

// delivery is something on its way to the app. Events are stored until they
// are acknowledged or given up; what people click is not, as in Slack.
type delivery struct {
	ID       string
	Kind     string
	Payload  json.RawMessage
	Attempt  int       // 0 at first; counts redeliveries
	Due      time.Time // when to send it, while not in flight
	responds bool      // the acknowledgement's payload is an answer

	sent     map[string]*socket // envelopes in flight
	deadline time.Time          // of the envelopes in flight
	done     chan struct{}      // closed when settled; nil for events
	acked    bool
	response json.RawMessage
}

func (s *Server) applyDelivery(e entry) error {
	s.deliveries = slices.DeleteFunc(s.deliveries, func(d *delivery) bool { return d.ID == e.Key })
	if e.Value == nil {
		return nil
	}
	d := &delivery{}
	return s.decode(e, d, func() { s.deliveries = append(s.deliveries, d) })
}

// enqueue takes a delivery on; beyond the bound the oldest is given up.
func (s *Server) enqueue(d *delivery) {
	d.Due = time.Now()
	s.deliveries = append(s.deliveries, d)
	if d.Kind == kindEvents {
		s.journal.put("event", d.ID, d)
	}
	if len(s.deliveries) > maxDeliveries {
		s.settle(s.deliveries[0])
	}
	s.stir()
}

// settle forgets a delivery, acknowledged or given up.
func (s *Server) settle(d *delivery) {
	s.deliveries = slices.DeleteFunc(s.deliveries, func(o *delivery) bool { return o == d })
	if d.Kind == kindEvents {
		s.journal.remove("event", d.ID)
	}
	if d.done != nil {
		close(d.done)
	}
}

// deliver sends what is due and gives back what was not acknowledged in time.
// It returns when to be called next, unless something happens before.
func (s *Server) deliver(now time.Time) time.Time {
	next := now.Add(time.Minute)
	for _, d := range slices.Clone(s.deliveries) {
		for range len(s.opts.Retries) + 1 { // retries without a pause go on at once
			if at, settled := s.advance(d, now); settled {
				break
			} else if at.After(now) {
				if at.Before(next) {
					next = at
				}
				break
			}
		}
	}
	return next
}

// advance does one delivery's next step, and returns when the step after it is
// due or that there is none.
func (s *Server) advance(d *delivery, now time.Time) (at time.Time, settled bool) {
	if d.sent != nil {
		if now.Before(d.deadline) {
			return d.deadline, false
		}
		return s.missed(d, now)
	}
	if now.Before(d.Due) {
		return d.Due, false
	}
	if !s.sendDelivery(d) {
		return s.missed(d, now)
	}
	d.deadline = now.Add(s.opts.AckTimeout)
	return d.deadline, false
}

// missed schedules the next attempt, if there is one: of events only.
func (s *Server) missed(d *delivery, now time.Time) (at time.Time, settled bool) {
	d.sent = nil
	if d.Kind != kindEvents || d.Attempt >= len(s.opts.Retries) {
		s.settle(d)
		return now, true
	}
	d.Due = now.Add(s.opts.Retries[d.Attempt])
	d.Attempt++
	s.journal.put("event", d.ID, d)
	return d.Due, false
}

// sendDelivery puts a delivery on a connection, a different one each time; it
// is false if there is none.
func (s *Server) sendDelivery(d *delivery) bool {
	copies := 1
	if d.Kind == kindEvents {
		copies = s.faults.copiesOfNext()
	}
	sent := map[string]*socket{}
	for range copies {
		c := s.nextInUse()
		if c == nil {
			break
		}
		envelope := uuid.NewString()
		if c.send(s.envelope(d, envelope)) {
			sent[envelope] = c
		}
	}
	if len(sent) == 0 {
		return false
	}
	d.sent = sent
	return true
}

func (s *Server) envelope(d *delivery, id string) object {
	e := object{
		"type": d.Kind, "envelope_id": id, "payload": d.Payload,
		"accepts_response_payload": d.responds,
	}
	if d.Kind == kindEvents {
		e["retry_attempt"], e["retry_reason"] = d.Attempt, ""
		if d.Attempt > 0 {
			e["retry_reason"] = "timeout"
		}
	}
	return e
}

// nextInUse takes the connections in turn.
func (s *Server) nextInUse() *socket {
	for i, c := range s.sockets {
		if c.retiring.IsZero() && !c.closed {
			s.sockets = append(slices.Delete(s.sockets, i, i+1), c)
			return c
		}
	}
	return nil
}

// acknowledge settles a delivery. Only the connection that got an envelope can
// acknowledge it: what Slack does with others is not documented, and this is
// what an app has to be prepared for.
func (s *Server) acknowledge(c *socket, envelope string, payload json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.deliveries {
		if d.sent[envelope] == c {
			d.acked = true
			if d.responds {
				d.response = payload
			}
			s.settle(d)
			return
		}
	}
}

// expire ends what has a deadline of its own.
func (s *Server) expire(now time.Time) {
	for _, c := range s.sockets {
		switch {
		case !c.retiring.IsZero() && now.After(c.retiring):
			c.cut()
		case c.retiring.IsZero() && now.After(c.recycle):
			s.retire(c, "refresh_requested")
		}
	}
	for ticket, until := range s.tickets {
		if now.After(until) {
			delete(s.tickets, ticket)
		}
	}
	s.forgetFullBuckets(now)
	s.expireInteractions(now)
	s.expireStreams(now)
	s.expireSessions(now)
}
