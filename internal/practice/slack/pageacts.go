package slack

import (
	"encoding/json"
	"net/http"
)

// The handlers below are what a person does in the page. Scripts may use them
// with a person's token, too; the package comment documents them.

// readChoice reads the element of a click, and what other elements of the same
// message or view hold.
func readChoice(a args) (Choice, []Choice, error) {
	ch := Choice{
		BlockID: a["block_id"], ActionID: a["action_id"], Value: a["value"], Label: a["label"], Values: a.list("values"),
	}
	state, err := readState(a)
	return ch, state, err
}

func readState(a args) ([]Choice, error) {
	if a["state"] == "" {
		return nil, nil
	}
	var state []Choice
	if json.Unmarshal([]byte(a["state"]), &state) != nil {
		return nil, failWith("invalid_arguments", "[ERROR] state must be a list of choices")
	}
	return state, nil
}

func (s *Server) pageClick(_ http.ResponseWriter, user string, a args) (object, error) {
	ch, state, err := readChoice(a)
	if err != nil {
		return nil, err
	}
	if a["view_id"] != "" {
		return nil, s.clickView(user, a["view_id"], ch, state)
	}
	return nil, s.clickMessage(user, a["channel"], a["ts"], ch, state)
}

func (s *Server) pageSubmit(_ http.ResponseWriter, user string, a args) (object, error) {
	state, err := readState(a)
	if err != nil {
		return nil, err
	}
	wrong, err := s.submit(user, a["view_id"], state)
	if err != nil || len(wrong) == 0 {
		return nil, err
	}
	return object{"errors": wrong}, nil
}

func (s *Server) pageClose(_ http.ResponseWriter, user string, a args) (object, error) {
	return nil, s.closeView(user, a["view_id"], a.flag("all"))
}

func (s *Server) pageSuggest(_ http.ResponseWriter, user string, a args) (object, error) {
	ch, _, err := readChoice(a)
	if err != nil {
		return nil, err
	}
	raw, err := s.suggest(user, suggestion{Channel: a["channel"], TS: a["ts"], ViewID: a["view_id"], Choice: ch})
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	return object{"answer": raw}, nil
}

func (s *Server) pageCommand(_ http.ResponseWriter, user string, a args) (object, error) {
	return nil, s.command(user, a["channel"], a["command"], a["text"])
}

func (s *Server) pageShortcut(_ http.ResponseWriter, user string, a args) (object, error) {
	return nil, s.shortcut(user, a["callback_id"], a["channel"], a["ts"])
}

func (s *Server) pageStop(_ http.ResponseWriter, user string, a args) (object, error) {
	return nil, s.StopAs(user, a["channel"], a["thread_ts"])
}

func (s *Server) pageHome(_ http.ResponseWriter, user string, a args) (object, error) {
	return nil, s.OpenHomeAs(user, a["tab"])
}

func (s *Server) pageRename(_ http.ResponseWriter, user string, a args) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, _, err := s.visible(user, a["channel"], a["thread_ts"])
	if err != nil {
		return nil, err
	}
	if s.sessions[sessionKey(in.ID, a["thread_ts"])] == nil || a["title"] == "" {
		return nil, fail("not_authorized")
	}
	s.rename(in, a["thread_ts"], a["title"], user)
	return nil, nil
}
