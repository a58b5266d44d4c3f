// Package supervisor is the program inside a sandbox: it prepares the
// repository, runs OpenCode, and speaks to the control plane over the bridge.
//
// Vocabulary. A boot is one life of the supervisor, with an id of its own; the
// bridge's events are numbered per boot. Phases are the steps of a boot. A turn
// is one prompt from its arrival to its end. Strays are the processes that a
// turn started and that are neither the supervisor's own nor declared services
// (what .openinspect/start.sh left running). The gateway is the loopback address
// at which processes in the box find the control plane's doors.
//
// The agent reads before the repository is up to date, where a checkout is there
// already: what would change something waits at the gate (gate.go).
//
// Prepare is the other thing that this package does: it makes the filesystem of a
// repository's image, in a box in which nobody works.
//
// The order of a turn is: converse, settle, end strays, commit, push, copy the
// conversation aside; then the box is quiet, which heartbeats say, and may be saved
// as it is until the next turn begins. Stop settles at once, from any point; the
// rest follows, also when a box that parks hands its turn on to the next box.
//
// Invariants (numbers as in the design).
//   - I2: turns run one after the other, in the order in which they came; OpenCode,
//     which would mix a second prompt into the first, never gets one while busy.
//   - I3: a turn settles once, and nothing of the agent's is reported after that;
//     commits and pushes are, because they follow it.
//   - I6: a reply that breaks off, because the control plane is killed in it, say, has
//     called no tool: OpenCode asks for it again, and would run the tool twice (reply.go).
//   - I7: the box's token is in the supervisor's memory alone. The gateway adds it;
//     children do not inherit it; /proc does not show it to them.
//   - I9: every wait has a deadline. Silence within a running tool is work; silence
//     of the model is failure after Welcome.ModelSilence. What the model says is heard
//     in the gateway: OpenCode tells nothing of a call until it is written.
//   - I11: what changed during a turn is committed under its author before the next
//     turn begins, and commits of another author made during it are rewritten.
//     What people made and the agent merged in stays theirs; authorship.go says how
//     one is told from the other without believing the agent.
//   - I12: what a turn started is ended within seconds of its end. The supervisor is a
//     subreaper, so that no process can hide by losing its parent.
//
// The agent's tools are offered to OpenCode by MCP (tools.go; each has a file of its
// own, tool_NAME.go). What has to be done in the box, committing and pushing or
// taking a picture, is done here first; then the control plane gets the call.
// Asking people ends the turn: from then on the model is not asked any more.
//
// Secrets of the repository are in the supervisor's environment and in that of all it
// starts. It takes their values out of events, a plugin takes them out of what tools
// return before the model gets it, and before the box's files are saved they are
// looked for in home and workspace: in plain text and the usual encodings, in names
// and links, and in loose objects of git. What OpenCode keeps of the conversation is
// cleaned of them, for which it is ended; anything else is reported. Not looked into is
// what is compressed otherwise, packs of git among them. They are looked for when the
// box parks, and when the control plane asks while it is quiet (Vet): then OpenCode
// starts again at once, and a prompt that comes has the look given up.
//
// Files of its own lie in <home>/.openinspect: the spool of the bridge, git's
// author and hooks, which prompt runs, OpenCode's session and a consistent copy
// of its database. They are part of a saved filesystem, so that a box which is
// continued elsewhere, or after having been cut off, begins where it was.
//
// Only main calls this package, in a process of its own: Run changes the
// process (subreaper, not dumpable) and ends all children of it.
package supervisor
