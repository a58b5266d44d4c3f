package github

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
)

// catchUp notices what was pushed before the last process ended, but not
// reported any more.
func (s *Server) catchUp(ctx context.Context) error {
	var errs []error
	for _, r := range s.allRepos() {
		errs = append(errs, s.noticeRefs(ctx, r, s.accounts.get(r.Owner)))
	}
	return errors.Join(errs...)
}

// noticeRefs compares a repository's refs with those last seen, brings its pull
// requests up to date and sends the events of what changed.
func (s *Server) noticeRefs(ctx context.Context, r *repository, who *account) error {
	refs, err := s.bare(r).refs(ctx)
	if err != nil {
		return err
	}
	seen := r.Refs
	if maps.Equal(seen, refs) {
		return nil
	}
	names := slices.Collect(maps.Keys(refs))
	for name := range seen {
		if refs[name] == "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if seen[name] != refs[name] {
			if err := s.noticeRef(ctx, r, who, name, seen[name], refs[name]); err != nil {
				return err
			}
		}
	}
	r.Refs, r.PushedAt = refs, s.now().UTC()
	s.repos.put(r.key(), r)
	return nil
}

// noticeRef is one changed ref; old or new is empty if it was made or deleted.
func (s *Server) noticeRef(ctx context.Context, r *repository, who *account, name, old, new string) error {
	if err := s.emitPush(ctx, r, who, name, old, new); err != nil {
		return err
	}
	branch, isBranch := strings.CutPrefix(name, "refs/heads/")
	if !isBranch {
		return nil
	}
	for _, p := range s.pullsIn(r) {
		if p.ClosedAt != nil || p.Head != branch && p.Base != branch {
			continue
		}
		if err := s.noticePull(ctx, r, p, who, branch, new); err != nil {
			return err
		}
	}
	return nil
}

// noticePull brings an open pull request up to date after one of its branches moved.
func (s *Server) noticePull(ctx context.Context, r *repository, p *pull, who *account, branch, sha string) error {
	if sha == "" {
		s.closePull(p, who)
		return nil
	}
	before := p.HeadSHA
	if p.Head == branch {
		p.UpdatedAt = s.now().UTC()
	}
	if err := s.measure(ctx, r, p); err != nil {
		return err
	}
	if p.Base == branch && p.Commits == 0 { // its commits arrived by another way
		s.markMerged(p, who, sha)
		return nil
	}
	s.pulls.put(p.key(), p)
	if p.Head == branch && before != sha {
		if err := s.followLines(ctx, r, p); err != nil {
			return err
		}
		s.emitPull("synchronize", p, who, object{"before": before, "after": sha})
	}
	return nil
}

// measure computes a pull request's numbers and whether it can be merged.
func (s *Server) measure(ctx context.Context, r *repository, p *pull) error {
	b := s.bare(r)
	d, err := b.between(ctx, "refs/heads/"+p.Base, "refs/heads/"+p.Head)
	if err != nil || d == nil {
		return err
	}
	p.BaseSHA, p.HeadSHA, p.Commits, p.Files = d.Base, d.Head, d.Ahead, len(d.Files)
	p.Additions, p.Deletions = 0, 0
	for _, f := range d.Files {
		p.Additions, p.Deletions = p.Additions+f.Additions, p.Deletions+f.Deletions
	}
	_, p.Mergeable = b.mergeTree(ctx, d.Base, d.Head)
	return nil
}
