package supervisor

import (
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"openinspect/sandbox"
)

// vault is what the supervisor knows of the repository's secrets: what it was given
// in its environment. It finds their values in files.
type vault struct {
	secrets map[string]string // by name
	matcher *sandbox.Matcher

	mu      sync.Mutex
	checked time.Time // what was not changed since is known to hold none
}

// newVault takes the secrets out of an environment.
func newVault(environ []string) *vault {
	names := make(map[string]bool)
	values := make(map[string]string)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if values[name] = value; name == sandbox.EnvSecrets {
			for secret := range strings.SplitSeq(value, ",") {
				names[secret] = true
			}
		}
	}
	maps.DeleteFunc(values, func(name, _ string) bool { return !names[name] })
	return &vault{secrets: values, matcher: sandbox.NewMatcher(maps.All(values))}
}

func (v *vault) empty() bool { return len(v.secrets) == 0 }

// names are those of the secrets as in sandbox.EnvSecrets.
func (v *vault) names() string { return strings.Join(slices.Sorted(maps.Keys(v.secrets)), ",") }

// scrub takes the secrets out of the strings of a JSON document.
func (v *vault) scrub(data []byte) []byte {
	clean, _ := v.matcher.Replace(data)
	return clean
}

// find is one file, link or object of git in which there is a secret.
type find struct {
	path   string
	secret string
	object string // git's name of the object, if the file is one
}

// batch is how many files go to a reader at once.
const batch = 64

// margin is how much coarser than ours the clock of a filesystem may be.
const margin = time.Second

// scan looks through all files below the folders that were changed since the last
// scan that found nothing, and returns those with a secret in them, sorted. Not
// looked into is what is compressed, except loose objects of git: these are what
// the session itself added or committed. An error says that not everything could be
// looked at; what was found is returned with it.
func (v *vault) scan(ctx context.Context, folders ...string) ([]find, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	began := time.Now()
	s := &scan{vault: v, since: v.checked}
	g, ctx := errgroup.WithContext(ctx)
	paths := make(chan []string, 16)
	g.Go(func() error {
		defer close(paths)
		for _, folder := range folders {
			if err := s.walk(ctx, folder, paths); err != nil {
				return err
			}
		}
		return nil
	})
	for range max(2, runtime.GOMAXPROCS(0)) {
		g.Go(func() error { return s.read(ctx, paths) })
	}
	err := errors.Join(g.Wait(), s.unread())
	slices.SortFunc(s.found, func(a, b find) int { return strings.Compare(a.path, b.path) })
	if err == nil && len(s.found) == 0 {
		v.checked = began.Add(-margin)
	}
	return s.found, err
}

// scan is one look through files.
type scan struct {
	vault *vault
	since time.Time

	mu       sync.Mutex
	found    []find
	closed   string // a file that could not be read
	closures int    // how many there are
}

// walk sends all files below a folder, in batches.
func (s *scan) walk(ctx context.Context, folder string, to chan<- []string) error {
	var next []string
	send := func() error {
		select {
		case to <- next:
			next = nil
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it went away meanwhile
		case err != nil:
			s.cannotRead(path)
			return nil
		case d.IsDir():
			return nil
		}
		if next = append(next, path); len(next) < batch {
			return nil
		}
		return send()
	})
	if err != nil {
		return err
	}
	return send()
}

// read looks at the files that walk sends.
func (s *scan) read(ctx context.Context, from <-chan []string) error {
	buf := s.vault.matcher.Buffer()
	for paths := range from {
		for _, path := range paths {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			secret, object, err := s.look(ctx, path, buf)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				s.cannotRead(path)
			case secret != "":
				s.mu.Lock()
				s.found = append(s.found, find{path, secret, object})
				s.mu.Unlock()
			}
		}
	}
	return nil
}

func (s *scan) cannotRead(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closures++; s.closed == "" || path < s.closed {
		s.closed = path
	}
}

// unread says that there were files that could not be read.
func (s *scan) unread() error {
	switch {
	case s.closures == 0:
		return nil
	case s.closures == 1:
		return fmt.Errorf("%s could not be read", s.closed)
	}
	return fmt.Errorf("%d files could not be read, among them %s", s.closures, s.closed)
}

// looseObject is where git keeps an object that is not packed.
var looseObject = regexp.MustCompile(`/objects/([0-9a-f]{2})/([0-9a-f]{38,62})$`)

// look returns which secret is in a file's name, in its content or in where it
// links to, if it was changed since the last look.
func (s *scan) look(ctx context.Context, path string, buf []byte) (secret, object string, err error) {
	var info unix.Stat_t
	if err := unix.Lstat(path, &info); err != nil {
		return "", "", &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if time.Unix(info.Ctim.Unix()).Before(s.since) {
		return "", "", nil
	}
	m := s.vault.matcher
	if name := m.Named([]byte(path)); name != "" {
		return name, "", nil
	}
	switch info.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err == nil {
			secret = m.Named([]byte(target))
		}
		return secret, "", err
	case unix.S_IFREG:
	default:
		return "", "", nil
	}
	f, err := openUnread(path, info.Mode)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	var r io.Reader = f
	if parts := looseObject.FindStringSubmatch(filepath.ToSlash(path)); parts != nil {
		if z, err := zlib.NewReader(f); err == nil {
			r, object = z, parts[1]+parts[2]
		} else if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", "", err
		}
	}
	secret, err = m.Search(interruptible{ctx, r}, buf)
	if errors.Is(err, zlib.ErrChecksum) || errors.Is(err, zlib.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // a damaged object: what could be read of it was
	}
	return secret, object, err
}

// interruptible reads until ctx ends.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (i interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

// openUnread opens a file, one of ours that nobody may read for a moment too.
func openUnread(path string, mode uint32) (*os.File, error) {
	const flags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK // it may be something else by now
	f, err := os.OpenFile(path, flags, 0)
	if !errors.Is(err, fs.ErrPermission) {
		return f, err
	}
	was := fs.FileMode(mode).Perm()
	if os.Chmod(path, was|0o400) != nil {
		return nil, err // it is somebody else's
	}
	f, err = os.OpenFile(path, flags, 0)
	return f, errors.Join(err, os.Chmod(path, was))
}
