package slack

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxViewStack = 3
	maxViewJSON  = 250 << 10
	maxPrivate   = 3000
	maxViewTitle = 24
)

// view is a modal in a person's stack, or a person's App Home.
type view struct {
	ID, User, Hash string
	Depth          int // in the stack, from 1; 0 for App Home
	Previous, Root string
	Spec           object // as the app gave it, with ids in its blocks
}

func (s *Server) viewJSON(v *view) object {
	o := object{
		"id": v.ID, "team_id": s.id.TeamID, "app_id": s.id.AppID, "app_installed_team_id": s.id.TeamID, "bot_id": s.id.BotID,
		"hash": v.Hash, "root_view_id": v.Root, "previous_view_id": nilIfEmpty(v.Previous), "state": object{"values": object{}},
		"private_metadata": "", "callback_id": "", "external_id": "", "clear_on_close": false, "notify_on_close": false,
		"title": nil, "close": nil, "submit": nil,
	}
	maps.Copy(o, v.Spec)
	return o
}

// readView checks the argument view.
func readView(raw, kind string) (object, error) {
	var spec object
	if json.Unmarshal([]byte(raw), &spec) != nil {
		return nil, failWith("invalid_arguments", "[ERROR] view is not an object")
	}
	if len(raw) > maxViewJSON {
		return nil, fail("view_too_large")
	}
	if str(spec, "type") != kind {
		return nil, failWith("invalid_arguments", "[ERROR] must be of type "+kind+" [json-pointer:/view/type]")
	}
	blocks, err := json.Marshal(spec["blocks"])
	if err != nil {
		return nil, failWith("invalid_arguments", "[ERROR] blocks are not a list [json-pointer:/view/blocks]")
	}
	checked, err := checkBlocks(string(blocks), surface(kind))
	if err != nil {
		return nil, viewProblem(err)
	}
	spec["blocks"] = orEmpty(decodeBlocks(checked))
	if problems := viewProblems(spec, kind); len(problems) > 0 {
		return nil, failWith("invalid_arguments", problems...)
	}
	return spec, nil
}

// viewProblem renames the refusal of blocks to what views.* answer.
func viewProblem(err error) error {
	if e, ok := err.(apiError); ok {
		e.code = "invalid_arguments"
		return e
	}
	return err
}

func viewProblems(spec object, kind string) []string {
	var problems []string
	if utf8.RuneCountInString(str(spec, "private_metadata")) > maxPrivate {
		problems = append(problems, "[ERROR] must be less than 3001 characters [json-pointer:/view/private_metadata]")
	}
	if kind != string(inModal) {
		return problems
	}
	if spec["title"] == nil {
		problems = append(problems, "[ERROR] missing required field: title [json-pointer:/view]")
	}
	for _, name := range []string{"title", "submit", "close"} {
		t, ok := spec[name].(object)
		if ok && utf8.RuneCountInString(str(t, "text")) > maxViewTitle {
			problems = append(problems, fmt.Sprintf("[ERROR] must be less than 25 characters [json-pointer:/view/%s/text]", name))
		}
	}
	hasInput := slices.ContainsFunc(blocksOf(spec), func(b object) bool { return str(b, "type") == "input" })
	if hasInput && spec["submit"] == nil {
		problems = append(problems, "[ERROR] missing required field: submit (there are inputs) [json-pointer:/view]")
	}
	return problems
}

// blocksOf are a view's blocks, fresh or read back from the journal.
func blocksOf(spec object) []object {
	if list, ok := spec["blocks"].([]object); ok {
		return list
	}
	return objects(spec["blocks"])
}

// stack is a person's open modals, the topmost last.
func (s *Server) stack(user string) []*view {
	var list []*view
	for _, v := range s.views {
		if v.User == user {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b *view) int { return a.Depth - b.Depth })
	return list
}

func (s *Server) saveView(v *view) {
	v.Hash = fmt.Sprintf("%s.%s", s.newTS()[:10], secret(4))
	if v.Depth == 0 {
		s.homes[v.User] = v
		s.journal.put("home", v.User, v)
	} else {
		s.views[v.ID] = v
		s.journal.put("view", v.ID, v)
	}
	s.showView(v.User)
}

// closeViews closes a person's modals above a depth.
func (s *Server) closeViews(user string, above int) {
	for _, v := range s.stack(user) {
		if v.Depth > above {
			delete(s.views, v.ID)
			s.journal.remove("view", v.ID)
		}
	}
	s.showView(user)
}

