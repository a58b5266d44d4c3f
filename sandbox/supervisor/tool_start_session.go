package supervisor

type startSessionArgs struct {
	Repository string `json:"repository,omitempty" jsonschema:"the repository, owner/name; not with session"`
	Task       string `json:"task" jsonschema:"what to do, complete in itself: the other session sees nothing of this conversation"`
	Title      string `json:"title,omitempty" jsonschema:"what it is about, in a few words"`
	Session    string `json:"session,omitempty" jsonschema:"the id of a session that you began: give it this task next, for instance the answer to its question"`
}

const startSessionHelp = "Begin another session, with a sandbox and a branch of its own, to work on its own beside you: in another repository, or on an independent part of this one. " +
	"Its answer comes to you as a request when it is done. At most 5 work at once and 15 can be begun in all. " +
	"Do not use it for what you can do here yourself, nor for steps that depend on each other."

type getSessionArgs struct {
	Session     string `json:"session" jsonschema:"the id, as start_session returned it"`
	WaitSeconds int    `json:"wait_seconds,omitempty" jsonschema:"wait up to so many seconds (at most 300) for its answer; 0: say how it is now"`
}

const getSessionHelp = "Look how a session is that you began with start_session, or wait for its answer if you cannot go on without it."
