// Package modal runs sandboxes at Modal (https://modal.com) with its Go SDK,
// github.com/modal-labs/modal-client/go. It is the only package that imports it.
//
// Vocabulary. A box is one Modal sandbox. Its entry (entry.sh) is the sandbox's
// command: it runs the main program as a child. A Ref is the id of a Modal image.
// The app is Modal's namespace of sandboxes: deployments that share a workspace
// have one each.
//
// Where things are kept. Modal holds everything, this process only caches: the
// name that a box was given, its birth, and the tags of its Spec are tags of the
// sandbox (see tags.go), because the SDK gives nothing else back. Modal's own
// name of a sandbox is derived from ours and unique in the app, which is what
// makes Start fail for a second box of a name.
//
// Users. Modal runs commands as root. Main program, commands and files are the
// user agent's, as in every provider: entry.sh and exec.sh change to it. What
// the provider itself does in a box, it does as root.
//
// Environment. Spec.Env travels under other names, which entry.sh gives back and
// exec.sh removes: a command inherits the image's variables and nothing else.
//
// Parking. The main program gets SIGTERM and parkGrace, but a sandbox whose command ends is
// gone, with its files. So entry.sh is told first (SIGUSR1): it passes on
// SIGTERM and stays when its child has ended. Then the filesystem is saved, the
// image's id is noted in the sandbox's tags, and the sandbox is terminated.
// Whoever parks a box again, because the first one died on the way, finds the
// tag and takes that image. What was saved and not noted is not known to anybody
// any more, and ends with its time: images cannot be listed.
//
// Ending commands. Modal can neither signal nor kill a command. Each one has an
// id of its own in its environment, which its children inherit; to end it, every
// process that carries the id is killed by another command.
//
// Unknown outcomes. A Start that fails without saying so for certain may have
// made a sandbox all the same. It is looked for by name and by a tag that only
// this call knows, and terminated. One that is scheduled even later carries its
// Spec's tags, by which the engine finds boxes that nobody wants.
//
// Traps of the SDK (v0.11.1), and where they are dealt with:
//
//   - The server's URL is read from the environment only (client.go).
//   - ctx does not bound reads of output and writes of input (exec.go).
//   - A snapshot has 55 seconds and is kept for 30 days unless told (save.go).
//   - What a server asks to be tried again is tried without end: every call has
//     a deadline, and throttling one of its own.
//   - A build's stream is not joined again when it breaks (image.go), and a create
//     that is asked for twice finds its name taken (start.go).
//   - A refused token of a box's machine is renewed only when the SDK thinks that it
//     has expired, by this machine's clock (handles.go).
//   - Input that is lost on its way is followed by its end all the same, and silence
//     of an output says nothing (exec.go, output.go).
//   - Errors are of three kinds (errors.go); after one that could mean anything
//     the sandbox is asked for, so that ErrGone is said of dead boxes only.
//   - Each handle of a sandbox has a connection of its own, with a window of
//     64 MiB: handles are kept and shared (handles.go).
//   - Building gives no log; it is taken from the stream (image.go).
//   - Tunnels are open to the world; ports are reached with connect tokens (box.go).
//
// Network (I13). A box may reach the machine listener's host and nothing else;
// see Options.Control and docs/modal.md for what Modal cannot express.
//
// Not done: Info measures neither memory nor disk, which Modal does not tell;
// the supervisor's heartbeat has both. A box's lifetime cannot be extended.
package modal
