// Package modal is a Modal on this machine: enough of it, over its real
// protocol, that Modal's own SDKs (Go, JavaScript) run against it unmodified,
// with sandboxes that are processes of this machine, confined by sandbox/local.
//
// # Use
//
// Open listens on the loopback and Run answers. A program uses it with
// MODAL_SERVER_URL set to Server.URL, MODAL_TOKEN_ID to TokenID and
// MODAL_TOKEN_SECRET to TokenSecret. Both of Modal's services,
// modal.client.ModalClient (control.go and what it names) and
// modal.task_command_router.TaskCommandRouter (router.go), are on one port
// without TLS, which the SDK accepts from the loopback only.
//
// # Vocabulary
//
// A sandbox is Modal's; the box is the provider's that runs it. A sandbox's
// task is its running container, to which the router's calls refer. The
// entrypoint is its main program. The guest is this program again, as the main
// program of the box: it runs the entrypoint and keeps its output (guest.go).
// A layer is one set of Dockerfile commands on a base; an image is built of
// layers, or is a snapshot of a sandbox's filesystem.
//
// # Images
//
// Commands are parsed and recorded (Server.Images). What changes files depends
// on the base:
//
//   - An image on nothing but a tag of a registry (FROM debian:12, and the first
//     layer with commands on that) is the host's own files: ENV and WORKDIR take
//     effect, RUN is recorded and not run. So the whole recipe of a base image
//     has to be one layer: one call of DockerfileCommands.
//   - A layer on any other image runs its RUN steps in a box, which has no
//     network, and saves /home/agent and /workspace.
//
// The same recipe is built once, unless the caller forces it.
//
// # What is faithful
//
//   - Codes and shapes of answers as far as the SDKs see them, and sentences
//     where the SDK's own tests show them.
//   - Names unique among live sandboxes of an app; lists paged by time, newest
//     first; commands idempotent by exec id, snapshots by snapshot id; offsets of
//     every stream; TTLs of snapshots; the router's tokens and their renewal.
//   - Ends: 124 when the lifetime is over, 137 when a sandbox or a command is
//     killed, the entrypoint's own status otherwise; idle timeouts, of which
//     commands, input and connections are the activity; readiness probes; exit
//     snapshots.
//   - Connect tokens by header, query and cookie, to one port, WebSockets too.
//
// # What is assumed, because Modal does not say
//
//   - A create that is repeated with the same x-idempotency-key starts another
//     sandbox, or finds its name taken.
//   - Tags are what the Python SDK lets through: 63 letters, digits and "._-".
//   - A create or a snapshot whose caller leaves goes on.
//   - A command gets the sandbox's variables.
//
// # What is not faithful
//
//   - A box sees the host's system read-only and runs as the user agent; only
//     /home/agent, /workspace, /tmp, /run and /dev/shm are writable, and only the
//     first two are saved. At Modal everything is root's. The box also shows
//     local.Program and Options.Boxes.Tools.
//   - A box has no network but its loopback and Options.Boxes.Control, whatever
//     policy it was given: policies are checked and recorded (Sandbox.Network).
//     CPU is recorded and not enforced; memory is bounded by a limit if one was
//     asked for, else by the provider's default.
//   - All connect tokens lead to one host and port over plain HTTP; at Modal each
//     sandbox has a host name. Tunnels are on the loopback; encrypted ones have a
//     certificate of the stand-in's own (Server.Certificates).
//   - There are one workspace, with one token, and one environment. Credentials
//     for registries are not used, and no tag of a registry is unknown.
//   - Resource usage is what was asked for, over the sandbox's time.
//   - A PTY is accepted and not given. Watching files is refused.
//   - Everything else (volumes, GPUs, sidecars, memory snapshots, directory
//     snapshots and mounts, …) answers Unimplemented with a sentence.
//
// # What is kept
//
// Each app, secret, image and sandbox is a file in the directory, replaced
// before a change is answered. Boxes outlive the process: Run finds them again,
// and kills what no record wants. Running commands (not entrypoints) and builds
// end with the process; recorded calls and faults are forgotten. Sandboxes that
// ended a week ago are forgotten too.
//
// # Faults
//
// Inject makes calls fail, hang or be slow, and sandboxes die; Clear ends that;
// KillBox ends a sandbox by accident at once; BreakConnections and
// RevokeRouterTokens do what they say; Calls tells what was called.
//
// # Locking
//
// Server.mu guards the maps; a box's and an image's mu their record, and may be
// taken while Server.mu is held, not the other way round. Goroutines are started
// by Run, or in Server.work, which Run waits for.
package modal
