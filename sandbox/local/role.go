package local

import (
	"fmt"
	"os"
	"syscall"
)

// Roles in which the provider starts its own program again. They are words
// that no person types as a subcommand.
const (
	roleStage  = "local-box-stage"
	roleKeeper = "local-box-keeper"
)

// A program that imports this package can be the stage and the keeper of its
// boxes, without a line of its own: a box must not depend on a main function
// that remembers to ask, since one that forgets would run itself inside.
func init() {
	if len(os.Args) < 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case roleStage:
		err = runStage()
	case roleKeeper:
		err = runKeeper()
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	}
	syscall.Exit(0) // not os.Exit: a program built with -race would linger for a second
}
