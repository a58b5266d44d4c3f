// Package doors holds the HTTP entrances through which a sandbox reaches what
// needs a credential or a check: the git door, the model door, the tools door and
// the egress proxy. A sandbox holds one credential, its own token; the doors look up what
// that token may do and add the real credential outside the sandbox (I7).
//
// # Words
//
// An Access is what one sandbox token stands for: a session, its repository
// and the one branch it may push. An upstream is the server behind a door: the
// code host, a model provider, a server of tools, a host of the internet. A refusal is an answer
// of the door's own; it is always a sentence that the agent or a person can
// act on, spoken in the protocol of the door: git's report and error packets,
// the model provider's error JSON, a proxy's 403.
//
// # The token
//
// Every request carries the sandbox token in the header TokenHeader, CONNECT
// requests too; the gateway on the sandbox's own loopback adds it. New strips
// it, with cookies, before any door sees the request, and no header is passed
// on that is not on a door's list.
//
// # What the doors promise
//
//   - Git: one repository; fetches are passed on, a push only if it creates or
//     updates exactly refs/heads/<Branch>, which is never the default branch
//     (I8). The head that was pushed is recorded from the upstream's own
//     report, before the agent sees that report. If the session has secrets, its
//     packs are looked through first (leak.go), and refused with one in them.
//   - Model: only the listed paths of configured providers; streams are passed
//     on chunk by chunk; every request that can cost money is first allowed
//     and afterwards reported to the Meter with the tokens that the provider
//     itself counted; a stream that broke before it said so is estimated and
//     marked. A provider's key is in no answer.
//   - Tools: only servers that an administrator set up for the repository, each at
//     its one address, with the headers set for it. What those hold is in no answer.
//   - Egress: only listed hosts, and of those only addresses of the public
//     internet (I13). The address that was checked is the one that is dialled.
//
// Every wait has an end: bodies move or the connection is dropped (idle
// limits), and each request has a total limit, its body too. What one session
// does at a time is bounded, so that a hostile one holds up itself alone.
//
// # Mounting
//
// The handler of New belongs directly under the machine listener, not under an
// http.ServeMux, which answers CONNECT and absolute-form requests itself. What
// is for no door goes, untouched, to Config.Next: the bridge. The server needs
// no WriteTimeout (streams are long), and a BaseContext whose end is the end
// of the tunnels, since http.Server.Shutdown does not wait for them:
//
//	server := &http.Server{
//		Handler:           doors.New(doors.Config{Auth: a, Git: g, Model: m, Egress: e, Next: bridge, Log: log}),
//		ReadHeaderTimeout: 10 * time.Second,
//		BaseContext:       func(net.Listener) context.Context { return ctx },
//	}
//
// The package imports nothing else of this module: main joins its interfaces
// to the engine, the GitHub client and the configuration.
package doors
