package sessions

import (
	"maps"
	"slices"
	"time"

	"openinspect/sandbox"
)

// Hasten shortens an engine's waits, before it runs: what takes seconds in
// production takes tens of milliseconds. What follows from a sandbox's silence
// stays as it is, because heartbeats do.
func Hasten(e *Engine) {
	e.tempo.lease = 1500 * time.Millisecond // a busy machine renews it late
	e.tempo.poll = 50 * time.Millisecond
	e.tempo.watch = 30 * time.Millisecond
	e.tempo.grace = 50 * time.Millisecond
	e.tempo.park = time.Second
	e.tempo.vet = 2 * time.Second
	e.tempo.choose = 300 * time.Millisecond
	e.tempo.call = 2 * time.Second
	e.tempo.retry = 20 * time.Millisecond
	e.tempo.checks = 20 * time.Millisecond
	e.tempo.stopAgain = 200 * time.Millisecond
	e.tempo.images = 30 * time.Millisecond
	e.tempo.buildLog = 20 * time.Millisecond
	e.tempo.snapshot = 2 * time.Second
	e.tempo.unowned = 200 * time.Millisecond
	e.tempo.deletion = 50 * time.Millisecond
}

// SlowSaves lets saving a filesystem take an hour.
func SlowSaves(e *Engine) { e.tempo.snapshot = time.Hour }

// Names for tests of single parts.
var (
	NewScrubber = newScrubber
	NewParts    = newParts
	Title       = title
)

// ToolNames are the names of all of the agent's tools.
func ToolNames() []string { return slices.Sorted(maps.Keys(agentTools)) }

// Text removes secrets from text.
func (s *scrubber) Text(t string) string { return s.text(t) }

// Add takes a delta.
func (ps *parts) Add(d sandbox.Delta) *PartDelta { return ps.add(d) }

// Publish hands committed events of one session to the readers of this process.
func Publish(e *Engine, events ...Event) {
	e.publish(news{events: map[string][]Event{events[0].Session: events}})
}
