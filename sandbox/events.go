package sandbox

import "time"

// Kinds of events that the supervisor sends. The session's log has more, which
// the control plane writes itself (see package sessions).
const (
	KindPhase     = "phase"     // BodyPhase
	KindAccepted  = "accepted"  // BodyAccepted: OpenCode has taken the prompt
	KindText      = "text"      // BodyText: a finished text part
	KindReasoning = "reasoning" // BodyText: a finished reasoning part
	KindTool      = "tool"      // BodyTool: once when it runs, once when it ended, same Part
	KindTodo      = "todo"      // BodyTodo: the whole list, newest wins
	KindDiff      = "diff"      // BodyDiff: what the prompt changed so far, newest wins
	KindCommit    = "commit"    // BodyCommit
	KindPush      = "push"      // BodyPush
	KindRetry     = "retry"     // BodyNote: the model did not answer, another try follows
	KindNote      = "note"      // BodyNote: something a person should know
	KindSettled   = "settled"   // BodySettled: the prompt's end; nothing of it runs any more
	KindKept      = "kept"      // BodyKept: which secrets are in the files that are about to be saved
)

// Phases of a boot, in order.
const (
	PhaseSync  = "sync"  // the repository is cloned or brought up to date
	PhaseSetup = "setup" // .openinspect/setup.sh
	PhaseStart = "start" // .openinspect/start.sh
	PhaseAgent = "agent" // OpenCode starts
	PhaseReady = "ready" // prompts can run
	// PhaseSpare is the last phase of a sandbox that has no session yet: it waits for one.
	PhaseSpare = "spare"
)

// BodyPhase reports a phase of the boot. The last one of a phase has State done or failed.
type BodyPhase struct {
	Phase  string `json:"phase"`
	State  string `json:"state"` // running, done, failed
	Detail string `json:"detail,omitempty"`
	Millis int64  `json:"millis,omitempty"`
	Log    string `json:"log,omitempty"` // the tail of what it printed, if it failed
}

// BodyAccepted says when OpenCode was given the prompt and when it had taken it,
// by the box's clock.
type BodyAccepted struct {
	Given time.Time `json:"given"`
	At    time.Time `json:"at"`
}

// BodyText is a finished part of text or reasoning.
type BodyText struct {
	Part string `json:"part"`
	Text string `json:"text"`
}

// BodyTool is a tool call of the agent.
type BodyTool struct {
	Part   string `json:"part"`
	Tool   string `json:"tool"`
	State  string `json:"state"` // running, completed, error
	Title  string `json:"title,omitempty"`
	Input  any    `json:"input,omitempty"`
	Output string `json:"output,omitempty"` // capped; Cut says how many bytes were left out
	Cut    int    `json:"cut,omitempty"`
	Error  string `json:"error,omitempty"`
	Diff   string `json:"diff,omitempty"` // unified diff of an edit
	Millis int64  `json:"millis,omitempty"`
}

// BodyTodo is the agent's to-do list.
type BodyTodo struct {
	Items   []TodoItem `json:"items"`
	Omitted int        `json:"omitted,omitempty"` // items beyond these
}

// TodoItem is one entry of it.
type TodoItem struct {
	Text  string `json:"text"`
	State string `json:"state"` // pending, in_progress, completed, cancelled
}

// BodyDiff is what the working tree differs by from where the prompt began.
type BodyDiff struct {
	Files   []FileDiff `json:"files"`
	Omitted int        `json:"omitted,omitempty"` // changed files beyond these; BodySettled counts all
}

// FileDiff is one file of it.
type FileDiff struct {
	Path      string `json:"path"`
	Status    string `json:"status"` // added, modified, deleted, renamed
	Additions int    `json:"additions"`
	Deletions int    `json:"deletions"`
	Patch     string `json:"patch,omitempty"` // empty when binary or too large
}

// BodyCommit is a commit that the supervisor found or made for a prompt.
type BodyCommit struct {
	SHA       string   `json:"sha"`
	Subject   string   `json:"subject"`
	Author    string   `json:"author"`
	Email     string   `json:"email"`
	Files     int      `json:"files"`
	Additions int      `json:"additions"`
	Deletions int      `json:"deletions"`
	Left      []string `json:"left,omitempty"`    // files over the size limit that were not committed
	Omitted   int      `json:"omitted,omitempty"` // such files beyond these
}

// BodyPush is an attempt to push the session's branch.
type BodyPush struct {
	Branch string `json:"branch"`
	Head   string `json:"head,omitempty"`
	Error  string `json:"error,omitempty"`
}

// BodyNote is a sentence for people.
type BodyNote struct {
	Text string `json:"text"`
}

// BodyKept is what a supervisor found in home and workspace of the secrets that it
// was given (EnvSecrets), before these folders are saved. Only if nothing was found
// and all was looked at, they may be. The event's prompt is that of the Vet that asked;
// a box that parks says it for itself.
type BodyKept struct {
	Places    []KeptSecret `json:"places,omitempty"`
	Omitted   int          `json:"omitted,omitempty"`   // places beyond these
	Unchecked string       `json:"unchecked,omitempty"` // why not all was looked at, a sentence
}

// Clean says that the files may be saved.
func (b BodyKept) Clean() bool { return len(b.Places) == 0 && b.Unchecked == "" }

// KeptSecret is a place where a secret's value is.
type KeptSecret struct {
	Secret string `json:"secret"`           // its name
	Path   string `json:"path"`             // below home as ~/…, otherwise absolute
	Commit string `json:"commit,omitempty"` // it is in a commit or was staged: what git calls the object
}

// Outcomes of a prompt.
const (
	OutcomeCompleted = "completed"
	OutcomeFailed    = "failed"
	OutcomeStopped   = "stopped"
	OutcomeCarried   = "carried" // its box ends as planned, and it goes on in the next one
)

// BodySettled ends a prompt.
type BodySettled struct {
	Outcome   string `json:"outcome"`
	Reason    string `json:"reason,omitempty"` // a sentence, if not completed
	Answer    string `json:"answer,omitempty"` // the agent's last text, Markdown
	Files     int    `json:"files"`
	Additions int    `json:"additions"`
	Deletions int    `json:"deletions"`
	// Of a prompt that is carried: whether the agent had begun with it, and from which commit.
	Begun bool   `json:"begun,omitempty"`
	Since string `json:"since,omitempty"`
}
