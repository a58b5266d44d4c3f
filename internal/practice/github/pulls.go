package github

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// pullsIn lists a repository's pull requests, oldest first.
func (s *Server) pullsIn(r *repository) []*pull {
	return sorted(s.pulls, func(p *pull) bool { return strings.EqualFold(p.Repository, r.fullName()) }, func(p *pull) int { return p.Number })
}

func (s *Server) openPulls(r *repository) int {
	return len(sorted(s.pulls, func(p *pull) bool { return p.ClosedAt == nil && strings.EqualFold(p.Repository, r.fullName()) },
		func(p *pull) int { return p.Number }))
}

// pull finds the pull request of a route.
func (c *call) pull() (*pull, error) {
	p := c.s.pulls.get(pullKey(c.repo.fullName(), int(c.number("number"))))
	if p == nil {
		return nil, errNotFound
	}
	return p, nil
}

func (s *Server) getPull(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	if strings.Contains(c.r.Header.Get("Accept"), "diff") {
		text, err := c.bare().git(c.ctx(), "diff", p.BaseSHA+"..."+p.HeadSHA)
		c.head.Set("Content-Type", "application/vnd.github.v3.diff; charset=utf-8")
		return ok([]byte(text)), err
	}
	return ok(s.fullPullJSON(p)), nil
}

// listPulls filters as GitHub does: head counts only with its owner.
func (s *Server) listPulls(c *call) (reply, error) {
	q := c.r.URL.Query()
	state, head, base := q.Get("state"), q.Get("head"), q.Get("base")
	if state == "" {
		state = "open"
	}
	all := slices.DeleteFunc(s.pullsIn(c.repo), func(p *pull) bool {
		return state != "all" && p.state() != state ||
			strings.Contains(head, ":") && withoutOwner(c.repo, head) != p.Head ||
			base != "" && base != p.Base
	})
	if q.Get("sort") == "updated" {
		slices.SortStableFunc(all, func(a, b *pull) int { return a.UpdatedAt.Compare(b.UpdatedAt) })
	}
	if q.Get("direction") != "asc" {
		slices.Reverse(all)
	}
	list := []object{}
	for _, p := range all {
		list = append(list, s.pullJSON(p))
	}
	return ok(c.page(list)), nil
}

// newPull is a request to open a pull request.
type newPull struct {
	Title, Head, Base, Body string
	Draft                   bool
}

func (s *Server) createPull(c *call) (reply, error) {
	var ask newPull
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	p, err := s.openPull(c.ctx(), c.repo, c.who.account, ask)
	if err != nil {
		return reply{}, err
	}
	return created(s.fullPullJSON(p)), nil
}

// openPull opens a pull request, or refuses as GitHub does.
func (s *Server) openPull(ctx context.Context, r *repository, who *account, ask newPull) (*pull, error) {
	ask.Head = withoutOwner(r, ask.Head)
	if err := s.checkPull(ctx, r, ask); err != nil {
		return nil, err
	}
	now := s.now().UTC()
	p := &pull{
		ID: s.nextID(), Repository: r.fullName(), Number: r.NextNumber, Title: ask.Title, Body: ask.Body, Draft: ask.Draft,
		Author: who.Login, Base: ask.Base, Head: ask.Head, CreatedAt: now, UpdatedAt: now,
	}
	if err := s.measure(ctx, r, p); err != nil {
		return nil, err
	}
	r.NextNumber++
	s.repos.put(r.key(), r)
	s.pulls.put(p.key(), p)
	s.emitPull("opened", p, who, nil)
	return p, nil
}

// checkPull says why a pull request cannot be opened.
func (s *Server) checkPull(ctx context.Context, r *repository, ask newPull) error {
	b := s.bare(r)
	for _, field := range []struct{ name, value string }{{"title", ask.Title}, {"head", ask.Head}, {"base", ask.Base}} {
		if strings.TrimSpace(field.value) == "" {
			return invalid("PullRequest", field.name, "missing_field")
		}
	}
	if err := tooLong("Issue", ask.Body); err != nil {
		return err
	}
	base, head := b.branch(ctx, ask.Base), b.branch(ctx, ask.Head)
	if base == "" {
		return invalid("PullRequest", "base", "invalid")
	}
	if head == "" {
		return invalid("PullRequest", "head", "invalid")
	}
	for _, p := range s.pullsIn(r) {
		if p.ClosedAt == nil && p.Head == ask.Head && p.Base == ask.Base {
			return invalidBecause("PullRequest", fmt.Sprintf("A pull request already exists for %s:%s.", r.Owner, ask.Head))
		}
	}
	if b.mergeBase(ctx, base, head) == "" {
		return invalidBecause("PullRequest", fmt.Sprintf("The %s branch has no history in common with %s", ask.Head, ask.Base))
	}
	n, err := b.count(ctx, base, head)
	if err == nil && n == 0 {
		return invalidBecause("PullRequest", fmt.Sprintf("No commits between %s and %s", ask.Base, ask.Head))
	}
	return err
}

