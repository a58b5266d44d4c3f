package sandbox

import (
	"encoding/json"
	"time"
)

// The bridge is one WebSocket at BridgePath of the machine listener, dialled by
// the supervisor with TokenHeader. Every frame is one JSON Message. The first
// up is Hello, the first down is Welcome.
//
// Up, an Event is numbered per boot (n = 1, 2, 3 …), kept in a bounded file and
// resent after a reconnect until the control plane acknowledged it (I5).
// Deltas, heartbeats and calls are not numbered: a delta lost is made good by
// the finished part's event, a call is resent until its Result came.
// Down, a Prompt goes to one boot only; resending a known one is a no-op.

// ProtocolVersion is spoken in Hello; the control plane refuses others by a close frame with a sentence.
const ProtocolVersion = 1

// BridgePath is where the machine listener serves the bridge.
const BridgePath = "/bridge"

// SupervisorPath begins where the machine listener serves the program whose SHA-256
// follows in hexadecimal, to whoever has a sandbox's token.
const SupervisorPath = "/supervisor/"

// Message is one frame in either direction: exactly one field is set.
type Message struct {
	Hello     *Hello     `json:"hello,omitempty"`
	Event     *Event     `json:"event,omitempty"`
	Delta     *Delta     `json:"delta,omitempty"`
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`
	Call      *Call      `json:"call,omitempty"`

	Welcome *Welcome `json:"welcome,omitempty"`
	Prompt  *Prompt  `json:"prompt,omitempty"`
	Stop    *Stop    `json:"stop,omitempty"`
	Ack     *Ack     `json:"ack,omitempty"`
	Result  *Result  `json:"result,omitempty"`
	Park    *Park    `json:"park,omitempty"`
	Vet     *Vet     `json:"vet,omitempty"`
}

// Hello opens the bridge.
type Hello struct {
	Version int           `json:"version"`
	Boot    string        `json:"boot"` // minted at each start of the supervisor
	Prompts []KnownPrompt `json:"prompts,omitempty"`
	Unacked int           `json:"unacked,omitempty"` // events that will be resent now
}

// KnownPrompt is a prompt that this boot received.
type KnownPrompt struct {
	ID      string `json:"id"`
	Settled bool   `json:"settled"`
}

// Event is one entry for the session's log, as the supervisor saw it. Kind and
// Body are defined by the Body* types in events.go.
type Event struct {
	N      int64           `json:"n"`
	Prompt string          `json:"prompt,omitempty"`
	Kind   string          `json:"kind"`
	Body   json.RawMessage `json:"body"`
	At     time.Time       `json:"at"`
}

// Delta is text that was added to a part which is still being written.
type Delta struct {
	Prompt string `json:"prompt"`
	Part   string `json:"part"`
	Kind   string `json:"kind"` // KindText, KindReasoning or KindTool (a tool's output)
	// Offset is where Text begins, in bytes of the part so far.
	Offset int    `json:"offset"`
	Text   string `json:"text"`
}

// Heartbeat says that the supervisor lives. It comes every HeartbeatEvery, and at
// once when Quiet changes.
type Heartbeat struct {
	Busy   bool  `json:"busy"`
	Memory int64 `json:"memory"` // bytes resident of all processes in the box
	Disk   int64 `json:"disk"`   // bytes of home and workspace
	// Quiet is the prompt that ran last, if nothing runs and everything that it did
	// is in order on the disk: committed, and the conversation copied aside.
	Quiet string `json:"quiet,omitempty"`
}

// HeartbeatEvery is the time between heartbeats; a box without one for
// HeartbeatLost is looked at, and lost if its provider does not know it.
const (
	HeartbeatEvery = 5 * time.Second
	HeartbeatLost  = 30 * time.Second
)

// Call is a tool call of the agent that the control plane has to answer.
type Call struct {
	ID     string          `json:"id"` // unique per boot; repeats of it are the same call
	Prompt string          `json:"prompt"`
	Tool   string          `json:"tool"`
	Args   json.RawMessage `json:"args"`
}

// Result answers a Call.
type Result struct {
	ID    string `json:"id"`
	Text  string `json:"text"`            // what the agent reads
	Error bool   `json:"error,omitempty"` // Text says what went wrong and what to do
}

// Welcome tells the supervisor what it works on. One without a Session is for a
// spare: it prepares all that needs none and waits; the Welcome of a later
// connection names the session.
type Welcome struct {
	Session    string `json:"session,omitempty"`
	PageURL    string `json:"page_url"`   // the session's page, for commit trailers
	Repository string `json:"repository"` // owner/name
	RemoteURL  string `json:"remote_url"` // what origin shall say, e.g. https://github.com/acme/greeter.git
	BaseBranch string `json:"base_branch"`
	Branch     string `json:"branch"`         // the session's branch, inspect/<session>
	Head       string `json:"head,omitempty"` // last head the git door recorded for Branch
	BotName    string `json:"bot_name"`       // committer and co-author
	BotEmail   string `json:"bot_email"`
	// Model is provider/model; Protocol is "openai" or "anthropic": which model door to use.
	Model        string   `json:"model"`
	SmallModel   string   `json:"small_model,omitempty"`
	Protocol     string   `json:"protocol"`
	Instructions string   `json:"instructions,omitempty"` // added to the agent's instructions
	Services     []string `json:"services,omitempty"`     // reserved for declared services
	// Project says that what the repository brings for the agent (.opencode, opencode.json) may run.
	Project bool         `json:"project,omitempty"`
	Tools   []ToolServer `json:"tools,omitempty"`  // further tools of the agent
	Skills  []Skill      `json:"skills,omitempty"` // what it can read up on
	// Deadlines of the supervisor's own waits.
	PromptTimeout time.Duration `json:"prompt_timeout"`
	SetupTimeout  time.Duration `json:"setup_timeout"`
	ModelSilence  time.Duration `json:"model_silence"` // the model may show no sign of life for so long
	AckedThrough  int64         `json:"acked_through"` // highest n of this boot that is stored
}

// ToolServer is an MCP server: one that the control plane reaches, at ToolsPath and
// its name of the machine listener, or a command that runs in the box.
type ToolServer struct {
	Name    string `json:"name"`
	Command string `json:"command,omitempty"` // of sh; empty: the control plane reaches it
}

// ToolsPath is below which the machine listener serves MCP servers that it adds
// credentials for.
const ToolsPath = "/mcp/"

// Skill is a text that the agent reads when it is about what the description says.
type Skill struct {
	Name        string `json:"name"` // small letters, digits and -
	Description string `json:"description"`
	Text        string `json:"text"` // Markdown
}

// Prompt is one request to the agent.
type Prompt struct {
	ID          string       `json:"id"`
	Text        string       `json:"text"`
	AuthorName  string       `json:"author_name"`
	AuthorEmail string       `json:"author_email"` // GitHub noreply address, or the bot's if the person is not linked
	Attachments []Attachment `json:"attachments,omitempty"`
	Model       string       `json:"model,omitempty"`
	// Of a prompt that goes on from an earlier box: what was asked for, if Text is
	// not that, and the commit from which its work began there and its changes count.
	Subject string `json:"subject,omitempty"`
	Since   string `json:"since,omitempty"`
}

// Attachment is a file that came with a prompt.
type Attachment struct {
	Name string `json:"name"`
	MIME string `json:"mime"`
	Data []byte `json:"data"`
}

// Stop ends the running prompt if it is Prompt.
type Stop struct {
	Prompt string `json:"prompt"`
}

// Ack says that all events up to N of this boot are stored.
type Ack struct {
	N int64 `json:"n"`
}

// Park asks the supervisor to make its state consistent and end.
type Park struct {
	Reason string `json:"reason"`
	Carry  bool   `json:"carry,omitempty"` // what runs goes on in another box: OutcomeCarried
}

// Vet asks a supervisor that has been quiet since Prompt to look for secrets in its
// files, which are about to be saved. It answers with a KindKept of that prompt, or
// not at all if another one begins before it is done.
type Vet struct {
	Prompt string `json:"prompt"`
}
