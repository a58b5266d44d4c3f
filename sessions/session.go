package sessions

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Source says where a prompt came from.
type Source string

// The sources.
const (
	FromSlack     Source = "slack"
	FromWeb       Source = "web"
	FromExtension Source = "extension"
	FromGitHub    Source = "github"
	FromAgent     Source = "agent"
)

// PromptState is where a prompt is in its life; see the package comment.
type PromptState string

// The states of a prompt.
const (
	Queued    PromptState = "queued"
	Running   PromptState = "running"
	Completed PromptState = "completed"
	Failed    PromptState = "failed"
	Stopped   PromptState = "stopped"
	Cancelled PromptState = "cancelled"
)

// Settled says whether the state is an end.
func (s PromptState) Settled() bool { return s != Queued && s != Running }

// SandboxState is where a session's sandbox is in its life; see the package comment.
type SandboxState string

// The states of a sandbox.
const (
	SandboxNone     SandboxState = "none"
	SandboxStarting SandboxState = "starting"
	SandboxBooting  SandboxState = "booting"
	SandboxReady    SandboxState = "ready"
	SandboxParking  SandboxState = "parking"
	SandboxParked   SandboxState = "parked"
	SandboxLost     SandboxState = "lost"
	SandboxFailed   SandboxState = "failed"
)

// Person is somebody of the organisation: one row with a Slack and a GitHub identity.
type Person struct {
	ID          uuid.UUID `db:"id"`
	SlackTeam   string    `db:"slack_team"`
	SlackUser   string    `db:"slack_user"`
	Name        string    `db:"name"`
	Email       string    `db:"email"`
	AvatarURL   string    `db:"avatar_url"`
	GitHubID    int64     `db:"github_id"` // 0: not linked
	GitHubLogin string    `db:"github_login"`
	// GitHubBroken says why the link has to be made again; empty when it works.
	GitHubBroken string `db:"github_broken"`
	Admin        bool   `db:"admin"` // may change settings
}

// Linked says whether the person's GitHub account is connected and usable.
func (p Person) Linked() bool { return p.GitHubID != 0 && p.GitHubBroken == "" }

// Repository is one that the GitHub App is installed on.
type Repository struct {
	Name          string `db:"name"` // owner/name
	GitHubID      int64  `db:"github_id"`
	DefaultBranch string `db:"default_branch"`
	Description   string `db:"description"`
	Private       bool   `db:"private"`
}

// Thread is a Slack thread.
type Thread struct {
	Team    string `json:"team"`
	Channel string `json:"channel"`
	TS      string `json:"ts"` // the root message
}

// Session is one piece of work.
type Session struct {
	ID            string    `db:"id"`
	Title         string    `db:"title"`
	Repository    string    `db:"repository"`     // owner/name; empty until somebody chose one
	RepositoryWhy string    `db:"repository_why"` // why that one, a sentence's end
	BaseBranch    string    `db:"base_branch"`
	Head          string    `db:"head"`
	Model         string    `db:"model"`
	State         string    `db:"state"` // open or archived
	Team          string    `db:"team"`
	Channel       string    `db:"channel"`
	ThreadTS      string    `db:"thread"` // empty: no Slack thread
	CreatedBy     uuid.UUID `db:"created_by"`
	LastSeq       int64     `db:"last_seq"`
	CostUSD       float64   `db:"cost_usd"`
	CreatedAt     time.Time `db:"created_at"`
	UpdatedAt     time.Time `db:"updated_at"`
}

// Branch is the only branch that the session's sandbox may push (I8).
func (s Session) Branch() string { return "inspect/" + s.ID }

