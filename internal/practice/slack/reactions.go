package slack

import (
	"regexp"
	"slices"
)

var emojiName = regexp.MustCompile(`^[a-z0-9_+'-]+(::skin-tone-[2-6])?$`)

func (s *Server) reactionsAdd(c *call) (object, error) {
	in, m, err := s.existing(c, "timestamp")
	if err != nil {
		return nil, err
	}
	name := c.args["name"]
	if !emojiName.MatchString(name) {
		return nil, fail("invalid_name")
	}
	at := slices.IndexFunc(m.Reactions, func(r reaction) bool { return r.Name == name })
	switch {
	case at >= 0 && slices.Contains(m.Reactions[at].Users, c.user):
		return nil, fail("already_reacted")
	case at < 0 && len(m.Reactions) >= 23:
		return nil, fail("too_many_emoji")
	case at < 0:
		m.Reactions = append(m.Reactions, reaction{name, []string{c.user}})
	default:
		m.Reactions[at].Users = append(slices.Clone(m.Reactions[at].Users), c.user)
	}
	s.save(in, m)
	s.emitReaction("reaction_added", c, in, m)
	return object{}, nil
}

func (s *Server) reactionsRemove(c *call) (object, error) {
	in, m, err := s.existing(c, "timestamp")
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(m.Reactions, func(r reaction) bool { return r.Name == c.args["name"] })
	if at < 0 || !slices.Contains(m.Reactions[at].Users, c.user) {
		return nil, fail("no_reaction")
	}
	m.Reactions[at].Users = slices.DeleteFunc(slices.Clone(m.Reactions[at].Users), func(u string) bool { return u == c.user })
	if len(m.Reactions[at].Users) == 0 {
		m.Reactions = slices.Delete(slices.Clone(m.Reactions), at, at+1)
	}
	s.save(in, m)
	s.emitReaction("reaction_removed", c, in, m)
	return object{}, nil
}

func (s *Server) emitReaction(kind string, c *call, in *room, m *message) {
	if in.has(s.id.BotUserID) {
		s.emit(kind, object{
			"type": kind, "user": c.user, "reaction": c.args["name"], "item_user": m.User,
			"item": object{"type": "message", "channel": in.ID, "ts": m.TS},
		})
	}
}

func (s *Server) reactionsGet(c *call) (object, error) {
	in, m, err := s.existing(c, "timestamp")
	if err != nil {
		return nil, err
	}
	return object{"type": "message", "channel": in.ID, "message": s.messageJSON(m, false)}, nil
}
