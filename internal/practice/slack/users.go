package slack

import (
	"strings"
)

// testAPI echoes its arguments, or fails as asked.
func (s *Server) testAPI(c *call) (object, error) {
	res := object{}
	if len(c.args) > 0 {
		res["args"] = c.args
	}
	if code := c.args["error"]; code != "" {
		return nil, apiError{code, res}
	}
	return res, nil
}

func (s *Server) authTest(c *call) (object, error) {
	res := object{
		"url": s.base + "/", "team": s.opts.TeamName, "team_id": s.id.TeamID, "user_id": c.user,
		"is_enterprise_install": false,
	}
	if c.bot {
		res["user"], res["bot_id"] = s.opts.BotName, s.id.BotID
	} else {
		res["user"] = s.person(c.user).Name
	}
	return res, nil
}

// userJSON is a person or the bot; nil for an unknown id.
func (s *Server) userJSON(id string) object {
	if id == s.id.BotUserID {
		return object{
			"id": id, "team_id": s.id.TeamID, "name": s.opts.BotName, "real_name": s.opts.AppName, "deleted": false,
			"is_bot": true, "is_app_user": false, "tz": "Europe/Amsterdam", "color": "1d1c1d",
			"profile": object{
				"real_name": s.opts.AppName, "display_name": s.opts.BotName, "bot_id": s.id.BotID, "api_app_id": s.id.AppID,
				"team": s.id.TeamID,
			},
		}
	}
	p := s.person(id)
	if p == nil {
		return nil
	}
	is := s.standing(id)
	return object{
		"id": p.ID, "team_id": s.id.TeamID, "name": p.Name, "real_name": p.RealName, "deleted": is == Deactivated,
		"is_bot": false, "is_app_user": false, "is_admin": false, "is_owner": false, "is_restricted": is == Guest,
		"is_ultra_restricted": false, "tz": "Europe/Amsterdam", "tz_label": "Central European Time", "tz_offset": 3600,
		"color": strings.TrimPrefix(p.Color, "#"), "updated": 1, "profile": s.profileJSON(p),
	}
}

func (s *Server) profileJSON(p *person) object {
	first, last, _ := strings.Cut(p.RealName, " ")
	picture := s.base + "/page/avatar/" + p.ID + ".svg"
	return object{
		"real_name": p.RealName, "real_name_normalized": p.RealName, "display_name": p.Name, "display_name_normalized": p.Name,
		"first_name": first, "last_name": last, "email": p.Email, "title": p.Title, "team": s.id.TeamID,
		"image_24": picture, "image_48": picture, "image_72": picture, "image_192": picture, "image_512": picture,
		"status_text": "", "status_emoji": "",
	}
}

func (s *Server) usersInfo(c *call) (object, error) {
	u := s.userJSON(c.args["user"])
	if u == nil {
		return nil, fail("user_not_found")
	}
	return object{"user": u}, nil
}

func (s *Server) usersList(c *call) (object, error) {
	list := []object{s.userJSON(s.id.BotUserID)}
	for _, p := range s.id.People {
		list = append(list, s.userJSON(p.ID))
	}
	cut, meta, err := page(c, list, c.args.number("limit", 200))
	if err != nil {
		return nil, err
	}
	return object{"members": cut, "cache_ts": 1, "response_metadata": meta}, nil
}

func (s *Server) usersLookupByEmail(c *call) (object, error) {
	for _, p := range s.id.People {
		if strings.EqualFold(p.Email, c.args["email"]) {
			return object{"user": s.userJSON(p.ID)}, nil
		}
	}
	return nil, fail("users_not_found")
}

func (s *Server) usersProfileGet(c *call) (object, error) {
	id := c.args["user"]
	if id == "" {
		id = c.user
	}
	u := s.userJSON(id)
	if u == nil {
		return nil, fail("user_not_found")
	}
	return object{"profile": u["profile"]}, nil
}

func (s *Server) botsInfo(c *call) (object, error) {
	if id := c.args["bot"]; id != "" && id != s.id.BotID {
		return nil, fail("bot_not_found")
	}
	return object{"bot": s.botProfile()}, nil
}

func (s *Server) teamInfo(c *call) (object, error) {
	if id := c.args["team"]; id != "" && id != s.id.TeamID {
		return nil, fail("team_not_found")
	}
	return object{"team": object{
		"id": s.id.TeamID, "name": s.opts.TeamName, "domain": strings.ToLower(s.opts.TeamName), "url": s.base + "/",
		"email_domain": "", "icon": object{"image_default": true},
	}}, nil
}
