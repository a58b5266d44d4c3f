package github

import (
	"net/http"
	"strings"
)

func inlineID(c *reviewComment) int64 { return c.ID }

func (s *Server) reviewsOn(p *pull) []*review {
	return sorted(s.reviews, func(r *review) bool { return r.Pull == p.key() }, func(r *review) int64 { return r.ID })
}

func (s *Server) listReviews(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	list := []object{}
	for _, r := range s.reviewsOn(p) {
		list = append(list, s.reviewJSON(p, r))
	}
	return ok(c.page(list)), nil
}

// newInline is a comment on a line of the diff.
type newInline struct {
	Body, Path, Side string
	Line             int
	Position         int    // the old way of naming the line, counted in the diff
	CommitID         string `json:"commit_id"`
	InReplyTo        int64  `json:"in_reply_to"`
}

var reviewStates = map[string]string{"APPROVE": "APPROVED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "COMMENT": "COMMENTED"}

func (s *Server) createReview(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	var ask struct {
		Body, Event string
		CommitID    string `json:"commit_id"`
		Comments    []newInline
	}
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	state := reviewStates[ask.Event]
	switch {
	case state == "":
		return reply{}, invalid("PullRequestReview", "event", "invalid")
	case state != "COMMENTED" && c.who.account.Login == p.Author:
		return reply{}, refuse(http.StatusUnprocessableEntity, "Unprocessable Entity: Can not approve or request changes on your own pull request")
	case state != "APPROVED" && ask.Body == "" && len(ask.Comments) == 0:
		return reply{}, invalid("PullRequestReview", "body", "missing_field")
	}
	for _, m := range ask.Comments {
		if err := s.checkInline(c, p, &m); err != nil {
			return reply{}, err
		}
	}
	r := s.addReview(p, c.who.account, state, ask.Body)
	for _, m := range ask.Comments {
		s.addInline(p, r, c.who.account, m)
	}
	return ok(s.reviewJSON(p, r)), nil
}

func (s *Server) addReview(p *pull, who *account, state, body string) *review {
	r := &review{ID: s.nextID(), Pull: p.key(), Author: who.Login, Body: body, State: state, CommitSHA: p.HeadSHA, SubmittedAt: s.now().UTC()}
	s.reviews.put(idKey(r.ID), r)
	s.touch(p)
	shown := s.reviewJSON(p, r)
	shown["state"] = strings.ToLower(r.State) // webhooks write it small
	s.emitIn("pull_request_review", "submitted", p, who, object{"pull_request": s.pullJSON(p), "review": shown})
	return r
}

// checkInline refuses a comment on a file or line that the diff does not have.
func (s *Server) checkInline(c *call, p *pull, m *newInline) error {
	if strings.TrimSpace(m.Body) == "" {
		return invalid("PullRequestReviewComment", "body", "missing_field")
	}
	if m.Side == "" {
		m.Side = "RIGHT"
	}
	files, err := s.files(c.ctx(), p)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name != m.Path {
			continue
		}
		if m.Line == 0 {
			m.Line = f.lineAt(m.Position)
		}
		if !f.shows(m.Line, m.Side) {
			return invalid("PullRequestReviewComment", "pull_request_review_thread.line", "must be part of the diff")
		}
		return nil
	}
	return invalid("PullRequestReviewComment", "pull_request_review_thread.path", "could not be resolved")
}

// shows says whether the diff of the file contains a line of one side.
func (f changedFile) shows(line int, side string) bool {
	for _, fragment := range f.Fragments {
		from, n := fragment.NewPosition, fragment.NewLines
		if side == "LEFT" {
			from, n = fragment.OldPosition, fragment.OldLines
		}
		if int64(line) >= from && int64(line) < from+n {
			return true
		}
	}
	return false
}

// lineAt turns a position, counted in the diff's lines after its first hunk
// header, into a line of the new file; 0 if there is none.
func (f changedFile) lineAt(position int) int {
	at := 0
	for i, fragment := range f.Fragments {
		if i > 0 {
			at++ // its header
		}
		line := fragment.NewPosition - 1
		for _, l := range fragment.Lines {
			at++
			if l.New() {
				line++
			}
			if at == position {
				return int(line)
			}
		}
	}
	return 0
}

func (s *Server) addInline(p *pull, r *review, who *account, ask newInline) *reviewComment {
	now := s.now().UTC()
	m := &reviewComment{
		ID: s.nextID(), Pull: p.key(), Review: r.ID, ReplyTo: ask.InReplyTo, Author: who.Login, Body: ask.Body,
		Path: ask.Path, Line: ask.Line, Side: ask.Side, CommitSHA: p.HeadSHA, CreatedAt: now, UpdatedAt: now,
	}
	if m.Side == "" {
		m.Side = "RIGHT"
	}
	s.inline.put(idKey(m.ID), m)
	s.touch(p)
	s.emitIn("pull_request_review_comment", "created", p, who, object{"pull_request": s.pullJSON(p), "comment": s.inlineJSON(p, m)})
	return m
}

