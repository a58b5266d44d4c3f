package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"openinspect/sandbox"
)

type uploadArtifactArgs struct {
	Path  string `json:"path" jsonschema:"the file; relative to the repository, or absolute"`
	Title string `json:"title,omitempty" jsonschema:"what it shows, in a few words"`
}

const uploadArtifactHelp = "Show people a file from the sandbox: a chart, a picture, a report, a log. It appears in the thread and on the session's page, " +
	"and pictures can be shown in the pull request. At most 20 MB. Not for changes of the repository: these are committed and shown anyway. " +
	"For a picture of a page that you run, use screenshot."

// claimedUpload is what the control plane is told of a file that it has.
type claimedUpload struct {
	Upload string `json:"upload"`
	Title  string `json:"title,omitempty"`
	Kind   string `json:"kind,omitempty"`

	kept string // where the agent finds it
}

// note is added to what the agent reads of a call that succeeded.
func (c claimedUpload) note() string {
	if c.kept == "" {
		return ""
	}
	return "\nTo look at it yourself, read " + c.kept + "."
}

// uploadFile sends the file, and has the call name it.
func (s *supervisor) uploadFile(ctx context.Context, _ *turn, args uploadArtifactArgs) (send any, refused string) {
	path := args.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.repo.dir, path)
	}
	data, err := readArtifact(path)
	if err != nil {
		return nil, sentence(err)
	}
	return s.upload(ctx, filepath.Base(path), data, claimedUpload{Title: args.Title})
}

// uploadPatience is for how long a file is sent again and again: a control plane that
// is started anew takes it, once (its id says which it is).
const uploadPatience = 2 * time.Minute

// upload sends bytes to the control plane.
func (s *supervisor) upload(ctx context.Context, name string, data []byte, claim claimedUpload) (send any, refused string) {
	claim.Upload = uuid.NewString()
	try := func() (struct{}, error) {
		err := s.control.Put(ctx, s.cfg.Token, sandbox.Upload{ID: claim.Upload, Name: name, Data: data})
		if errors.As(err, new(*sandbox.RefusedUpload)) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 5 * time.Second
	_, err := backoff.Retry(ctx, try, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(uploadPatience))
	if no := (*sandbox.RefusedUpload)(nil); errors.As(err, &no) {
		return nil, no.Text
	}
	if err != nil {
		s.cfg.Log.Warn("a file could not be sent", "err", err)
		return nil, "The file could not be sent to the control plane; try again later."
	}
	return claim, ""
}

// readArtifact reads a file that the agent names. The kernel's files are refused:
// the supervisor reads as itself, and its own environment is one of them (I7). What
// was opened is looked at, since a name may lead elsewhere the next moment.
func readArtifact(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("the file cannot be opened: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var on unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &on); err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	case on.Type == unix.PROC_SUPER_MAGIC || on.Type == unix.SYSFS_MAGIC:
		return nil, fmt.Errorf("%s is the kernel's, not a file to show", path)
	case info.Size() > sandbox.MaxUpload:
		return nil, &sandbox.RefusedUpload{Text: sandbox.TooLargeUpload}
	}
	data, err := io.ReadAll(io.LimitReader(f, sandbox.MaxUpload+1)) // it may have grown; the control plane refuses then
	if err == nil && len(data) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	return data, err
}
