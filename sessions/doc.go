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
//	          running in a boot ──> running in none ──> running in the next (carry.go)
//	sandbox   none | parked | lost | failed ──> starting ──> booting ──> ready ──> parking ──> parked
//	          any of starting, booting, ready, parking ──> lost | failed
//	session   open ──> archived ──> open
//	saved     saving ──> kept ──> unwanted ──> gone, saving ──> unwanted | gone (saved.go)
//	spare     starting ──> booting ──> ready, any of them ──> taken | ended
//	build     queued ──> building ──> saving ──> succeeded | failed (see images.go)
//	image     none ──> ready ──> removing ──> gone
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
// everything that hangs on the session, what a box costs last. Who needs the sandbox's row when it has
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
// A session's first box starts from the newest image of its repository, or, if
// there is none or the provider has lost it, from the base image with a clone. An
// image is built for repositories that had a session lately: when the default
// branch has moved (looked at every half hour, and when RepositoryChanged says so),
// when what it is made of changed, and before the provider may forget it. A build
// that fails leaves the last good image in use. The start of a box notes its image
// in the transaction that claims it, and an image is removed only while no start
// holds it. What a builder saved and could not record any more is found by its box
// and deleted, or, at a provider that lists nothing, forgotten after sandbox.KeepImage.
//
// The agent's tools. calls.go has their table; each has a file of its own,
// tool_NAME.go. A call is a row before it has an effect, and is done only while
// the prompt that made it runs in the boot that made it. What changes something
// outside is an outbox row, done in the name of the person whose prompt it is
// (I11); what only reads is read again if the bridge is cut. A question ends its
// prompt, and what a person asks for next answers it (questions). A file comes
// beside the bridge and is claimed by a call (artifacts, pictures). A child session
// tells its parent by a report, which is a row until it was told (children).
//
// A sandbox that is quiet after a prompt is saved by a snapshot, one that is idle
// for longer is parked. A saved filesystem is a row before its provider is asked
// for it, and until it is deleted there (saved.go, reaper.go). A lost box's session
// goes on from what the box left, if its provider is a sandbox.Salvager, or from the
// last one; with none, or if it is gone, from the image and the branch. A box at the
// end of its lifetime is parked, and the prompt that runs in it is carried over to the
// next; so is it if a control plane is stopped that shall leave nothing running. Archived sessions lose their saved filesystems after
// a while and keep their branches; a prompt opens them again.
//
// Settings are read when they are used: a box gets those of its repository when it is
// started (equip), and what they say of its deadlines is recorded with it. Secrets
// of the repository are in the box's environment; the actor scrubs them, those too
// that were replaced lately. Files are saved only if the supervisor said that none
// of them is in there; before a snapshot it is asked to look (kept.go).
//
// Files: accept, steer (edit, cancel, stop, retry), repository, naming, choose,
// archive are what people ask for; bridge, actor, parts, calls are the actor;
// start, park, snapshot, saved, reaper, carry, charge, watch, tending, exit are the
// sandbox's life, spares what waits for a session, images_* what both begin from;
// settings, variables, equip, kept, toolservers, openports are what administrators
// set and what follows from it;
// settle, log, outbox are what everybody writes through; feed, gossip are the
// readers; pulls, forge_effects, github, people are whom effects belong to.
//
// This package knows nothing of HTTP, Slack, GitHub or Modal. bot, web and
// webhooks use the Engine itself; what the core needs from outside are the
// interfaces of ports.go.
package sessions
