package doors

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
)

// Values of secrets must not leave a sandbox for the code host, where everybody who
// may read the repository would see them, and its history keeps them (I7). What a push
// brings is looked through before the upstream hears of it. Against code that hides
// a value on purpose, by enciphering it for instance, nothing helps; this is for
// what happens by mistake.

// FindSecret returns the name of a secret whose value is in the data, or "".
type FindSecret func(data []byte) (name string)

const (
	mostLeaks    = 3   // places that a refusal names
	longestPlace = 512 // bytes of a folder in which is looked for them; a pack may have many, and deep ones
)

// leaksAdvice ends a refusal.
const leaksAdvice = "; read the value from the environment instead, take it out of what was committed " +
	"(git commit --amend, or git rebase if it is in an earlier commit) and push again"

// withoutSecrets returns the rest of a push, which the caller closes, if there is no
// secret in it. Otherwise the push is answered here, and rest is nil.
func (g *Git) withoutSecrets(w http.ResponseWriter, r *http.Request, a Access, p *pushRequest, body *patientBody) (rest io.ReadCloser) {
	refuse := func(status int, sentence string) {
		body.limit = g.c.MaxPush // what is still to come is only thrown away
		p.answer(w, body, status, sentence)
	}
	find, err := g.c.Secrets(r.Context(), a)
	if err != nil {
		g.c.Log.Error("secrets of a session not read", "session", a.Session, "err", err)
		refuse(http.StatusServiceUnavailable, "the control plane cannot look for secrets in this push at the moment; try again in a minute")
		return nil
	}
	if find == nil || len(p.commands) == 0 {
		return io.NopCloser(body)
	}
	busy := func() {
		refuse(http.StatusServiceUnavailable, "too many pushes are looked through for secrets at the moment; try again in a minute")
	}
	done := g.spools.take(r.Context(), a.Session)
	if done == nil {
		busy()
		return nil
	}
	defer func() {
		if rest == nil {
			done()
		}
	}()
	// A sandbox that sends slowly keeps only itself waiting.
	spool, err := spooled(body)
	if errors.Is(err, errTooLarge) {
		refuse(http.StatusForbidden, g.tooLarge())
		return nil
	}
	if err != nil {
		g.c.Log.Warn("push not kept to be looked through", "session", a.Session, "err", err)
		refuse(http.StatusServiceUnavailable, "this push did not arrive whole, or there is no room for it in the control plane; try again in a minute")
		return nil
	}
	sentence, looked := g.look(r.Context(), p, spool, find)
	if !looked {
		spool.Close()
		busy()
		return nil
	}
	if sentence == "" {
		if _, err = spool.Seek(0, io.SeekStart); err == nil {
			return &spooledPush{spool, done}
		}
		sentence = "the control plane cannot read this push again; try again in a minute"
	}
	spool.Close()
	g.c.Log.Info("push refused: it has secrets, or it cannot be said that it has none", "session", a.Session)
	if err := g.c.Refused(context.WithoutCancel(r.Context()), a.Session); err != nil {
		g.c.Log.Error("a refused push was not recorded", "session", a.Session, "err", err)
	}
	refuse(http.StatusForbidden, sentence)
	return nil
}

// look is leaks, once there is room for one more look.
func (g *Git) look(ctx context.Context, p *pushRequest, spool *os.File, find FindSecret) (sentence string, looked bool) {
	select {
	case g.looks <- struct{}{}:
	case <-ctx.Done():
		return "", false
	}
	defer func() { <-g.looks }()
	return p.leaks(spool, find), true
}

// tooLarge is what the agent reads of a push over the limit.
func (g *Git) tooLarge() string {
	return fmt.Sprintf("a push may have at most %d MB", g.c.MaxPush>>20)
}

// spooledPush is one that may go on; the session's next push is kept once it is closed.
type spooledPush struct {
	*os.File
	done func()
}

// Close ends the file and the session's turn.
func (s *spooledPush) Close() error {
	defer s.done()
	return s.File.Close()
}

