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
//
// Everything that comes in goes through Accept and its sisters: one transaction
// that inserts the dedupe key, the effect, its events and what to tell people.
// Everything that happens is appended to the log under the session's row lock,
// so that commit order is sequence order (I4). Surfaces read the log with a
// cursor of their own and are woken by the Feed; the tables are the truth, a
// wake-up is a hint.
//
// Leases. Who holds a sandbox's bridge is the session's actor: it delivers the
// prompts and appends the events. Every write of an actor is guarded by the
// sandbox's epoch, which each new holder raises, so that who lost the lease can
// write nothing more. Leases and deadlines use Postgres's clock only.
//
// This package knows nothing of HTTP, Slack, GitHub or Modal. bot, web and
// webhooks use the Engine itself; what the core needs from outside are the
// interfaces of ports.go.
package sessions