func (s *Server) showView(user string) {
	s.show(pageEvent{Kind: "views", only: user})
	s.noteChange()
}

func (s *Server) viewsOpen(c *call) (object, error) {
	spec, err := readView(c.args["view"], string(inModal))
	if err != nil {
		return nil, err
	}
	user, err := s.useTrigger(c)
	if err != nil {
		return nil, err
	}
	s.closeViews(user, 0)
	return object{"view": s.viewJSON(s.addView(user, spec))}, nil
}

func (s *Server) viewsPush(c *call) (object, error) {
	spec, err := readView(c.args["view"], string(inModal))
	if err != nil {
		return nil, err
	}
	user, err := s.useTrigger(c)
	if err != nil {
		return nil, err
	}
	if len(s.stack(user)) >= maxViewStack {
		return nil, fail("push_limit_reached")
	}
	return object{"view": s.viewJSON(s.addView(user, spec))}, nil
}

// addView puts a modal on top of a person's stack.
func (s *Server) addView(user string, spec object) *view {
	v := &view{ID: newID("V"), User: user, Spec: spec, Depth: 1}
	v.Root = v.ID
	if below := s.stack(user); len(below) > 0 {
		top := below[len(below)-1]
		v.Depth, v.Root, v.Previous = top.Depth+1, top.Root, top.ID
	}
	s.saveView(v)
	return v
}

func (s *Server) viewsUpdate(c *call) (object, error) {
	v := s.views[c.args["view_id"]]
	for _, other := range s.views {
		if id := c.args["external_id"]; id != "" && str(other.Spec, "external_id") == id {
			v = other
		}
	}
	if v == nil {
		return nil, fail("not_found")
	}
	spec, err := readView(c.args["view"], string(inModal))
	if err != nil {
		return nil, err
	}
	if h := c.args["hash"]; h != "" && h != v.Hash {
		return nil, fail("hash_conflict")
	}
	v.Spec = spec
	s.saveView(v)
	return object{"view": s.viewJSON(v)}, nil
}

func (s *Server) viewsPublish(c *call) (object, error) {
	user := c.args["user_id"]
	if s.person(user) == nil {
		return nil, failWith("invalid_arguments", "[ERROR] user_id is nobody [json-pointer:/user_id]")
	}
	spec, err := readView(c.args["view"], string(inHome))
	if err != nil {
		return nil, err
	}
	v := s.homes[user]
	if h := c.args["hash"]; h != "" && v != nil && h != v.Hash {
		return nil, fail("hash_conflict")
	}
	if v == nil {
		v = &view{ID: newID("V"), User: user}
		v.Root = v.ID
	}
	v.Spec = spec
	s.saveView(v)
	return object{"view": s.viewJSON(v)}, nil
}

// clickView sends block_actions of a modal or of App Home.
func (s *Server) clickView(user, viewID string, ch Choice, state []Choice) error {
	s.mu.Lock()
	payload, err := s.viewAction(user, viewID, ch, state)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = s.ask(kindInteractive, payload)
	return err
}

// viewOf finds a view that a person has before them.
func (s *Server) viewOf(user, id string) (*view, error) {
	v := s.views[id]
	if home := s.homes[user]; v == nil && home != nil && home.ID == id {
		v = home
	}
	if v == nil || v.User != user {
		return nil, fail("not_found")
	}
	return v, nil
}

func (s *Server) viewAction(user, viewID string, ch Choice, state []Choice) (object, error) {
	v, err := s.viewOf(user, viewID)
	if err != nil {
		return nil, err
	}
	blocks := blocksOf(v.Spec)
	action, err := actionOf(blocks, ch)
	if err != nil {
		return nil, err
	}
	payload := s.interaction("block_actions", user)
	shown := s.viewJSON(v)
	shown["state"] = object{"values": stateOf(blocks, append(state, ch))}
	payload["view"], payload["container"] = shown, object{"type": "view", "view_id": v.ID}
	payload["actions"], payload["trigger_id"] = []object{action}, s.newTrigger(user)
	return payload, nil
}