// spooled keeps a body in a file that has no name and is gone when it is closed.
func spooled(body io.Reader) (*os.File, error) {
	f, err := os.CreateTemp("", "openinspect-push-")
	if err != nil {
		return nil, err
	}
	if err = os.Remove(f.Name()); err == nil {
		_, err = io.Copy(f, body)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// leaks says which secrets the rest of a push brings and where, or why that
// cannot be found out; "" if there are none.
func (p *pushRequest) leaks(rest *os.File, find FindSecret) string {
	start, err := p.packStart(rest)
	if err != nil {
		return "this push cannot be looked through for secrets: " + err.Error()
	}
	in, err := openPack(rest, start, len(p.commands[0].new))
	if err != nil {
		return "this push cannot be looked through for secrets: " + err.Error()
	}
	found := map[string]string{} // names of secrets by objects
	err = in.each(func(o packed) error {
		if name := find(o.data); name != "" {
			found[o.id] = name
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		return ""
	}
	places := in.places(p.commands[0].new, found)
	switch {
	case len(found) > 0:
		if more := len(found) - len(places); more > 0 {
			places = append(places, fmt.Sprintf("and %d more", more))
		}
		return strings.Join(places, ", ") + leaksAdvice
	case errors.Is(err, errThinPack):
		return "this push cannot be looked through for secrets, because it builds on objects that are not in it: push with --no-thin"
	case errors.Is(err, errPackTooLarge):
		return fmt.Sprintf("this push cannot be looked through for secrets, because it has a file over %d MB, more than %d objects, or more than %d GB in all: "+
			"leave out of the commits what is generated, or push them in smaller steps", maxObject>>20, maxObjects, maxInflated>>30)
	}
	return "this push cannot be looked through for secrets: " + err.Error()
}

// packStart is where the pack begins: after the push options, if there are any.
func (p *pushRequest) packStart(rest *os.File) (int64, error) {
	if _, err := rest.Seek(0, io.SeekStart); err != nil || !p.caps["push-options"] {
		return 0, err
	}
	limited := io.LimitReader(rest, maxCommands)
	for {
		_, _, err := readPacket(limited)
		if errors.Is(err, errFlush) {
			return rest.Seek(0, io.SeekCurrent)
		}
		if err != nil {
			return 0, fmt.Errorf("reading the options of a push (at most %d kB): %w", maxCommands>>10, err)
		}
	}
}

// places says where the first of the objects are that hold secrets, in the oldest commit
// of those that are pushed. An object of a pack may only be in commits of the pack.
func (p *pack) places(head string, found map[string]string) (places []string) {
	found = maps.Clone(found)
	say := func(id, where string) {
		if secret, is := found[id]; is && len(places) < mostLeaks {
			places = append(places, where+secret)
			delete(found, id)
		}
	}
	seen := map[string]bool{} // trees: an older commit had them
	for _, c := range p.commits(head) {
		commit := "commit " + hex.EncodeToString([]byte(c.id))[:12]
		say(c.id, commit+" has in its message the value of ")
		p.walk(c.tree, seen, func(file, id string) { say(id, commit+" has in "+file+" the value of ") })
	}
	for _, id := range slices.Sorted(maps.Keys(found)) { // a tag's, or of no commit
		say(id, "object "+hex.EncodeToString([]byte(id))[:12]+" has the value of ")
	}
	return places
}

// packCommit is what is needed of a commit; names are in bytes.
type packCommit struct {
	id, tree string
	parents  []string
}

// commits returns those of the pack that lead to head, parents before children.
func (p *pack) commits(head string) (ordered []packCommit) {
	id, err := hex.DecodeString(head)
	if err != nil {
		return nil
	}
	known := map[string]bool{}
	type step struct {
		commit packCommit
		next   int // of its parents
	}
	var path []step
	enter := func(id string) {
		if known[id] {
			return
		}
		known[id] = true
		if c, is := p.commit(id); is {
			path = append(path, step{commit: c})
		}
	}
	enter(string(id))
	for len(path) > 0 {
		top := &path[len(path)-1]
		if top.next < len(top.commit.parents) {
			top.next++
			enter(top.commit.parents[top.next-1])
			continue
		}
		ordered = append(ordered, top.commit)
		path = path[:len(path)-1]
	}
	return ordered
}

// commit reads a commit of the pack.
func (p *pack) commit(id string) (packCommit, bool) {
	c := packCommit{id: id}
	at, has := p.offsets[id]
	if !has {
		return c, false
	}
	kind, data, err := p.object(at)
	if err != nil || kind != kindCommit {
		return c, false
	}
	for line := range bytes.Lines(data) {
		word, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		name, err := hex.DecodeString(value)
		if err != nil {
			break
		}
		switch word {
		case "tree":
			c.tree = string(name)
		case "parent":
			c.parents = append(c.parents, string(name))
		default:
			return c, true
		}
	}
	return c, true
}

// walk gives the files and folders of a tree to f, as far as they are in the pack
// and were not seen before.
func (p *pack) walk(root string, seen map[string]bool, f func(file, id string)) {
	type folder struct{ name, id string }
	var folders []folder
	enter := func(name, id string) {
		if _, has := p.offsets[id]; has && !seen[id] && len(name) <= longestPlace {
			seen[id] = true
			folders = append(folders, folder{name, id})
		}
	}
	enter("", root)
	for len(folders) > 0 {
		in := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		f("names of files in /"+in.name, in.id)
		kind, data, err := p.object(p.offsets[in.id])
		if err != nil || kind != kindTree {
			continue
		}
		for size := p.hash().Size(); ; {
			head, rest, is := bytes.Cut(data, []byte{0})
			if !is || len(rest) < size {
				break
			}
			mode, name, _ := strings.Cut(string(head), " ")
			id := string(rest[:size])
			data = rest[size:]
			if len(name) > longestPlace {
				name = name[:longestPlace]
			}
			if file := path.Join(in.name, name); mode == "40000" {
				enter(file, id)
			} else {
				f(file, id)
			}
		}
	}
}
