// Package bot is the product in Slack: it receives what people say and press,
// and delivers cards, answers and notices.
//
// Words. An envelope is one Socket Mode frame that has to be acknowledged. A
// lane is a queue of envelopes that are handled one after the other; everything
// of one thread is in one lane. A card is the one message per prompt that is
// edited while the log goes on. An answer is the one new message per settled
// prompt, in several parts if it is long. A notice is a sentence that is no part
// of a session's log. A question is a message with buttons that is edited once,
// when it is answered; an update is what the agent posts while it works. A key
// names an inbound thing (I1) or an outbound message (I6); an outbound key travels
// as the message's metadata, except with a file, which is known by Slack's id of it.
//
// The way in: socket → lane → dispatch → one call of the Engine → acknowledged.
// Nothing is acknowledged before the Engine has committed; what could not be
// committed is left to Slack's own redelivery, and a redelivery that was
// committed after all changes nothing. An envelope that means nothing to us is
// acknowledged, or Slack would repeat it. At most two sockets exist over all
// replicas, each under a lease of its own.
//
// The way out: outbox → deliver → Slack → outbox. One replica delivers at a
// time, by lease, because Slack's limits are per workspace. Each pass takes what
// is due in the order of urgency (answers, notices, menus, new cards, progress)
// as far as the budget goes; what does not fit waits for the next pass, so that
// a later, more urgent delivery overtakes it. A message is posted only after the
// outbox says that it is being tried; if the outcome is unknown, the thread is
// searched for the key before it is posted again. Edits need no such care: the
// last one wins.
//
// Rendering is pure: view structs in, blocks out. Agent's text goes into
// rich_text elements, which Slack shows literally, or through escape: it can
// neither notify people nor forge links (I10).
//
// This package imports the core and the wire format's event bodies, nothing
// else of ours; nobody imports it but the program itself.
package bot
