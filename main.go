// Command openinspect is a background coding agent that lives in Slack threads.
//
//	openinspect serve      the control plane, configured by its environment
//	openinspect practice   the same on one machine, with stand-ins for Slack, GitHub and the model
//	openinspect supervise  the program inside a sandbox (started by the control plane)
//	openinspect migrate    brings the database up to date and exits
//	openinspect doctor     checks the configuration and every credential against its remote
//
// This package only wires: it is the one place that reads the environment
// (config.go), builds the parts (serve.go, practice.go) and joins their small
// interfaces (joints.go).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: openinspect <command>

  serve      run the control plane (configured by environment variables, see README)
  practice   run it on this machine with stand-ins for Slack, GitHub and the model
             flags: --dir D (state, default .data), --listen ADDR (the page, default 127.0.0.1:8080),
             --sandboxes local|modal (who runs them; modal is a stand-in as well)
  supervise  run inside a sandbox (the control plane starts it)
  migrate    bring the database up to date
  doctor     check the configuration and every credential against its remote
`

// errConfig is returned when the configuration is wrong and the problems were printed.
var errConfig = errors.New("the configuration has problems")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command and returns the process's exit status: 2 for wrong
// usage or configuration, 1 for any other failure.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	commands := map[string]func(context.Context, []string, io.Writer, io.Writer) error{
		"serve":     serveCommand,
		"practice":  practiceCommand,
		"supervise": superviseCommand,
		"migrate":   migrateCommand,
		"doctor":    doctorCommand,
	}
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(stderr, "openinspect: there is no command %q\n\n%s", args[0], usage)
		return 2
	}
	err := command(ctx, args[1:], stdout, stderr)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errConfig):
		return 2
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return 0
	}
	fmt.Fprintf(stderr, "openinspect %s: %v\n", args[0], err)
	return 1
}

// newLog writes structured lines to w, at the level that LOG_LEVEL names.
func newLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