// Prompt is one request in a session.
type Prompt struct {
	ID           string          `db:"id"`
	SessionID    string          `db:"session_id"`
	Position     int64           `db:"position"`
	Author       uuid.UUID       `db:"author"`
	AuthorName   string          `db:"author_name"` // joined from people
	Source       Source          `db:"source"`
	Text         string          `db:"text"`
	Attachments  json.RawMessage `db:"attachments"`
	Model        string          `db:"model"`
	State        PromptState     `db:"state"`
	Reason       string          `db:"reason"`     // a sentence, when the state is an end and not completed
	MessageTS    string          `db:"message_ts"` // the Slack message it came as, or empty
	Answer       string          `db:"answer"`     // Markdown
	Files        int             `db:"files"`
	Additions    int             `db:"additions"`
	Deletions    int             `db:"deletions"`
	CostUSD      float64         `db:"cost_usd"`    // of models
	SandboxUSD   float64         `db:"sandbox_usd"` // of the sandbox while it ran
	InputTokens  int64           `db:"input_tokens"`
	OutputTokens int64           `db:"output_tokens"`
	StopWanted   bool            `db:"stop_wanted"`
	Carried      bool            `db:"carried"` // running, but between two boxes
	CreatedAt    time.Time       `db:"created_at"`
	StartedAt    *time.Time      `db:"started_at"`
	EndedAt      *time.Time      `db:"ended_at"`
}

// FileNames are the names of the prompt's attachments.
func (p Prompt) FileNames() []string {
	var files []struct {
		Name string `json:"name"`
	}
	_ = json.Unmarshal(p.Attachments, &files) // we wrote it; a prompt without has none
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	return names
}

// Sandbox is what is known of a session's sandbox.
type Sandbox struct {
	SessionID   string       `db:"session_id"`
	Epoch       int64        `db:"epoch"`
	State       SandboxState `db:"state"`
	Reason      string       `db:"reason"` // why it is failed, lost or waiting
	Provider    string       `db:"provider"`
	Box         string       `db:"box"`
	Phase       string       `db:"phase"` // of the boot, sandbox.Phase*
	BornAt      *time.Time   `db:"born_at"`
	HeartbeatAt *time.Time   `db:"heartbeat_at"`
	Busy        bool         `db:"busy"`
	Memory      int64        `db:"memory"` // bytes
	Disk        int64        `db:"disk"`   // bytes
}

// Event is one entry of a session's log. Kinds are those of package sandbox and
// the Kind* constants here; Body is JSON of the kind's Body type.
type Event struct {
	Session string          `db:"session_id" json:"-"`
	Seq     int64           `db:"seq" json:"seq"`
	Prompt  string          `db:"prompt_id" json:"prompt,omitempty"`
	Kind    string          `db:"kind" json:"kind"`
	Body    json.RawMessage `db:"body" json:"body"`
	At      time.Time       `db:"at" json:"at"`
}

// RunningPart is a part still being written: not numbered, replaced by its event.
type RunningPart struct {
	Part   string `db:"part" json:"part"`
	Prompt string `db:"prompt_id" json:"prompt"`
	Kind   string `db:"kind" json:"kind"`
	Text   string `db:"text" json:"text"`
}

// Artifact is something a session made.
type Artifact struct {
	ID        uuid.UUID       `db:"id"`
	SessionID string          `db:"session_id"`
	Prompt    string          `db:"prompt_id"`
	Kind      string          `db:"kind"` // branch, pull_request, screenshot, image, file
	Key       string          `db:"key"`
	URL       string          `db:"url"`
	Title     string          `db:"title"`
	Body      json.RawMessage `db:"body"`
	CreatedAt time.Time       `db:"created_at"`
	Gone      bool            `db:"gone"` // of a file: deleted since
}

