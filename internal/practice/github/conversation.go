package github

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

func commentID(c *comment) int64 { return c.ID }

func idKey(id int64) string { return strconv.FormatInt(id, 10) }

func (s *Server) getIssue(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	return ok(s.issueJSON(p)), nil
}

func (s *Server) commentsOn(p *pull) []*comment {
	return sorted(s.comments, func(c *comment) bool { return c.Pull == p.key() }, commentID)
}

func (s *Server) listComments(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	list := []object{}
	for _, m := range s.commentsOn(p) {
		list = append(list, s.commentJSON(p, m))
	}
	return ok(c.page(list)), nil
}

func (s *Server) createComment(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	var ask struct{ Body *string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	m, err := s.say(p, c.who.account, ask.Body)
	if err != nil {
		return reply{}, err
	}
	return created(s.commentJSON(p, m)), nil
}

// say adds a comment to a pull request's conversation.
func (s *Server) say(p *pull, who *account, body *string) (*comment, error) {
	if err := checkComment(body); err != nil {
		return nil, err
	}
	now := s.now().UTC()
	m := &comment{ID: s.nextID(), Pull: p.key(), Author: who.Login, Body: *body, CreatedAt: now, UpdatedAt: now}
	s.comments.put(idKey(m.ID), m)
	s.touch(p)
	s.emitIn("issue_comment", "created", p, who, object{"issue": s.issueJSON(p), "comment": s.commentJSON(p, m)})
	return m, nil
}

// comment finds the comment of a route in the route's repository.
func (c *call) comment() (*comment, *pull, error) {
	m := c.s.comments.get(c.arg("id"))
	if m == nil {
		return nil, nil, errNotFound
	}
	p := c.s.pulls.get(m.Pull)
	if p == nil || !strings.EqualFold(p.Repository, c.repo.fullName()) {
		return nil, nil, errNotFound
	}
	return m, p, nil
}

// own says whether the caller may change what somebody wrote.
func (c *call) own(author string) bool {
	return c.who.account.Login == author || c.who.may(c.repo, "issues", writing, writing)
}

func (s *Server) getComment(c *call) (reply, error) {
	m, p, err := c.comment()
	if err != nil {
		return reply{}, err
	}
	return ok(s.commentJSON(p, m)), nil
}

func (s *Server) editComment(c *call) (reply, error) {
	m, p, err := c.comment()
	if err != nil {
		return reply{}, err
	}
	var ask struct{ Body *string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if !c.own(m.Author) {
		return reply{}, errForbidden
	}
	if err := checkComment(ask.Body); err != nil {
		return reply{}, err
	}
	from := m.Body
	m.Body, m.UpdatedAt = *ask.Body, s.now().UTC()
	s.comments.put(idKey(m.ID), m)
	s.emitIn("issue_comment", "edited", p, c.who.account, object{"issue": s.issueJSON(p), "comment": s.commentJSON(p, m),
		"changes": object{"body": object{"from": from}}})
	return ok(s.commentJSON(p, m)), nil
}

func (s *Server) deleteComment(c *call) (reply, error) {
	m, p, err := c.comment()
	if err != nil {
		return reply{}, err
	}
	if !c.own(m.Author) {
		return reply{}, errForbidden
	}
	s.comments.remove(idKey(m.ID))
	s.emitIn("issue_comment", "deleted", p, c.who.account, object{"issue": s.issueJSON(p), "comment": s.commentJSON(p, m)})
	return noContent, nil
}

// react adds the caller's reaction; a second equal one is the first again (200).
func (s *Server) react(c *call, list *[]reaction) (reply, error) {
	var ask struct{ Content string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	if !slices.Contains(reactionContents, ask.Content) {
		return reply{}, invalid("Reaction", "content", "invalid")
	}
	for _, r := range *list {
		if r.Author == c.who.account.Login && r.Content == ask.Content {
			return ok(s.reactionJSON(r)), nil
		}
	}
	r := reaction{ID: s.nextID(), Author: c.who.account.Login, Content: ask.Content, At: s.now().UTC()}
	*list = append(*list, r)
	return created(s.reactionJSON(r)), nil
}

func (s *Server) reactionJSON(r reaction) object {
	return object{"id": r.ID, "node_id": "REA_" + idKey(r.ID), "content": r.Content, "user": s.login(r.Author), "created_at": date(r.At)}
}

func (s *Server) reactions(c *call, list []reaction) (reply, error) {
	all := []object{}
	for _, r := range list {
		all = append(all, s.reactionJSON(r))
	}
	return ok(c.page(all)), nil
}

func (s *Server) reactToComment(c *call) (reply, error) {
	m, _, err := c.comment()
	if err != nil {
		return reply{}, err
	}
	got, err := s.react(c, &m.Reactions)
	s.comments.put(idKey(m.ID), m)
	return got, err
}

func (s *Server) commentReactions(c *call) (reply, error) {
	m, _, err := c.comment()
	if err != nil {
		return reply{}, err
	}
	return s.reactions(c, m.Reactions)
}

func (s *Server) label(r *repository, name string) *label {
	return s.labels.get(r.key() + "/" + strings.ToLower(name))
}

func (s *Server) putLabel(r *repository, name, color, description string) *label {
	l := &label{ID: s.nextID(), Repository: r.fullName(), Name: name, Color: color, Description: description}
	s.labels.put(r.key()+"/"+strings.ToLower(name), l)
	return l
}

func (s *Server) listRepositoryLabels(c *call) (reply, error) {
	var all []label
	for _, l := range sorted(s.labels, func(l *label) bool { return l.Repository == c.repo.fullName() }, func(l *label) string { return l.Name }) {
		all = append(all, *l)
	}
	return ok(c.page(s.labelsJSON(all))), nil
}

func (s *Server) createLabel(c *call) (reply, error) {
	var ask struct{ Name, Color, Description string }
	if err := c.body(&ask); err != nil {
		return reply{}, err
	}
	switch {
	case ask.Name == "":
		return reply{}, invalid("Label", "name", "missing_field")
	case s.label(c.repo, ask.Name) != nil:
		return reply{}, invalid("Label", "name", "already_exists")
	}
	if ask.Color == "" {
		ask.Color = "ededed"
	}
	l := s.putLabel(c.repo, ask.Name, ask.Color, ask.Description)
	return created(s.labelsJSON([]label{*l})[0]), nil
}

func (s *Server) getLabel(c *call) (reply, error) {
	l := s.label(c.repo, c.arg("name"))
	if l == nil {
		return reply{}, errNotFound
	}
	return ok(s.labelsJSON([]label{*l})[0]), nil
}

func (s *Server) listLabels(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	return ok(c.page(s.labelsJSON(p.Labels))), nil
}

// addLabels takes {"labels": [...]} and a bare list of names; unknown labels are made.
func (s *Server) addLabels(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	names, err := c.names("labels")
	if err != nil {
		return reply{}, err
	}
	for _, name := range names {
		l := s.label(c.repo, name)
		if l == nil {
			l = s.putLabel(c.repo, name, "ededed", "")
		}
		if !slices.ContainsFunc(p.Labels, func(had label) bool { return had.ID == l.ID }) {
			p.Labels = append(p.Labels, *l)
			s.touch(p)
			s.emitPull("labeled", p, c.who.account, object{"label": s.labelsJSON([]label{*l})[0]})
		}
	}
	return ok(s.labelsJSON(p.Labels)), nil
}

// names reads a list of names: bare, or under a key.
func (c *call) names(key string) ([]string, error) {
	var ask any
	if err := c.body(&ask); err != nil {
		return nil, err
	}
	if o, isObject := ask.(map[string]any); isObject {
		ask = o[key]
	}
	var names []string
	list, _ := ask.([]any)
	for _, v := range list {
		name, isText := v.(string)
		if !isText || name == "" {
			return nil, refuse(http.StatusUnprocessableEntity, "Invalid request.")
		}
		names = append(names, name)
	}
	return names, nil
}

func (s *Server) removeLabel(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	at := slices.IndexFunc(p.Labels, func(l label) bool { return strings.EqualFold(l.Name, c.arg("name")) })
	if at < 0 {
		return reply{}, refuse(http.StatusNotFound, "Label does not exist")
	}
	gone := p.Labels[at]
	p.Labels = slices.Delete(p.Labels, at, at+1)
	s.touch(p)
	s.emitPull("unlabeled", p, c.who.account, object{"label": s.labelsJSON([]label{gone})[0]})
	return ok(s.labelsJSON(p.Labels)), nil
}

// addAssignees ignores people who cannot be assigned, as GitHub does.
func (s *Server) addAssignees(c *call) (reply, error) {
	p, err := c.pull()
	if err != nil {
		return reply{}, err
	}
	names, err := c.names("assignees")
	if err != nil {
		return reply{}, err
	}
	for _, login := range names {
		if c.repo.Roles[login] >= reading && !slices.Contains(p.Assignees, login) {
			p.Assignees = append(p.Assignees, login)
			s.touch(p)
			s.emitPull("assigned", p, c.who.account, object{"assignee": s.login(login)})
		}
	}
	return created(s.issueJSON(p)), nil
}
