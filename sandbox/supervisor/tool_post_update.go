package supervisor

type postUpdateArgs struct {
	Text string `json:"text" jsonschema:"the message in Markdown, at most 2000 characters"`
}

const postUpdateHelp = "Post a short message to the people in the thread while you go on working, for what they would want to know before you are done: " +
	"a cause that you found, a change of plan, a part that is finished. Your steps and your answer are shown anyway, so most requests need none. " +
	"To get something decided use ask instead."
