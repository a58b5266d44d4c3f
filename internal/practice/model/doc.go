// Package model is a stand-in for a model provider: it speaks the
// OpenAI-compatible and the Anthropic protocol over HTTP, and what it says is
// scripted. Whoever drives it (OpenCode, the control plane, an SDK written by
// others) cannot tell it from a provider by its protocol; a person can tell by
// its words, because the scripts say what they are.
//
// # Protocols
//
//	POST /v1/chat/completions   OpenAI: streaming and not, tool calls, usage, JSON answers
//	POST /v1/messages           Anthropic: streaming and not, thinking, tool use, pings
//	POST /v1/messages/count_tokens
//	GET  /v1/models             in the shape of the caller's protocol
//
// Every request needs the key, as "Authorization: Bearer" or "x-api-key"; a
// wrong one is answered 401 as the providers do. Every model name is served,
// as by a gateway with routing of its own.
//
// Token counts are computed from the request and the reply (about four bytes a
// token), so the same request costs the same every time. What precedes the
// last message counts as read from the prompt cache once the conversation
// holds an answer.
//
// # Scripts
//
// A script is a text file. A line at the margin is a directive; lines indented
// by a tab belong to the directive above them; "#" at the margin begins a
// comment. The files of Options.Scripts are tried in the order of their names,
// then the embedded ones; the first that matches a request answers it.
//
//	match REGEXP     the latest user prompt contains it (case does not matter)
//	system REGEXP    the system prompt contains it
//	json             the request asks for a JSON answer (response_format)
//	step             begins one reply of the model
//	think            the reply's reasoning
//	say              the reply's text
//	call NAME|NAME   the reply calls a tool; the first offered name is taken
//	fault KIND       instead of a reply: a Fault of that kind, every time
//
// Several lines of one kind mean "any of them"; different kinds must all hold.
// A tool's name matches a name that is offered exactly or as the part behind
// an underscore, so "create_pull_request" finds "openinspect_create_pull_request".
// Its arguments are the indented lines:
//
//	call bash
//		description: Run the tests
//		command: |
//			go test ./...
//			git status --short
//		timeout = 60000
//
// "name: text" is a string, "name: |" a string of the lines indented further,
// and "name = value" is JSON, which may continue on lines indented further.
//
// Texts and every string of the arguments are templates (text/template) over
// the conversation, see exchange: {{.Prompt}}, {{.Dir}} (the working directory
// that the system prompt names), {{.Result "bash"}} (the latest output of that
// tool since the prompt), {{.Output 1}} (that of the first call), {{.Title}},
// {{.Choice}}; and the functions line (the first), head and tail (of so many
// lines), find (by regular expression), capital and contains.
//
// # Which step is next
//
// Nothing is remembered between requests. The step to serve is the number of
// replies with tool calls that the request's own messages hold since its last
// user prompt, counted over the steps that can be served: a step all of whose
// tools are not offered is left out. A retried, repeated or resumed request
// therefore gets the same answer, and a restart of this server is not noticed.
// The last step of a script calls no tool.
//
// # Control-plane questions
//
// A request that wants JSON and matches no other script is answered with
// {{.Choice}}: the names of the form owner/name are collected from listing
// lines (those that begin with "-", "*", a number, a JSON bracket or, before the
// last message, with such a name), and the one whose name and description share most words with the rest of the last
// message is chosen. The answer has the properties of the requested JSON
// schema that are known (repository, repo, reason, confidence, alternatives,
// addressed), or all of them; repository is "" when no word is shared.
//
// # Faults
//
// Inject makes requests fail as real providers do: refused, limited,
// unavailable, silent, stalled, cut, broken in the stream. Requests lists what
// was asked, in a bounded record, without the key itself.
package model
