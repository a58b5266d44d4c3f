package supervisor

type getReviewArgs struct{}

const getReviewHelp = "Read the comments that reviewers left on lines of this session's pull request, with their numbers for reply_to_review."

type replyToReviewArgs struct {
	Comment int64  `json:"comment" jsonschema:"the comment's number, as get_review or the request names it"`
	Body    string `json:"body" jsonschema:"your reply in Markdown: what you changed, or why not"`
}

const replyToReviewHelp = "Answer a reviewer's comment on a line of this session's pull request, in the name of the person who asked you. " +
	"First make and push the change that it asks for, then say briefly what was done. Do not use it to talk to the person who asked you."
