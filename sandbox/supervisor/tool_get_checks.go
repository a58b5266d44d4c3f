package supervisor

type getChecksArgs struct {
	WaitSeconds int `json:"wait_seconds,omitempty" jsonschema:"wait up to so many seconds (at most 300) for all checks to end; 0: say how it is now"`
}

const getChecksHelp = "Read what continuous integration says of what this session has pushed: every check with its result, " +
	"and of failed ones what they reported and the end of their log. Use it after opening or updating the pull request, " +
	"and before you say that something passes there. It shows nothing of changes that are not pushed."