// updatePull edits, closes or reopens. A reader may do so with their own.
func (s *Server) updatePull(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	if p.Author != c.who.account.Login && !c.who.may(c.repo, "pull_requests", writing, writing) {
		return reply{}, errForbidden
	}
	var ask struct{ Title, Body, State, Base *string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if ask.State != nil && *ask.State != "open" && *ask.State != "closed" {
		return reply{}, invalid("PullRequest", "state", "invalid")
	}
	if err := s.editPull(c, p, ask.Title, ask.Body, ask.Base); err != nil {
		return reply{}, err
	}
	if ask.State != nil && *ask.State != p.state() {
		if *ask.State == "closed" {
			s.closePull(p, c.who.account)
		} else if err := s.reopenPull(c.ctx(), p, c.who.account); err != nil {
			return reply{}, err
		}
	}
	return ok(s.fullPullJSON(p)), nil
}

func (s *Server) editPull(c *call, p *pull, title, body, base *string) error {
	changes := object{}
	set := func(field string, to *string, value *string) {
		if value != nil && *value != *to {
			changes[field], *to = object{"from": *to}, *value
		}
	}
	if title != nil && strings.TrimSpace(*title) == "" {
		return invalid("PullRequest", "title", "missing_field")
	}
	if base != nil && c.bare().branch(c.ctx(), *base) == "" {
		e := invalid("PullRequest", "base", "invalid")
		e.errors[0]["message"] = fmt.Sprintf("Proposed base branch '%s' was not found", *base)
		return e
	}
	if body != nil {
		if err := tooLong("Issue", *body); err != nil {
			return err
		}
	}
	set("title", &p.Title, title)
	set("body", &p.Body, body)
	set("base", &p.Base, base)
	if len(changes) == 0 {
		return nil
	}
	if changes["base"] != nil {
		if err := s.measure(c.ctx(), c.repo, p); err != nil {
			return err
		}
	}
	s.touch(p)
	s.emitPull("edited", p, c.who.account, object{"changes": changes})
	return nil
}

// touch keeps a changed pull request, dated now.
func (s *Server) touch(p *pull) {
	p.UpdatedAt = s.now().UTC()
	s.pulls.put(p.key(), p)
}

func (s *Server) closePull(p *pull, who *account) {
	now := s.now().UTC()
	p.ClosedAt = &now
	s.touch(p)
	s.emitPull("closed", p, who, nil)
}

func (s *Server) reopenPull(ctx context.Context, p *pull, who *account) error {
	r := s.repos.get(strings.ToLower(p.Repository))
	if p.MergedAt != nil || s.bare(r).branch(ctx, p.Head) == "" {
		return invalidBecause("PullRequest", "state cannot be changed. The "+p.Head+" branch was merged or deleted.")
	}
	p.ClosedAt = nil
	if err := s.measure(ctx, r, p); err != nil {
		return err
	}
	s.touch(p)
	s.emitPull("reopened", p, who, nil)
	return nil
}

func (s *Server) pullCommits(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	commits, err := c.bare().log(c.ctx(), p.BaseSHA+".."+p.HeadSHA, 0)
	if err != nil {
		return reply{}, err
	}
	slices.Reverse(commits)
	return ok(c.page(s.commitsJSON(c.repo, commits))), nil
}

// files lists what a pull request changes.
func (s *Server) files(ctx context.Context, p *pull) ([]changedFile, error) {
	b := s.bare(s.repos.get(strings.ToLower(p.Repository)))
	return b.diff(ctx, b.mergeBase(ctx, p.BaseSHA, p.HeadSHA), p.HeadSHA)
}

func (s *Server) pullFiles(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	files, err := s.files(c.ctx(), p)
	if err != nil {
		return reply{}, err
	}
	return ok(c.page(s.filesJSON(c.repo, p.HeadSHA, files))), nil
}

func (s *Server) pullMerged(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	if p.MergedAt == nil {
		return reply{}, errNotFound
	}
	return noContent, nil
}

// mergeRequest is how to merge.
type mergeRequest struct {
	CommitTitle   string `json:"commit_title"`
	CommitMessage string `json:"commit_message"`
	SHA           string
	Method        string `json:"merge_method"`
}

func (s *Server) mergePull(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	var ask mergeRequest
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if err := s.merge(c.ctx(), p, c.who.account, ask); err != nil {
		return reply{}, err
	}
	return ok(object{"sha": p.MergeSHA, "merged": true, "message": "Pull Request successfully merged"}), nil
}

// merge merges a pull request, or refuses as GitHub does.
func (s *Server) merge(ctx context.Context, p *pull, who *account, ask mergeRequest) error {
	r := s.repos.get(strings.ToLower(p.Repository))
	switch {
	case ask.Method == "rebase":
		return refuse(http.StatusMethodNotAllowed, "Rebase merges are not allowed on this repository.")
	case p.ClosedAt != nil:
		return refuse(http.StatusMethodNotAllowed, "Pull Request is not mergeable")
	case p.Draft:
		return refuse(http.StatusMethodNotAllowed, "Pull Request is still a draft")
	case ask.SHA != "" && ask.SHA != p.HeadSHA:
		return refuse(http.StatusConflict, "Head branch was modified. Review and try the merge again.")
	}
	b := s.bare(r)
	tree, clean := b.mergeTree(ctx, p.BaseSHA, p.HeadSHA)
	if !clean {
		return refuse(http.StatusMethodNotAllowed, "Pull Request is not mergeable")
	}
	sha, err := s.mergeCommit(ctx, b, p, who, ask, tree)
	if err != nil {
		return err
	}
	if err := b.setRef(ctx, "refs/heads/"+p.Base, sha, p.BaseSHA); err != nil {
		return err
	}
	s.markMerged(p, who, sha)
	return s.noticeRefs(ctx, r, who)
}

func (s *Server) mergeCommit(ctx context.Context, b bare, p *pull, who *account, ask mergeRequest, tree string) (string, error) {
	title := ask.CommitTitle
	parents := []string{p.BaseSHA, p.HeadSHA}
	if ask.Method == "squash" {
		parents = parents[:1]
		if title == "" {
			title = fmt.Sprintf("%s (#%d)", p.Title, p.Number)
		}
	}
	if title == "" {
		title = fmt.Sprintf("Merge pull request #%d from %s", p.Number, strings.Split(p.Repository, "/")[0]+"/"+p.Head)
		if ask.CommitMessage == "" {
			ask.CommitMessage = p.Title
		}
	}
	message := strings.TrimSpace(title+"\n\n"+ask.CommitMessage) + "\n"
	web := stamp{Name: "GitHub", Email: "noreply@github.com", At: s.now().UTC().Truncate(time.Second)}
	return b.commitTree(ctx, tree, message, s.stampOf(who), web, parents...)
}

func (s *Server) markMerged(p *pull, who *account, sha string) {
	now := s.now().UTC()
	p.ClosedAt, p.MergedAt, p.MergedBy, p.MergeSHA = &now, &now, who.Login, sha
	s.touch(p)
	s.emitPull("closed", p, who, nil)
}

// setDraft marks a pull request ready for review, or a draft again.
func (s *Server) setDraft(p *pull, who *account, draft bool) {
	if p.Draft == draft {
		return
	}
	p.Draft = draft
	s.touch(p)
	action := "ready_for_review"
	if draft {
		action = "converted_to_draft"
	}
	s.emitPull(action, p, who, nil)
}

func (s *Server) requestReviewers(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	var ask struct{ Reviewers []string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	for _, login := range ask.Reviewers {
		switch {
		case c.repo.Roles[login] == nothing:
			return reply{}, refuse(http.StatusUnprocessableEntity, "Reviews may only be requested from collaborators. One or more of the users or teams you specified is not a collaborator of the "+c.repo.fullName()+" repository.")
		case login == p.Author:
			return reply{}, refuse(http.StatusUnprocessableEntity, "Review cannot be requested from pull request author.")
		case !slices.Contains(p.Reviewers, login):
			p.Reviewers = append(p.Reviewers, login)
		}
	}
	s.touch(p)
	for _, login := range ask.Reviewers {
		s.emitPull("review_requested", p, c.who.account, object{"requested_reviewer": s.login(login)})
	}
	return created(s.fullPullJSON(p)), nil
}

// pullsOf lists the pull requests that contain a commit as their head.
func (s *Server) pullsOf(c *call, rev string) (reply, error) {
	sha := c.bare().commit(c.ctx(), rev)
	list := []object{}
	for _, p := range s.pullsIn(c.repo) {
		if p.HeadSHA == sha {
			list = append(list, s.pullJSON(p))
		}
	}
	return ok(c.page(list)), nil
}
