package bot

import (
	"context"
	"maps"
	"sync"
	"time"

	"openinspect/sessions"
)

const (
	surface       = "slack"
	deliveryLease = "slack-delivery"

	maxInFlight = 8               // deliveries under way at once
	maxDue      = 500             // read in one pass
	pollEvery   = 2 * time.Second // a wake-up is only a hint
	failedPause = time.Second     // after the outbox could not be read
	tickEvery   = 12 * time.Second
	// deliveryTimeout bounds one delivery with all its parts and waits.
	deliveryTimeout = 3 * time.Minute
)

// deliverUnderLease delivers while this replica is the one that does.
func (b *Bot) deliverUnderLease(ctx context.Context) error {
	return b.engine.HoldLease(ctx, deliveryLease, func(ctx context.Context) error {
		d := &deliverer{
			Bot: b, budget: newBudget(), cards: make(map[string]*card), threads: make(map[string]sessions.Thread),
			inFlight: make(map[int64]bool), held: make(map[int64]time.Time), finished: make(chan finish, maxInFlight),
		}
		d.run(ctx)
		return nil
	})
}

// deliverer takes what is due to Slack. run is its only goroutine but for one per
// delivery under way; a card belongs to the delivery that is under way for it.
type deliverer struct {
	*Bot
	budget *budget

	cards    map[string]*card           // by prompt, those that are still edited
	threads  map[string]sessions.Thread // by session: it never changes
	inFlight map[int64]bool             // by delivery
	held     map[int64]time.Time        // by delivery: not before then
	finished chan finish
	running  sync.WaitGroup
}

// finish is the end of one delivery.
type finish struct {
	id     int64
	failed bool
}

// card is what the deliverer remembers of a live card. Everything in it can be
// made again from the log.
type card struct {
	due      sessions.Delivery
	progress progress
	read     int64  // log position up to which progress was folded
	shown    string // what Slack shows, to skip edits that change nothing
	edits    int
	at       time.Time // of the last edit
	ticks    bool      // it shows a time that runs
	over     bool      // it is not edited any more
}

// run delivers until ctx ends, and returns when nothing is under way any more.
func (d *deliverer) run(ctx context.Context) {
	defer d.running.Wait()
	woken := d.engine.Woken(ctx, surface)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-woken:
		case <-timer.C:
		case f := <-d.finished:
			d.finish(f)
		}
		d.collect()
		timer.Reset(d.pass(ctx))
	}
}

// collect notes all deliveries that have finished.
func (d *deliverer) collect() {
	for {
		select {
		case f := <-d.finished:
			d.finish(f)
		default:
			return
		}
	}
}

// finish forgets a delivery that has ended. One that failed is held back for a
// moment even if the outbox could not be told so.
func (d *deliverer) finish(f finish) {
	delete(d.inFlight, f.id)
	if f.failed {
		d.held[f.id] = time.Now().Add(failedPause)
	}
}

// pass begins what is due, in the order of urgency, and returns when to look again.
func (d *deliverer) pass(ctx context.Context) (again time.Duration) {
	due, err := d.engine.Due(ctx, surface, maxDue)
	if err != nil {
		if ctx.Err() == nil {
			d.log.Error("the outbox cannot be read", "err", err)
		}
		return failedPause
	}
	again = pollEvery
	now := time.Now()
	maps.DeleteFunc(d.held, func(_ int64, until time.Time) bool { return now.After(until) })
	for _, it := range due {
		if len(d.inFlight) >= maxInFlight {
			return again // the next one that finishes calls again
		}
		if !d.inFlight[it.ID] {
			again = min(again, d.begin(ctx, it, now))
		}
	}
	return min(again, d.tick(ctx, now))
}

// begin starts one delivery, or returns how long it has to wait.
func (d *deliverer) begin(ctx context.Context, it sessions.Delivery, now time.Time) (wait time.Duration) {
	if wait = d.held[it.ID].Sub(now); wait > 0 {
		return wait
	}
	var c *card
	if it.Kind == sessions.DeliverCard {
		if c = d.cards[it.Prompt]; c == nil {
			c = &card{}
			d.cards[it.Prompt] = c
		}
		if wait = c.at.Add(d.gap(c)).Sub(now); wait > 0 {
			return wait
		}
		c.due = it
	}
	t, err := d.place(ctx, it)
	if err != nil {
		d.log.Error("a delivery's thread cannot be read", "delivery", it.ID, "err", err)
		return failedPause
	}
	if wait = d.budget.take(methodOf(it), t.Channel, now); wait > 0 {
		return wait
	}
	d.start(ctx, it, t, c)
	return pollEvery
}

// start runs a delivery in a goroutine of its own.
func (d *deliverer) start(ctx context.Context, it sessions.Delivery, t sessions.Thread, c *card) {
	d.inFlight[it.ID] = true
	d.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
		defer cancel()
		d.finished <- finish{it.ID, !d.deliver(ctx, it, t, c)}
	})
}

// tick edits cards that show a running time and had no other edit for a while,
// as long as the budget is not needed for more. It returns when the next is due.
func (d *deliverer) tick(ctx context.Context, now time.Time) (again time.Duration) {
	again = pollEvery
	for prompt, c := range d.cards {
		switch {
		case d.inFlight[c.due.ID]:
			continue
		case c.over:
			delete(d.cards, prompt)
			continue
		case !c.ticks:
			continue
		}
		t, known := d.threads[c.due.Session]
		switch wait := c.at.Add(tickEvery).Sub(now); {
		case wait > 0:
			again = min(again, wait)
		case !known, len(d.inFlight) >= maxInFlight, d.budget.scarce(methodUpdate):
		case d.budget.take(methodUpdate, t.Channel, now) == 0:
			d.start(ctx, c.due, t, c)
		}
	}
	return again
}

// gap is the least time between two edits of a card: it grows with the card's
// edits and, when the workspace's edits become scarce, with the number of cards.
func (d *deliverer) gap(c *card) time.Duration {
	const shortest, longest = 1200 * time.Millisecond, 3 * time.Second
	gap := min(shortest+time.Duration(c.edits)*10*time.Millisecond, longest)
	if d.budget.scarce(methodUpdate) {
		gap = max(longest, time.Duration(len(d.cards))*limits[methodUpdate].every)
	}
	return gap
}

// methodOf is the method that a delivery calls first.
func methodOf(it sessions.Delivery) string {
	switch {
	case it.Kind == sessions.DeliverEphemeral:
		return methodEphemeral
	case it.Kind == sessions.DeliverFile:
		return methodUpload
	case (it.Kind == sessions.DeliverCard || it.Kind == sessions.DeliverQuestion) && landedAt(it).TS != "":
		return methodUpdate
	}
	return methodPost
}

// place is the thread that a delivery goes to.
func (d *deliverer) place(ctx context.Context, it sessions.Delivery) (sessions.Thread, error) {
	if it.Kind == sessions.DeliverNotice || it.Kind == sessions.DeliverEphemeral {
		return notice(it).Thread, nil
	}
	if t, known := d.threads[it.Session]; known {
		return t, nil
	}
	s, err := d.engine.Session(ctx, it.Session)
	if err != nil {
		return sessions.Thread{}, err
	}
	t := sessions.Thread{Team: s.Team, Channel: s.Channel, TS: s.ThreadTS}
	d.threads[it.Session] = t
	return t, nil
}
