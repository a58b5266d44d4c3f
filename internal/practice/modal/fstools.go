package modal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// fsToolsPath is the program that the SDK runs for each operation on files. It
// is not in a box: the router runs roleFSTools in its place.
const fsToolsPath = "/__modal/.bin/modal-sandbox-fs-tools"

// maxRead is the largest file that ReadFile gives out.
const maxRead = 4 << 30

// fsCommand is the tool's one argument: exactly one field is set.
type fsCommand struct {
	ReadFile  *struct{ Path string }
	WriteFile *struct{ Path string }
	ListFiles *struct{ Path string }
	Stat      *struct{ Path string }
	MakeDir   *struct {
		Path    string
		Parents bool
	} `json:"MakeDirectory"`
	Remove *struct {
		Path      string
		Recursive bool
	}
	Watch *struct{ Path string }
}

// fsError is what the SDK reads from standard error.
type fsError struct {
	Kind    string `json:"error_kind"`
	Message string `json:"message"`
	Detail  string `json:"detail"`
}

// Error implements error.
func (e fsError) Error() string { return e.Message }

func runFSTools(args []string) int {
	var c fsCommand
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &c) != nil {
		fmt.Fprintln(os.Stderr, "usage: modal-sandbox-fs-tools JSON")
		return 2
	}
	err := c.run()
	if err == nil {
		return 0
	}
	var known fsError
	if !errors.As(err, &known) {
		known = explain(err)
	}
	json.NewEncoder(os.Stderr).Encode(known)
	return 1
}

func (c fsCommand) run() error {
	switch {
	case c.ReadFile != nil:
		return readFile(c.ReadFile.Path)
	case c.WriteFile != nil:
		return writeFile(c.WriteFile.Path)
	case c.ListFiles != nil:
		return listFiles(c.ListFiles.Path)
	case c.Stat != nil:
		info, err := describeFile(c.Stat.Path)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(info)
	case c.MakeDir != nil:
		return makeDirectory(c.MakeDir.Path, c.MakeDir.Parents)
	case c.Remove != nil:
		return remove(c.Remove.Path, c.Remove.Recursive)
	case c.Watch != nil:
		return fsError{Kind: "NotSupported", Message: "Watching files is not supported by the stand-in for Modal"}
	}
	return fsError{Kind: "Unknown", Message: "Unknown command"}
}

// explain names an error of the system as Modal's tool does.
func explain(err error) fsError {
	e := fsError{Kind: "Io", Message: "Operation failed", Detail: err.Error()}
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		e.Kind, e.Message = "NotDirectory", "Not a directory"
	case errors.Is(err, syscall.EISDIR):
		e.Kind, e.Message = "IsDirectory", "Is a directory"
	case errors.Is(err, syscall.ENOTEMPTY):
		e.Kind, e.Message = "DirectoryNotEmpty", "Directory not empty"
	case errors.Is(err, fs.ErrNotExist):
		e.Kind, e.Message = "NotFound", "No such file or directory"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Kind, e.Message = "PermissionDenied", "Permission denied"
	case errors.Is(err, fs.ErrExist):
		e.Kind, e.Message = "PathAlreadyExists", "Path already exists"
	}
	return e
}

func readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return syscall.EISDIR
	case info.Size() > maxRead:
		return fsError{Kind: "FileTooLarge", Message: "File is too large to read"}
	}
	_, err = io.Copy(os.Stdout, f)
	return err
}

// writeFile puts standard input in place when it has ended, whole, and keeps
// the mode of a file that was there.
func writeFile(path string) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		if info.IsDir() {
			return syscall.EISDIR
		}
		mode = info.Mode().Perm()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".modal-write-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing is there after the rename
	_, err = io.Copy(f, os.Stdin)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fileInfo is a file as the SDK reads it.
type fileInfo struct {
	Name          string  `json:"name"`
	Path          string  `json:"path"`
	Type          string  `json:"type"`
	Size          int64   `json:"size"`
	Mode          uint32  `json:"mode"`
	Permissions   string  `json:"permissions"`
	Owner         string  `json:"owner"`
	Group         string  `json:"group"`
	ModifiedTime  float64 `json:"modified_time"`
	SymlinkTarget *string `json:"symlink_target"`
}

func describeFile(path string) (fileInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return fileInfo{}, err
	}
	f := fileInfo{Name: info.Name(), Path: path, Type: "file", Size: info.Size(),
		ModifiedTime: float64(info.ModTime().UnixMicro()) / 1e6}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.Mode = st.Mode
		f.Permissions = fmt.Sprintf("%04o", st.Mode&0o7777)
		f.Owner, f.Group = strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
		if u, err := user.LookupId(f.Owner); err == nil {
			f.Owner = u.Username
		}
		if g, err := user.LookupGroupId(f.Group); err == nil {
			f.Group = g.Name
		}
	}
	switch {
	case info.IsDir():
		f.Type = "directory"
	case info.Mode()&fs.ModeSymlink != 0:
		f.Type = "symlink"
		if target, err := os.Readlink(path); err == nil {
			f.SymlinkTarget = &target
		}
	}
	return f, nil
}

func listFiles(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	list := []fileInfo{}
	for _, e := range entries {
		f, err := describeFile(filepath.Join(path, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // went away meanwhile
		}
		if err != nil {
			return err
		}
		list = append(list, f)
	}
	return json.NewEncoder(os.Stdout).Encode(list)
}

func makeDirectory(path string, parents bool) error {
	if !parents {
		return os.Mkdir(path, 0o755)
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return fs.ErrExist
	}
	return os.MkdirAll(path, 0o755)
}

func remove(path string, recursive bool) error {
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	if !recursive {
		return os.Remove(strings.TrimRight(path, "/"))
	}
	return os.RemoveAll(path)
}