// review finds the review of a route.
func (c *call) review() (*review, *pull, error) {
	p, err := c.pull()
	if err != nil {
		return nil, nil, err
	}
	r := c.s.reviews.get(c.arg("review"))
	if r == nil || r.Pull != p.key() {
		return nil, nil, errNotFound
	}
	return r, p, nil
}

func (s *Server) getReview(c *call) (reply, error) {
	r, p, err := c.review()
	if err != nil {
		return reply{}, err
	}
	return ok(s.reviewJSON(p, r)), nil
}

func (s *Server) inlineWhere(c *call, p *pull, want func(*reviewComment) bool) (reply, error) {
	list := []object{}
	for _, m := range sorted(s.inline, func(m *reviewComment) bool { return m.Pull == p.key() && want(m) }, inlineID) {
		list = append(list, s.inlineJSON(p, m))
	}
	return ok(c.page(list)), nil
}

func (s *Server) reviewComments(c *call) (reply, error) {
	r, p, err := c.review()
	if err != nil {
		return reply{}, err
	}
	return s.inlineWhere(c, p, func(m *reviewComment) bool { return m.Review == r.ID })
}

func (s *Server) pullReviewComments(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	return s.inlineWhere(c, p, func(*reviewComment) bool { return true })
}

// createReviewComment comments on a line, in a review of its own, or replies.
func (s *Server) createReviewComment(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	var ask newInline
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if ask.InReplyTo != 0 {
		return s.replyIn(c, p, ask.InReplyTo, ask.Body)
	}
	if err := s.checkInline(c, p, &ask); err != nil {
		return reply{}, err
	}
	r := s.addReview(p, c.who.account, "COMMENTED", "")
	return created(s.inlineJSON(p, s.addInline(p, r, c.who.account, ask))), nil
}

func (s *Server) replyToComment(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	var ask struct{ Body string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	return s.replyIn(c, p, c.number("id"), ask.Body)
}

// replyIn replies to the first comment of a thread; another cannot be replied to.
func (s *Server) replyIn(c *call, p *pull, to int64, body string) (reply, error) {
	top := s.inline.get(idKey(to))
	switch {
	case top == nil || top.Pull != p.key() || top.ReplyTo != 0:
		return reply{}, errNotFound
	case strings.TrimSpace(body) == "":
		return reply{}, invalid("PullRequestReviewComment", "body", "missing_field")
	}
	r := s.addReview(p, c.who.account, "COMMENTED", "")
	m := s.addInline(p, r, c.who.account, newInline{Body: body, Path: top.Path, Line: top.Line, Side: top.Side, InReplyTo: top.ID})
	return created(s.inlineJSON(p, m)), nil
}

// inlineComment finds the review comment of a route in the route's repository.
func (c *call) inlineComment() (*reviewComment, *pull, error) {
	m := c.s.inline.get(c.arg("id"))
	if m == nil {
		return nil, nil, errNotFound
	}
	p := c.s.pulls.get(m.Pull)
	if p == nil || !strings.EqualFold(p.Repository, c.repo.fullName()) {
		return nil, nil, errNotFound
	}
	return m, p, nil
}

func (s *Server) getReviewComment(c *call) (reply, error) {
	m, p, err := c.inlineComment()
	if err != nil {
		return reply{}, err
	}
	return ok(s.inlineJSON(p, m)), nil
}

func (s *Server) editReviewComment(c *call) (reply, error) {
	m, p, err := c.inlineComment()
	if err != nil {
		return reply{}, err
	}
	var ask struct{ Body string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if !c.own(m.Author) {
		return reply{}, errForbidden
	}
	m.Body, m.UpdatedAt = ask.Body, s.now().UTC()
	s.inline.put(idKey(m.ID), m)
	s.emitIn("pull_request_review_comment", "edited", p, c.who.account, object{"pull_request": s.pullJSON(p), "comment": s.inlineJSON(p, m)})
	return ok(s.inlineJSON(p, m)), nil
}

func (s *Server) reactToReviewComment(c *call) (reply, error) {
	m, _, err := c.inlineComment()
	if err != nil {
		return reply{}, err
	}
	got, err := s.react(c, &m.Reactions)
	s.inline.put(idKey(m.ID), m)
	return got, err
}

func (s *Server) reviewCommentReactions(c *call) (reply, error) {
	m, _, err := c.inlineComment()
	if err != nil {
		return reply{}, err
	}
	return s.reactions(c, m.Reactions)
}