// submit sends view_submission and does what the answer says. It returns what
// people have to correct, by block, before or after the app saw it.
func (s *Server) submit(user, viewID string, state []Choice) (map[string]string, error) {
	s.mu.Lock()
	v, err := s.viewOf(user, viewID)
	if err != nil || v.Depth == 0 {
		s.mu.Unlock()
		return nil, fail("not_found")
	}
	values := stateOf(blocksOf(v.Spec), state)
	if wrong := incomplete(blocksOf(v.Spec), values); len(wrong) > 0 {
		s.mu.Unlock()
		return wrong, nil
	}
	payload := s.interaction("view_submission", user)
	shown := s.viewJSON(v)
	shown["state"] = object{"values": values}
	payload["view"], payload["response_urls"], payload["trigger_id"] = shown, []object{}, s.newTrigger(user)
	s.mu.Unlock()
	raw, err := s.ask(kindInteractive, payload)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.submitted(v, raw)
}

// submitted does the response_action of an acknowledged submission.
func (s *Server) submitted(v *view, raw json.RawMessage) (map[string]string, error) {
	var answer struct {
		Action string            `json:"response_action"`
		Errors map[string]string `json:"errors"`
		View   json.RawMessage   `json:"view"`
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &answer); err != nil {
			return nil, fmt.Errorf("reading the answer to the submission: %w", err)
		}
	}
	if s.views[v.ID] == nil {
		return nil, nil // closed while the app was thinking
	}
	switch answer.Action {
	case "errors":
		return answer.Errors, nil
	case "clear":
		s.closeViews(v.User, 0)
	case "update", "push":
		spec, err := readView(string(answer.View), string(inModal))
		if err != nil {
			return nil, fmt.Errorf("reading the view of the answer: %w", err)
		}
		if answer.Action == "push" {
			s.addView(v.User, spec)
			return nil, nil
		}
		v.Spec = spec
		s.saveView(v)
	default:
		s.closeViews(v.User, v.Depth-1)
	}
	return nil, nil
}

// incomplete is what Slack's client checks before a submission is sent.
func incomplete(blocks []object, values object) map[string]string {
	wrong := map[string]string{}
	for _, b := range blocks {
		e, ok := b["element"].(object)
		if str(b, "type") != "input" || !ok {
			continue
		}
		in, _ := values[str(b, "block_id")].(object)
		state, _ := in[str(e, "action_id")].(object)
		if b["optional"] != true && isEmpty(state) {
			wrong[str(b, "block_id")] = "Please complete this required field."
			continue
		}
		n := float64(utf8.RuneCountInString(str(state, "value")))
		if least, ok := e["min_length"].(float64); ok && n > 0 && n < least {
			wrong[str(b, "block_id")] = fmt.Sprintf("Please write at least %.0f characters.", least)
		}
		if most, ok := e["max_length"].(float64); ok && n > most {
			wrong[str(b, "block_id")] = fmt.Sprintf("Please write at most %.0f characters.", most)
		}
	}
	return wrong
}

// isEmpty says whether an element's state holds nothing besides its type.
func isEmpty(state object) bool {
	for key, v := range state {
		if key == "type" {
			continue
		}
		switch v := v.(type) {
		case nil:
		case string:
			if strings.TrimSpace(v) != "" {
				return false
			}
		case []object:
			if len(v) > 0 {
				return false
			}
		case []string:
			if len(v) > 0 {
				return false
			}
		case []any:
			if len(v) > 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// closeView is a person closing a modal, or all of the stack.
func (s *Server) closeView(user, viewID string, all bool) error {
	s.mu.Lock()
	v, err := s.viewOf(user, viewID)
	if err != nil || v.Depth == 0 {
		s.mu.Unlock()
		return fail("not_found")
	}
	clears := all || v.Spec["clear_on_close"] == true
	notify := v.Spec["notify_on_close"] == true
	payload := s.interaction("view_closed", user)
	payload["view"], payload["is_cleared"] = s.viewJSON(v), clears
	above := v.Depth - 1
	if clears {
		above = 0
	}
	s.closeViews(user, above)
	s.mu.Unlock()
	if !notify {
		return nil
	}
	_, err = s.ask(kindInteractive, payload)
	return err
}

// openHome is a person opening the app's Home or Messages tab.
func (s *Server) openHome(user, tab string) {
	ev := object{"type": "app_home_opened", "user": user, "channel": s.directRoom(user).ID, "tab": tab}
	if v := s.homes[user]; v != nil && tab == "home" {
		ev["view"] = s.viewJSON(v)
	}
	s.emit("app_home_opened", ev)
}
