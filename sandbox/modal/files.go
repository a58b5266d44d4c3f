package modal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"openinspect/sandbox"
)

// Exit statuses of the scripts below.
const (
	exitMissing = 66 // there is no such file
	exitNoFile  = 67 // it is no regular file
)

const (
	readScript = `[ -e "$1" ] || exit 66; [ -f "$1" ] || exit 67; exec cat -- "$1"`
	// The file appears under its name when it is whole.
	writeScript  = `[ ! -d "$1" ] || exit 67; umask 022; mkdir -p -- "$(dirname -- "$1")" && exec cat >"$2"`
	commitScript = `[ ! -e "$1" ] || chmod --reference="$1" -- "$2" || exit 1; exec mv -fT -- "$2" "$1"`
	removeScript = `exec rm -f -- "$1"`
)

// ReadFile implements sandbox.Box. A missing file is fs.ErrNotExist, a
// directory or a device ErrInvalid.
func (b *box) ReadFile(ctx context.Context, name string, w io.Writer) error {
	if !path.IsAbs(name) {
		return sandbox.Invalid("%q is not an absolute path", name)
	}
	return b.onFile(ctx, "reading", name, sandbox.Cmd{Args: shell(readScript, name), Stdout: w})
}

// WriteFile implements sandbox.Box. The file is there whole or not at all;
// directories above it are made, and the mode of one that it replaces is kept.
func (b *box) WriteFile(ctx context.Context, name string, r io.Reader) error {
	if !path.IsAbs(name) {
		return sandbox.Invalid("%q is not an absolute path", name)
	}
	half := path.Join(path.Dir(name), ".openinspect-"+rand.Text())
	err := b.onFile(ctx, "writing", name, sandbox.Cmd{Args: shell(writeScript, name, half), Stdin: r})
	if err == nil {
		err = b.onFile(ctx, "writing", name, sandbox.Cmd{Args: shell(commitScript, name, half)})
	}
	if err != nil && !errors.Is(err, sandbox.ErrGone) {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		if left := b.onFile(clean, "removing", half, sandbox.Cmd{Args: shell(removeScript, half)}); left != nil {
			err = errors.Join(err, left)
		}
	}
	return err
}

// onFile runs one of the scripts.
func (b *box) onFile(ctx context.Context, doing, name string, c sandbox.Cmd) error {
	said := tail{most: maxLastWords}
	c.Stderr = &said
	exit, err := b.Exec(ctx, c)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", doing, name, err)
	case exit == exitMissing:
		return fmt.Errorf("%s %s in sandbox %s: %w", doing, name, b.ID(), fs.ErrNotExist)
	case exit == exitNoFile:
		return sandbox.Invalid("%s is not a regular file", name)
	case exit != 0:
		return fmt.Errorf("%s %s in sandbox %s: exit status %d: %s", doing, name, b.ID(), exit, said.String())
	}
	return nil
}