// Kinds of events that the control plane writes itself.
const (
	KindCreated    = "session.created"    // BodyCreated
	KindRepository = "session.repository" // BodyRepository
	KindTitle      = "session.title"      // BodyTitle
	KindQueued     = "prompt.queued"      // BodyQueued
	KindEdited     = "prompt.edited"      // BodyEdited
	KindStarted    = "prompt.started"     // BodyStarted
	KindStop       = "prompt.stop"        // BodyStop: somebody asked to stop
	KindCarried    = "prompt.carried"     // BodyCarried: its box ends as planned, it goes on in the next one
	KindEnded      = "prompt.ended"       // BodyEnded
	KindSandbox    = "sandbox.state"      // BodySandbox
	KindArtifact   = "artifact"           // BodyArtifact
	KindWaiting    = "session.waiting"    // BodyWaiting: a person has to choose or do something
	KindArchived   = "session.archived"   // BodyArchived: put away, or taken out again
)

// BodyCreated begins every log.
type BodyCreated struct {
	By     string `json:"by"`
	Source Source `json:"source"`
	Parent string `json:"parent,omitempty"` // the session whose agent began this one
}

// BodyRepository says which repository the session works on and why that one.
type BodyRepository struct {
	Repository string `json:"repository"`
	Why        string `json:"why"`
	By         string `json:"by,omitempty"` // who chose it, if a person did
}

// BodyTitle renames the session.
type BodyTitle struct {
	Title string `json:"title"`
}

// BodyQueued is an accepted prompt.
type BodyQueued struct {
	Author   string    `json:"author"`
	AuthorID uuid.UUID `json:"author_id"`
	Source   Source    `json:"source"`
	Text     string    `json:"text"`
	Ahead    int       `json:"ahead"`           // open prompts before it
	Files    []string  `json:"files,omitempty"` // names of what is attached
}

// BodyEdited is a queued prompt whose text changed.
type BodyEdited struct {
	Text string `json:"text"`
}

// BodyStarted is a prompt given to a sandbox.
type BodyStarted struct {
	Boot string `json:"boot"`
}

// BodyStop names who asked to stop the prompt.
type BodyStop struct {
	By string `json:"by"`
}

// BodyCarried is a running prompt that was taken from the boot whose box ends.
type BodyCarried struct {
	Boot string `json:"boot"`
	Text string `json:"text,omitempty"` // what the next boot is told; empty: the prompt itself
}

// BodyArchived is a change of the session's own state.
type BodyArchived struct {
	State string `json:"state"`        // archived or open
	By    string `json:"by,omitempty"` // who did it; empty: the time that passed
}

// BodyEnded is a prompt's one end.
type BodyEnded struct {
	State     PromptState `json:"state"`
	Reason    string      `json:"reason,omitempty"`
	Answer    string      `json:"answer,omitempty"`
	Files     int         `json:"files"`
	Additions int         `json:"additions"`
	Deletions int         `json:"deletions"`
	CostUSD   float64     `json:"cost_usd"` // of models
	// SandboxUSD is what the sandbox cost while it ran.
	SandboxUSD float64 `json:"sandbox_usd,omitempty"`
	Millis     int64   `json:"millis"` // from start to end; 0 if it never ran
	Retry      bool    `json:"retry,omitempty"`
}

// BodySandbox is a change of the sandbox's state.
type BodySandbox struct {
	State  SandboxState `json:"state"`
	Reason string       `json:"reason,omitempty"`
}

// BodyArtifact is a new or changed artifact.
type BodyArtifact struct {
	Kind   string `json:"kind"`
	URL    string `json:"url"`
	Title  string `json:"title"`
	Number int    `json:"number,omitempty"`
	By     string `json:"by,omitempty"`
	// Of a file (screenshot, image, file): see ArtifactFile.
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
	MIME string `json:"mime,omitempty"`
	Size int64  `json:"size,omitempty"` // bytes
}

// BodyWaiting says what the session waits for.
type BodyWaiting struct {
	For    string   `json:"for"` // repository, github
	Text   string   `json:"text"`
	URL    string   `json:"url,omitempty"`     // where to do it
	ByHand string   `json:"by_hand,omitempty"` // where to do without us what waits for it: the prefilled pull request
	Menu   []string `json:"menu,omitempty"`    // repositories to choose from, most likely first
}
