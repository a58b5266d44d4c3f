// Package sessions is the core: what a session is and what happens to it.
//
// Words. A Session is one piece of work on one repository, in at most one Slack
// thread. A Prompt is one request in it, with one author and one source. An
// Event is one entry of the session's append-only log. An Artifact is something
// the session made. A Participant is a person who prompted or watches.
//
// State machines; each edge is one guarded UPDATE:
//
//	prompt    queued ──> running ──> completed | failed | stopped
//	          queued ──> failed | cancelled
//	sandbox   none | parked | lost | failed ──> starting ──> booting ──> ready ──> parking ──> parked
//	          any of starting, booting, ready, parking ──> lost | failed
//	session   open ──> archived ──> open
//	spare     starting ──> booting ──> ready, any of them ──> taken | ended
//
// Everything that comes in goes through Accept and its sisters: one transaction
// that inserts the dedupe key, the effect, its events and what to tell people.
// Everything that happens is appended to the log under the session's row lock,
// so that commit order is sequence order (I4). Surfaces read the log with a
// cursor of their own and are woken by the Feed; the tables are the truth, a
// wake-up is a hint.
//
// The feed. What a transaction committed goes straight to the readers in the
// same process; a debounced NOTIFY wakes the other replicas, which read the
// tables; polling finds what a notification missed. Pieces of a part that is
// still being written go to readers of the same process at once and into one
// upserted row every 200 ms, from which the other replicas' readers get them.
//
// Leases. Who holds a sandbox's bridge is the session's actor: it delivers the
// prompts and appends the events. Every write of an actor is guarded by the
// sandbox's epoch, which each new holder raises, so that who lost the lease can
// write nothing more; the guard locks the row, because under READ COMMITTED a
// plain condition on another row could still see the old epoch. A generation is
// the epoch at which a box was started, and its tag at the provider: boxes of
// earlier generations are orphans. Starting is claimed per session with SKIP
// LOCKED; deadlines, parking and the code host are each one replica's work at a
// time (HoldLease). Leases and deadlines use Postgres's clock only.
//
// Locks are taken in one order: the sandbox's row, the session's row, then
// everything that hangs on the session. Who needs the sandbox's row when it has
// the session's already takes it only if nobody else has it (SKIP LOCKED).
//
// A prompt that nothing is ahead of begins in the transaction that accepts it, if
// the session's actor is in the same process: the actor then only sends it. All
// others are taken from the queue by the actor, in its own transaction.
//
// A start goes claim (token valid from here on) → Provider.Start → recorded. A
// starter that dies in between is replaced when its claim runs out: its box is
// found by its tags, or dials in with its token and is adopted. A session without
// files of its own takes a spare of its repository instead, if one is there
// (spares.go).
//
// Settings are read when they are used: a box gets those of its repository when it is
// started (equip), and what they say of its deadlines is recorded with it. Secrets
// of the repository are in the box's environment; the actor scrubs them, those too
// that were replaced lately. Files are saved only if the supervisor said that none
// of them is in there (maySave).
//
// Files: accept, steer (edit, cancel, stop, retry), repository, naming, choose
// are what people ask for; bridge, actor, parts, calls are the actor; start,
// park, watch are the sandbox's life, spares what waits for a session; settings,
// variables, equip, kept, toolservers, openports are what administrators set and
// what follows from it; settle, log, outbox are what everybody writes through; feed, gossip are the readers; pulls, github, people are whom
// effects belong to.
//
// This package knows nothing of HTTP, Slack, GitHub or Modal. bot, web and
// webhooks use the Engine itself; what the core needs from outside are the
// interfaces of ports.go.
package sessions
