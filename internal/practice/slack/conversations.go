package slack

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) channelJSON(c *room, user string) object {
	if c.IM != "" {
		return object{
			"id": c.ID, "created": c.Created, "is_im": true, "is_open": true, "is_org_shared": false,
			"user": s.otherIn(c, user), "is_archived": false, "is_user_deleted": false, "context_team_id": s.id.TeamID,
		}
	}
	return object{
		"id": c.ID, "name": c.Name, "name_normalized": c.Name, "created": c.Created,
		"is_channel": true, "is_group": false, "is_im": false, "is_mpim": false, "is_private": false, "is_archived": false,
		"is_general": c.Name == "general", "is_shared": false, "is_ext_shared": false, "is_org_shared": false,
		"is_member": c.has(user), "num_members": len(c.Members), "context_team_id": s.id.TeamID,
		"topic":   object{"value": c.Topic, "creator": "", "last_set": 0},
		"purpose": object{"value": "", "creator": "", "last_set": 0},
	}
}

// otherIn is the partner of a direct message.
func (s *Server) otherIn(c *room, user string) string {
	if user == c.IM {
		return s.id.BotUserID
	}
	return c.IM
}

// page cuts a list at the call's cursor and limit and tells the next cursor.
func page[T any](c *call, list []T, limit int) ([]T, object, error) {
	from := 0
	if cur := c.args["cursor"]; cur != "" {
		raw, err := base64.StdEncoding.DecodeString(cur)
		if err == nil {
			from, err = strconv.Atoi(strings.TrimPrefix(string(raw), "next:"))
		}
		if err != nil || from < 0 || from > len(list) {
			return nil, nil, fail("invalid_cursor")
		}
	}
	to := min(len(list), from+limit)
	next := ""
	if to < len(list) {
		next = base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "next:%d", to))
	}
	return list[from:to], object{"next_cursor": next}, nil
}

func (s *Server) conversationsList(c *call) (object, error) {
	kinds := c.args.list("types")
	if kinds == nil {
		kinds = []string{"public_channel"}
	}
	var list []object
	if slices.Contains(kinds, "public_channel") {
		for _, in := range s.channelList() {
			list = append(list, s.channelJSON(in, c.user))
		}
	}
	if slices.Contains(kinds, "im") {
		for _, p := range s.id.People {
			if in := s.directRoom(p.ID); in.has(c.user) {
				list = append(list, s.channelJSON(in, c.user))
			}
		}
	}
	for _, k := range kinds {
		if !slices.Contains([]string{"public_channel", "private_channel", "mpim", "im"}, k) {
			return nil, fail("invalid_types")
		}
	}
	cut, meta, err := page(c, list, min(1000, c.args.number("limit", 100)))
	if err != nil {
		return nil, err
	}
	return object{"channels": orEmpty(cut), "response_metadata": meta}, nil
}

// orEmpty makes an empty list [] instead of null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s *Server) conversationsInfo(c *call) (object, error) {
	in, err := s.place(c, "channel")
	if err != nil {
		return nil, err
	}
	return object{"channel": s.channelJSON(in, c.user)}, nil
}

func (s *Server) conversationsMembers(c *call) (object, error) {
	in, err := s.place(c, "channel")
	if err != nil {
		return nil, err
	}
	cut, meta, err := page(c, in.Members, min(1000, c.args.number("limit", 100)))
	if err != nil {
		return nil, err
	}
	return object{"members": cut, "response_metadata": meta}, nil
}

func (s *Server) conversationsOpen(c *call) (object, error) {
	users := c.args.list("users")
	if id := c.args["channel"]; id != "" {
		in, err := s.place(c, "channel")
		if err != nil {
			return nil, err
		}
		users = []string{s.otherIn(in, c.user)}
	}
	switch {
	case len(users) == 0:
		return nil, fail("users_list_not_supplied")
	case len(users) > 1:
		return nil, fail("too_many_users") // groups of people are not played here
	}
	who := users[0]
	if who == s.id.BotUserID {
		who = c.user
	}
	in := s.directRoom(who)
	if in == nil || !in.has(c.user) {
		return nil, fail("user_not_found")
	}
	res := object{"no_op": true, "already_open": true, "channel": object{"id": in.ID}}
	if c.args.flag("return_im") {
		res["channel"] = s.channelJSON(in, c.user)
	}
	return res, nil
}

func (s *Server) conversationsJoin(c *call) (object, error) {
	in, err := s.place(c, "channel")
	if err != nil {
		return nil, err
	}
	if in.IM != "" {
		return nil, fail("method_not_supported_for_channel_type")
	}
	res := object{"channel": s.channelJSON(in, c.user)}
	if in.has(c.user) {
		res["warning"] = "already_in_channel"
		return res, nil
	}
	s.join(in, c.user, "")
	res["channel"] = s.channelJSON(in, c.user)
	return res, nil
}

