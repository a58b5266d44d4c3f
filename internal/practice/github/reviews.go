package github

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
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

	original placed // found by place
	diffHunk string
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
		return reply{}, unreviewable("Variable $event of type PullRequestReviewEvent was provided invalid value")
	case state == "APPROVED" && c.who.account.Login == p.Author:
		return reply{}, unreviewable("Can not approve your own pull request")
	case state == "CHANGES_REQUESTED" && c.who.account.Login == p.Author:
		return reply{}, unreviewable("Can not request changes on your own pull request")
	case state != "APPROVED" && ask.Body == "" && len(ask.Comments) == 0:
		return reply{}, unreviewable("Body can't be blank")
	}
	for i := range ask.Comments {
		trouble, err := s.place(c, p, &ask.Comments[i])
		if err != nil {
			return reply{}, err
		}
		if trouble != "" {
			return reply{}, unreviewable(sentences[trouble])
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

// unfit is why a comment cannot be made.
type unfit string

const (
	noBody unfit = "body"
	noPath unfit = "path"
	noLine unfit = "line"
	long   unfit = "long"
)

// sentences say so of the comments of a review.
var sentences = map[unfit]string{
	noBody: "Body can't be blank",
	noPath: "Pull request review thread path is invalid and Pull request review thread diff hunk can't be blank",
	long:   fmt.Sprintf("Body is too long (maximum is %d characters)", maxText),
	noLine: "Pull request review thread line must be part of the diff and Pull request review thread diff hunk can't be blank",
}

// refusal says so of a comment by itself.
func (m unfit) refusal() error {
	const kind, thread = "PullRequestReviewComment", "pull_request_review_thread."
	e := invalid(kind, "body", "missing_field")
	switch m {
	case long:
		return invalidField(kind, "body", fmt.Sprintf("is too long (maximum is %d characters)", maxText))
	case noPath:
		e = invalid(kind, thread+"path", "invalid")
	case noLine:
		e = invalidField(kind, thread+"line", "must be part of the diff")
	}
	if m != noBody {
		e.errors = append(e.errors, object{"resource": kind, "field": thread + "diff_hunk", "code": "missing_field"})
	}
	return e
}

func textTrouble(body string) unfit {
	switch {
	case strings.TrimSpace(body) == "":
		return noBody
	case utf8.RuneCountInString(body) > maxText:
		return long
	}
	return ""
}

// place finds the line of a comment in the diff and completes what it says of it.
func (s *Server) place(c *call, p *pull, m *newInline) (unfit, error) {
	if trouble := textTrouble(m.Body); trouble != "" {
		return trouble, nil
	}
	if m.Side == "" {
		m.Side = "RIGHT"
	}
	files, err := s.files(c.ctx(), p)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(files, func(f changedFile) bool { return f.Name == m.Path })
	if at < 0 {
		return noPath, nil
	}
	l, found := lineIn(files[at:], m.Path, func(l diffLine) bool {
		return m.Line == 0 && l.position == m.Position || m.Line != 0 && l.on(m.Side) == m.Line
	})
	if !found {
		return noLine, nil
	}
	if m.Line == 0 && l.new == 0 {
		m.Side = "LEFT"
	}
	m.Line, m.Position, m.diffHunk = l.on(m.Side), l.position, l.hunk
	m.original = placed{m.Line, m.Position, p.HeadSHA}
	return "", nil
}

// diffLine is a line that a file's diff shows.
type diffLine struct {
	old, new int    // its numbers, 0 on the side that does not have it
	position int    // counted in the diff's lines after its first hunk header
	hunk     string // its hunk, ending with it
}

func (l diffLine) on(side string) int {
	if side == "LEFT" {
		return l.old
	}
	return l.new
}

// lines are those of the file's diff.
func (f changedFile) lines() iter.Seq[diffLine] {
	return func(yield func(diffLine) bool) {
		l := diffLine{position: -1} // the first header is before all lines
		for _, fragment := range f.Fragments {
			l.position++
			l.hunk = hunkHeader(fragment)
			before, after := int(fragment.OldPosition)-1, int(fragment.NewPosition)-1
			for _, text := range fragment.Lines {
				l.position++
				l.hunk += "\n" + strings.TrimRight(text.String(), "\n")
				l.old, l.new = 0, 0
				if text.Old() {
					before++
					l.old = before
				}
				if text.New() {
					after++
					l.new = after
				}
				if !yield(l) {
					return
				}
			}
		}
	}
}

func (s *Server) addInline(p *pull, r *review, who *account, ask newInline) *reviewComment {
	now := s.now().UTC()
	m := &reviewComment{
		ID: s.nextID(), Pull: p.key(), Review: r.ID, ReplyTo: ask.InReplyTo, Author: who.Login, Body: ask.Body,
		Path: ask.Path, Line: ask.Line, Side: ask.Side, Position: ask.Position, CommitSHA: p.HeadSHA,
		Original: ask.original, DiffHunk: ask.diffHunk, CreatedAt: now, UpdatedAt: now,
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
	all := sorted(s.inline, func(m *reviewComment) bool { return m.Pull == p.key() && want(m) }, inlineID)
	q := c.r.URL.Query()
	if q.Get("sort") == "updated" {
		slices.SortStableFunc(all, func(a, b *reviewComment) int { return a.UpdatedAt.Compare(b.UpdatedAt) })
	}
	if q.Get("sort") != "" && q.Get("direction") == "desc" { // it is ignored without the other
		slices.Reverse(all)
	}
	for _, m := range all {
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
	if trouble, err := s.place(c, p, &ask); err != nil {
		return reply{}, err
	} else if trouble != "" {
		return reply{}, trouble.refusal()
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
	case textTrouble(body) != "":
		return reply{}, textTrouble(body).refusal()
	}
	r := s.addReview(p, c.who.account, "COMMENTED", "")
	m := s.addInline(p, r, c.who.account, newInline{Body: body, Path: top.Path, Line: top.Line, Side: top.Side, Position: top.Position,
		original: top.Original, diffHunk: top.DiffHunk, InReplyTo: top.ID})
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
	switch {
	case !c.own(m.Author):
		return reply{}, errForbidden
	case textTrouble(ask.Body) != "":
		return reply{}, textTrouble(ask.Body).refusal()
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
