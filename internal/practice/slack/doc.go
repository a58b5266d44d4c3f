// Package slack is a stand-in for Slack: one workspace with three people, a
// few channels and one app, served over Slack's real protocols. Clients
// written for Slack (slack-go, Bolt for JavaScript) run against it unmodified,
// people use it in a browser, and tests drive it and make it fail.
//
// # What is served
//
//	/api/METHOD                          Web API: form and JSON bodies, the token in the
//	                                     form or the Authorization header
//	/link/                               Socket Mode, with a ticket of apps.connections.open
//	/actions/ID                          response_url
//	/files/…                             uploads and downloads
//	/openid/connect/…, /.well-known/…    Sign in with Slack; the issuer is the stand-in's URL
//	/                                    the page for people
//	/practice/…                          what the page does that no method does; see below
//
// # What is kept
//
// Everything people see, and events that the app has not acknowledged, are in
// a journal in the directory: each change is written before it is answered, so
// a killed process loses nothing. Calls recorded for tests, tickets, triggers,
// response_urls and authorisation codes are short-lived and end with the
// process. The newest 5,000 messages of a channel and 500
// files (512 MB) are kept.
//
// # Invariants
//
//   - A timestamp is given out once in a workspace and grows.
//   - An event is delivered at least once: unacknowledged for three seconds, or
//     without a connection, it is retried at once, after a minute and after five
//     more, then given up, as Slack does. What people click is sent once.
//   - An envelope goes to one connection, and only that one can acknowledge it.
//   - One mention is two events, app_mention and message, in no fixed order of
//     connections.
//   - The app's tokens obey Slack's scopes and rate limits. People's tokens may
//     do twenty times as much and have every scope: they stand for Slack's own
//     client. Methods called through Go (PostAs, …) have no limits.
//
// Server.mu guards all state. Functions that take a *call, and unexported
// methods unless they say otherwise, run with it held; interactions wait for
// the app without it. Only Run's goroutine delivers events and expires things;
// each Socket Mode connection has two goroutines that end with it.
//
// Where Slack does not document its behaviour, the constants say what is
// assumed: bursts above the rate tiers, the size of metadata, and that an
// acknowledgement on another connection does not count.
//
// # Driving it
//
// From Go: PostAs, EditAs, DeleteAs, ClickAs, SubmitAs and their like act as a
// person, SetStanding as an admin; Messages, Ephemerals, Views and WaitMessage
// look. FailNext,
// SetLatency, RepeatEvents, DropSockets, StallSockets and Disconnect make
// things go wrong; Calls tells what the app called.
//
// From outside: the Web API with a person's token posts, edits, deletes,
// reacts, uploads and reads as that person. What Slack has no method for is
// here, as form or JSON with a person's token, answered as {"ok": true} or
// {"ok": false, "error": "no_response"} when the app did not acknowledge in
// time:
//
//	POST /practice/click     channel, ts (or view_id), action_id; block_id, value, values
//	POST /practice/submit    view_id, state: [{block_id, action_id, value, values}]; answers errors
//	POST /practice/close     view_id, all
//	POST /practice/command   channel, command, text
//	POST /practice/shortcut  callback_id; channel, ts
//	POST /practice/stop      channel, thread_ts
//	POST /practice/home      tab (home, messages)
//	POST /practice/rename    channel, thread_ts, title
//	POST /practice/suggest   view_id (or channel, ts), action_id, block_id, value
//	GET  /practice/messages  channel: all that the person sees, ephemeral messages too
//	GET  /practice/views     the person's modals and App Home
//
// # The page
//
// /?channel=C…&thread=TS&as=U… opens a channel, a thread and a person. For
// browsers driven by programs these stay as they are:
//
//	[data-testid=person-U…]            switches to that person; body[data-as] says who one is
//	[data-testid=channel-C…]           opens a channel; [data-testid=home] the app's tabs
//	[data-testid=messages]             the channel's messages
//	[data-testid=thread]               the open thread's messages
//	[data-ts="…"]                      a message; data-user, and data-ephemeral if it is one
//	[data-testid=composer]             the channel's text field; Enter sends
//	[data-testid=thread-composer]      the thread's; [data-testid=send], [data-testid=thread-send]
//	[data-testid=open-thread]          in a message: its replies
//	[data-action-id="…"]               an interactive element; data-value on buttons
//	[data-testid=option][data-value]   an option of the open menu
//	[data-testid=confirm], [data-testid=deny]   in a confirmation dialog
//	[data-testid=modal]                the topmost modal, with data-view-id;
//	                                   [data-testid=modal-submit], [data-testid=modal-close]
//	[data-testid=field-error]          what a modal's field complains about
//	[data-testid=session-status]       "is working…"; [data-testid=session-stop]
//	[data-testid=tab-home], [data-testid=tab-messages]   tabs of the app
//	body[data-ready=true]              the page shows what it was asked for
package slack
