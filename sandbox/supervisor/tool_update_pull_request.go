package supervisor

type updatePullRequestArgs struct {
	Title *string `json:"title,omitempty" jsonschema:"the new title, one line; leave out to keep it"`
	Body  *string `json:"body,omitempty" jsonschema:"the whole new description in Markdown; leave out to keep it"`
	Draft *bool   `json:"draft,omitempty" jsonschema:"false: ready for review; true: a draft again; leave out to keep it as it is"`
}

const updatePullRequestHelp = "Commit and push all changes and change this session's open pull request: its title, its description, or whether it is a draft. " +
	"Do not use it to open one: that is create_pull_request."
