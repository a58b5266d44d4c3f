// Package web is the product in a browser: sign-in, the list of sessions, a
// session's page that shows its log live, and the JSON API behind both.
//
// Vocabulary. A viewer is a person with a valid sign-in. A row is what one event
// of a session's log shows in the transcript: HTML, rendered once per event and
// shared by everybody who looks. A section is a fixed range of a hundred
// sequence numbers; the page carries the newest ones and empty stubs of the
// others, which the browser fills when they come near. A room is a session with
// watchers in this process; a watcher is one live connection. A panel is a part
// of the page that shows state rather than history (header, side column).
//
// What the page promises:
//
//   - The transcript is the log (I4). Rows carry their sequence number. A browser
//     that connects says which number it has; it is sent what follows from the
//     table, then what happens, without a gap. It ignores what it has, so that a
//     repeat shows nothing, and asks again when a number is missing.
//   - A row that is open (a running tool, a queued prompt) is superseded by the
//     next row of the same key. The same rule is applied here to what is read
//     from the table (fold) and in the browser to what arrives, so that a
//     reload shows what was there.
//   - Deltas of running parts are shown as plain text and replaced by the
//     finished part's row.
//   - Everything that a log says is untrusted (I10): HTML comes from
//     html/template, or from goldmark through bluemonday; scripts are modules of
//     our own and nothing else may run (Content-Security-Policy, Trusted Types).
//   - What the agent uploaded is served by what its bytes are: pictures and plain
//     text as such, everything else as a download, none of it able to run.
//   - Whatever is posted carries an Idempotency-Key that the browser minted, so
//     that a request sent twice has one effect (I1).
//
// Who may see what: every full member of the Slack workspace sees and steers
// every session; nobody else sees anything, except a picture that the agent put
// into a pull request: whoever has its link sees it, until somebody revokes it. The
// sign-in is Slack's OpenID Connect with issuer, signature, audience, nonce and
// team checked. That says nothing of guests, so Members is asked about the person
// at the sign-in and then every ten minutes in which the page is used: somebody who
// became a guest or was deactivated is signed out everywhere. GitHub is connected
// afterwards and is never a way to sign in.
//
// Everybody sees what is set for repositories, except values of secrets, which are
// nowhere on a page; only administrators change it, which the engine checks.
//
// Ports of sandboxes are served on hosts of their own by the same listener
// (openport.go). What runs there is not ours and may attack who looks at it, so
// nothing that signs a person in here is ever sent there: a ticket that is good once
// opens one port of one session, and becomes a cookie of that host alone.
//
// Goroutines run under Server.Run alone: one per room, one per watcher and one
// that reads what the watcher says.
package web
