// Package local runs sandboxes as processes of this machine, confined by
// bubblewrap (https://github.com/containers/bubblewrap, 0.8.0 measured).
//
// Vocabulary. A box is one set of Linux namespaces with one main program. Its
// keeper is the process with PID 1 in it: this program again, started in a role
// of its own (see role.go), which starts the main program, reaps orphans, runs
// commands, opens files and ports for the control plane, and ends the box when
// its time is over. A record is what is known of a box, in its directory. A
// filesystem is the pair of directories that a box sees as sandbox.Home and
// sandbox.Workspace. The stage is a short process between the control plane
// and bubblewrap (see stage.go).
//
// On disk, everything is under Options.Dir:
//
//	lock                       flock(2) for every change of name below
//	boxes/<id>/box.json        the record
//	boxes/<id>/keeper.sock     where the keeper listens; not visible in the box
//	boxes/<id>/log             what the main program printed, bounded
//	boxes/<id>/fs/home,workspace
//	saved/<ref>/home,workspace filesystems that a Ref names
//	saved/<ref>/saved.json     of which box each was saved, and when
//	left/<id>/home,workspace   what a box left that ended by itself, for a while
//	gone/<id>.json             why a box ended, for a while
//	tmp/, trash/               half made, half removed
//	programs/, etc/            what boxes see read-only
//
// Invariants.
//
//   - A box has no capability, no privilege to gain, no user id of the host
//     that owns anything else, no network but loopback, and sees of the host
//     /usr, tools in /opt, a few files of /etc and its own filesystem. It cannot
//     make further user namespaces where bubblewrap can forbid it.
//   - A box lives without the control plane, and no longer than its lifetime:
//     its keeper sees to that, and cannot be stopped or traced from inside.
//   - The keeper starts the main program only when it was told to over a pipe
//     that the control plane writes after the record is on disk. If the control
//     plane dies before, the pipe ends and so does the box. So there is no
//     running box without a record.
//   - A process is known by pid and start time and boot of the machine, never by
//     pid alone.
//   - Names below Dir change by rename(2) under the lock; what takes long
//     (copying, removing) happens in tmp and trash without it.
//   - Files of a box are opened inside the box, by its keeper, and passed out as
//     descriptors; the control plane never walks a path that a box can change.
//     Copies are made by cp(1) in a box of its own for the same reason.
//
// A parked filesystem continues in the box that is started from it: it is moved
// there, not copied. If that box dies by itself (a reboot of the machine, say),
// the Ref names the filesystem again, as the box left it. What other boxes leave that
// die by themselves can be salvaged for a day. Kill forgets both.
//
// Not done: Spec.CPU is not enforced, the machine's scheduler shares it out (Caps.Placement).
// Spec.MemMiB is enforced by the keeper, which measures each second and kills
// the largest process of a box that is over; a faster allocation is not caught.
//
// The provider may be used by several goroutines and by several processes over
// one Dir at once.
package local
