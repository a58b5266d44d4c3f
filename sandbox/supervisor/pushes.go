package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// pushes is what processes of this box asked the remote to take in this boot,
// our own pushes included, in order. The gateway notes it on the way, which is
// the only one, before the remote hears of it. Whether the remote then took it
// does not matter: what is noted is merely nobody's but the box's.
type pushes struct {
	mu  sync.Mutex
	all []push
}

// push is one update of a branch; its ends are names of commits, or zeros.
type push struct {
	old string // what the remote had, or the push was refused
	new string
}

func (p *pushes) note(all ...push) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, all...)
}

// list returns the pushes so far, oldest first.
func (p *pushes) list() []push {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

// has tells whether the box pushed the commit as a branch's newest.
func (p *pushes) has(sha string) bool {
	return slices.ContainsFunc(p.list(), func(p push) bool { return p.new == sha })
}

// notePush notes what a request pushes, if it is one. A push that cannot be read
// fails here; the git door would refuse it as well.
func (g *gateway) notePush(r *http.Request) error {
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
		return nil
	}
	if r.Header.Get("Content-Encoding") != "" {
		return errors.New("a compressed push cannot be read: send it without Content-Encoding")
	}
	in := bufio.NewReaderSize(r.Body, maxCommands)
	all, err := readPush(in)
	if err != nil {
		return err
	}
	g.pushes.note(all...)
	r.Body = struct {
		io.Reader
		io.Closer
	}{in, r.Body}
	return nil
}

// maxCommands bounds what stands before the pack in a push, in bytes, as the git
// door does.
const maxCommands = 64 << 10

// readPush reads the commands of a push without consuming them: pkt-lines
// (gitprotocol-pack(5)) "old new ref", the first with capabilities behind a NUL,
// perhaps after "shallow" ones, up to a flush packet. No command at all is how
// git probes whether it may send a large body.
func readPush(in *bufio.Reader) ([]push, error) {
	var all []push
	for at := 0; ; {
		data, err := in.Peek(at + 4)
		if err != nil {
			return nil, fmt.Errorf("reading the commands of a push: %w", err)
		}
		size, err := strconv.ParseUint(string(data[at:]), 16, 16)
		if err == nil && size == 0 {
			return all, nil
		}
		if err != nil || size < 4 {
			return nil, fmt.Errorf("reading the commands of a push: %q is no pkt-line", data[at:])
		}
		if data, err = in.Peek(at + int(size)); err != nil {
			return nil, fmt.Errorf("reading the commands of a push: %w", err)
		}
		line, _, _ := strings.Cut(strings.TrimSuffix(string(data[at+4:]), "\n"), "\x00")
		at += int(size)
		if strings.HasPrefix(line, "shallow ") {
			continue
		}
		words := strings.SplitN(line, " ", 3)
		if len(words) < 3 || !objectName.MatchString(words[0]) || !objectName.MatchString(words[1]) {
			return nil, fmt.Errorf("%q is no command of a push", line)
		}
		all = append(all, push{old: words[0], new: words[1]})
	}
}
