package supervisor

import "context"

type createPullRequestArgs struct {
	Title string `json:"title" jsonschema:"the pull request's title, one line"`
	Body  string `json:"body" jsonschema:"the description in Markdown: what changed and why, and how it was checked"`
	Draft bool   `json:"draft,omitempty" jsonschema:"open it as a draft"`
}

const createPullRequestHelp = "Commit and push all changes and open a pull request for them, as the person who asked. " +
	"If one is open for this session already, it gets the new commits; use update_pull_request to change its words. " +
	"Use this instead of any command-line program: no other credential is in the sandbox."

// publish commits and pushes, so that a pull request holds everything that the
// agent did so far.
func publish[A any](s *supervisor, ctx context.Context, t *turn, args A) (send any, refused string) {
	if err := s.commit(ctx, t); err != nil {
		return nil, "The changes could not be committed: " + err.Error()
	}
	return args, s.push(ctx, t).Error
}
