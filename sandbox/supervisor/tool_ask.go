package supervisor

type askArgs struct {
	Question string   `json:"question" jsonschema:"one question in Markdown, with what people need to know to answer it; at most 1500 characters"`
	Options  []string `json:"options" jsonschema:"2 to 5 answers to choose from, each at most 75 characters; people may answer in their own words instead"`
}

const askHelp = "Ask the people in the thread a question that you cannot settle yourself, and end your turn: the answer comes as the next request. " +
	"Use it when a wrong guess would cost them more than the wait, not for what the code, the tests or a sensible default can tell you. " +
	"Do everything that does not depend on the answer first. Call no other tool together with it."

// held keeps the model from being asked once people were: OpenCode would go on
// with the next step, and act on it, before it can be interrupted.
func (s *supervisor) held() <-chan struct{} {
	s.mu.Lock()
	t := s.running
	s.mu.Unlock()
	if t == nil || !t.hasAsked() {
		return nil
	}
	return t.over
}

// askTool is what OpenCode calls it.
const askTool = toolPrefix + "ask"