// join makes somebody a member and tells the app.
func (s *Server) join(in *room, user, inviter string) {
	if in.has(user) {
		return
	}
	in.Members = append(in.Members, user)
	s.journal.put("room", in.ID, in)
	s.show(pageEvent{Kind: "channels"})
	if !in.has(s.id.BotUserID) {
		return
	}
	ev := object{
		"type": "member_joined_channel", "user": user, "channel": in.ID, "channel_type": "C", "team": s.id.TeamID,
	}
	if inviter != "" {
		ev["inviter"] = inviter
	}
	s.emit("member_joined_channel", ev)
	s.post(in, &message{User: user, Subtype: "channel_join", Text: "<@" + user + "> has joined the channel"})
}

func (s *Server) conversationsCreate(c *call) (object, error) {
	name := strings.TrimPrefix(c.args["name"], "#")
	for _, in := range s.rooms {
		if in.Name == name {
			return nil, fail("name_taken")
		}
	}
	if len(name) == 0 || len(name) > 80 || strings.ToLower(name) != name || strings.ContainsAny(name, " .@<>&\"'") {
		return nil, fail("invalid_name_specials")
	}
	in := &room{
		ID: fmt.Sprintf("C0CHANNEL%02d", len(s.channelList())+1), Name: name,
		Created: time.Now().Unix(), Members: []string{c.user},
	}
	for _, p := range s.id.People { // one browser plays everybody: nobody is left out
		if !in.has(p.ID) {
			in.Members = append(in.Members, p.ID)
		}
	}
	s.addRoom(in)
	s.journal.put("room", in.ID, in)
	s.show(pageEvent{Kind: "channels"})
	return object{"channel": s.channelJSON(in, c.user)}, nil
}

func (s *Server) conversationsInvite(c *call) (object, error) {
	in, err := s.placeToPost(c, "channel")
	if err != nil {
		return nil, err
	}
	for _, user := range c.args.list("users") {
		if s.person(user) == nil && user != s.id.BotUserID {
			return nil, fail("user_not_found")
		}
		if in.has(user) {
			return nil, fail("already_in_channel")
		}
		s.join(in, user, c.user)
	}
	return object{"channel": s.channelJSON(in, c.user)}, nil
}

// window keeps the messages that the call's oldest and latest let through and
// that the API shows at all.
func window(c *call, list []*message) ([]*message, error) {
	for name, code := range map[string]string{"oldest": "invalid_ts_oldest", "latest": "invalid_ts_latest"} {
		if v := c.args[name]; v != "" {
			if _, err := strconv.ParseFloat(v, 64); err != nil {
				return nil, fail(code)
			}
		}
	}
	oldest, latest := padTS(c.args["oldest"]), padTS(c.args["latest"])
	inclusive := c.args.flag("inclusive")
	var kept []*message
	for _, m := range list {
		after := oldest == "" || m.TS > oldest || inclusive && m.TS == oldest
		before := latest == "" || m.TS < latest || inclusive && m.TS == latest
		if m.OnlyFor == "" && after && before {
			kept = append(kept, m)
		}
	}
	return kept, nil
}

// padTS makes timestamps comparable as text; "0" means the beginning.
func padTS(v string) string {
	sec, frac, _ := strings.Cut(v, ".")
	if v == "" || len(sec) < 10 {
		return ""
	}
	return sec + "." + (frac + "000000")[:6]
}

func (s *Server) messagesJSON(c *call, list []*message) []object {
	out := []object{}
	for _, m := range list {
		out = append(out, s.messageJSON(m, c.args.flag("include_all_metadata")))
	}
	return out
}

func (s *Server) conversationsHistory(c *call) (object, error) {
	in, err := s.placeToPost(c, "channel")
	if err != nil {
		return nil, err
	}
	var top []*message
	for _, m := range in.messages {
		if m.Thread == "" || m.Broadcast {
			top = append(top, m)
		}
	}
	list, err := window(c, top)
	if err != nil {
		return nil, err
	}
	slices.Reverse(list) // newest first
	cut, meta, err := page(c, list, min(999, c.args.number("limit", 100)))
	if err != nil {
		return nil, err
	}
	return object{
		"messages": s.messagesJSON(c, cut), "has_more": meta["next_cursor"] != "", "pin_count": 0, "response_metadata": meta,
	}, nil
}

func (s *Server) conversationsReplies(c *call) (object, error) {
	in, err := s.placeToPost(c, "channel")
	if err != nil {
		return nil, err
	}
	root := in.byTS[c.args["ts"]]
	if root == nil || root.OnlyFor != "" {
		return nil, fail("thread_not_found")
	}
	if root.Thread != "" { // Slack answers for a reply with the reply alone
		return object{"messages": s.messagesJSON(c, []*message{root}), "has_more": false}, nil
	}
	list, err := window(c, in.replies(root.TS))
	if err != nil {
		return nil, err
	}
	list = append([]*message{root}, list...) // the first message always comes along
	cut, meta, err := page(c, list, min(1000, c.args.number("limit", 1000)))
	if err != nil {
		return nil, err
	}
	return object{
		"messages": s.messagesJSON(c, cut), "has_more": meta["next_cursor"] != "", "response_metadata": meta,
	}, nil
}
