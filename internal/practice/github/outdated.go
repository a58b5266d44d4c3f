package github

import (
	"context"
	"slices"
)

// followLines moves the comments on lines along after a push, as GitHub does: a
// comment keeps to its line while the diff still shows that line as it was; else
// it is outdated, and has no line any more.
func (s *Server) followLines(ctx context.Context, r *repository, p *pull) error {
	shown, err := s.files(ctx, p)
	if err != nil {
		return err
	}
	changed := map[string][]changedFile{} // since a commit
	for _, m := range sorted(s.inline, func(m *reviewComment) bool { return m.Pull == p.key() && m.Line != 0 }, inlineID) {
		since, known := changed[m.CommitSHA]
		if !known {
			if since, err = s.bare(r).diff(ctx, m.CommitSHA, p.HeadSHA); err != nil {
				return err
			}
			changed[m.CommitSHA] = since
		}
		m.Line, m.Position = follow(m, since), 0
		if l, found := lineIn(shown, m.Path, func(l diffLine) bool { return m.Line != 0 && l.on(m.Side) == m.Line }); found {
			m.Position, m.CommitSHA = l.position, p.HeadSHA
		} else {
			m.Line = 0
		}
		s.inline.put(idKey(m.ID), m)
	}
	return nil
}

// follow finds where a comment's line went, 0 if it was changed. The base, on
// whose lines those of the left side are, does not move with a push.
func follow(m *reviewComment, since []changedFile) int {
	at := slices.IndexFunc(since, func(f changedFile) bool { return f.Name == m.Path || f.OldName == m.Path })
	if m.Side == "LEFT" || at < 0 {
		return m.Line
	}
	moved := m.Line
	for _, fragment := range since[at].Fragments {
		if fragment.OldPosition+fragment.OldLines <= int64(m.Line) {
			moved += int(fragment.NewLines - fragment.OldLines)
		}
	}
	for l := range since[at].lines() {
		if l.old == m.Line {
			return l.new
		}
	}
	return moved
}

// lineIn finds a line that the diff of a file shows.
func lineIn(files []changedFile, path string, want func(diffLine) bool) (diffLine, bool) {
	for _, f := range files {
		if f.Name != path {
			continue
		}
		for l := range f.lines() {
			if want(l) {
				return l, true
			}
		}
	}
	return diffLine{}, false
}
